"""Units that nothing reads: every weight that would is zero, or belongs to a unit that has left."""

from __future__ import annotations

from torch import Tensor

from secateur.methods.exact.finding import Finding, plain
from secateur.methods.exact.problem import ExactProblem, remaining
from secateur.types import Group


def unread(problem: ExactProblem, group: Group) -> Finding | None:
    """Units whose columns are zero in every layer that reads them.

    Cost: one look at the weights of these layers.
    """
    units = remaining(problem, group)
    for slot in group.having("consumer"):
        columns = _without_removed_rows(problem, slot.tensor).movedim(slot.axis, 0)[slot.positions[units]]
        units = units[columns.flatten(1).abs().amax(1) == 0]
    return plain(units) if len(units) else None


def _without_removed_rows(problem: ExactProblem, tensor: str) -> Tensor:
    """A weight, zero in what makes units that have left."""
    weight = problem.weights[tensor].clone()
    for group in problem.coupling.prunable:
        gone = ~problem.alive[group.name]
        for slot in group.slots:
            if slot.tensor == tensor and slot.role != "consumer" and bool(gone.any()):
                weight.index_fill_(slot.axis, slot.positions[gone].flatten(), 0.0)
    return weight
