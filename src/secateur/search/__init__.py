"""`search`: the smallest network within a budget, by many runs of `prune` that can be interrupted."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from secateur import arguments as may
from secateur.cost import Costs
from secateur.decisions import NoDecision, decision_of
from secateur.errors import InputError, SecateurWarning
from secateur.files import write_atomically
from secateur.graph.example import ExampleInputs
from secateur.progress import phase
from secateur.search.ask import ENGINE, WORKERS, Asked, asked
from secateur.search.bench import sizes_of
from secateur.search.bisection import bisect
from secateur.search.engine import Engine, check_engine
from secateur.search.front import front, within
from secateur.search.networks import suffix_for, write_network
from secateur.search.page import write_report
from secateur.search.result import SearchResult, Summary, markdown
from secateur.search.second import Look, SecondLook
from secateur.search.space import Setting, Space
from secateur.search.store import FRONT, PICK, Store, write_record
from secateur.search.study import Study
from secateur.search.suggestions import SAMPLERS, Sampler, require_optuna, suggest
from secateur.search.trial import OBJECTIVES, Objective, Trial, Wanted

_LEAST_AGREEMENT = 0.98  # where no budget is given
_QUANTITY = {"latency": "macs"}  # what is removed a share of, where that is not the objective itself
_SHARE = may.optional(may.number("a share from 0 to 1", low=0, high=1))
_RULES = {
    "output": may.Rule("the path of a folder", may.PATH.parse),
    "objective": may.one_of(*OBJECTIVES),
    "min_agreement": _SHARE,
    "max_drift": may.optional(may.number("a number from 0, in the units of the outputs", low=0)),
    "min_accuracy": _SHARE,
    "trials": may.whole(1, "a whole number of trials, at least 1"),
    "sampler": may.one_of(*SAMPLERS),
    "workers": WORKERS,
    "engine": ENGINE,
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
        images, labels: Labelled data, whose accuracy is reported; without `min_accuracy`, they choose
            nothing.
        method, allocation, round_to: As for `prune`, each one value or several.
        quantize: Schemes of `secateur.quantize`, with "none" for float networks; one or several. The sizes in
            bytes are then those of ONNX files, and no drift is measured.
        trials: How many settings to try, where there is more to choose than the share.
        sampler: How Optuna suggests settings: "tpe" or "nsga2".
        workers: Processes, of one thread each (the extra `search`). Bisection uses one.
        engine: "dask://host:port", the scheduler of a Dask cluster whose workers run the trials (the extra
            `dask`). They need the same versions of all packages. Default: this machine.
        seed: Seed of all random numbers.
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
            "min_accuracy": min_accuracy, "trials": trials, "sampler": sampler, "workers": workers,
            "engine": engine, "seed": seed, "overwrite": overwrite, "progress": progress,
        },
    )  # fmt: skip
    space = Space.parse(method, allocation, round_to, quantize)
    wanted = _wanted(min_agreement, max_drift, min_accuracy)
    _check_together(space, wanted, values, images)
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
    study = Study(
        store,
        Engine(found.job, workers, engine),
        partial(front, objective=objective, wanted=wanted),
        progress,
    )
    if space.several:
        suggest(study, quantity, space, objective, wanted, trials, sampler, seed)
    else:
        bisect(study, quantity, space.first(), wanted, seed)
    return _concluded(found, store, study.trials, objective, wanted, progress)


def _wanted(agreement: float | None, drift: float | None, accuracy: float | None) -> Wanted:
    if agreement is None and drift is None and accuracy is None:
        agreement = _LEAST_AGREEMENT
    return Wanted(agreement, drift, accuracy)


def _check_together(space: Space, wanted: Wanted, values: dict[str, Any], images: Any) -> None:
    if wanted.accuracy is not None and images is None:
        raise InputError("min_accuracy needs images and labels (--data)")
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


def _concluded(
    found: Asked,
    store: Store,
    trials: Sequence[Trial],
    objective: Objective,
    wanted: Wanted,
    progress: bool,
) -> SearchResult:
    """Look at candidates a second time, pick one, and write the networks and the summary."""
    best = front(trials, objective, wanted)
    with phase("looking at the pick a second time", progress):
        pick, look, notes = _picked(found, store, within(trials, objective, wanted), wanted)
    if wanted.accuracy is not None:
        notes.append(
            "the labelled data chose this network, as you asked: its accuracy on them is optimistic; measure "
            "it on others"
        )
    if pick is None and not best:
        notes.append(f"no setting gave a network: {trials[-1].error}")
    model, job = found.model, found.job
    small, suffix = None, suffix_for(model, job)
    with phase("writing the networks", progress):
        original = sizes_of(job, model, model, Costs(found.graph, found.coupling), {})
        summary = Summary(
            asked=wanted.told(),
            objective=objective,
            original=original,
            trials=tuple(trials),
            front=tuple(trial.number for trial in best),
            pick=None if pick is None else pick.number,
            look=look,
            notes=tuple(notes),
        )
        (store.folder / FRONT).mkdir(exist_ok=True)
        for trial in best:
            path = store.folder / FRONT / f"{trial.number:04d}{suffix}"
            write_network(path, model, store.recipe(trial.number), job)
        recipe = None if pick is None else store.recipe(pick.number)
        if recipe is not None:
            small = write_network(store.folder / f"{PICK}{suffix}", model, recipe, job)
        page = markdown(summary)
        write_atomically(store.folder / "summary.md", lambda file: file.write(page.encode()))
        write_report(store.folder / "report.html", store, summary)
        write_record(store.folder / "summary.json", summary)
    for note in notes:
        warnings.warn(note, SecateurWarning, stacklevel=3)
    return SearchResult(summary, Path(store.folder), small, recipe)


def _picked(
    found: Asked, store: Store, candidates: Sequence[Trial], wanted: Wanted
) -> tuple[Trial | None, Look | None, list[str]]:
    """The smallest candidate that keeps the budgets on a second look, what that has shown, and notes."""
    if not candidates:
        return None, None, [f"no network was found with {wanted.told()}"]
    if found.request.calibration is not None:
        said = "the inputs that were held out chose this network, so that its figures on them are a little"
        return candidates[0], None, [f"{said} optimistic"]
    second = SecondLook(found.model, found.job, found.request, found.graph, found.coupling)
    for trial in candidates:
        look = second.at(store.recipe(trial.number))
        if look.keeps(wanted, trial):
            return trial, look, []
    tried = (
        f"{len(candidates)} networks were within the budgets, and none was on a second look ({look.told()})"
    )
    return None, look, [f"{tried}: too little can be removed with {wanted.told()}"]
