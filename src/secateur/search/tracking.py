"""Log a search or a sweep to MLflow: a run with its figures and files, and a run below it for each trial."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from secateur.errors import InputError, SecateurWarning
from secateur.graph.export import first_line
from secateur.search.trial import Checks, Trial

EXPERIMENT = "secateur"
_LONGEST = 6000  # characters of a parameter, as MLflow allows
_FILES = ("summary.md", "summary.json", "report.html", "pick.recipe.json")
_FIGURES = ("agreement", "drift", "relative_drift", "accuracy", "worst_class", "seconds")


class Tracker:
    """A connection to where runs are logged.

    Args:
        address: Of a tracking server, as http://host:5000; any other tracking URI; or a folder.

    Raises `InputError` where mlflow is not installed, or nothing answers there.
    """

    def __init__(self, address: str | os.PathLike[str]) -> None:
        if find_spec("mlflow") is None:
            raise InputError(
                "logging to MLflow needs the package mlflow-skinny: pip install 'secateur[mlflow]'"
            )
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # tells nobody but the address
        import mlflow

        text = os.fspath(address)
        uri = text if "://" in text else Path(text).absolute().as_uri()
        try:
            self._client = mlflow.MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(EXPERIMENT)
            self._experiment = (
                self._client.create_experiment(EXPERIMENT) if found is None else found.experiment_id
            )
        except mlflow.exceptions.MlflowException as error:
            raise InputError(f"mlflow={text!r}: {first_line(error)}") from error

    def log(
        self,
        kind: str,
        folder: Path,
        asked: Mapping[str, Any],
        trials: Sequence[Trial],
        figures: Mapping[str, float] | None = None,
    ) -> None:
        """Log all that a finished search or sweep has found; a failure is a warning, as the folder has it."""
        from mlflow.exceptions import MlflowException

        try:
            run = self._run(f"{kind} {folder.name}", {"secateur": kind}, asked, figures or {})
            for trial in trials:
                self._trial(run, trial)
            for path in (folder / name for name in _FILES):
                if path.is_file():
                    self._client.log_artifact(run, str(path))
            self._client.set_terminated(run)
        except MlflowException as error:
            told = f"logging to MLflow stopped ({first_line(error)}); {folder} holds all results"
            warnings.warn(told, SecateurWarning, stacklevel=3)

    def _trial(self, parent: str, trial: Trial) -> None:
        tags = {"mlflow.parentRunId": parent, "secateur.result": trial.result, "secateur.error": trial.error}
        run = self._run(f"trial {trial.number}", tags, trial.setting.model_dump(), figures_of(trial))
        self._client.set_terminated(run, "FAILED" if trial.error else "FINISHED")

    def _run(
        self, name: str, tags: Mapping[str, str], asked: Mapping[str, Any], figures: Mapping[str, float]
    ) -> str:
        from mlflow.entities import Metric, Param

        run: str = self._client.create_run(self._experiment, run_name=name, tags=dict(tags)).info.run_id
        now = time.time_ns() // 10**6
        self._client.log_batch(
            run,
            metrics=[Metric(key, value, now, 0) for key, value in figures.items() if math.isfinite(value)],
            params=[Param(key, str(value)[:_LONGEST]) for key, value in asked.items() if value is not None],
        )
        return run


def figures_of(trial: Trial, checks: Checks | None = None) -> dict[str, float]:
    """All that was measured of one network, by name."""
    sizes = {} if trial.sizes is None else trial.sizes.model_dump()
    found = {**sizes, **{name: getattr(trial, name) for name in _FIGURES}}
    if checks is not None:
        found |= {f"robust_accuracy/{name}": share for name, share in checks.robust_accuracy.items()}
        found |= {f"robust_agreement/{name}": share for name, share in checks.robust_agreement.items()}
        found |= {"certified_agreement": checks.certified, "certified_drift": checks.certified_drift}
    return {name: float(value) for name, value in found.items() if value is not None}
