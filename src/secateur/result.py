"""What a run of `prune` hands back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from torch import nn

from secateur.explain import table
from secateur.report.recipe import Recipe
from secateur.report.summary import html_table
from secateur.report.tables import pruning_table
from secateur.report.times import LatencyRecord
from secateur.report.verdict import Verdict
from secateur.types import Group, Groups


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


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What `prune` gives: the smaller model, how it came about, and what stayed and why.

    It holds nothing of the original model and can be pickled and copied as far as the model's class can.
    """

    model: nn.Module
    recipe: Recipe
    history: tuple[HistoryRow, ...]
    before: Size
    groups: tuple[Group, ...]
    blocked: Mapping[str, str]  # tensor → why it could not be looked at
    shortfall: str  # why less was removed than asked, or empty
    # which budget of the guard the next step would have exceeded, what a callback said, or empty
    stopped: str = ""

    @property
    def verdict(self) -> Verdict | None:
        """Whether to trust the smaller model, from what it does on inputs that it was not solved on; None
        where nothing could be compared, as a warning has said.
        """
        return self.recipe.verdict

    @property
    def latency(self) -> LatencyRecord | None:
        """For a target in latency: what was predicted and measured; else None. See `secateur.latency`."""
        return self.recipe.latency

    @property
    def after(self) -> Size:
        """The size of the smaller model."""
        last = self.history[-1]
        return Size(self.before.units - last.units_removed, last.parameters, last.macs)

    def explain(self) -> str:
        """A table of all groups: units before and after, where they stand, and why a group is pinned."""
        return table(Groups(self.groups, self.blocked), {g.group: len(g.kept) for g in self.recipe.groups})

    def _repr_html_(self) -> str:
        """For notebooks."""
        notes = [] if self.latency is None else [f"latency: {self.latency.told()}"]
        notes += [text for text in (self.shortfall, self.stopped) if text]
        notes += [] if self.verdict is None else self.verdict.lines()
        return html_table(f"Result: {type(self.model).__name__}", *pruning_table(self), notes)

    def __repr__(self) -> str:
        """The sizes before and after, in a few lines."""
        sizes = [
            f"  {f.name}: {getattr(self.before, f.name):,} → {getattr(self.after, f.name):,}"
            for f in fields(Size)
        ]
        sizes += [] if self.latency is None else [f"  latency: {self.latency.told()}"]
        notes = [f"  {name}: {text}" for name in ("shortfall", "stopped") if (text := getattr(self, name))]
        method, steps = self.recipe.request.method, len(self.history)
        head = f"Result: {type(self.model).__name__} by {method}, {steps} step{'s' if steps > 1 else ''}"
        verdict = [] if self.verdict is None else [f"  {line}" for line in self.verdict.lines()]
        return "\n".join([head, *sizes, *notes, *verdict])
