"""The consumer's weights that are best on the moments at hand, held near the present ones by a ridge."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.reconstruct.elimination import DenseInverse, Inverse, factor
from secateur.reconstruct.few_rows import FewRows, system_from_rows, weights_from_rows
from secateur.reconstruct.moments import Moments


def _ridged(xx: Tensor, left: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """E[xxᵀ] + λI, and λ, which is `ridge` times the mean of the own moments of the features `left`.

    Shapes: (B, D, D), (B, 1, 1).
    """
    own = xx.diagonal(dim1=1, dim2=2)[:, left]
    lam = (ridge * own.mean(1)).clamp_min(1e-12)[:, None, None]
    return xx + lam * torch.eye(xx.shape[1], dtype=xx.dtype), lam


def best_weights(
    moments: Moments | FewRows, present: Tensor, left: Tensor, ridge: float, intercept: bool
) -> Tensor:
    """argmin E‖y − W′x − c‖² + λ‖W′ − W‖² over the weights of features that are there; shape: (B, O, D).

    present: W, shape (B, O, D); left: shape (D,), bool. Where there is no `intercept`, c = 0. Cost: B·D³.
    """
    if isinstance(moments, FewRows):
        return weights_from_rows(moments, present, left, ridge, intercept)
    xx, yx = moments.normal(intercept)
    a, lam = _ridged(xx, left, ridge)
    goal = yx[:, :, left] + lam * present[:, :, left]
    solved = torch.zeros_like(present)
    solved[:, :, left] = torch.cholesky_solve(goal.mT, factor(a[:, left][:, :, left])).mT
    return solved


def system(
    moments: Moments | FewRows, present: Tensor, left: Tensor, ridge: float, intercept: bool
) -> tuple[Inverse, Tensor]:
    """(E[xxᵀ] + λI)⁻¹ with the part of features that are not `left` as the identity, and the best weights.

    Arguments and cost as for `best_weights`.
    """
    if isinstance(moments, FewRows):
        return system_from_rows(moments, present, left, ridge, intercept)
    xx, yx = moments.normal(intercept)
    curvature, lam = _ridged(xx, left, ridge)
    goal, gone = yx + lam * present, (~left).nonzero().flatten()
    for tensor in (curvature, curvature.mT, goal):
        tensor[:, :, gone] = 0.0
    curvature[:, gone, gone] = 1.0
    root = factor(curvature)
    return DenseInverse(torch.cholesky_inverse(root)), torch.cholesky_solve(goal.mT, root).mT


def mean_error(moments: Moments | FewRows, weight: Tensor) -> Tensor:
    """E[y] − W′ E[x], what the layer's shift has to be; shape: (B·O,)."""
    x, y = moments.means
    return (y - (weight @ x[:, :, None])[:, :, 0]).flatten()


def repaired(moments: Moments | FewRows, weight: Tensor, power: float) -> Tensor:
    """Rows scaled so that an output varies as the original's does (`power` 1), or less so.

    Least squares gives outputs that vary less; a batch norm behind them was made for the original's variance.
    After REPAIR (Jordan et al. 2023, arXiv 2211.08403), in closed form and on the moments at hand.
    """
    found, wanted = moments.variances(weight)
    gain = (wanted.clamp_min(0.0) / found.clamp_min(1e-12)).sqrt().clamp(1.0, 2.0)
    return weight * gain.pow(power)[:, :, None]
