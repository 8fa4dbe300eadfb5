"""The state of one pruning run, and how it moves: choose, check, compensate, record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from secateur.compensate import merged
from secateur.cost import full, macs_after, parameters_after
from secateur.errors import SecateurError, TargetMissedError
from secateur.graph.capture import Graph
from secateur.graph.coupling import Coupling
from secateur.methods import Method
from secateur.methods.context import Context, following_norms
from secateur.report.recipe import Edit, Step
from secateur.types import Group, Interval, Removal


class Run:
    """The state of a run: full-size weights in float64, the units that are left, and those that stood in."""

    def __init__(
        self,
        graph: Graph,
        coupling: Coupling,
        choose: Method | None,
        box: Sequence[Interval],
        recursive: bool,
        seed: int,
    ) -> None:
        self.graph, self.coupling, self.choose, self.box, self.recursive = graph, coupling, choose, box, recursive
        self.weights = {
            name: w.cpu().double() if w.is_floating_point() else w.cpu() for name, w in graph.tensors.items()
        }
        self.alive = full(coupling)
        self.used = {name: torch.zeros_like(mask) for name, mask in self.alive.items()}
        self.generator = torch.Generator().manual_seed(seed)
        self.norms = following_norms(graph)

    def advance(self, groups: Sequence[Group], goal: Mapping[str, int], planned: Mapping[str, int]) -> list[Edit]:
        """Bring every group to its goal; scores and bounds are taken anew for each group."""
        edits = []
        for group in groups:
            while (need := goal[group.name] - self.gone(group)) > 0:
                progress = self.gone(group) / planned[group.name]
                context = Context(
                    self.graph,
                    self.weights,
                    self.box,
                    self.generator,
                    self.alive,
                    self.used,
                    self.recursive,
                    progress,
                    self.norms,
                )
                assert self.choose is not None
                removal = self.choose(context, group, need)
                _check_removal(removal, need, self.alive[group.name])
                if not len(removal.units):
                    raise TargetMissedError(
                        f"{group.name}: no pair is left to merge with {self.gone(group)} of {group.units} units gone "
                        f"where {goal[group.name]} were asked; use recursive=True or remove less"
                    )
                self.apply(group, removal)
                edits.append(
                    Edit(group=group.name, units=tuple(removal.units.tolist()), into=tuple(removal.into.tolist()))
                )
        return edits

    def apply(self, group: Group, removal: Removal) -> None:
        self.weights |= merged(self.weights, group, removal)
        self.alive[group.name][removal.units] = False
        self.used[group.name][removal.into[removal.into >= 0]] = True

    def gone(self, group: Group) -> int:
        return int((~self.alive[group.name]).sum())

    def record(self, number: int, edits: Sequence[Edit]) -> Step:
        return Step(
            step=number,
            edits=tuple(edits),
            units_removed=sum(int((~mask).sum()) for mask in self.alive.values()),
            parameters=parameters_after(self.graph, self.coupling, self.alive),
            macs=macs_after(self.graph, self.coupling, self.alive),
        )


def _check_removal(removal: Removal, need: int, alive: Tensor) -> None:
    """A method's answer is checked before it is believed."""
    units, into = removal.units, removal.into[removal.into >= 0]
    sound = (
        len(units) == len(removal.into) <= need
        and len(units.unique()) == len(units)
        and bool(alive[units].all())
        and bool(alive[into].all())
        and not bool(torch.isin(into, units).any())
    )
    if not sound:
        raise SecateurError(
            f"the method's choice for {removal.group} is not consistent: {removal}; this is a fault in it"
        )
