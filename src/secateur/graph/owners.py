"""Which group each unit of a coupling belongs to, and which groups have units in each value."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, fx

from secateur.graph.coupling import Coupling
from secateur.graph.labels import compressed


def owners(coupling: Coupling) -> tuple[list[str], Tensor]:
    """Group names, and for each unit id the position of its group among them.

    The owners have shape (largest id + 2,). Ids of no group, and the last entry (for id −1, no unit), have
    the number of groups.
    """
    names = list(coupling.ids)
    largest = max((int(ids.max()) for ids in coupling.ids.values() if len(ids)), default=-1)
    owner = torch.full((largest + 2,), len(names))
    for number, name in enumerate(names):
        owner[coupling.ids[name]] = number
    return names, owner


def groups_in_values(
    coupling: Coupling, nodes: Iterable[fx.Node] | None = None
) -> dict[fx.Node, tuple[str, ...]]:
    """The groups that have units in the value of each of `nodes`, by default of all nodes with units.

    Cost: one look at the units of every value, however many groups there are.
    """
    names, owner = owners(coupling)
    outside = len(owner) - 1
    found = {}
    for node in coupling.units if nodes is None else nodes:
        present = torch.cat([torch.unique(compressed(units)) for units in coupling.levels(node)])
        numbers = torch.unique(owner[torch.where(present < outside, present, outside)]).tolist()
        found[node] = tuple(names[number] for number in numbers if number < len(names))
    return found
