"""The loop: capture, couple, plan; then step by step score, choose, compensate; then shrink, check and record."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from secateur.bounds.interval import input_box
from secateur.cost import macs_after, parameters_after
from secateur.debloat import debloat
from secateur.errors import InputError, NothingToPruneError, TargetMissedError
from secateur.graph.capture import ExampleInputs, Graph, capture
from secateur.graph.coupling import couple, stored_groups
from secateur.guard import Guard
from secateur.methods import EXACT, PAIRING, RECONSTRUCT, options_of, resolve
from secateur.methods.context import Context, following_norms
from secateur.plan import Plan, Target, as_done, capped, check_request, make_plan, schedule, selected
from secateur.progress import track
from secateur.reconstruct import make_study, marginal_costs
from secateur.report.recipe import (
    Edit,
    KeptUnits,
    Recipe,
    Request,
    Step,
    fingerprint,
    input_specs,
    versions,
)
from secateur.result import HistoryRow, Result, Size
from secateur.run import Run, advance, rebuild
from secateur.samples import Surrogate, digest, look_at, name_of
from secateur.surgery import shrink
from secateur.types import Group, Groups, Interval, Removal

_NOTHING_EXACT = (
    "exact: no unit can go without changing the function over the input box (within remove and round_to): none is "
    "constant, a copy or a multiple of another, a combination of others, or unread; give tighter input_bounds, or take "
    "another method"
)


def inspect(model: nn.Module | ExportedProgram, example_inputs: ExampleInputs | None = None) -> Groups:
    """The groups of a model: their units and slots, and what is pinned and why. Nothing is changed."""
    graph = capture(model, example_inputs)
    coupling = couple(graph)
    return Groups(stored_groups(graph, coupling.groups), coupling.blocked)


def prune(
    model: nn.Module | ExportedProgram,
    example_inputs: ExampleInputs | None = None,
    *,
    remove: float | str | None = None,
    method: str = "reconstruct",
    options: Mapping[str, float | int] | None = None,
    input_bounds: Any = (0.0, 1.0),
    surrogate: Surrogate = "auto",
    calibration: Any = None,
    samples: int = 2048,
    allocation: str = "uniform",
    guard: Mapping[str, float] | None = None,
    step: float | None = None,
    recursive: bool = True,
    exact_first: bool = False,
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
            Default: 0.5, and for `exact` all that can go.
        method: `reconstruct`, `exact`, or a name in `secateur.methods.METHODS`; `options` are its parameters. `exact`
            removes what the function over the input box does not need, in one step, and nothing else; it draws no
            surrogates, and there is nothing for a guard to stop.
        input_bounds: the input box, (low, high), numbers or tensors that broadcast to one input; a list of such
            pairs for several inputs.
        surrogate: of what inputs made from the model are; a name in `secateur.surrogates.SURROGATES`, or a function
            (source, count) → tensor. For `reconstruct`, `allocation="global"` and the guard.
        calibration: unlabelled inputs of your own in its place: a tensor, an iterable of batches, or a `.npz` path.
        samples: how many inputs to look at; fewer where memory would not hold them.
        allocation: `uniform` takes the same share of every group, `global` where it costs the outputs least.
        guard: budgets on samples, {"agreement": least share of equal decisions, "drift": largest move of an output},
            or "certified_agreement", "certified_drift" and "eps": the same for all inputs within eps of a sample, by
            proof. A step that exceeds one is taken back, and the run ends there (`Result.stopped`).
        step: the largest share of a group's units that leaves at a time; 1 prunes in one shot. Default: 1 for
            `reconstruct` without a guard, else 0.0625.
        recursive: whether a unit that stood in for another may do so again or leave. Without, at most half goes.
        exact_first: remove what `exact` would before the method begins, as a step of its own that counts towards
            `remove`; it takes all that is free, even where less was asked.
        ignore: globs over layer names whose outputs stay whole.
        round_to: keep a multiple of this number of units in every group that shrinks.
        seed: of all random numbers.
        device: where bounds are computed and samples are run (default: the CPU). Choices are made in float64 on the
            CPU.
        callbacks: called with each `HistoryRow`.
        progress: show a progress bar on stderr, where that is a terminal.

    Raises:
        InputError, CaptureError, UnsupportedOpError: what was given cannot be used, with what to do about it.
        NothingToPruneError, TargetMissedError: the request cannot be met, with what can.
    """
    remove = 0.5 if remove is None and method != EXACT else remove
    target = None if remove is None else Target.parse(remove)
    choose, budgets = resolve(method, options or {}), Guard.parse(guard, calibration is not None)
    if allocation not in ("uniform", "global"):
        raise InputError(f"allocation={allocation!r}; there are uniform and global")
    graph = capture(model, example_inputs)
    coupling = couple(graph)
    groups = selected(coupling, ignore)
    check_request(coupling, groups, round_to)
    run, box, norms = Run(graph, coupling), _box(graph, input_bounds, device), following_norms(graph)
    plain, generator, log = dict(run.weights), torch.Generator().manual_seed(seed), _Log(callbacks)

    if method == EXACT or exact_first:
        most = partial(capped, graph, coupling, groups, target if method == EXACT else None, round_to)
        free = debloat(run, groups, input_bounds, seed, most)
        if method == EXACT and not free:
            raise NothingToPruneError(_NOTHING_EXACT)
        if free:
            log.note(run, free)
    gone = {group.name: run.gone(group) for group in groups}

    look = partial(look_at, graph, input_bounds, surrogate, calibration, samples, device)
    seen = look(seed) if method == RECONSTRUCT or (allocation == "global" and method != EXACT) else None
    study = (
        None if seen is None else make_study(graph, coupling, plain, seen, box, seed=seed, **_of_study(method, options))
    )
    costs = marginal_costs(study, run.alive) if study is not None and allocation == "global" else None
    if method == EXACT or target is None:
        plan = as_done(graph, coupling, groups, target, gone)
    else:
        plan = make_plan(graph, coupling, groups, target, round_to, costs, gone)
    rest = [g for g in groups if study is None or method != RECONSTRUCT or g.name not in study.names]
    _check_reach(rest, plan, recursive or method not in PAIRING)
    watched = look(seed + 1) if budgets is not None and method != EXACT else None

    def decide(group: Group, need: int, progress: float) -> Removal:
        context = Context(graph, run.weights, box, generator, run.alive, run.used, recursive, progress, norms)
        return choose(context, group, need)

    stopped = ""
    at_once = method == EXACT or (method == RECONSTRUCT and budgets is None)
    size = step if step is not None else 1.0 if at_once else 0.0625
    goals = [goal for goal in schedule(groups, plan.removed, size) if any(goal[name] > n for name, n in gone.items())]
    for goal in track(goals, "pruning", progress):
        before_step = run.saved()
        edits = advance(run, rest, goal, plan.removed, decide)
        if method == RECONSTRUCT and study is not None:
            edits += rebuild(run, study, goal)
        if budgets is not None and watched is not None:
            stopped = budgets.breach(graph, run.weights, watched, input_box(graph, input_bounds))
        if stopped:
            run.go_back(before_step)
            break
        log.note(run, edits)
    if not log.steps:
        raise TargetMissedError(f"the guard stopped the first step: {stopped}; allow more, or take a smaller step")
    if stopped:
        plan = plan.cut_short(graph, coupling, groups, run.alive, f"stopped after step {len(log.steps)}: {stopped}")

    small = shrink(model, graph, coupling, run.weights, run.alive)
    request = Request(
        remove="all" if remove is None else str(remove),
        method=method,
        options=dict(options or {}),
        step=size,
        recursive=recursive,
        ignore=tuple(ignore),
        round_to=round_to,
        input_bounds=_plain(input_bounds),
        seed=seed,
        surrogate="" if seen is None or calibration is not None else name_of(surrogate),
        calibration="" if calibration is None or seen is None else digest(seen),
        samples=0 if seen is None else len(seen.inputs[0]),
        allocation=allocation,
        guard=dict(guard or {}),
        exact_first=exact_first,
    )
    tensors = _solved_tensors(graph, run)
    recipe = Recipe(
        versions=versions(),
        model=fingerprint(graph),
        inputs=input_specs(graph.example),
        request=request,
        achieved=plan.achieved,
        shortfall=plan.shortfall,
        steps=tuple(log.steps),
        groups=_kept(stored_groups(graph, groups), run.alive),
        solved=hashlib.sha256(tensors).hexdigest() if tensors else "",
        tensors=tensors,
    )
    before = Size(sum(g.units for g in groups), parameters_after(graph, coupling, {}), macs_after(graph, coupling, {}))
    stored = stored_groups(graph, coupling.groups)
    return Result(small, recipe, tuple(log.history), before, stored, coupling.blocked, plan.shortfall, stopped)


