"""Units that are linear combinations of others over the whole box, where the activation is linear."""

from __future__ import annotations

from dataclasses import replace

import scipy.linalg
import torch
from torch import Tensor

from secateur.graph.node import kind
from secateur.graph.ops import AFFINE
from secateur.methods.batch_norm import Norm
from secateur.methods.exact.constant import absorbed
from secateur.methods.exact.finding import Finding
from secateur.methods.exact.paths import makers_of, straight
from secateur.methods.exact.problem import ExactProblem, folded, input_of, readers, unit_of
from secateur.methods.rows import rows
from secateur.types import Group

# least relative size of the part of a row that is no combination of the others
_RANK = 1e-10
_LARGEST = 100.0  # coefficients beyond this would make rounding errors of the model's own precision show


def dependent(problem: ExactProblem, group: Group) -> Finding | None:
    """Of the units that are affine in what their makers read, those whose rows depend on the rows of others.

    Rows w_a = Σ_s C[a, s]·w_s, from a QR decomposition with pivoting: v_a = Σ_s C[a, s]·v_s + c, where the
    constant c goes into the biases of what reads the units. Where one of these layers cannot take up a
    constant, or where several layers make the units, biases count as weights and c is 0. So of more units
    than inputs, the surplus goes. Cost: n·d·min(n, d) for n such units of d weights.
    """
    units = straight(problem, group).nonzero().flatten()
    tensors, norms = folded(problem, group)
    if len(units) < 2 or not _rows_tell_all(problem, group, norms):
        return None
    makers = [slot for slot in group.having("producer") if tensors[slot.tensor].ndim > 1]
    linear = rows(tensors, makers, units)
    constants = _constants(problem, group, tensors, norms, units)
    tolerance = max(_RANK, problem.noise)
    one_row_each = len(makers) == 1 and makers[0].positions.shape[1] == 1
    if one_row_each and bool(_takes_constants(problem, group, units)[0].all()):
        found = _solved(units, linear, tolerance)
        return None if found is None else _with_shifts(problem, group, found, units, constants[:, 0])
    return _solved(units, torch.cat([linear, constants], dim=1), tolerance)


def _with_shifts(
    problem: ExactProblem, group: Group, found: Finding, units: Tensor, constants: Tensor
) -> Finding:
    """The finding with what the `constants` of `units` add to the biases of the layers that read them."""
    _, shifts = _takes_constants(problem, group, found.units)
    assert found.coefficients is not None
    place = torch.full((group.units,), -1)
    place[units] = torch.arange(len(units))
    c = constants[place[found.units]] - found.coefficients @ constants[place[found.kept]]
    return replace(found, shifts={name: c[:, None] * shift for name, shift in shifts.items()})


def _rows_tell_all(problem: ExactProblem, group: Group, norms: list[Norm]) -> bool:
    """Whether linear layers and the norms folded into them are all that makes the units."""
    folded_in = {name for n in norms for name in (n.scale, n.shift, n.mean, n.variance)}
    through = {slot.tensor for slot in group.having("through")}
    return through <= folded_in and all(kind(op) in AFFINE for op in makers_of(problem, group))


def _constants(
    problem: ExactProblem, group: Group, tensors: dict[str, Tensor], norms: list[Norm], units: Tensor
) -> Tensor:
    """The constants added to each unit, one column for each tensor; shape: (units, tensors)."""
    subtracted = {norm.mean for norm in norms}
    scales = {name for norm in norms for name in (norm.scale, norm.variance)}
    slots = [slot for slot in group.slots if slot.role != "consumer" and slot.tensor not in scales]
    columns = [
        rows(tensors, [s], units) * (-1.0 if s.tensor in subtracted else 1.0)
        for s in slots
        if tensors[s.tensor].ndim == 1
    ]
    if not columns:
        return torch.zeros(len(units), 1, dtype=torch.float64)
    made_by_one = sum(tensors[slot.tensor].ndim > 1 for slot in group.having("producer")) == 1
    return torch.stack(columns).sum(0) if made_by_one else torch.cat(columns, dim=1)


def _takes_constants(problem: ExactProblem, group: Group, units: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Whether all readers can make up for a 1 at each unit, and by which shifts."""
    consumers = readers(problem, group)
    inputs = [unit_of(problem, input_of(consumer), group) for consumer in consumers]
    known = [owner for owner in inputs if owner is not None]
    if not consumers or len(known) < len(inputs):
        return torch.zeros(len(units), dtype=torch.bool), {}
    ones = [(owner >= 0).double() for owner in known]
    return absorbed(problem, group, consumers, ones, units)


def _solved(units: Tensor, vectors: Tensor, tolerance: float) -> Finding | None:
    """The units whose vectors, at unit length, depend linearly on the others'; None where there are none."""
    size = torch.linalg.vector_norm(vectors, dim=1).clamp_min(torch.finfo(vectors.dtype).tiny)
    _, r, order = scipy.linalg.qr((vectors / size[:, None]).T.numpy(), mode="economic", pivoting=True)
    triangle, pivots = torch.from_numpy(r), torch.from_numpy(order).long()
    rank = int((triangle.diagonal().abs() > tolerance).sum())
    if not 0 < rank < len(units):
        return None
    kept, gone = pivots[:rank], pivots[rank:]
    unit_rows = torch.linalg.solve_triangular(triangle[:rank, :rank], triangle[:rank, rank:], upper=True).T
    coefficients = unit_rows * (size[gone, None] / size[kept])
    sound = unit_rows.abs().amax(1) <= _LARGEST
    if not bool(sound.any()):
        return None
    ones = torch.ones(int(sound.sum()), dtype=torch.float64)
    leaving = units[gone][sound]
    return Finding(leaving, torch.full_like(leaving, -1), ones, units[kept], coefficients[sound])
