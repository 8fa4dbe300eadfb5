"""The ops between the layers that make units and those that read them: how values scale and add there."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from secateur.graph.node import bound_arguments, kind
from secateur.graph.ops import AFFINE, MAXIMA, MINIMA, MOVEMENT, OPS, WEIGHTED_SUMS, of, where
from secateur.methods.exact.problem import ExactProblem, each_unit, unit_of
from secateur.types import Group

_ADDITIONS = {"add", "sub"}
_STRAIGHT = {*MOVEMENT, *WEIGHTED_SUMS, *_ADDITIONS, *of("dropout", "batch_norm")}
_PRODUCTS = {*AFFINE, "mul", "div"}
_HOMOGENEOUS = {*_STRAIGHT, *_PRODUCTS, *MAXIMA, *MINIMA, *where(lambda row: row.homogeneous)}

# activation → the interval on which it is the identity
_IDENTITY = {name: row.identity for name, row in OPS.items() if row.identity is not None}

# (op, argument): per-unit numbers that add to a value; other arguments multiply it.
_ADDED = {
    *(("batch_norm", name) for name in ("bias", "running_mean")),
    *((op, "bias") for op in AFFINE),
    *((op, name) for op in _ADDITIONS for name in ("self", "other")),
}
_FACTORS = {
    *(("batch_norm", name) for name in ("weight", "running_var")),
    *((op, AFFINE[op].weight) for op in AFFINE),
    *((op, name) for op in ("mul", "div") for name in ("self", "other")),
    ("prelu", "weight"),
}


def is_homogeneous(problem: ExactProblem, group: Group) -> bool:
    """Whether units with s > 0 times the rows and constants of another have s times its values everywhere."""
    known = all(adds(problem, group, slot.tensor) is not None for slot in group.having("through"))
    products = [op for op in _ops(problem, group) if kind(op) in _PRODUCTS]
    of_one = all(sum(node in problem.coupling.units for node in op.all_input_nodes) == 1 for op in products)
    return known and of_one and _only(problem, group, _HOMOGENEOUS)


def straight(problem: ExactProblem, group: Group) -> Tensor:
    """Units whose value, up to the layers that read them, is affine in the inputs of their makers.

    Shape: (units,), bool.

    That is where only movements, weighted sums over positions and identities lie between: an
    activation is the identity where its bounds over the box say so.
    """
    found = problem.alive[group.name].clone()
    if not _only(problem, group, _STRAIGHT | _IDENTITY.keys()):
        return torch.zeros_like(found)
    for op in _ops(problem, group):
        if kind(op) not in _IDENTITY:
            continue
        node, (low, high) = (
            op.all_input_nodes[0],
            _IDENTITY[kind(op)](bound_arguments(op, op.args, op.kwargs)),
        )
        units = unit_of(problem, node, group)
        if units is None:
            return torch.zeros_like(found)
        value = problem.values[node]
        beyond = torch.maximum(low - value.lower, value.upper - high)
        found &= each_unit(units, beyond, group.units) <= 0
    return found


def makers_of(problem: ExactProblem, group: Group) -> set[fx.Node]:
    """The nodes that use the group's producers."""
    producers = {slot.tensor for slot in group.having("producer")}
    return {op for op in _ops(problem, group) if producers & {str(node.target) for node in _parameters(op)}}


def adds(problem: ExactProblem, group: Group, tensor: str) -> bool | None:
    """Whether a per-unit parameter on the way adds to values or multiplies them; None where unknown."""
    uses = {
        (kind(op), name)
        for op in _ops(problem, group)
        for name, value in bound_arguments(op, op.args, op.kwargs).items()
        if isinstance(value, fx.Node) and value.op == "get_attr" and value.target == tensor
    }
    return True if uses and uses <= _ADDED else False if uses and uses <= _FACTORS else None


def _only(problem: ExactProblem, group: Group, allowed: set[str]) -> bool:
    """Whether all ops on the way are `allowed`, and join the group's units with no others and no numbers."""
    carriers, own = set(problem.carriers[group.name]), {slot.tensor for slot in group.slots}
    for op in set(_ops(problem, group)) - makers_of(problem, group):
        tensors = [node for node in op.all_input_nodes if node in problem.coupling.units]
        alien = any(isinstance(argument, int | float) for argument in op.args) or any(
            str(node.target) not in own for node in _parameters(op)
        )
        if kind(op) not in allowed or not carriers.issuperset(tensors) or (alien and kind(op) in _ADDITIONS):
            return False
    return True


def _ops(problem: ExactProblem, group: Group) -> list[fx.Node]:
    """The ops whose values hold the group's units; `split` itself for its parts."""
    nodes = problem.carriers[group.name]
    sources = (n.all_input_nodes[0] if kind(n) == "getitem" else n for n in nodes)
    return list(dict.fromkeys(sources))


def _parameters(op: fx.Node) -> list[fx.Node]:
    return [node for node in op.all_input_nodes if node.op == "get_attr"]
