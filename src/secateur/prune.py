"""The loop: capture, couple, plan; then step by step score, choose, compensate; then shrink, check and record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from secateur.bounds.interval import input_box
from secateur.cost import macs_after, parameters_after
from secateur.errors import InputError, RecipeError, SecateurError, TargetMissedError
from secateur.explain import table
from secateur.graph.capture import ExampleInputs, Graph, capture
from secateur.graph.coupling import Coupling, couple
from secateur.methods import resolve
from secateur.methods.context import Context, following_norms
from secateur.plan import Plan, Target, make_plan, schedule, selected
from secateur.progress import track
from secateur.report.recipe import KeptUnits, Recipe, Request, Step, fingerprint, input_specs, versions
from secateur.run import Run, advance
from secateur.surgery import shrink
from secateur.types import Group, Interval, Removal


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

    def explain(self) -> str:
        """A table of all groups: units before and after, where they stand, and why a group is pinned."""
        return table(self.coupling, {g.group: len(g.kept) for g in self.recipe.groups})


def inspect(model: nn.Module | ExportedProgram, example_inputs: ExampleInputs | None = None) -> Coupling:
    """The groups of a model: their units and slots, and what is pinned and why. Nothing is changed."""
    return couple(capture(model, example_inputs))


def prune(
    model: nn.Module | ExportedProgram,
    example_inputs: ExampleInputs | None = None,
    *,
    remove: float | str = 0.5,
    method: str = "saliency",
    options: Mapping[str, float | int] | None = None,
    input_bounds: Any = (0.0, 1.0),
    step: float = 0.0625,
    recursive: bool = True,
    ignore: Sequence[str] = (),
    round_to: int = 1,
    seed: int = 0,
    device: torch.device | str | None = None,
    callbacks: Sequence[Callable[[HistoryRow], None]] = (),
    progress: bool = False,
) -> Result:
    """Prune `model` without data and without retraining; the model itself is left as it is.

    Args:
        model: an `nn.Module` in eval mode, or an exported program.
        example_inputs: a tensor, a tuple of tensors or a dict of keyword arguments; axis 0 is the batch. Only shapes
            and types matter.
        remove: the share that goes: 0.5 or "50%" of the units of every group, "params=50%", or "macs=50%".
        method: a name in `secateur.methods.METHODS`; `options` are its parameters.
        input_bounds: the input box, (low, high), numbers or tensors that broadcast to one input; a list of such
            pairs for several inputs.
        step: the largest share of a group's units that leaves at a time; 1 prunes in one shot.
        recursive: whether a unit that stood in for another may do so again or leave. Without, at most half goes.
        ignore: globs over layer names whose outputs stay whole.
        round_to: keep a multiple of this number of units in every group that shrinks.
        seed: for methods that draw random numbers.
        device: where bounds are computed (default: the CPU). Choices are made in float64 on the CPU.
        callbacks: called with each `HistoryRow`.
        progress: show a progress bar on stderr, where that is a terminal.

    Raises:
        InputError, CaptureError, UnsupportedOpError: what was given cannot be used, with what to do about it.
        NothingToPruneError, TargetMissedError: the request cannot be met, with what can.
    """
    target, choose = Target.parse(remove), resolve(method, options or {})
    graph = capture(model, example_inputs)
    coupling = couple(graph)
    groups = selected(coupling, ignore)
    plan = make_plan(graph, coupling, groups, target, round_to)
    _check_reach(groups, plan, recursive, method)

    run, box, norms = Run(graph, coupling), _box(graph, input_bounds, device), following_norms(graph)
    generator = torch.Generator().manual_seed(seed)

    def decide(group: Group, need: int, progress: float) -> Removal:
        context = Context(graph, run.weights, box, generator, run.alive, run.used, recursive, progress, norms)
        return choose(context, group, need)

    steps, history, begin = list[Step](), list[HistoryRow](), time.perf_counter()
    for number, goal in enumerate(track(schedule(groups, plan.removed, step), "pruning", progress), start=1):
        edits = advance(run, groups, goal, plan.removed, decide)
        steps.append(run.record(number, edits))
        history.append(_history_row(steps[-1], time.perf_counter() - begin))
        for callback in callbacks:
            callback(history[-1])

    small = shrink(_as_module(model), graph, coupling, run.weights, run.alive)
    request = Request(
        remove=str(remove),
        method=method,
        options=dict(options or {}),
        step=step,
        recursive=recursive,
        ignore=tuple(ignore),
        round_to=round_to,
        input_bounds=_plain(input_bounds),
        seed=seed,
    )
    recipe = Recipe(
        versions=versions(),
        model=fingerprint(graph),
        inputs=input_specs(graph.example),
        request=request,
        achieved=plan.achieved,
        shortfall=plan.shortfall,
        steps=tuple(steps),
        groups=_kept(groups, run.alive),
    )
    before = Size(sum(g.units for g in groups), parameters_after(graph, coupling, {}), macs_after(graph, coupling, {}))
    return Result(small, recipe, tuple(history), before, coupling.groups, coupling, plan.shortfall)


def replay(
    model: nn.Module | ExportedProgram, recipe: Recipe, example_inputs: ExampleInputs | None = None
) -> nn.Module:
    """Rebuild the pruned model, bit for bit, from the original and its recipe. No method is run, nothing is chosen.

    `example_inputs` is needed only where the model takes more than plain positional tensors. Raises `RecipeError`
    where the recipe belongs to another model.
    """
    if example_inputs is None and not isinstance(model, ExportedProgram):
        example_inputs = tuple(torch.zeros(s.shape, dtype=getattr(torch, s.dtype)) for s in recipe.inputs)
    graph = capture(model, example_inputs)
    found = fingerprint(graph)
    if found != recipe.model:
        part = "graph" if found.ops != recipe.model.ops else "weights"
        raise RecipeError(
            f"the recipe belongs to another model: its {part} differ ({recipe.model.parameters} parameters there, "
            f"{found.parameters} here); replay it on the model that was pruned"
        )
    coupling = couple(graph)
    by_name = {group.name: group for group in coupling.groups}
    run = Run(graph, coupling)
    for step in recipe.steps:
        for edit in step.edits:
            if edit.group not in run.alive:
                raise RecipeError(f"the recipe names the group {edit.group!r}, which the model cannot prune")
            units, into = (torch.tensor(numbers, dtype=torch.int64) for numbers in (edit.units, edit.into))
            try:
                run.apply(by_name[edit.group], Removal(edit.group, units, into))
            except SecateurError as error:
                raise RecipeError(f"step {step.step} of the recipe cannot be replayed: {error}") from error
    return shrink(_as_module(model), graph, coupling, run.weights, run.alive)


def _box(graph: Graph, input_bounds: Any, device: torch.device | str | None) -> tuple[Interval, ...]:
    box = input_box(graph, input_bounds, dtype=torch.float32)
    return tuple(replace(i, lower=i.lower.to(device or "cpu"), upper=i.upper.to(device or "cpu")) for i in box)


def _check_reach(groups: Sequence[Group], plan: Plan, recursive: bool, method_name: str) -> None:
    """Without recursion a unit takes part in one merge at most, so half of a group is the most that can go."""
    for group in groups:
        if not recursive and method_name != "scale" and plan.removed[group.name] > group.units // 2:
            raise TargetMissedError(
                f"{group.name}: {plan.removed[group.name]} of {group.units} units cannot go with recursive=False, "
                f"at most {group.units // 2}; use recursive=True or remove less"
            )


def _kept(groups: Sequence[Group], alive: Mapping[str, Tensor]) -> tuple[KeptUnits, ...]:
    return tuple(
        KeptUnits(
            group=group.name,
            units=group.units,
            kept=tuple(alive[group.name].nonzero().flatten().tolist()),
            slots=tuple(f"{slot.tensor}:{slot.axis}" for slot in group.slots),
        )
        for group in groups
    )


def _history_row(step: Step, seconds: float) -> HistoryRow:
    return HistoryRow(step.step, step.units_removed, step.parameters, step.macs, seconds)


def _as_module(model: nn.Module | ExportedProgram) -> nn.Module | None:
    return None if isinstance(model, ExportedProgram) else model


def _plain(bounds: Any) -> Any:
    """Input bounds as numbers and lists, for the recipe."""
    if isinstance(bounds, Tensor):
        return bounds.tolist()
    if isinstance(bounds, list | tuple):
        return [_plain(b) for b in bounds]
    if isinstance(bounds, int | float) or bounds is None:
        return bounds
    raise InputError(f"input_bounds holds a {type(bounds).__name__}; give numbers or tensors")
