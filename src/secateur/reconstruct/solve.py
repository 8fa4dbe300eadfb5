"""The consumer's weights that are best on the moments at hand, held near the present ones by a ridge."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.reconstruct.elimination import DenseInverse, Inverse, factor
from secateur.reconstruct.few_rows import FewRows, system_from_rows, weights_from_rows
from secateur.reconstruct.moments import Moments


def _ridged(xx: Tensor, own: Tensor, ridge: float) -> Tensor:
    """λ, shape (B, 1); adds λI to E[xxᵀ]. It is `ridge` times the mean of `own`, of shape (B, any)."""
    lam = (ridge * own.mean(1, keepdim=True)).clamp_min(1e-12)
    xx.diagonal(dim1=1, dim2=2).add_(lam)
    return lam


def best_weights(
    moments: Moments | FewRows, present: Tensor, left: Tensor, ridge: float, intercept: bool
) -> Tensor:
    """argmin E‖y − W′x − c‖² + λ‖W′ − W‖² over the weights of features that are there; shape: (B, O, D).

    present: W, shape (B, O, D); left: shape (D,), bool. Where there is no `intercept`, c = 0. Cost: B·D³.
    """
    if isinstance(moments, FewRows):
        return weights_from_rows(moments, present, left, ridge, intercept)
    at = left.nonzero().flatten()
    xx, yx = moments.of_features(at).normal(intercept)
    lam = _ridged(xx, xx.diagonal(dim1=1, dim2=2), ridge)
    goal = yx + lam[:, :, None] * present[:, :, at]
    solved = torch.zeros_like(present)
    solved[:, :, at] = torch.cholesky_solve(goal.mT, factor(xx)).mT
    return solved


def system(
    moments: Moments | FewRows, present: Tensor, left: Tensor, ridge: float, intercept: bool
) -> tuple[Inverse, Tensor]:
    """(E[xxᵀ] + λI)⁻¹ with the part of features that are not `left` as the identity, and the best weights.

    Arguments and cost as for `best_weights`.
    """
    if isinstance(moments, FewRows):
        return system_from_rows(moments, present, left, ridge, intercept)
    root, goal = _factored(moments, present, left, ridge, intercept)
    return DenseInverse(torch.cholesky_inverse(root)), torch.cholesky_solve(goal.mT, root).mT


def _factored(
    moments: Moments, present: Tensor, left: Tensor, ridge: float, intercept: bool
) -> tuple[Tensor, Tensor]:
    """The Cholesky factor of the system's matrix, and its right side; shapes: (B, D, D), (B, O, D)."""
    xx, yx = moments.normal(intercept)
    lam = _ridged(xx, xx.diagonal(dim1=1, dim2=2)[:, left], ridge)
    goal, gone = yx + lam[:, :, None] * present, (~left).nonzero().flatten()
    for tensor in (xx, xx.mT, goal):
        tensor[:, :, gone] = 0.0
    xx[:, gone, gone] = 1.0
    return factor(xx), goal


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
