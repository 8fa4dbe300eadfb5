"""`prune`: request → task → loop of steps → smaller model, checked and recorded; and `inspect`."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from secateur.arguments import MODEL, parsed
from secateur.bounds.box import input_box, warn_without_width
from secateur.checkpoint import Checkpoint, Known, check_resumable, discard, facts_of
from secateur.cost import macs_after, parameters_before
from secateur.decisions import Head
from secateur.errors import NothingToPruneError, SecateurError, SecateurWarning, TargetMissedError, few
from secateur.explain import Inspection
from secateur.graph.capture import capture
from secateur.graph.coupling import Coupling, couple, stored_groups
from secateur.graph.example import ExampleInputs
from secateur.graph.graph import Graph
from secateur.graph.streams import coupled
from secateur.graph.widths import is_width
from secateur.history import History
from secateur.memory import give_back
from secateur.methods import Goal, Method, Task
from secateur.methods.exact.method import unneeded
from secateur.methods.per_group import Choose
from secateur.outcome import kept_units, solved_tensors
from secateur.pace import Pace, pass_time, shown
from secateur.plan import AUTO, Leaving, Plan, Rounding, Target, require_groups, schedule, selected
from secateur.progress import notice, phase, track
from secateur.reconstruct import Settings
from secateur.reconstruct.effort import solve_time
from secateur.report.recipe import (
    Edit,
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
from secateur.shared import Shared
from secateur.shares import largest_share
from secateur.surgery import shrink
from secateur.surgery.sizes import typed_tensors
from secateur.timing.clock import Clock
from secateur.timing.goal import TowardsLatency
from secateur.timing.measure import measured_times, network_after
from secateur.torch_state import reproducible
from secateur.types import Group, Groups, Interval, Samples
from secateur.uniform import Roles, has_roles, roles_of
from secateur.validation import Validation, samples_for, validation_count, verdict_of, with_doubts


def inspect(model: nn.Module | ExportedProgram, example_inputs: ExampleInputs | None = None) -> Groups:
    """List the groups of a model: their units, their tensors, and why a group cannot shrink.

    The model is not changed.

    Args:
        model: An `nn.Module` in eval mode, or an exported program.
        example_inputs: As for `prune`.

    Returns:
        All groups, prunable and pinned, in the order of the graph; `blocked` names each tensor that no group
        holds, with the reason.

    Raises:
        InputError: The model or the example inputs cannot be used.
        CaptureError: `torch.export` cannot capture the model; the message says what to change.

    Examples:
        >>> import torch, secateur
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)).eval()
        >>> for group in secateur.inspect(net, torch.zeros(1, 4)).groups:
        ...     print(group.name, group.units, group.pinned or "prunable")
        0 16 prunable
        2 2 an output of the model
    """
    parsed("model", model, MODEL)
    with reproducible(model):
        graph = capture(model, example_inputs)
        coupling = couple(graph)
    return Inspection(stored_groups(graph, coupling.groups), coupling.blocked)


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
    tokenizer: str | os.PathLike[str] | None = None,
    samples: int = 2048,
    memory: int | str | None = None,
    budget: float | str | None = None,
    allocation: str = "uniform",
    attention: str = "auto",
    streams: bool = False,
    guard: Mapping[str, float | str] | None = None,
    head: Head = "auto",
    step: float | None = None,
    recursive: bool = True,
    exact_first: bool = False,
    ignore: str | nn.Module | Sequence[str | nn.Module] = (),
    round_to: Rounding = AUTO,
    uniform_layers: bool = False,
    seed: int = 0,
    device: torch.device | str | None = None,
    resume: str | os.PathLike[str] | None = None,
    callbacks: Sequence[Callable[[HistoryRow], None]] = (),
    progress: bool = False,
) -> Result:
    """Remove units of `model` without training data and without retraining.

    A unit is a neuron, a channel, an attention head, or a dimension of all heads of a layer. The default
    method removes the units whose removal changes the outputs least and refits the following layers in closed
    form. The model itself is not changed; the smaller copy is checked against it in float64.

    Args:
        model: An `nn.Module` in eval mode, or an exported program.
        example_inputs: A tensor, a tuple of tensors or a dict of keyword arguments; axis 0 is the batch. Only
            shapes and types matter. Not needed for an exported program.
        remove: How much to remove: 0.5 or "50%" of the units of every group, "params=50%" of all parameters,
            "macs=50%" of all multiply-accumulates, "bytes=50%" of the stored weights, "latency=30%" of the
            time of one sample, or all above a time, "latency=3ms". Latency is measured on this machine, in
            the runtime where the model is usually run (`Result.latency`), so that plans differ between
            machines and runs. "auto", the default: 10 %, 25 % and 50 % of the units are tried, and the
            largest share that keeps about 98 % of the decisions is taken (without decisions,
            a drift of 10 % of the outputs' spread). Default with a guard: 0.5, as far as the budgets allow;
            for `exact`: all units that it finds.
        method: The name of a method in `secateur.methods.METHODS`, a `secateur.methods.Method`, or a function
            (context, group, count) → `Removal`. `reconstruct` is the most accurate. `exact` removes only
            units whose removal leaves the outputs unchanged over the input box, in one step; it uses no
            samples and ignores `guard`.
        options: Parameters of the method, by name.
        input_bounds: The legal range of the inputs, (low, high): numbers, or tensors that broadcast to one
            input. For several inputs, a list of such pairs.
        mean, std: For a model that takes (x − mean) / std of images x: numbers, or one value for each
            channel. `input_bounds` and `calibration` are then in units of the images.
        normalize: Mean and std by name: `imagenet`, `cifar10` or `minus1to1`; `none` for a model that takes
            images as they are. In any case, a warning says if another normalisation fits the model clearly
            better than the declared one.
        surrogate: The kind of inputs to generate from the model: a name in `secateur.surrogates.SURROGATES`,
            or a function (source, count) → tensor. Used by `reconstruct`, by `allocation="global"`, and for
            the guard and the verdict. "none": the inputs of `calibration` alone, however few.
        calibration: Unlabelled inputs of your own: a tensor, an iterable of batches, an array, or the path of
            a folder of images, an image, an `.npz` or an `.npy` file, or of a `.txt` file for a model that
            takes tokens (see `tokenizer`). A third of them is held out for the guard and the verdict. If they
            are few, surrogates are used beside them, see `surrogate`.
        tokenizer: The path of a tokenizer's file (`tokenizer.json`, `vocab.json` beside `merges.txt`, or
            `vocab.txt`) or of its folder, for a model that takes tokens: it tells how frequent they are,
            which of them hides others and, with the package tokenizers, how to read a text.
        samples: How many inputs to use; fewer if memory would not hold them.
        memory: Memory that the run may take beside the model, in bytes or as "2GiB". Inputs take at most half
            of it; a warning says if that means fewer samples. Values between layers take the rest. Those that
            do not fit go to a scratch file or are computed again, with the same result. Default: a quarter of
            the free memory, at least 1 GiB.
        budget: Time that the run may take, in seconds or as "5min": as many samples are used as the estimate
            allows. A warning says if the run took longer. Inputs that are held out for the guard and the
            verdict are not cut below what a verdict needs. The estimate depends on the machine, and so does
            the result; the recipe records the number of samples. Default: no limit.
        allocation: `uniform` removes the same share of every group; `global` removes more where this changes
            the outputs less.
        attention: What leaves from attention: whole "heads", the "widths" of all heads (dimensions of queries
            and keys, and dimensions of values), or "both", each by its share. "auto": widths, which lose
            less; heads with `uniform_layers` where the model's configuration cannot say the width of a head,
            with certified budgets, and with methods that change nothing.
        guard: Budgets, measured on held-out inputs after every step: "agreement", the least share of equal
            decisions (0 to 1); "drift", the largest change of any output; "certified_agreement" and
            "certified_drift", the same proved for all inputs within "eps" of these inputs (L∞). A step that
            exceeds a budget is undone, and the run ends there (`Result.stopped`).
        head: What the outputs are, as for `evaluate`, where `auto` cannot tell; for the guard and the
            verdict.
        step: The largest share of a group's units to remove in one step; 1 prunes in one shot. Default: 1 for
            `reconstruct` without a guard, else 0.0625.
        recursive: Whether a kept unit may absorb several others, or leave later itself. With False, methods
            that merge pairs of units remove at most half of a group.
        exact_first: Whether to begin with what `exact` removes, as a step of its own. These units count
            towards `remove`, and all of them are removed even if that is more than `remove`.
        ignore: Layers whose outputs stay whole: a glob over layer names, a list of globs, or modules of
            `model`.
        round_to: Keep a multiple of this number of units in every group that shrinks. `auto` rounds channels
            of 2-D convolutions to numbers that runtimes compute fast (see `secateur.rounded`) while the
            model as a whole still reaches `remove`; 1 rounds nothing. `secateur.latency` times the result.
        uniform_layers: Whether layers of one role (the same name but for its number) keep equal numbers of
            units, so that one number says the size of all. Of a model from a Hugging Face folder, only what
            its `config.json` can say is removed, so that `from_pretrained` loads the result.
        seed: Seed of all random numbers.
        device: Where bounds are computed and samples are run. Default: the CPU. Units are always chosen on
            the CPU, in float64.
        resume: A folder for a checkpoint, which is written after every step. Where an interrupted run has
            left one, the run goes on after its last step, with the same result as without interruption;
            model, inputs and all settings must be the same. Samples are drawn, and what the method prepares
            is computed, again. The folder is removed at the end.
        callbacks: Functions that are called with a `HistoryRow` after each step. One that raises
            `StopPruning` ends the run, with the result of that step; a smaller `step` gives more steps. Where
            several shares are tried, they hear of the steps of each.
        progress: Whether to report progress on stderr: a bar at a terminal, else a line every ten seconds.
            The logger `secateur` receives phases and steps in any case.

    Returns:
        The smaller model, its recipe, a verdict, and what could not be removed and why.

    Raises:
        InputError: An argument cannot be used. Arguments are checked before any work is done.
        CaptureError, UnsupportedOpError: The model cannot be used; the message says what to do.
        NothingToPruneError, TargetMissedError: The request cannot be met, or without one, even 10 % of the
            units would change too many decisions; the message says what can be done.

    Examples:
        >>> import torch, secateur
        >>> _ = torch.manual_seed(1)
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)).eval()
        >>> result = secateur.prune(net, torch.zeros(1, 4), remove=0.25, samples=256)
        >>> result.model
        Sequential(
          (0): Linear(in_features=4, out_features=12, bias=True)
          (1): ReLU()
          (2): Linear(in_features=12, out_features=2, bias=True)
        )
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
        tokenizer=tokenizer,
        samples=samples,
        memory=memory,
        budget=budget,
        allocation=allocation,
        attention=attention,
        streams=streams,
        guard=guard,
        head=head,
        step=step,
        recursive=recursive,
        exact_first=exact_first,
        ignore=ignore,
        round_to=round_to,
        uniform_layers=uniform_layers,
        seed=seed,
        device=device,
        resume=resume,
        callbacks=callbacks,
        progress=progress,
    )
    parsed("model", model, MODEL)
    result = run_request(model, example_inputs, request)
    if request.resume is not None:
        discard(request.resume)
    return result


