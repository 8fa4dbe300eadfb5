"""Fewer rows than a layer has inputs: the refit and the elimination by matrices of rows × rows.

A flattened layer of D inputs and n samples has second moments of rank n. With X the rows over √n and
A = XᵀX + λI, A⁻¹ = (I − Xᵀ(XXᵀ + λI)⁻¹X) / λ (Woodbury), so that nothing of D × D is made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.reconstruct.elimination import factor


@dataclass(frozen=True, eq=False)
class FewRows:
    """Rows of a layer's input in the pruned network and of its output in the original."""

    x: Tensor  # shape: (B, n, D)
    y: Tensor  # shape: (B, n, O)

    @property
    def count(self) -> int:
        return self.x.shape[1]

    @property
    def finite(self) -> bool:
        return bool(torch.isfinite(self.x).all() and torch.isfinite(self.y).all())

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        return self.x.double().mean(1), self.y.double().mean(1)

    def without(self, bias: Tensor) -> FewRows:
        """The same with `bias`, of shape (B, O), taken off the targets."""
        return replace(self, y=self.y - bias[:, None].to(self.y))

    def variances(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Of the outputs that `weight` gives, and of the targets; shapes: (B, O)."""
        given = self.x.double() @ weight.mT
        return given.var(1, correction=0), self.y.double().var(1, correction=0)


def weights_from_rows(rows: FewRows, present: Tensor, left: Tensor, ridge: float, intercept: bool) -> Tensor:
    """`solve.best_weights` for few rows. Cost: B·n·D·(n + O). Memory: B·(2·O + 2·n)·D numbers."""
    x, y, lam = _scaled(rows, left, ridge, intercept)
    present = present * left
    return present + _step(x, y, lam, present)


def system_from_rows(
    rows: FewRows, present: Tensor, left: Tensor, ridge: float, intercept: bool
) -> tuple[LowRankInverse, Tensor]:
    """`solve.system` for few rows."""
    x, y, lam = _scaled(rows, left, ridge, intercept)
    present = present * left
    return LowRankInverse(x, lam, ~left), present + _step(x, y, lam, present)


def _scaled(rows: FewRows, left: Tensor, ridge: float, intercept: bool) -> tuple[Tensor, Tensor, Tensor]:
    """X and Y over √n, about their means where there is an intercept, and λ; X is 0 where not `left`."""
    x, y = rows.x.double() * left, rows.y.double()
    if intercept:
        x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    x, y = x / rows.count**0.5, y / rows.count**0.5
    lam = ridge * x.square().sum((1, 2)) / int(left.sum())
    return x, y, lam.clamp_min(1e-12)[:, None, None]


def _kernel(x: Tensor, lam: Tensor) -> Tensor:
    """Cholesky factor of XXᵀ + λI; shape: (B, n, n)."""
    return factor(x @ x.mT + lam * torch.eye(x.shape[1], dtype=x.dtype))


def _step(x: Tensor, y: Tensor, lam: Tensor, present: Tensor) -> Tensor:
    """What the ridge regression adds to the present weights: (Y − XWᵀ)ᵀ (XXᵀ + λI)⁻¹ X."""
    miss = y - x @ present.mT
    return torch.cholesky_solve(miss, _kernel(x, lam)).mT @ x


class LowRankInverse:
    """A⁻¹ for A = XᵀX + λI, as `elimination.Inverse`. Memory: B·2·n·D numbers."""

    def __init__(self, x: Tensor, lam: Tensor, gone: Tensor) -> None:
        self._x, self._lam, self._gone = x, lam, gone
        self._solved = torch.cholesky_solve(x, _kernel(x, lam))  # (XXᵀ + λI)⁻¹ X
        self._features, self._blocks = torch.empty(0), torch.empty(0)

    def blocks(self, features: Tensor) -> Tensor:
        """Cost: n·D·m once, for units of m features; then none."""
        if features is not self._features:
            self._features, self._blocks = features, self._first_blocks(features)
        return self._blocks

    def rows(self, features: Tensor) -> Tensor:
        found = -self._x[:, :, features].mT @ self._solved
        found[:, torch.arange(len(features)), features] += 1.0
        return found / self._lam

    def leave_out(self, gone: Tensor, rows: Tensor, step: Tensor) -> None:
        """Cost: B·m·(n + m)·D."""
        self._solved.baddbmm_(self._solved[:, :, gone], step, alpha=-1)
        self._solved[:, :, gone] = 0.0
        self._gone = self._gone.clone()
        self._gone[gone] = True
        left, right = (t[:, :, self._features].movedim(1, -1) for t in (rows, step))  # (B, units, m, gone)
        self._blocks = _identity_where(self._gone[self._features], self._blocks - left @ right.mT)

    def _first_blocks(self, features: Tensor) -> Tensor:
        seen, solved = (t[:, :, features].movedim(1, -1) for t in (self._x, self._solved))
        identity = torch.eye(features.shape[1], dtype=seen.dtype)
        return _identity_where(self._gone[features], (identity - seen @ solved.mT) / self._lam[:, None])


def _identity_where(gone: Tensor, blocks: Tensor) -> Tensor:
    """Rows and columns of the identity for features that are `gone`.

    Shapes: (units, m), (B, units, m, m).
    """
    either = gone[:, :, None] | gone[:, None]
    return torch.where(either, torch.eye(gone.shape[1], dtype=blocks.dtype), blocks)
