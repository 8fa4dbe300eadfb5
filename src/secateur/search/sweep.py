"""`sweep`: every combination of methods, amounts and seeds, as a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from secateur import arguments as may
from secateur.cost import Costs
from secateur.files import write_atomically
from secateur.graph.example import ExampleInputs
from secateur.plan import REMOVE, Target
from secateur.progress import phase
from secateur.report.record import Record
from secateur.request import RULES
from secateur.search.ask import ENGINE, WORKERS, asked
from secateur.search.bench import sizes_of
from secateur.search.engine import Engine, check_engine
from secateur.search.result import SweepResult, markdown_table, sweep_table
from secateur.search.space import METHOD, Setting, several
from secateur.search.store import Store, write_record
from secateur.search.study import Study
from secateur.search.tracking import Tracker
from secateur.search.trial import Sizes, Trial

_RULES = {
    "output": may.Rule("the path of a folder", may.PATH.parse),
    "workers": WORKERS,
    "engine": ENGINE,
    "mlflow": may.optional(may.PATH),
    "overwrite": may.flag(),
    "progress": may.flag(),
}


class SweepSummary(Record):
    """What a sweep has measured, as it is written to `summary.json`."""

    original: Sizes
    trials: tuple[Trial, ...]


def sweep(
    model: nn.Module | ExportedProgram | str | os.PathLike[str],
    example_inputs: ExampleInputs | None = None,
    *,
    output: str | os.PathLike[str],
    method: str | Sequence[str] = "reconstruct",
    remove: float | str | Sequence[float | str] = (0.1, 0.25, 0.5),
    allocation: str | Sequence[str] = "uniform",
    seed: int | Sequence[int] = 0,
    images: Any = None,
    labels: Any = None,
    workers: int = 1,
    engine: str | None = None,
    mlflow: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = False,
    **arguments: Any,
) -> SweepResult:
    """Prune a model in every combination of methods, amounts, allocations and seeds, and measure each.

    The folder keeps every trial, so that a sweep that was interrupted goes on where it was, as `search` does.

    Args:
        model: A model, or the path of a file with one.
        example_inputs: As for `prune`.
        output: The folder, which is made if need be.
        method, remove, allocation, seed: As for `prune`, each one value or several.
        images, labels: Labelled data, whose accuracy is reported; they choose nothing.
        workers, engine, mlflow: As for `search`.
        overwrite: Whether to begin anew in a folder that holds something else.
        progress: Whether to report each trial on stderr.
        **arguments: Other arguments of `prune`, such as `input_bounds`, `calibration` and `samples`.

    Returns:
        The trials, and a table of them. `trials/` in the folder holds their recipes.

    Raises:
        InputError: An argument cannot be used, or the folder holds something else.

    Examples:
        >>> import tempfile, torch, secateur
        >>> _ = torch.manual_seed(1)
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2)).eval()
        >>> methods, folder = ["scale", "saliency"], tempfile.mkdtemp()
        >>> found = secateur.sweep(net, torch.zeros(1, 4), output=folder, method=methods, remove=[0.25, 0.5])
        >>> [(t.setting.method, t.setting.remove, t.sizes.params) for t in found.trials][:2]
        [('scale', '0.25', 170), ('scale', '0.5', 114)]
    """
    given = {
        "output": output,
        "workers": workers,
        "engine": engine,
        "mlflow": mlflow,
        "overwrite": overwrite,
        "progress": progress,
    }
    may.checked(_RULES, given)
    grid = {
        "seed": several("seed", seed, may.SEED),
        "method": several("method", method, METHOD),
        "allocation": several("allocation", allocation, RULES["allocation"]),
        "remove": several("remove", remove, _AMOUNT),
    }
    check_engine(workers, engine)
    tracker = None if mlflow is None else Tracker(mlflow)
    settings = [
        Setting(**dict(zip(grid, values, strict=True))) for values in product(*grid.values())
    ]  # seeds change last, since runs with one seed share samples
    with phase("capturing the model", progress):
        found = asked(model, example_inputs, arguments, settings[0], images=images, labels=labels)
    question = found.question("sweep", grid)
    store = Store(output, question, overwrite)
    with Engine(found.job, workers, engine) as running:
        study = Study(store, running, lambda trials: trials, progress)
        trials = tuple(study.measured(settings, of=len(settings)))
    original = sizes_of(found.job, found.model, found.model, Costs(found.graph, found.coupling), {})
    page = f"# Sweep\n\n{markdown_table(*sweep_table(trials, original))}\n"
    write_atomically(store.folder / "summary.md", lambda file: file.write(page.encode()))
    write_record(store.folder / "summary.json", SweepSummary(original=original, trials=trials))
    if tracker is not None:
        tracker.log("sweep", store.folder, question.asked, trials)
    return SweepResult(trials, original, Path(store.folder))


def _as_amount(value: Any) -> str:
    Target.parse(value)
    return str(value)


_AMOUNT = may.Rule(REMOVE, _as_amount)
