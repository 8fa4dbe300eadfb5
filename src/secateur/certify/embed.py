"""A pruned model in the original's graph: its tensors at full size, where removed units have no effect.

Both networks then are one graph with two sets of tensors, which `bounds` compares value by value. Which
original unit a unit of the pruned model is, is found by likeness of weights. A wrong guess costs tightness,
never soundness: whatever the guess, the embedded network computes what the pruned model does, and that is
checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, fx

from secateur.errors import InputError
from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.graph.interpret import run
from secateur.graph.node import bound_arguments, kind
from secateur.graph.ops import MOVEMENT, MOVES, OPS
from secateur.graph.widths import crossed_by_widths, is_width, not_widths
from secateur.surgery.sizes import shrunk_tensors
from secateur.types import Group

_TOLERANCE = 1e-9  # of outputs in float64
_WIDTHS = (
    "; heads that have lost widths cannot be certified: prune with attention='heads', or give a confidence= "
    "for a statistical certificate"
)
# arguments that follow from the numbers of units
_SIZES = {"device", *(name for row in OPS.values() for name in row.sizes.split() if row.family not in MOVES)}


def embedded(graph: Graph, coupling: Coupling, pruned: Graph, samples: Sequence[Tensor]) -> dict[str, Tensor]:
    """The pruned model's tensors at the original's sizes, float64, by the original's names.

    `samples`: inputs on which the result is checked against the pruned model. Raises `InputError` where the
    models are not an original and its pruned form. Cost: units of a group × units left × weights of a unit.
    """
    names = _paired_names(graph, pruned)
    small = {name: pruned.tensors[other] for name, other in names.items()}
    alive = dict[str, Tensor]()
    for group in not_widths(coupling.prunable):
        alive[group.name] = _units_left(graph, coupling, small, group, alive)
    full = _full_size(graph, coupling, small, alive)
    back = shrunk_tensors(graph, coupling, full, alive)
    of_widths = {slot.tensor for group in filter(is_width, coupling.prunable) for slot in group.slots}
    for name, tensor in small.items():
        if back[name].shape != tensor.shape or not torch.equal(back[name], _precise(tensor)):
            raise InputError(
                f"{name} of shape {tuple(tensor.shape)} does not follow from "
                f"{tuple(graph.tensors[name].shape)} by removing units; certify needs an original and its "
                f"own pruned form{_WIDTHS if name in of_widths else ''}"
            )
    _check_outputs(graph, full, pruned, samples)
    return full


def _precise(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _paired_names(graph: Graph, pruned: Graph) -> dict[str, str]:
    """Tensor names of the original → those of the pruned model, whose ops must be the same, in order."""
    ops, others = ([n for n in g.nodes if n.op != "get_attr" and not _is_size(n)] for g in (graph, pruned))
    for a, b in zip(ops, others, strict=False):
        if (a.op, kind(a)) != (b.op, kind(b)) and not a.op == b.op == "placeholder":
            raise _other(f"{a.name} is {kind(a)} in one, {kind(b)} in the other")
    if len(ops) != len(others):
        raise _other(f"{len(ops)} ops in one, {len(others)} in the other")
    names: dict[str, str] = {}
    for a, b in zip(ops, others, strict=True):
        for first, second in _paired_tensors(a, b):
            if names.setdefault(first, second) != second:
                raise _other(f"{first} is shared in one of them only")
    return names


def _paired_tensors(a: fx.Node, b: fx.Node) -> list[tuple[str, str]]:
    """The names of the tensors that one op reads in both models."""
    if _settings(a) != _settings(b):
        hint = _WIDTHS if "attention" in kind(a) else ""  # where widths left, the scale is written out
        raise _other(f"{a.name} ({kind(a)}) is set differently in them{hint}")
    first, second = ([str(n.target) for n in x.all_input_nodes if n.op == "get_attr"] for x in (a, b))
    if len(first) != len(second):
        raise _other(f"{a.name} reads other tensors")
    return list(zip(first, second, strict=True))


def _other(how: str) -> InputError:
    return InputError(f"the models differ in more than sizes: {how}")


def _is_size(node: fx.Node) -> bool:
    """Whether the node is a size, or worked out from sizes alone."""
    return isinstance(node.meta.get("val"), int | torch.SymInt)


def _settings(node: fx.Node) -> list[tuple[str, str]]:
    """What an op is told besides tensors and sizes."""
    if node.op != "call_function" or kind(node) in MOVEMENT:
        return []
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda n: None)
    arguments = bound_arguments(node, args, kwargs)
    return [(name, str(value)) for name, value in arguments.items() if name not in _SIZES]


# --- which units are left -----------------------------------------------------------------------------------


def _units_left(
    graph: Graph, coupling: Coupling, small: Mapping[str, Tensor], group: Group, known: Mapping[str, Tensor]
) -> Tensor:
    """Mask, (units,), of the original's units that the pruned model has, guessed by likeness of weights."""
    count = _count_left(graph, coupling, small, group)
    if count == group.units:
        return torch.ones(group.units, dtype=torch.bool)
    cost = torch.zeros(group.units, count, dtype=torch.float64)
    for slot in (*group.having("producer"), *group.having("through")):
        in_order = torch.arange(graph.tensors[slot.tensor].shape[slot.axis])
        if not torch.equal(slot.positions.flatten(), in_order):
            continue  # an axis that others share: which part of the pruned one is ours is not known yet
        ours, theirs = _rows(graph, coupling, small, slot.tensor, slot.axis, known)
        if ours is not None and theirs is not None:
            own = ours.reshape(group.units, -1)
            cost += torch.cdist(own, theirs.reshape(count, -1)).square() / own.square().mean().clamp(
                min=1e-30
            )
    return _aligned(cost)


