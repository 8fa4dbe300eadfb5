"""`search`: the smallest network within a budget, by many runs of `prune` that can be interrupted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from secateur import arguments as may
from secateur.decisions import NoDecision, decision_of
from secateur.errors import InputError
from secateur.evaluate.attacks import Attack
from secateur.graph.example import ExampleInputs
from secateur.progress import phase
from secateur.search.ask import ENGINE, WORKERS, Asked, asked
from secateur.search.bisection import bisect
from secateur.search.checks import Checking
from secateur.search.conclude import Aim, concluded
from secateur.search.engine import Engine, check_engine
from secateur.search.front import front
from secateur.search.result import SearchResult
from secateur.search.space import Setting, Space
from secateur.search.store import Store
from secateur.search.study import Study
from secateur.search.suggestions import SAMPLERS, Sampler, require_optuna, suggest
from secateur.search.tracking import Tracker, figures_of
from secateur.search.trial import OBJECTIVES, Objective, Wanted

_LEAST_AGREEMENT = 0.98  # where no budget is given
_QUANTITY = {"latency": "macs"}  # what is removed a share of, where that is not the objective itself
_SHARE = may.optional(may.number("a share from 0 to 1", low=0, high=1))
_RULES = {
    "output": may.Rule("the path of a folder", may.PATH.parse),
    "objective": may.one_of(*OBJECTIVES),
    "min_agreement": _SHARE,
    "max_drift": may.optional(may.number("a number from 0, in the units of the outputs", low=0)),
    "min_accuracy": _SHARE,
    "min_worst_class": _SHARE,
    "attacks": may.list_of(may.instance(Attack, ""), "a list of attacks, such as [secateur.PGD(0.01)]"),
    "min_robust_accuracy": _SHARE,
    "min_robust_agreement": _SHARE,
    "certified": may.optional(may.number("a radius above 0, in units of the inputs", above=0)),
    "certified_inputs": may.whole(1, "a whole number of inputs, at least 1"),
    "min_certified": _SHARE,
    "trials": may.whole(1, "a whole number of trials, at least 1"),
    "sampler": may.one_of(*SAMPLERS),
    "workers": WORKERS,
    "engine": ENGINE,
    "mlflow": may.optional(may.PATH),
    "seed": may.SEED,
    "overwrite": may.flag(),
    "progress": may.flag(),
}


def search(
    model: nn.Module | ExportedProgram | str | os.PathLike[str],
    example_inputs: ExampleInputs | None = None,
    *,
    output: str | os.PathLike[str],
    objective: Objective = "params",
    min_agreement: float | None = None,
    max_drift: float | None = None,
    min_accuracy: float | None = None,
    min_worst_class: float | None = None,
    attacks: Sequence[Attack] = (),
    min_robust_accuracy: float | None = None,
    min_robust_agreement: float | None = None,
    certified: float | None = None,
    certified_inputs: int = 20,
    min_certified: float | None = None,
    images: Any = None,
    labels: Any = None,
    method: str | Sequence[str] = "reconstruct",
    allocation: str | Sequence[str] = "uniform",
    round_to: int | str | Sequence[int | str] = "auto",
    quantize: str | Sequence[str] = "none",
    trials: int = 24,
    sampler: Sampler = "tpe",
    workers: int = 1,
    engine: str | None = None,
    seed: int = 0,
    mlflow: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = False,
    **arguments: Any,
) -> SearchResult:
    """Find the smallest network that stays within a budget.

    With one method, allocation, rounding and scheme, the share to remove is found by bisection, in at most
    seven trials. With several of any, Optuna suggests what to try (the extra `search`). A trial is a run of
    `prune`, judged on inputs that nothing was refitted on. The smallest network of the front that keeps the
    budgets on those and, where they were surrogates, on a second draw of surrogates, is the pick.

    The folder keeps every trial. A search that was interrupted, or killed, goes on where it was when it is
    called again with the same arguments; the result is that of a search that was not interrupted, and does
    not depend on `workers`. An `objective` in latency is measured, and differs from run to run.

    Args:
        model: A model, or the path of a file with one, which workers then read for themselves.
        example_inputs: As for `prune`.
        output: The folder, which is made if need be.
        objective: What to make small: "params", "macs", "bytes", or "latency" (milliseconds for one sample
            on this machine).
        min_agreement: The least share of decisions, 0 to 1, that must be the original's. Default: 0.98 if no
            budget is given.
        max_drift: The largest change of any output.
        min_accuracy: The least accuracy on `images` and `labels`. The pick then depends on these labelled
            data, as the summary says: measure its accuracy on others.
        min_worst_class: The least accuracy in every class of these data.
        attacks: Such as `[secateur.PGD(8 / 255)]`. The networks of the front that keep the budgets above are
            attacked, on `images`: how many of them stay right, and how many decisions stay the original's.
        min_robust_accuracy, min_robust_agreement: The least of each share, under the worst of the attacks.
        certified: The radius of L∞ balls, in units of the images: for the same networks, `certify` proves on
            which share of the decisions they agree with the original all over the balls round `images`.
        certified_inputs: Of how many images, from the first.
        min_certified: The least proved share.
        images, labels: Labelled data. All that is measured on them is reported; what is no budget chooses
            nothing.
        method, allocation, round_to: As for `prune`, each one value or several.
        quantize: Schemes of `secateur.quantize`, with "none" for float networks; one or several. The sizes in
            bytes are then those of ONNX files, and no drift is measured.
        trials: How many settings to try, where there is more to choose than the share.
        sampler: How Optuna suggests settings: "tpe" or "nsga2".
        workers: Processes, which share the processors of this machine (the extra `search`). Bisection uses
            one.
        engine: A cluster whose workers run the trials: "dask://host:port", a Dask scheduler (the extra
            `dask`), "ray://host:port", a Ray cluster, or "ray://local" (the extra `ray`). The workers need
            the same versions of all packages. Default: this machine.
        seed: Seed of all random numbers.
        mlflow: Where to log the search when it is done: an MLflow tracking server ("http://host:5000"),
            another tracking URI, or a folder (the extra `mlflow`). Each call logs one run, with one below it
            for each trial.
        overwrite: Whether to begin anew in a folder that holds something else.
        progress: Whether to report each trial on stderr.
        **arguments: Other arguments of `prune`, such as `input_bounds`, `normalize`, `calibration`,
            `samples` and `ignore`; not `remove`, `guard`, `budget`, `resume` and
            `callbacks`.

    Returns:
        The pick, the front and all trials. The folder holds the networks of the front in `front/`, the pick
        as `pick.*`, each with its recipe, and the figures as `summary.json`, `summary.md` and, with the extra
        `report`, `report.html`.

    Raises:
        InputError: An argument cannot be used, or the folder holds another search.
        CaptureError, UnsupportedOpError: As for `prune`.

    Examples:
        >>> import tempfile, torch, secateur
        >>> _ = torch.manual_seed(1)
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2)).eval()
        >>> found = secateur.search(
        ...     net, torch.zeros(1, 4), output=tempfile.mkdtemp(), min_agreement=0.9, samples=128
        ... )
        >>> found.pick.agreement >= 0.9, found.pick.sizes.params < found.summary.original.params
        (True, True)
    """
    values = may.checked(
        _RULES,
        {
            "output": output, "objective": objective, "min_agreement": min_agreement, "max_drift": max_drift,
            "min_accuracy": min_accuracy, "min_worst_class": min_worst_class, "attacks": attacks,
            "min_robust_accuracy": min_robust_accuracy, "min_robust_agreement": min_robust_agreement,
            "certified": certified, "certified_inputs": certified_inputs, "min_certified": min_certified,
            "trials": trials, "sampler": sampler, "workers": workers,
            "engine": engine, "mlflow": mlflow, "seed": seed, "overwrite": overwrite, "progress": progress,
        },
    )  # fmt: skip
    space = Space.parse(method, allocation, round_to, quantize)
    wanted = _wanted(min_agreement, max_drift, min_accuracy, min_worst_class)
    least = (min_robust_accuracy, min_robust_agreement, min_certified)
    checking = Checking(tuple(attacks), certified, certified_inputs, *least)
    _check_together(space, wanted, values, images)
    checking.check(labelled=images is not None, quantises=space.quantises)
    tracker = None if mlflow is None else Tracker(mlflow)
    quantity = _QUANTITY.get(objective, objective)
    with phase("capturing the model", progress):
        found = asked(
            model,
            example_inputs,
            arguments,
            Setting(remove=f"{quantity}=50%", seed=seed, **space.first()),
            images=images,
            labels=labels,
            timed=objective == "latency",
            in_onnx=space.quantises,
        )
    _check_decides(found, wanted)
    several = {"trials": trials, "sampler": sampler} if space.several else {}
    question = found.question(
        "search", {"objective": objective, "wanted": vars(wanted), **space.choices, **several, "seed": seed}
    )
    store = Store(output, question, overwrite)
    kept = partial(front, objective=objective, wanted=wanted)
    with Engine(found.job, workers, engine) as running:
        study = Study(store, running, kept, progress)
        if space.several:
            suggest(study, quantity, space, objective, wanted, trials, sampler, seed)
        else:
            bisect(study, quantity, space.first(), wanted, seed)
    result = concluded(found, store, study.trials, Aim(objective, wanted, checking), progress)
    if tracker is not None:
        checks = result.summary.checks
        figures = {} if result.pick is None else figures_of(result.pick, checks.get(result.pick.number))
        tracker.log("search", result.folder, question.asked, study.trials, figures)
    return result


def _wanted(
    agreement: float | None, drift: float | None, accuracy: float | None, worst_class: float | None
) -> Wanted:
    if agreement is None and drift is None and accuracy is None and worst_class is None:
        agreement = _LEAST_AGREEMENT
    return Wanted(agreement, drift, accuracy, worst_class)


def _check_together(space: Space, wanted: Wanted, values: dict[str, Any], images: Any) -> None:
    for name, least in (("min_accuracy", wanted.accuracy), ("min_worst_class", wanted.worst_class)):
        if least is not None and images is None:
            raise InputError(f"{name} needs images and labels (--data)")
    if wanted.worst_class is not None and space.quantises:
        raise InputError("min_worst_class: it is not measured of quantised networks; give min_accuracy")
    if wanted.drift is not None and space.quantises:
        raise InputError("max_drift: no drift is measured of quantised networks; give min_agreement")
    if values["objective"] == "latency" and (values["workers"] > 1 or values["engine"] is not None):
        raise InputError(
            "workers: times are those of this machine, and processes beside each other disturb them; take "
            "workers=1 and no engine for latency"
        )
    check_engine(values["workers"], values["engine"])
    if space.several:
        require_optuna()


def _check_decides(found: Asked, wanted: Wanted) -> None:
    """Raise `InputError` where a budget needs decisions and the model decides nothing."""
    decision = decision_of(found.graph, found.request.head)
    if isinstance(decision, NoDecision) and wanted.agreement is not None:
        raise InputError(
            f"min_agreement: the model decides nothing ({decision.why}); give max_drift instead, or say what "
            "the outputs are (head)"
        )
