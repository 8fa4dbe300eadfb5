"""Searches and sweeps logged to MLflow: all figures and files, under names that stay."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur
from secateur.errors import InputError, SecateurWarning
from secateur.search import tracking
from secateur.search.space import Setting
from secateur.search.tracking import EXPERIMENT, figures_of
from secateur.search.trial import Checks, Sizes, Trial


def dense() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


def test_figures_by_name() -> None:
    sizes = Sizes(params=5, macs=6, bytes=20)
    trial = Trial(number=1, setting=Setting(remove="0.5"), sizes=sizes, agreement=0.75, seconds=2.0)
    checks = Checks(asked="", result="", robust_accuracy={"pgd5": 0.5}, certified=0.25)
    assert figures_of(trial, checks) == {
        "params": 5.0,
        "macs": 6.0,
        "bytes": 20.0,
        "agreement": 0.75,
        "seconds": 2.0,
        "robust_accuracy/pgd5": 0.5,
        "certified_agreement": 0.25,
    }
    assert figures_of(Trial(number=1, setting=Setting(remove="0.5"), error="no")) == {"seconds": 0.0}


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs the package mlflow-skinny"):
        secateur.sweep(dense(), torch.zeros(1, 4), output=tmp_path / "new", mlflow="http://host:5000")
    assert not (tmp_path / "new").exists()


needs_mlflow = pytest.mark.skipif(find_spec("mlflow") is None, reason="needs the extra mlflow")


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of a file store."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    import mlflow

    return mlflow.MlflowClient(tracking_uri=(tmp_path / "store").as_uri())


@needs_mlflow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # MLflow's own
def test_a_search_and_a_sweep_are_logged(tmp_path: Path, client: Any) -> None:
    found = secateur.search(
        dense(), torch.zeros(1, 4), output=tmp_path / "best", min_agreement=0.9, samples=64,
        mlflow=tmp_path / "store",
    )  # fmt: skip
    grid = {"method": "scale", "remove": ["25%", "50%"], "samples": 64}
    secateur.sweep(
        dense(), torch.zeros(1, 4), output=tmp_path / "grid", mlflow=str(tmp_path / "store"), **grid
    )
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
    named = {run.info.run_name: run for run in runs.values() if "mlflow.parentRunId" not in run.data.tags}
    assert set(named) == {"search best", "sweep grid"}
    top, pick = named["search best"], found.pick
    assert pick is not None and pick.sizes is not None
    assert top.data.metrics["params"] == pick.sizes.params
    assert top.data.metrics["agreement"] == pick.agreement
    assert top.data.params["samples"] == "64" and top.info.status == "FINISHED"
    files = {file.path for file in client.list_artifacts(top.info.run_id)}
    assert {"summary.md", "summary.json", "pick.recipe.json"} <= files
    below = [r for r in runs.values() if r.data.tags.get("mlflow.parentRunId") == top.info.run_id]
    assert {r.data.params["remove"] for r in below} == {t.setting.remove for t in found.summary.trials}
    swept = [
        r for r in runs.values() if r.data.tags.get("mlflow.parentRunId") == named["sweep grid"].info.run_id
    ]
    assert {r.data.params["remove"] for r in swept} == {"25%", "50%"}


@needs_mlflow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_store_that_fails(tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the work, an error; after it, a warning: the folder holds the results."""
    import mlflow

    given = {"method": "scale", "remove": "50%", "samples": 64}

    def fail(*told: Any, **more: Any) -> Any:
        raise mlflow.exceptions.MlflowException("disk full")

    monkeypatch.setattr(mlflow.MlflowClient, "create_run", fail)
    store = tmp_path / "store"
    with pytest.warns(SecateurWarning, match="logging to MLflow stopped .*disk full.* holds all results"):
        found = secateur.sweep(dense(), torch.zeros(1, 4), output=tmp_path / "a", mlflow=store, **given)
    assert len(found.trials) == 1
    monkeypatch.setattr(mlflow.MlflowClient, "get_experiment_by_name", fail)
    with pytest.raises(InputError, match="disk full"):
        secateur.sweep(dense(), torch.zeros(1, 4), output=tmp_path / "b", mlflow=store, **given)
    assert not (tmp_path / "b").exists()
