"""The consumer's weights that are best on the moments at hand, held near the present ones by a ridge."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.reconstruct.elimination import factor
from secateur.reconstruct.moments import Moments


def ridged(xx: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """E[xxᵀ] + λI, and λ, which is `ridge` times the mean of the features' own moments.

    Shapes: (B, D, D), (B, 1, 1).
    """
    own = xx.diagonal(dim1=1, dim2=2)
    lam = (ridge * own.mean(1)).clamp_min(1e-12)[:, None, None]
    return xx + lam * torch.eye(xx.shape[1], dtype=xx.dtype), lam


def best_weights(moments: Moments, present: Tensor, alive: Tensor, ridge: float, intercept: bool) -> Tensor:
    """argmin E‖y − W′x − c‖² + λ‖W′ − W‖² over the weights of features that are there; shape: (B, O, D).

    present: W, shape (B, O, D); alive: shape (D,), bool. Where there is no `intercept`, c = 0. Cost: B·D³.
    """
    xx, yx = moments.normal(intercept)
    a, lam = ridged(xx[:, alive][:, :, alive], ridge)
    goal = yx[:, :, alive] + lam * present[:, :, alive]
    solved = torch.zeros_like(present)
    solved[:, :, alive] = torch.cholesky_solve(goal.mT, factor(a)).mT
    return solved


def mean_error(moments: Moments, weight: Tensor) -> Tensor:
    """E[y] − W′ E[x], what the layer's shift has to be; shape: (B·O,)."""
    return ((moments.y - (weight @ moments.x[:, :, None])[:, :, 0]) / moments.count).flatten()


def repaired(moments: Moments, weight: Tensor, power: float) -> Tensor:
    """Rows scaled so that an output varies as the original's does (`power` 1), or less so.

    Least squares gives outputs that vary less; a batch norm behind them was made for the original's variance.
    After REPAIR (Jordan et al. 2023, arXiv 2211.08403), in closed form and on the moments at hand.
    """
    xx, _ = moments.normal(True)
    found = ((weight @ xx) * weight).sum(2)  # shape: (B, O)
    wanted = moments.yy / moments.count - (moments.y / moments.count).square()
    gain = (wanted.clamp_min(0.0) / found.clamp_min(1e-12)).sqrt().clamp(1.0, 2.0)
    return weight * gain.pow(power)[:, :, None]