def run_request(
    model: nn.Module | ExportedProgram, example_inputs: ExampleInputs | None, request: Request
) -> Result:
    """`prune` for a parsed request; its checkpoint stays, so that the caller can first keep the result."""
    threads, shared = torch.get_num_threads(), Shared()  # the models will run on so many

    def run(asked: Request) -> Result:
        return pruned(model, example_inputs, asked, threads, shared)

    with reproducible(model):
        return largest_share(request, run) if request.remove == AUTO else run(request)


def pruned(
    model: nn.Module | ExportedProgram,
    example_inputs: ExampleInputs | None,
    request: Request,
    threads: int,
    shared: Shared,
) -> Result:
    """`prune` for a parsed request, inside of `reproducible`.

    Args:
        model, example_inputs: As for `prune`.
        request: The arguments.
        threads: Threads of torch that the models will run on.
        shared: What earlier runs on the same model have computed; see there which requests may share it.
    """
    method, history, begin = request.method, History(request.callbacks), time.perf_counter()
    report, checkpoint = partial(phase, enabled=request.progress), Checkpoint(request.resume, request.memory)
    with report("capturing the model"):
        task = shared.begin(request, partial(_task, model, example_inputs, request))
    run, graph, coupling = task.run, task.graph, task.coupling
    recorded = request.recorded(request.ignored(model), task.input_bounds)
    if request.resume is not None:
        checkpoint.agree(facts_of(graph, request, recorded))
    timed = None
    if request.target is not None and request.target.quantity == "latency":
        with report("measuring the latency of layers"):
            timed, task = _timed(model, example_inputs, task, request.target, threads)
    if request.exact_first:
        with report("looking for units that can be removed exactly"):
            edits = _remove_unneeded(task)
        if edits and checkpoint.saved is None:  # else the history is restored
            history.add(run, edits)
    if checkpoint.saved is None:
        checkpoint.refitted_on = shared.once("pace", request, partial(_paced, task, request))
    refitted_on = checkpoint.refitted_on
    with report("drawing samples"):
        samples, validation, used = shared.drawn(
            request, refitted_on, partial(_drawn, task, request, refitted_on)
        )
    if request.resume is not None:
        checkpoint.agree_on_inputs([samples, None if validation is None else validation.samples])
    give_back()
    task = replace(task, samples=samples)
    with report(method.preparing):
        state = shared.once("state", request, partial(method.prepare, task))
        if timed is None:
            plan = _plan(task, state, method)
        else:
            plan = timed.plan(lambda latency: _plan(replace(task, latency=latency), state, method))

    stopped = _steps(task, state, plan, request, validation, history, checkpoint)
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
    give_back()
    with report("comparing it with the original"):
        verdict = None if validation is None else verdict_of(graph, run.weights, validation, request.head)
    _check_time(time.perf_counter() - begin, request)
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