class _Log:
    """The steps so far, as the recipe and as the history tell them."""

    def __init__(self, callbacks: Sequence[Callable[[HistoryRow], None]]) -> None:
        self.steps, self.history = list[Step](), list[HistoryRow]()
        self._callbacks, self._begin = callbacks, time.perf_counter()

    def note(self, run: Run, edits: Sequence[Edit]) -> None:
        step = run.record(len(self.steps) + 1, edits)
        seconds = time.perf_counter() - self._begin
        self.steps.append(step)
        self.history.append(HistoryRow(step.step, step.units_removed, step.parameters, step.macs, seconds))
        for callback in self._callbacks:
            callback(self.history[-1])


def _box(graph: Graph, input_bounds: Any, device: torch.device | str | None) -> tuple[Interval, ...]:
    box = input_box(graph, input_bounds, dtype=torch.float32)
    return tuple(replace(i, lower=i.lower.to(device or "cpu"), upper=i.upper.to(device or "cpu")) for i in box)


def _of_study(method: str, options: Mapping[str, float | int] | None) -> dict[str, Any]:
    return options_of(RECONSTRUCT) | (dict(options or {}) if method == RECONSTRUCT else {})


def _check_reach(groups: Sequence[Group], plan: Plan, free: bool) -> None:
    """Where a unit takes part in one merge at most, half of a group is the most that can go."""
    for group in groups:
        if not free and plan.removed[group.name] > group.units // 2:
            raise TargetMissedError(
                f"{group.name}: {plan.removed[group.name]} of {group.units} units cannot go with recursive=False, "
                f"at most {group.units // 2}; use recursive=True or remove less"
            )


def _solved_tensors(graph: Graph, run: Run) -> bytes:
    """Safetensors of what the edits alone do not tell, in the model's own precision."""
    solved = graph.as_stored({name: run.weights[name].to(graph.tensors[name].dtype) for name in sorted(run.solved)})
    solved = {name: value.contiguous() for name, value in solved.items()}
    return safetensors.torch.save(solved) if solved else b""


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


def _plain(bounds: Any) -> Any:
    """Input bounds as numbers and lists, for the recipe."""
    if isinstance(bounds, Tensor):
        return bounds.tolist()
    if isinstance(bounds, list | tuple):
        return [_plain(b) for b in bounds]
    if isinstance(bounds, int | float) or bounds is None:
        return bounds
    raise InputError(f"input_bounds holds a {type(bounds).__name__}; give numbers or tensors")
