"""Which units leave, and the weights that are best without them: optimal brain surgeon on whole units.

Hassibi & Stork 1993 for single weights; here a unit is a block of features in each of several layers. With
the quadratic loss tr S (W′ − W*) A (W′ − W*)ᵀ about its optimum W*, leaving out the features F costs tr S
W*_F (A⁻¹_FF)⁻¹ W*_Fᵀ, and W* and A⁻¹ follow by updates of rank |F|: nothing is inverted anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_JITTERS = [10.0**power for power in range(-12, 3)]  # shares of the mean of the diagonal


class SolveError(ArithmeticError):
    """A system of equations cannot be solved; the layer at fault is named by the caller."""


@dataclass(frozen=True, eq=False)
class Problem:
    """One layer that reads the units. B channel groups, D features, O outputs."""

    curvature: Tensor  # A, positive definite; shape: (B, D, D)
    weight: Tensor  # √S W*, W* its optimum while all units are there; shape: (B, any, D)
    features: Tensor  # of each unit; shape: (units, features of a unit)


def eliminate(problems: Sequence[Problem], alive: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` units to remove, in order, and the cost of each, summed over the layers.

    Greedy, and exact at each step.

    Cost for U units of m features: B·D³ once, then count · B·(m·D² + U·m²·(m + O)). Memory: B·D² numbers.
    """
    inverses = [torch.cholesky_inverse(factor(problem.curvature)) for problem in problems]
    weights = [problem.weight.clone() for problem in problems]
    alive = alive.clone()
    order, costs = [], []
    for _ in range(count):
        total = torch.zeros(len(alive), dtype=torch.float64)
        for problem, inverse, weight in zip(problems, inverses, weights, strict=True):
            total += costs_of(inverse, weight, problem.features)
        total[~alive] = torch.inf
        unit = int(total.argmin())
        order.append(unit)
        costs.append(total[unit])
        alive[unit] = False
        for problem, inverse, weight in zip(problems, inverses, weights, strict=True):
            leave_out(inverse, weight, problem.features[unit])
    return torch.tensor(order, dtype=torch.int64), torch.stack(costs) if costs else torch.zeros(0)


def costs_of(inverse: Tensor, weight: Tensor, features: Tensor) -> Tensor:
    """tr W_F (A⁻¹_FF)⁻¹ W_Fᵀ for every unit; shape: (units,)."""
    if features.shape[1] == 1:
        single = features[:, 0]
        costs: Tensor = (weight[:, :, single].square().sum(1) / inverse[:, single, single]).sum(0)
        return costs
    block = inverse[:, features[:, :, None], features[:, None, :]]  # shape: (B, units, m, m)
    columns = weight[:, :, features].movedim(1, -1)  # shape: (B, units, m, O)
    half: Tensor = torch.linalg.solve_triangular(factor(block), columns, upper=False)
    return half.square().sum((0, 2, 3))


def leave_out(inverse: Tensor, weight: Tensor, gone: Tensor) -> None:
    """Update the optimum and A⁻¹, in place, for W_F = 0; the features' own block becomes the identity."""
    rows = inverse[:, gone]  # shape: (B, m, D)
    step = torch.cholesky_solve(rows, factor(rows[:, :, gone]))  # (A⁻¹_FF)⁻¹ A⁻¹_F:
    weight -= weight[:, :, gone] @ step
    inverse -= rows.mT @ step
    weight[:, :, gone] = 0.0
    inverse[:, gone] = 0.0
    inverse[:, :, gone] = 0.0
    inverse[:, gone, gone] = 1.0


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