def _drawn(
    task: Task, request: Request, refitted_on: int
) -> tuple[Samples | None, Validation | None, UsedInputs]:
    samples, validation, used = samples_for(
        request, task.graph, task.coupling, task.input_bounds, refitted_on
    )
    return samples, with_doubts(validation, request, task.graph), used


def _steps(
    task: Task,
    state: Any,
    plan: Plan,
    request: Request,
    validation: Validation | None,
    history: History,
    checkpoint: Checkpoint,
) -> str:
    """Remove units step by step until the plan is carried out, or a guard or a callback stops; why, or "".

    Goals that an interrupted run has reached are left out.
    """
    method, run, stopped = request.method, task.run, ""
    goals, known = _goals(task, plan, request), Known(task.original, method.tensors_of(state))
    if request.resume is not None and len(goals) > 1:
        check_resumable(method, state)
    checkpoint.agree({"plan": plan.removed})
    begun = checkpoint.restore(run, task.generator, history, known, request.progress)
    for number, goal in enumerate(track(goals[begun:], "pruning", request.progress), begun + 1):
        if stopped := history.stopped:
            break
        before, gone = run.saved(), task.gone()
        edits = method.step(task, state, goal)
        _check_step(task, method, goal, gone)
        _check_edits(task, method, edits, before.alive)
        if request.guard is not None and validation is not None:
            box = input_box(task.graph, task.input_bounds)
            stopped = request.guard.breach(task.graph, run.weights, validation.samples, box)
        if stopped:
            run.go_back(before)
            break
        history.add(run, edits)
        if not history.stopped:  # else a run that goes on would not hear of it
            checkpoint.save(run, task.generator, history, number, known)
    return stopped


