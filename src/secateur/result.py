"""What a run of `prune` hands back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from secateur.explain import table
from secateur.graph.coupling import Coupling
from secateur.report.recipe import Recipe
from secateur.types import Group


@dataclass(frozen=True)
class HistoryRow:
    """One step of the run. Sizes are those of the model that would come out if the run stopped here."""

    step: int
    units_removed: int
    parameters: int
    macs: int
    seconds: float


@dataclass(frozen=True)
class Size:
    """A model's prunable units, parameters, and multiply-accumulates for one sample."""

    units: int
    parameters: int
    macs: int


@dataclass(frozen=True, eq=False)
class Result:
    """What `prune` gives: the smaller model, how it came about, and what stayed and why."""

    model: nn.Module
    recipe: Recipe
    history: tuple[HistoryRow, ...]
    before: Size
    groups: tuple[Group, ...]
    coupling: Coupling
    shortfall: str  # why less was removed than asked, or empty
    stopped: str = ""  # which budget of the guard the next step would have exceeded, or empty

    def explain(self) -> str:
        """A table of all groups: units before and after, where they stand, and why a group is pinned."""
        return table(self.coupling, {g.group: len(g.kept) for g in self.recipe.groups})
