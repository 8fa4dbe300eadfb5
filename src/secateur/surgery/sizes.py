"""Which indices stay, and the sizes that follow: of tensors, and of every value in the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.graph.labels import FIXED, varying_axes
from secateur.graph.stream import Stream

Alive = Mapping[str, Tensor]  # group name → which of its units stay, shape: (units,), bool


def shrunk_tensors(
    graph: Graph, coupling: Coupling, weights: Mapping[str, Tensor], alive: Alive
) -> dict[str, Tensor]:
    """Every tensor of the graph with only the indices of units that stay; shape: as the tensor, smaller.

    A norm over d of D coordinates, of which the others are 0, gives √(d/D) of what it would over all: its
    weight makes up for that.
    """
    small = {name: weights.get(name, tensor) for name, tensor in graph.tensors.items()}
    for (name, axis), keep in kept_indices(graph, coupling, alive).items():
        small[name] = small[name].index_select(axis, keep.to(small[name].device))
    for stream in coupling.streams:
        for norm in stream.norms:
            small[norm.weight] = small[norm.weight] * shrinkage(stream, alive) ** -0.5
    return small


def shrinkage(stream: Stream, alive: Alive) -> float:
    """The share of a stream's coordinates that stay."""
    return float(alive[stream.group].double().mean()) if stream.group in alive else 1.0


def typed_tensors(
    graph: Graph, coupling: Coupling, weights: Mapping[str, Tensor], alive: Alive
) -> dict[str, Tensor]:
    """The same in the types in which the model stores them."""
    small = shrunk_tensors(graph, coupling, weights, alive)
    return {name: tensor.to(graph.tensors[name].dtype) for name, tensor in small.items()}


def stored_tensors(
    graph: Graph, coupling: Coupling, small: Mapping[str, Tensor], alive: Alive
) -> dict[str, Tensor]:
    """The tensors of `small`, which the graph reads, in the layout in which the model stores them."""
    orders = {name: layout.order for name, layout in graph.layouts.items()}
    for (name, axis), keep in kept_indices(graph, coupling, alive).items():
        if name in orders:
            orders[name] = orders[name].index_select(axis, keep)
    return {
        **small,
        **{name: graph.layouts[name].as_stored(small[name], order) for name, order in orders.items()},
    }


def kept_indices(graph: Graph, coupling: Coupling, alive: Alive) -> dict[tuple[str, int], Tensor]:
    """(tensor, axis) → indices that stay, for every axis that loses some."""
    keep: dict[tuple[str, int], Tensor] = {}
    for group in coupling.groups:
        if group.name not in alive or bool(alive[group.name].all()):
            continue
        for slot in group.slots:
            key = slot.tensor, slot.axis
            if key not in keep:
                keep[key] = torch.ones(graph.tensors[slot.tensor].shape[slot.axis], dtype=torch.bool)
            keep[key][slot.positions[~alive[group.name]].reshape(-1)] = False
    return {key: mask.nonzero().flatten() for key, mask in keep.items() if not mask.all()}


def alive_units(coupling: Coupling, alive: Alive) -> Tensor:
    """Whether each unit id of `coupling.units` stays; the last entry is for id −1 (no unit).

    Shape: (largest id + 2,).
    """
    count = max((int(ids.max()) for ids in coupling.ids.values() if len(ids)), default=-1) + 2
    table = torch.ones(count, dtype=torch.bool)
    for name, mask in alive.items():
        if not bool(mask.all()):
            table[coupling.ids[name]] = mask
    return table


def kept_along(levels: Sequence[Tensor], axis: int, table: Tensor) -> Tensor:
    """Which indices of `axis` stay in a value whose elements belong to the units of `levels`.

    Shape: (size,), bool.
    """
    keep = _kept_along(levels[0], axis, table)
    for units in levels[1:]:
        keep = keep & _kept_along(units, axis, table)
    return keep


def _kept_along(units: Tensor, axis: int, table: Tensor) -> Tensor:
    axis %= units.ndim
    if axis not in varying_axes(units):
        return torch.ones(units.shape[axis], dtype=torch.bool)
    for other in range(units.ndim - 1, -1, -1):
        if other != axis:
            units = units.select(other, 0)
    units = torch.where(units < len(table) - 1, units, FIXED)  # ids of no group stay
    return table[units]


def kept_shape(levels: Sequence[Tensor], table: Tensor) -> list[int]:
    """The shape that a value has after removal."""
    varying = set[int]().union(*map(varying_axes, levels))
    return [
        int(kept_along(levels, i, table).sum()) if i in varying else size
        for i, size in enumerate(levels[0].shape)
    ]