def _task(model: nn.Module | ExportedProgram, example_inputs: ExampleInputs | None, request: Request) -> Task:
    """Capture the model and check the request against it."""
    graph, coupling = coupled(model, example_inputs, request.streams)
    if request.guard is not None:
        request.guard.check(graph)
    bounds = request.bounds_of(graph)
    groups = selected(coupling, request.ignored(model), _leaving(model, coupling, request))
    require_groups(coupling, groups)
    roles = Roles()
    if request.uniform_layers:
        roles, groups = _with_roles(model, coupling, groups, request.progress)
    if request.streams and {group.name for group in groups}.isdisjoint(s.group for s in coupling.streams):
        raise NothingToPruneError(
            "streams: the stream stays whole, by ignore or since uniform_layers allows no other width; leave "
            "streams out"
        )
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
        roles=roles,
        recursive=request.recursive,
        memory=request.memory,
    )


def _leaving(model: nn.Module | ExportedProgram, coupling: Coupling, request: Request) -> Leaving:
    """What leaves from attention; see `prune` for `auto`."""
    if request.attention != "auto":
        return request.attention
    unsaid = request.uniform_layers and not has_roles(model, filter(is_width, coupling.prunable))
    certified = any(name.startswith("certified") for name in request.budgets)
    return "heads" if unsaid or certified or request.method.lossless else "widths"


