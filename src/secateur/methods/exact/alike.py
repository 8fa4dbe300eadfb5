"""Units that compute the same as another one, or a positive multiple of it."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.methods.exact.finding import Finding
from secateur.methods.exact.paths import adds, is_homogeneous
from secateur.methods.exact.problem import ExactProblem, folded, remaining
from secateur.methods.rows import makers, rows
from secateur.types import Group

_NEAR = 1e-11  # squared distance of unit vectors below which two rows are compared number by number
_BLOCK_BYTES = 2**26


def alike(problem: ExactProblem, group: Group) -> Finding | None:
    """Units whose rows and parameters on the way equal another's up to rounding, batch norm folded in.

    Where only positively homogeneous ops (ReLU, leaky ReLU, pooling, sums) are on the way, rows and all
    that is added may be s > 0 times the other's: the merge is then W[:, b] += s·W[:, a]. Of several, the
    first stays. Cost: n²·d for n units of d weights, in blocks.
    """
    units = remaining(problem, group)
    scaled, fixed = _features(problem, group, units)
    size = torch.linalg.vector_norm(scaled, dim=1)
    directions = scaled / size.clamp_min(torch.finfo(size.dtype).tiny)[:, None]
    others = fixed / fixed.abs().amax(0).clamp_min(torch.finfo(size.dtype).tiny)
    if not is_homogeneous(problem, group):
        others = torch.cat([others, size.clamp_min(torch.finfo(size.dtype).tiny).log()[:, None]], dim=1)
    into = first_equal(torch.cat([directions, others], dim=1), problem.noise)
    gone = (into >= 0).nonzero().flatten()
    if not len(gone):
        return None
    ratio = torch.where(size[into[gone]] > 0, size[gone] / size[into[gone]], 1.0)
    scale = torch.where((ratio - 1.0).abs() <= problem.noise, 1.0, ratio)
    return Finding(units[gone], units[into[gone]], scale)


def first_equal(points: Tensor, noise: float) -> Tensor:
    """For each point the first of those before it that it equals and that equals none before; −1: none.

    Equal: no further than `noise`. Shape: (points,). Candidates come from one matrix product.
    """
    own = points.square().sum(1)
    found = []
    for block in torch.arange(len(points)).split(max(1, _BLOCK_BYTES // (8 * len(points)))):
        distance = own[block, None] + own - 2 * points[block] @ points.T
        near = (distance <= _NEAR * own.clamp_min(1.0)) & (torch.arange(len(points)) < block[:, None])
        found.append(torch.where(near.any(1), near.int().argmax(1), -1))
    into = torch.cat(found)
    while bool((deeper := (into >= 0) & (into[into.clamp(min=0)] >= 0)).any()):
        into = torch.where(deeper, into[into.clamp(min=0)], into)
    distance = torch.linalg.vector_norm(points - points[into.clamp(min=0)], dim=1)
    return torch.where(distance <= noise, into, -1)


def _features(problem: ExactProblem, group: Group, units: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers that scale a unit's values, and those that must be equal; shapes: (units, numbers) each."""
    tensors, _ = folded(problem, group)
    slots = makers(group)
    scales = {slot: slot.role == "producer" or bool(adds(problem, group, slot.tensor)) for slot in slots}
    scaled, equal = (
        rows(tensors, [s for s in slots if scales[s] is wanted], units) for wanted in (True, False)
    )
    return scaled, equal
