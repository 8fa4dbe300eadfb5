"""`prune`: request → task → loop of steps → smaller model, checked and recorded; and `inspect`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from secateur.arguments import MODEL, parsed
from secateur.bounds.box import input_box, warn_without_width
from secateur.cost import macs_after, parameters_after
from secateur.decisions import Head
from secateur.errors import SecateurError, TargetMissedError
from secateur.graph.capture import capture
from secateur.graph.coupling import couple, stored_groups
from secateur.graph.example import ExampleInputs
from secateur.graph.graph import Graph
from secateur.history import History
from secateur.methods import Goal, Method, Task
from secateur.methods.exact.method import unneeded
from secateur.methods.per_group import Choose
from secateur.outcome import kept_units, solved_tensors
from secateur.plan import AUTO, Plan, Rounding, Target, require_groups, schedule, selected
from secateur.progress import phase, track
from secateur.report.recipe import (
    Recipe,
    RecordedRequest,
    UsedInputs,
    digest_of,
    fingerprint,
    input_specs,
    versions,
)
from secateur.report.times import LatencyRecord
from secateur.report.verdict import Verdict
from secateur.request import Request
from secateur.result import HistoryRow, Result, Size
from secateur.run import Run
from secateur.samples import Surrogate
from secateur.surgery import shrink
from secateur.surgery.sizes import typed_tensors
from secateur.timing.clock import Clock
from secateur.timing.goal import TowardsLatency
from secateur.timing.measure import measured_times, network_after
from secateur.torch_state import reproducible
from secateur.types import Groups, Interval
from secateur.validation import samples_for, verdict_of, with_doubts


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
    method: str | Method | Choose = "reconstruct",
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
        remove: the share that goes: 0.5 or "50%" of the units of every group, or "params=50%", "macs=50%",
            "bytes=50%" (of the parameters and buffers that the model reads), "latency=30%"; or the time that
            one sample is to take, "latency=3ms". Latency is measured on this machine, in the runtime where
            the model is usually run (`Result.latency`); so plans differ between machines and between runs.
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
    request = Request.parse(
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
    threads = torch.get_num_threads()  # the models will run on
    with reproducible(model):
        return _pruned(model, example_inputs, request, threads)


def _pruned(
    model: nn.Module | ExportedProgram, example_inputs: ExampleInputs | None, request: Request, threads: int
) -> Result:
    method, history = request.method, History(request.callbacks)
    report = partial(phase, enabled=request.progress)
    with report("capturing the model"):
        task = _task(model, example_inputs, request)
    run, graph, coupling = task.run, task.graph, task.coupling
    timed = None
    if request.target is not None and request.target.quantity == "latency":
        with report("measuring the latency of layers"):
            timed, task = _timed(model, example_inputs, task, request.target, threads)
    if request.exact_first:
        with report("looking for units that the function does not need"):
            _remove_unneeded(task, history)
    with report("drawing samples"):
        samples, validation, used = samples_for(request, graph, coupling, task.input_bounds)
        validation = with_doubts(validation, request, graph)
    task = replace(task, samples=samples)
    with report(method.preparing):
        state = method.prepare(task)
        if timed is None:
            plan = _plan(task, state, method)
        else:
            plan = timed.plan(lambda latency: _plan(replace(task, latency=latency), state, method))

    stopped = ""
    for goal in track(_goals(task, plan, request), "pruning", request.progress):
        if stopped := history.stopped:
            break
        before, gone = run.saved(), task.gone()
        edits = method.step(task, state, goal)
        _check_step(task, method, goal, gone)
        if request.guard is not None and validation is not None:
            box = input_box(graph, task.input_bounds)
            stopped = request.guard.breach(graph, run.weights, validation.samples, box)
        if stopped:
            run.go_back(before)
            break
        history.add(run, edits)
    if not history.steps:
        raise TargetMissedError(
            f"the guard stopped the first step: {stopped}; allow more, or take a smaller step"
        )
    if stopped:
        said = f"stopped after step {len(history.steps)}: {stopped}"
        plan = plan.cut_short(graph, coupling, task.groups, run.alive, said, task.latency)

    with report("making and checking the smaller model"):
        small = shrink(model, graph, coupling, run.weights, run.alive)
    if timed is not None:
        with report("measuring its latency"):
            plan = timed.measured(plan, small, stopped=bool(stopped))
    with report("judging it"):
        verdict = None if validation is None else verdict_of(graph, run.weights, validation, request.head)
    recorded = request.recorded(request.ignored(model), task.input_bounds)
    return Result(
        small,
        _recipe(task, recorded, plan, history, used, verdict, None if timed is None else timed.record),
        tuple(history.rows),
        _size(task),
        stored_groups(graph, coupling.groups),
        coupling.blocked,
        plan.shortfall,
        stopped,
    )


def _task(model: nn.Module | ExportedProgram, example_inputs: ExampleInputs | None, request: Request) -> Task:
    """The captured model with what was asked of it; raises where the two do not go together."""
    graph = capture(model, example_inputs)
    coupling = couple(graph)
    if request.guard is not None:
        request.guard.check(graph)
    first = graph.example[0]
    request.normalisation.check(first.shape[1] if first.ndim > 1 else 1)
    bounds = request.normalisation.box(request.input_bounds, first.ndim - 2)
    groups = selected(coupling, request.ignored(model))
    require_groups(coupling, groups)
    run = Run(graph, coupling)
    return Task(
        run=run,
        groups=groups,
        input_bounds=bounds,
        box=_box(graph, bounds, request.device),
        samples=None,
        original=dict(run.weights),
        generator=torch.Generator().manual_seed(request.seed),
        seed=request.seed,
        target=request.target,
        allocation=request.allocation,
        round_to=request.round_to,
        recursive=request.recursive,
    )


def _timed(
    model: nn.Module | ExportedProgram,
    example_inputs: ExampleInputs | None,
    task: Task,
    target: Target,
    threads: int,
) -> tuple[TowardsLatency, Task]:
    """The times of the network, and the task with a share for a latency that was asked in milliseconds."""
    clock = Clock(model, example_inputs, threads)
    predictor = measured_times(model, task.graph, task.coupling, task.groups, clock)
    target = target.resolved(predictor({}))
    build = partial(network_after, model, task.graph, task.coupling)
    return TowardsLatency(clock, build, target, predictor), replace(task, target=target, latency=predictor)


def _box(graph: Graph, input_bounds: Any, device: torch.device | str | None) -> tuple[Interval, ...]:
    box = input_box(graph, input_bounds, dtype=torch.float32)
    warn_without_width(graph, box)
    return tuple(
        replace(i, lower=i.lower.to(device or "cpu"), upper=i.upper.to(device or "cpu")) for i in box
    )


def _remove_unneeded(task: Task, history: History) -> None:
    """Remove what can leave exactly, as a step of its own."""
    found = unneeded(task, None)
    if found.edits:
        task.run.go_back(found.state)
        history.add(task.run, found.edits)


def _plan(task: Task, state: Any, method: Method) -> Plan:
    plan, most = method.plan(task, state), method.most(task) or {}
    for group in task.groups:
        if group.name in most and plan.removed[group.name] > most[group.name]:
            raise TargetMissedError(
                f"{group.name}: {plan.removed[group.name]} of {group.units} units cannot go with "
                f"recursive=False, at most {most[group.name]}; use recursive=True or remove less"
            )
    return plan


def _goals(task: Task, plan: Plan, request: Request) -> list[Goal]:
    """What each step must reach, those left out that are reached already."""
    gone = task.gone()
    rows = schedule(
        task.groups, plan.removed, request.step, plan.multiples if request.guard is not None else None
    )
    return [Goal(row, plan.removed) for row in rows if any(row[name] > n for name, n in gone.items())]


def _check_step(task: Task, method: Method, goal: Goal, before: Mapping[str, int]) -> None:
    """A method must reach its goal, and not go beyond."""
    for name, gone in task.gone().items():
        if not goal.gone[name] <= gone <= max(goal.gone[name], before[name]):
            raise SecateurError(
                f"{name}: the method {method.name} has removed {gone} units after a step whose goal was "
                f"{goal.gone[name]}; its `step` must bring every group to its goal"
            )


def _recipe(
    task: Task,
    request: RecordedRequest,
    plan: Plan,
    history: History,
    used: UsedInputs,
    verdict: Verdict | None,
    latency: LatencyRecord | None,
) -> Recipe:
    run, graph = task.run, task.graph
    return Recipe(
        versions=versions(),
        model=fingerprint(graph),
        inputs=input_specs(graph.example),
        request=request,
        used=used,
        verdict=verdict,
        achieved=plan.achieved,
        shortfall=plan.shortfall,
        latency=latency,
        steps=tuple(history.steps),
        groups=kept_units(stored_groups(graph, task.groups), run.alive),
        result=digest_of(typed_tensors(graph, task.coupling, run.weights, run.alive)),
        **solved_tensors(run),
    )


def _size(task: Task) -> Size:
    """Before pruning."""
    return Size(
        sum(group.units for group in task.groups),
        parameters_after(task.graph, task.coupling, {}),
        macs_after(task.graph, task.coupling, {}),
    )