def _with_roles(
    model: nn.Module | ExportedProgram, coupling: Coupling, groups: list[Group], progress: bool
) -> tuple[Roles, list[Group]]:
    """Roles for `uniform_layers`, and the groups that have one; a notice names the others."""
    chosen = {group.name for group in groups}
    roles, whole = roles_of(model, groups, [g for g in coupling.groups if g.name not in chosen])
    if whole:
        why = f"uniform_layers: the model's configuration cannot say less of {few([g.name for g in whole])}"
        if not roles.of:
            raise NothingToPruneError(f"{why}, and nothing else can shrink")
        notice(f"{why}; they stay whole", progress)
    return roles, [group for group in groups if group.name in roles.of]


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


def _paced(task: Task, request: Request) -> int:
    """Say how long the run will take; the number of samples to refit on: those that a time budget allows."""
    samples = request.samples
    if not request.needs_samples:
        return samples
    pace = _pace(task, request)
    if request.budget is not None:
        samples = pace.affordable(request.budget, samples)
    seconds = pace.estimate(samples)
    about = "about " if seconds >= 1 else ""  # else it is less than a second
    notice(f"{samples:,} samples, {about}{shown(seconds)}", request.progress)
    if request.budget is not None and seconds > request.budget:
        warnings.warn(
            f"budget: the run takes about {shown(seconds)} with {samples} samples, the fewest; the budget is "
            f"{shown(request.budget)}",
            SecateurWarning,
            stacklevel=2,
        )
    return samples


def _pace(task: Task, request: Request) -> Pace:
    """Cost: a few batches, and a few steps of elimination."""
    share = 0.5 if task.target is None else task.target.share
    scored = request.allocation == "global"  # then all units are eliminated once, for their costs

    def leaving(group: Group) -> int:
        refitted = request.method.needs == "samples"
        return scored * (group.units - 1) + refitted * math.ceil(share * group.units)

    return Pace(
        *pass_time(task.graph),
        steps=max(1, math.ceil(share / request.step)),
        drawn=request.calibration is None,
        judged=validation_count(task.graph, task.coupling),
        solves=solve_time(task.graph, task.groups, leaving, Settings()),
    )


def _check_time(seconds: float, request: Request) -> None:
    """Warn where the run took much longer than its budget."""
    if request.budget is not None and seconds > 1.2 * request.budget + 1.0:
        warnings.warn(
            f"budget: the run took {shown(seconds)}, the budget is {shown(request.budget)}; the estimate "
            "covers passes of the samples, elimination and refits, not capture or the timing of layers",
            SecateurWarning,
            stacklevel=2,
        )


def _remove_unneeded(task: Task) -> list[Edit]:
    """Remove the units that the outputs do not depend on, as a step of its own."""
    found = unneeded(task, None)
    if found.edits:
        task.run.go_back(found.state)
    return found.edits


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
    """The goal of each step; goals that are reached already are left out."""
    gone = task.gone()
    rows = schedule(
        task.groups,
        plan.removed,
        request.step,
        plan.multiples if request.guard is not None else None,
        task.roles,
    )
    return [Goal(row, plan.removed) for row in rows if any(row[name] > n for name, n in gone.items())]


def _check_step(task: Task, method: Method, goal: Goal, before: Mapping[str, int]) -> None:
    """Raise `SecateurError` where a method missed the goal of its step, or removed more."""
    for name, gone in task.gone().items():
        if not goal.gone[name] <= gone <= max(goal.gone[name], before[name]):
            raise SecateurError(
                f"{name}: the method {method.name} has removed {gone} units after a step whose goal was "
                f"{goal.gone[name]}; its `step` must bring every group to its goal"
            )


def _check_edits(task: Task, method: Method, edits: object, alive: Mapping[str, Tensor]) -> None:
    """Raise `SecateurError` where the edits that a step returned are not the removals that it applied."""
    if not isinstance(edits, list) or not all(isinstance(edit, Edit) for edit in edits):
        raise SecateurError(
            f"`step` of the method {method.name} returned a {type(edits).__name__}; give a list of what "
            "`task.run.apply` returned"
        )
    told = sorted((edit.group, unit) for edit in edits for unit in edit.units)
    done = [(g, int(u)) for g, mask in alive.items() for u in (mask & ~task.run.alive[g]).nonzero().flatten()]
    if told != sorted(done):
        raise SecateurError(
            f"`step` of the method {method.name} returned edits of {len(told)} units but removed "
            f"{len(done)}; give each that `task.run.apply` returned, once"
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
    """The size of the model before pruning."""
    return Size(
        sum(group.units for group in task.groups),
        parameters_before(task.graph),
        macs_after(task.graph, task.coupling, {}),
    )
