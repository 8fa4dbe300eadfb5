"""The result of `prune`: the smaller model, its recipe, and the history of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from torch import nn

from secateur.explain import table
from secateur.report.quantization import Quantization
from secateur.report.recipe import Recipe
from secateur.report.summary import html_table
from secateur.report.tables import pruning_table
from secateur.report.times import LatencyRecord
from secateur.report.verdict import Verdict
from secateur.types import Group, Groups


@dataclass(frozen=True)
class HistoryRow:
    """One step of a run, as callbacks receive it.

    Sizes are those of the model that the run would return if it ended with this step.

    Attributes:
        step: The number of the step, from 1.
        units_removed: Units removed so far, over all groups.
        parameters: Parameters of the smaller model.
        macs: Its multiply-accumulates for one sample.
        seconds: Time since the run began.

    Examples:
        >>> import torch, secateur
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)).eval()
        >>> result = secateur.prune(net, torch.zeros(1, 4), remove=0.5, method="saliency", step=0.25)
        >>> [(row.step, row.units_removed, row.parameters) for row in result.history]
        [(1, 4, 86), (2, 8, 58)]
    """

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
    """The result of `prune`.

    It holds nothing of the original model, and can be pickled and copied if the model's class can.

    Attributes:
        model: The smaller model, of the original's class where its `forward` allows it, else an
            `fx.GraphModule`.
        recipe: The record from which `replay` rebuilds the same bits.
        history: One row for each step.
        before: The size of the original model.
        groups: All groups of the original model, prunable and pinned.
        blocked: Tensor name → why no group holds it.
        shortfall: Why less was removed than requested; empty if nothing is missing.
        tried: If nobody said how much to remove: what each share that was tried would lose; else empty.
        stopped: Which budget the next step would have exceeded, or what a callback said; empty if the run
            was not ended early.

    Examples:
        >>> import torch, secateur
        >>> _ = torch.manual_seed(1)
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)).eval()
        >>> result = secateur.prune(net, torch.zeros(1, 4), remove=0.5, samples=256)
        >>> result.before.parameters, result.after.parameters
        (114, 58)
        >>> print(result.explain())
        group  units   slots (made by | read by)  state
        0      16 → 8  0.weight[0] | 2.weight[1]  prunable
        2      2       2.weight[0] |              pinned: an output of the model
    """

    model: nn.Module
    recipe: Recipe
    history: tuple[HistoryRow, ...]
    before: Size
    groups: tuple[Group, ...]
    blocked: Mapping[str, str]
    shortfall: str
    stopped: str = ""
    tried: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict | None:
        """Whether to trust the smaller model, from inputs that were not used for refitting.

        None where nothing could be compared; a warning has then said why.
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

    def with_quantization(self, record: Quantization) -> Result:
        """The same, with the record of a quantised form of the model in its recipe."""
        return replace(self, recipe=self.recipe.with_quantization(record))

    def explain(self) -> str:
        """A table of all groups: units before and after, their tensors, and why a group cannot shrink."""
        return table(Groups(self.groups, self.blocked), {g.group: len(g.kept) for g in self.recipe.groups})

    def _repr_html_(self) -> str:
        """For notebooks."""
        notes = [] if self.latency is None else [f"latency: {self.latency.told()}"]
        notes += [text for text in (self.shortfall, self.stopped) if text]
        notes += [] if self.verdict is None else self.verdict.lines()
        notes += [f"tried: {line}" for line in self.tried]
        return html_table(f"Result: {type(self.model).__name__}", *pruning_table(self), notes)

    def __repr__(self) -> str:
        """The sizes before and after, and the verdict, in a few lines."""
        sizes = [
            f"  {f.name}: {getattr(self.before, f.name):,} → {getattr(self.after, f.name):,}"
            for f in fields(Size)
        ]
        sizes += [] if self.latency is None else [f"  latency: {self.latency.told()}"]
        notes = [f"  {name}: {text}" for name in ("shortfall", "stopped") if (text := getattr(self, name))]
        method, steps = self.recipe.request.method, len(self.history)
        head = f"Result: {type(self.model).__name__} by {method}, {steps} step{'s' if steps > 1 else ''}"
        verdict = [] if self.verdict is None else [f"  {line}" for line in self.verdict.lines()]
        tried = [f"  tried: {line}" for line in self.tried]
        return "\n".join([head, *sizes, *notes, *verdict, *tried])
