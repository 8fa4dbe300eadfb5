"""Which units leave, and the weights that are best without them: optimal brain surgeon on whole units.

Hassibi & Stork 1993 for single weights; here a unit is a block of features in each of several layers. With
the quadratic loss tr S (W′ − W*) A (W′ − W*)ᵀ about its optimum W*, leaving out the features F costs tr S
W*_F (A⁻¹_FF)⁻¹ W*_Fᵀ, and W* and A⁻¹ follow by updates of rank |F|: nothing is inverted anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

_JITTERS = [10.0**power for power in range(-12, 3)]  # shares of the mean of the diagonal


class SolveError(ArithmeticError):
    """A system of equations cannot be solved; the layer at fault is named by the caller."""


class Inverse(Protocol):
    """A⁻¹ of one layer, A positive definite; B channel groups, D features."""

    def blocks(self, features: Tensor) -> Tensor:
        """A⁻¹_FF for the features of every unit, of shape (units, m); shape: (B, units, m, m)."""

    def rows(self, features: Tensor) -> Tensor:
        """A⁻¹_F: for the features of one unit, of shape (m,); shape: (B, m, D)."""

    def leave_out(self, gone: Tensor, rows: Tensor, step: Tensor) -> None:
        """Subtract rowsᵀ step, and make the part of the features `gone`, of shape (m,), the identity."""


class DenseInverse:
    """A⁻¹ as a matrix, which changes."""

    def __init__(self, matrix: Tensor) -> None:
        self._matrix = matrix

    def blocks(self, features: Tensor) -> Tensor:
        return self._matrix[:, features[:, :, None], features[:, None, :]]

    def rows(self, features: Tensor) -> Tensor:
        return self._matrix[:, features]

    def leave_out(self, gone: Tensor, rows: Tensor, step: Tensor) -> None:
        self._matrix.baddbmm_(rows.mT, step, alpha=-1)
        self._matrix[:, gone] = 0.0
        self._matrix[:, :, gone] = 0.0
        self._matrix[:, gone, gone] = 1.0


@dataclass(frozen=True, eq=False)
class Problem:
    """One layer that reads the units. B channel groups, D features, O outputs."""

    inverse: Inverse  # A⁻¹; `eliminate` changes it
    weight: Tensor  # √S W*, W* its optimum while all units are there; shape: (B, any, D)
    features: Tensor  # of each unit; shape: (units, features of a unit)


def eliminate(problems: Sequence[Problem], alive: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` units to remove, in order, and the cost of each, summed over the layers.

    Greedy, and exact at each step. The problems' inverses are used up.

    Cost for U units of m features: count · B·(m·D·(D + O) + U·m³). Memory: B·O·D numbers.
    """
    layers = [_Layer(problem) for problem in problems]
    alive = alive.clone()
    order, costs = [], []
    for _ in range(count):
        total = torch.zeros(len(alive), dtype=torch.float64)
        for layer in layers:
            total += layer.costs()
        total[~alive] = torch.inf
        unit = int(total.argmin())
        order.append(unit)
        costs.append(total[unit])
        alive[unit] = False
        for layer in layers:
            layer.leave_out(unit)
    return torch.tensor(order, dtype=torch.int64), torch.stack(costs) if costs else torch.zeros(0)


class _Layer:
    """A problem while units leave: the optimum W, and the blocks WᵀW of every unit."""

    def __init__(self, problem: Problem) -> None:
        self.inverse, self.features = problem.inverse, problem.features
        self.weight = problem.weight.clone()
        columns = self._by_unit(self.weight)  # shape: (B, units, O, m)
        self.gram = columns.mT @ columns

    def costs(self) -> Tensor:
        """tr W_F (A⁻¹_FF)⁻¹ W_Fᵀ for every unit; shape: (units,)."""
        blocks = self.inverse.blocks(self.features)
        if blocks.shape[-1] == 1:
            ratio: Tensor = (self.gram / blocks)[:, :, 0, 0]
        else:
            ratio = torch.cholesky_solve(self.gram, factor(blocks)).diagonal(dim1=2, dim2=3).sum(2)
        return ratio.sum(0).clamp_min(0.0)

    def leave_out(self, unit: int) -> None:
        """Update the optimum and A⁻¹, in place, for W_F = 0."""
        gone = self.features[unit]
        rows = self.inverse.rows(gone)
        step = torch.cholesky_solve(rows, factor(rows[:, :, gone]))  # (A⁻¹_FF)⁻¹ A⁻¹_F:
        column = self.weight[:, :, gone]
        # (W − W_F s)ᵀ(W − W_F s) = WᵀW − hᵀs − sᵀh with h = W_Fᵀ(W − ½ W_F s)
        cross = column.mT @ self.weight - 0.5 * (column.mT @ column) @ step
        half = self._by_unit(cross).mT @ self._by_unit(step)
        self.gram -= half + half.mT
        self.gram[:, unit] = 0.0
        self.weight.baddbmm_(column, step, alpha=-1)
        self.weight[:, :, gone] = 0.0
        self.inverse.leave_out(gone, rows, step)

    def _by_unit(self, matrix: Tensor) -> Tensor:
        """Columns by the unit that they belong to; (B, any, D) → (B, units, any, m)."""
        return matrix[:, :, self.features].movedim(2, 1)


def factor(matrix: Tensor) -> Tensor:
    """Cholesky factor of a finite matrix that is positive definite but for rounding.

    Its diagonal is raised until it is.

    Raises `SolveError` where even a diagonal as large as the matrix does not help.
    """
    found: Tensor
    found, failed = torch.linalg.cholesky_ex(matrix)
    if not bool(failed.any()):
        return found
    size = matrix.diagonal(dim1=-2, dim2=-1).abs().mean(-1)[..., None, None].clamp_min(1e-300)
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype)
    for jitter in _JITTERS:
        found, failed = torch.linalg.cholesky_ex(matrix + jitter * size * identity)
        if not bool(failed.any()):
            return found
    raise SolveError(f"a matrix of shape {tuple(matrix.shape)} has no Cholesky factor, or holds NaN")