def _count_left(graph: Graph, coupling: Coupling, small: Mapping[str, Tensor], group: Group) -> int:
    """From an axis on which no other group stands."""
    for slot in group.slots:
        others = [s for g in not_widths(coupling.prunable) if g is not group for s in g.slots]
        if any((s.tensor, s.axis) == (slot.tensor, slot.axis) for s in others):
            continue
        size = graph.tensors[slot.tensor].shape[slot.axis]
        width = slot.positions.shape[1]
        gone, rest = divmod(size - small[slot.tensor].shape[slot.axis], width)
        if rest or not 0 <= gone < group.units:
            raise InputError(
                f"{slot.tensor}: axis {slot.axis} has {size - gone * width - rest} indices in the pruned "
                f"model and {size} in the original, which is no whole number of units of {group.name}"
                f"{_WIDTHS if group.name in crossed_by_widths(coupling.groups) else ''}"
            )
        return group.units - gone
    raise InputError(f"{group.name}: how many of its units are left cannot be told from the tensors' sizes")


def _rows(
    graph: Graph,
    coupling: Coupling,
    small: Mapping[str, Tensor],
    name: str,
    axis: int,
    known: Mapping[str, Tensor],
) -> tuple[Tensor | None, Tensor | None]:
    """The tensor in both models with `axis` first, other axes cut to what both have; None: unknown."""
    ours, theirs = _precise(graph.tensors[name]), _precise(small[name])
    if not ours.is_floating_point() or ours.ndim != theirs.ndim:
        return None, None
    keep = shrunk_mask(graph, coupling, name, known)
    for other in range(ours.ndim):
        if other != axis and ours.shape[other] != theirs.shape[other]:
            ours = ours.index_select(other, keep[other].nonzero().flatten())
            if ours.shape[other] != theirs.shape[other]:
                return None, None
    return ours.movedim(axis, 0), theirs.movedim(axis, 0)


def shrunk_mask(graph: Graph, coupling: Coupling, name: str, alive: Mapping[str, Tensor]) -> list[Tensor]:
    """For each axis of a tensor, which indices stay when units outside `alive` leave."""
    masks = [torch.ones(size, dtype=torch.bool) for size in graph.tensors[name].shape]
    for group in not_widths(coupling.prunable):
        if group.name in alive:
            for slot in group.slots:
                if slot.tensor == name:
                    masks[slot.axis][slot.positions[~alive[group.name]].flatten()] = False
    return masks


def _aligned(cost: Tensor) -> Tensor:
    """Mask (rows,) of the rows, in order, that together cost least when each column takes one.

    Dynamic programming.
    """
    table = cost.numpy()
    rows, columns = table.shape
    best = np.full((rows + 1, columns + 1), np.inf)
    best[:, 0] = 0.0
    for i in range(rows):
        best[i + 1, 1:] = np.minimum(best[i, 1:], best[i, :-1] + table[i])
    mask, j = torch.zeros(rows, dtype=torch.bool), columns
    for i in range(rows, 0, -1):
        if j and best[i, j] < best[i - 1, j]:
            mask[i - 1] = True
            j -= 1
    return mask


# --- full size ----------------------------------------------------------------------------------------------


def _full_size(
    graph: Graph, coupling: Coupling, small: Mapping[str, Tensor], alive: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The pruned tensors at full size; at removed units the original's values, which no consumer reads."""
    full = {name: _precise(tensor).clone() for name, tensor in graph.tensors.items()}
    for name, tensor in small.items():
        masks = shrunk_mask(graph, coupling, name, alive)
        if [int(m.sum()) for m in masks] == list(tensor.shape):
            full[name][np.ix_(*(m.nonzero().flatten().numpy() for m in masks))] = _precise(tensor)
    for group in not_widths(coupling.prunable):
        for slot in group.having("consumer"):
            gone = slot.positions[~alive[group.name]].flatten()
            full[slot.tensor].index_fill_(slot.axis, gone, 0.0)
    return full


def _check_outputs(
    graph: Graph, full: Mapping[str, Tensor], pruned: Graph, samples: Sequence[Tensor]
) -> None:
    ours = run(graph, samples, full, dtype=torch.float64)
    theirs = run(pruned, samples, dtype=torch.float64)
    for a, b in zip(ours, theirs, strict=True):
        alike = a.shape == b.shape and torch.allclose(
            a.double(), b.double(), rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True
        )
        if not alike:
            raise InputError(
                "the pruned model does not compute what its tensors compute in the original's graph; certify "
                "needs an original and its own pruned form, both from secateur"
            )
