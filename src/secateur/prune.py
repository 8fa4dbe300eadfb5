"""The loop: capture, couple, plan; then step by step score, choose, compensate; then shrink, check and
record.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, replace
from functools import partial
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from secateur.arguments import MODEL, parsed, plain_bounds
from secateur.bounds.interval import input_box, warn_without_width
from secateur.cost import macs_after, parameters_after
from secateur.debloat import debloat
from secateur.decisions import Head
from secateur.errors import (
    NothingToPruneError,
    SecateurError,
    SecateurWarning,
    StopPruning,
    TargetMissedError,
)
from secateur.graph.capture import ExampleInputs, Graph, capture
from secateur.graph.coupling import Coupling, couple, stored_groups
from secateur.judging import OWN, SURROGATES, Judges, judging_count, judging_surrogate, kept_apart, verdict_of
from secateur.methods import EXACT, PAIRING, RECONSTRUCT, options_of, resolve
from secateur.methods.context import Context, following_norms
from secateur.normalisation import likely_normalisation
from secateur.plan import AUTO, Plan, Rounding, as_done, capped, make_plan, require_groups, schedule, selected
from secateur.presets import PRESETS
from secateur.progress import logger, phase, track
from secateur.reconstruct import make_study, marginal_costs
from secateur.report.recipe import (
    Edit,
    KeptUnits,
    Recipe,
    RecordedRequest,
    Step,
    digest_of,
    fingerprint,
    input_specs,
    versions,
)
from secateur.request import Request
from secateur.result import HistoryRow, Result, Size
from secateur.run import Run, advance, rebuild
from secateur.samples import Surrogate, affordable, digest, look_at, name_of
from secateur.surgery import shrink
from secateur.surgery.sizes import typed_tensors
from secateur.torch_state import reproducible
from secateur.types import Group, Groups, Interval, Removal, Samples

_NOTHING_EXACT = (
    "exact: no unit can go without changing the function over the input box (within remove and round_to): "
    "none is "
    "constant, a copy or a multiple of another, a combination of others, or unread; give tighter "
    "input_bounds, or take "
    "another method"
)


def inspect(model: nn.Module | ExportedProgram, example_inputs: ExampleInputs | None = None) -> Groups:
    """The groups of a model: their units and slots, and what is pinned and why. Nothing is changed."""
    parsed("model", model, MODEL)
    with reproducible(model):
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
    mean: float | Sequence[float] | Tensor | None = None,
    std: float | Sequence[float] | Tensor | None = None,
    normalize: str | None = None,
    surrogate: Surrogate = "auto",
    calibration: Any = None,
    samples: int = 2048,
    allocation: str = "uniform",
    guard: Mapping[str, float | str] | None = None,
    head: Head = "auto",
    step: float | None = None,
    recursive: bool = True,
    exact_first: bool = False,
    ignore: str | nn.Module | Sequence[str | nn.Module] = (),
    round_to: Rounding = AUTO,
    seed: int = 0,
    device: torch.device | str | None = None,
    callbacks: Sequence[Callable[[HistoryRow], None]] = (),
    progress: bool = False,
) -> Result:
    """Prune `model` without data and without retraining; the model itself is left as it is.

    Args:
        model: an `nn.Module` in eval mode, or an exported program.
        example_inputs: a tensor, a tuple of tensors or a dict of keyword arguments; axis 0 is the batch. Only
            shapes and types matter.
        remove: the share that goes: 0.5 or "50%" of the units of every group, "params=50%", or "macs=50%".
            Default: 0.5, and for `exact` all that can go.
        method: `reconstruct`, `exact`, or a name in `secateur.methods.METHODS`; `options` are its parameters.
            `exact` removes what the function over the input box does not need, in one step, and nothing else;
            it draws no surrogates, and there is nothing for a guard to stop.
        input_bounds: the input box, (low, high), numbers or tensors that broadcast to one input; a list of
            such pairs for several inputs.
        mean, std: for a model that takes (x − mean) / std of images x: numbers, or one value for each
            channel. `input_bounds` and `calibration` are then those of the images.
        normalize: the same by name, `imagenet`, `cifar10` or `minus1to1`; `none` for a model that takes
            images as they are. Where none of the three is given, it is looked at whether another
            normalisation fits the model better.
        surrogate: of what inputs made from the model are; a name in `secateur.surrogates.SURROGATES`, or a
            function (source, count) → tensor. For `reconstruct`, `allocation="global"` and the guard.
        calibration: unlabelled inputs of your own in its place: a tensor, an iterable of batches, or a `.npz`
            path.
        samples: how many inputs to look at; fewer where memory would not hold them.
        allocation: `uniform` takes the same share of every group, `global` where it costs the outputs least.
        guard: budgets on samples, {"agreement": least share of equal decisions, "drift": largest move of an
            output}, or "certified_agreement", "certified_drift" and "eps": the same for all inputs within eps
            of a sample, by proof. A step that exceeds a budget is taken back, and the run ends there
            (`Result.stopped`).
        head: what the outputs are where `auto` cannot tell, as for `certify`; for guards and the verdict.
        step: the largest share of a group's units that leaves at a time; 1 prunes in one shot. Default: 1 for
            `reconstruct` without a guard, else 0.0625.
        recursive: whether a unit that stood in for another may do so again or leave. Without, at most half
            goes.
        exact_first: remove what `exact` would before the method begins, as a step of its own that counts
            towards `remove`; it takes all that is free, even where less was asked.
        ignore: layers whose outputs stay whole: a glob over layer names, a list of them, or modules of
            `model`.
        round_to: keep a multiple of this number of units in every group that shrinks. `auto` rounds the
            channels of 2-D convolutions to what runtimes compute fast (see `secateur.rounded`), so that the
            whole still reaches `remove`; 1 rounds nothing. How long the models take: `secateur.latency`.
        seed: of all random numbers.
        device: where bounds are computed and samples are run (default: the CPU). Choices are made in float64
            on the CPU.
        callbacks: called with each `HistoryRow`. One that raises `StopPruning` ends the run there, with the
            result of that step; give `step` where there should be several.
        progress: report on stderr: a bar at a terminal, a line every ten seconds elsewhere. The logger
            `secateur` hears of phases and steps with or without it.

    Raises:
        InputError: an argument cannot be used; it is named before any work is done.
        CaptureError, UnsupportedOpError: the model cannot be used, with what to do about it.
        NothingToPruneError, TargetMissedError: the request cannot be met, with what can.
    """
    asked = Request.parse(
        remove=remove,
        method=method,
        options=options,
        input_bounds=input_bounds,
        mean=mean,
        std=std,
        normalize=normalize,
        surrogate=surrogate,
        calibration=calibration,
        samples=samples,
        allocation=allocation,
        guard=guard,
        head=head,
        step=step,
        recursive=recursive,
        exact_first=exact_first,
        ignore=ignore,
        round_to=round_to,
        seed=seed,
        device=device,
        callbacks=callbacks,
        progress=progress,
    )
    parsed("model", model, MODEL)
    with reproducible(model):
        return _pruned(model, example_inputs, asked)


def _pruned(
    model: nn.Module | ExportedProgram, example_inputs: ExampleInputs | None, asked: Request
) -> Result:
    method, target, budgets = asked.method, asked.target, asked.guard
    choose, ignored = resolve(method, asked.options), asked.ignored(model)
    tell = partial(phase, enabled=asked.progress)
    with tell("capturing the model"):
        graph = capture(model, example_inputs)
        coupling = couple(graph)
    if budgets is not None and method != EXACT:
        budgets.check(graph)
    asked.normalisation.check(graph.example[0].shape[1] if graph.example[0].ndim > 1 else 1)
    bounds = asked.normalisation.box(asked.input_bounds, graph.example[0].ndim - 2)
    groups = selected(coupling, ignored)
    require_groups(coupling, groups)
    run, box, norms = Run(graph, coupling), _box(graph, bounds, asked.device), following_norms(graph)
    plain, generator, log = (
        dict(run.weights),
        torch.Generator().manual_seed(asked.seed),
        _Log(asked.callbacks),
    )

    if method == EXACT or asked.exact_first:
        most = partial(capped, graph, coupling, groups, target if method == EXACT else None, asked.round_to)
        with tell("looking for units that the function does not need"):
            free = debloat(run, groups, bounds, asked.seed, most)
        if method == EXACT and not free:
            raise NothingToPruneError(_NOTHING_EXACT)
        if free:
            log.note(run, free)
    gone = {group.name: run.gone(group) for group in groups}

    by_cost = asked.allocation == "global" and method != EXACT
    with tell("drawing samples"):
        seen, judges = _samples(graph, coupling, bounds, asked, solves=method == RECONSTRUCT or by_cost)
        doubts = _doubts(graph, asked, judges)
    with tell("measuring the layers on samples"):
        settings = _of_study(asked)
        study = (
            None
            if seen is None
            else make_study(graph, coupling, plain, seen, box, seed=asked.seed, **settings)
        )
        costs = marginal_costs(study, run.alive) if study is not None and by_cost else None
    if method == EXACT or target is None:
        plan = as_done(graph, coupling, groups, target, gone)
    else:
        reach = None if asked.recursive or method not in PAIRING else {g.name: g.units // 2 for g in groups}
        plan = make_plan(graph, coupling, groups, target, asked.round_to, costs, gone, reach)
    rest = [g for g in groups if study is None or method != RECONSTRUCT or g.name not in study.names]
    _check_reach(rest, plan, asked.recursive or method not in PAIRING)

    def decide(group: Group, need: int, progress: float) -> Removal:
        context = Context(
            graph, run.weights, box, generator, run.alive, run.used, asked.recursive, progress, norms
        )
        return choose(context, group, need)

    stopped = ""
    at_once = method == EXACT or (method == RECONSTRUCT and budgets is None)
    size = asked.step if asked.step is not None else 1.0 if at_once else 0.0625
    rows = schedule(groups, plan.removed, size, plan.multiples if budgets is not None else None)
    goals = [goal for goal in rows if any(goal[name] > n for name, n in gone.items())]
    for goal in track(goals, "pruning", asked.progress):
        if stopped := log.stopped:
            break
        before_step = run.saved()
        edits = advance(run, rest, goal, plan.removed, decide)
        if method == RECONSTRUCT and study is not None:
            edits += rebuild(run, study, goal)
        if budgets is not None and judges is not None and method != EXACT:
            stopped = budgets.breach(graph, run.weights, judges.samples, input_box(graph, bounds))
        if stopped:
            run.go_back(before_step)
            break
        log.note(run, edits)
    if not log.steps:
        raise TargetMissedError(
            f"the guard stopped the first step: {stopped}; allow more, or take a smaller step"
        )
    if stopped:
        plan = plan.cut_short(
            graph, coupling, groups, run.alive, f"stopped after step {len(log.steps)}: {stopped}"
        )

    with tell("making and checking the smaller model"):
        small = shrink(model, graph, coupling, run.weights, run.alive)
    with tell("judging it"):
        verdict = None if judges is None else verdict_of(graph, run.weights, judges, asked.head, doubts)
        if verdict is None and judges is not None:
            said = "there is no verdict: the model gives no floating-point output that could be compared"
            warnings.warn(said, SecateurWarning, stacklevel=2)
    tensors = _solved_tensors(graph, run)
    recipe = Recipe(
        versions=versions(),
        model=fingerprint(graph),
        inputs=input_specs(graph.example),
        request=_recorded(asked, ignored, bounds, size, seen, judges),
        verdict=verdict,
        achieved=plan.achieved,
        shortfall=plan.shortfall,
        steps=tuple(log.steps),
        groups=_kept(stored_groups(graph, groups), run.alive),
        result=digest_of(typed_tensors(graph, coupling, run.weights, run.alive)),
        solved=hashlib.sha256(tensors).hexdigest() if tensors else "",
        tensors=tensors,
    )
    before = Size(
        sum(g.units for g in groups), parameters_after(graph, coupling, {}), macs_after(graph, coupling, {})
    )
    stored = stored_groups(graph, coupling.groups)
    return Result(
        small, recipe, tuple(log.history), before, stored, coupling.blocked, plan.shortfall, stopped
    )


def _recorded(
    asked: Request,
    ignored: Sequence[str],
    bounds: Any,
    step: float,
    seen: Samples | None,
    judges: Judges | None,
) -> RecordedRequest:
    own = asked.calibration is not None
    return RecordedRequest(
        remove="all" if asked.remove is None else str(asked.remove),
        method=asked.method,
        options=asked.options,
        step=step,
        recursive=asked.recursive,
        ignore=tuple(ignored),
        round_to=asked.round_to,
        input_bounds=plain_bounds(bounds),
        mean=asked.normalisation.mean,
        std=asked.normalisation.std,
        seed=asked.seed,
        surrogate="" if seen is None or own else name_of(asked.surrogate),
        calibration="" if judges is None else judges.calibration,
        samples=0 if seen is None else len(seen.inputs[0]),
        judged_on=0 if judges is None else len(judges.samples.inputs[0]),
        allocation=asked.allocation,
        guard=dict(asked.budgets),
        head=asked.head,
        exact_first=asked.exact_first,
    )


def _samples(
    graph: Graph, coupling: Coupling, bounds: Any, asked: Request, solves: bool
) -> tuple[Samples | None, Judges | None]:
    """What the method solves on, where it looks at samples at all, and what only judges: a third of a user's
    inputs (all of them, where nothing is solved), or surrogates of another kind; None where these cannot be
    drawn.
    """
    look = partial(look_at, graph, bounds, device=asked.device, normalise=asked.normalisation.normalised)
    seen, given = None, ""
    if asked.calibration is not None:
        most = asked.samples + (asked.samples + 1) // 2 if solves else asked.samples
        own = look(asked.surrogate, asked.calibration, most, seed=asked.seed)
        given = digest(own)
        if not solves:
            return None, Judges(own, OWN, calibration=given)
        if len(own.inputs[0]) > 1:
            seen, apart = kept_apart(own, asked.seed)
            return seen, Judges(apart, OWN, calibration=given)
        seen = own
    elif solves:
        seen = look(asked.surrogate, None, asked.samples, seed=asked.seed)
    judging = judging_surrogate(name_of(asked.surrogate) if solves else "")
    count = affordable(graph, judging_count(graph, coupling))
    try:
        return seen, Judges(look(judging, None, count, seed=asked.seed + 1), SURROGATES, judging, given)
    except SecateurError as error:
        if asked.guard is not None:
            raise
        warnings.warn(f"there is no verdict: {error}", SecateurWarning, stacklevel=2)
        return seen, None


def _doubts(graph: Graph, asked: Request, judges: Judges | None) -> list[str]:
    """Whether another normalisation of images fits the model clearly better than the one that was said, or
    none.
    """
    mean, std = asked.normalisation.mean, asked.normalisation.std
    own = None
    if judges is not None and judges.basis == OWN:
        own = asked.normalisation.denormalised(judges.samples.inputs[0])
    found = likely_normalisation(graph, asked.input_bounds, mean, std, seed=asked.seed, images=own)
    if not found.clear:
        return []
    taken = "normalised as was said" if asked.normalisation else "as they are"
    warnings.warn(
        f"the inputs were taken {taken}, but {found.evidence}. If that is so, accuracy collapses: give "
        "normalize "
        f"({', '.join(PRESETS)}), or mean and std (--normalize, --mean, --std)",
        SecateurWarning,
        stacklevel=2,
    )
    return ["another normalisation of the inputs fits the model better, see the warning (--normalize)"]


class _Log:
    """The steps so far, as the recipe and as the history tell them."""

    def __init__(self, callbacks: Sequence[Callable[[HistoryRow], None]]) -> None:
        self.steps, self.history = list[Step](), list[HistoryRow]()
        self.stopped = ""  # what a callback said that asked for the end
        self._callbacks, self._begin = callbacks, time.perf_counter()

    def note(self, run: Run, edits: Sequence[Edit]) -> None:
        step = run.record(len(self.steps) + 1, edits)
        seconds = time.perf_counter() - self._begin
        self.steps.append(step)
        self.history.append(HistoryRow(step.step, step.units_removed, step.parameters, step.macs, seconds))
        logger.info("step %d: %d units removed, %d parameters, %d MACs", *astuple(self.history[-1])[:4])
        for callback in self._callbacks:
            try:
                callback(self.history[-1])
            except StopPruning as stop:
                self.stopped = f"by a callback: {stop}" if str(stop) else "by a callback"


def _box(graph: Graph, input_bounds: Any, device: torch.device | str | None) -> tuple[Interval, ...]:
    box = input_box(graph, input_bounds, dtype=torch.float32)
    warn_without_width(graph, box)
    return tuple(
        replace(i, lower=i.lower.to(device or "cpu"), upper=i.upper.to(device or "cpu")) for i in box
    )


def _of_study(asked: Request) -> dict[str, Any]:
    return options_of(RECONSTRUCT) | (asked.options if asked.method == RECONSTRUCT else {})


def _check_reach(groups: Sequence[Group], plan: Plan, free: bool) -> None:
    """Where a unit takes part in one merge at most, half of a group is the most that can go."""
    for group in groups:
        if not free and plan.removed[group.name] > group.units // 2:
            raise TargetMissedError(
                f"{group.name}: {plan.removed[group.name]} of {group.units} units cannot go with "
                "recursive=False, "
                f"at most {group.units // 2}; use recursive=True or remove less"
            )


def _solved_tensors(graph: Graph, run: Run) -> bytes:
    """Safetensors of what the edits alone do not tell, in the model's own precision."""
    solved = graph.as_stored(
        {name: run.weights[name].to(graph.tensors[name].dtype) for name in sorted(run.solved)}
    )
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
