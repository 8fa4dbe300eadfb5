"""What a removal can be measured in: units, parameters, multiply-accumulates, bytes, or time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from secateur.cost import Costs
from secateur.errors import InputError
from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.types import Group

Quantity = Literal["units", "params", "macs", "bytes", "latency"]
After = Callable[[Mapping[str, int]], float]  # units that each group loses → what is left of the quantity


@dataclass(frozen=True)
class Row:
    """One quantity: `make(groups, costs, latency)` gives the function that measures it."""

    make: Callable[[Sequence[Group], Costs, After | None], After]
    # Share of a group's units over which the saving of one unit is averaged; 0: the first unit alone. Times
    # fall in steps, so that one unit alone may save nothing.
    averaged: float = 0.0
    # what the graph has more of than the model, where tied tensors are apart
    copied: Callable[[Costs], int] = lambda costs: 0


def _units(groups: Sequence[Group], costs: Costs, latency: After | None) -> After:
    return lambda removed: sum(g.units - removed.get(g.name, 0) for g in groups)


def _parameters(groups: Sequence[Group], costs: Costs, latency: After | None) -> After:
    return lambda removed: costs.parameters(_any_alive(groups, removed))


def _macs(groups: Sequence[Group], costs: Costs, latency: After | None) -> After:
    return lambda removed: costs.macs(_any_alive(groups, removed))


def _bytes(groups: Sequence[Group], costs: Costs, latency: After | None) -> After:
    return lambda removed: costs.bytes(_any_alive(groups, removed))


def _latency(groups: Sequence[Group], costs: Costs, latency: After | None) -> After:
    if latency is None:
        raise InputError("a target in latency needs a table of times; `secateur.prune` measures one")
    return latency


QUANTITIES: dict[Quantity, Row] = {
    "units": Row(_units),
    "params": Row(_parameters, copied=Costs.copied_parameters),
    "macs": Row(_macs),
    "bytes": Row(_bytes, copied=Costs.copied_bytes),
    "latency": Row(_latency, averaged=0.5),
}


class Measure:
    """One quantity of a network, and the share of it that a removal takes.

    Args:
        graph, coupling, groups: the network, and the groups that may lose units.
        quantity: a name in `QUANTITIES`.
        latency: for the quantity `latency`, milliseconds after a removal (`timing.predict`).
    """

    def __init__(
        self,
        graph: Graph,
        coupling: Coupling,
        groups: Sequence[Group],
        quantity: Quantity,
        latency: After | None = None,
    ) -> None:
        self.coupling, self.groups = coupling, groups
        self._row, costs = QUANTITIES[quantity], Costs(graph, coupling)
        self.after = self._row.make(groups, costs, latency)
        self.whole = self.after({}) - self._row.copied(costs)

    def share(self, removed: Mapping[str, int]) -> float:
        """The share of the whole that goes."""
        return 1.0 - self.after(removed) / self.whole

    def saved_by_one(self, group: Group) -> float:
        """What goes with one unit of the group, above 0, where the others are whole."""
        units = max(1, int(self._row.averaged * group.units))
        saved = (self.after({}) - self.after({group.name: units})) / units
        least = 1.0 if not self._row.averaged else 1e-6 * self.whole / group.units
        return max(least, saved)


def _any_alive(groups: Sequence[Group], removed: Mapping[str, int]) -> dict[str, Tensor]:
    """For groups that lose units, masks with the right number gone; which ones does not matter to sizes."""
    losing = {g.name: g.units for g in groups if removed.get(g.name, 0)}
    return {name: torch.arange(units) >= removed[name] for name, units in losing.items()}
