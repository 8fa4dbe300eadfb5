"""Trials on clusters, and of workers that end early: the same results, whatever runs them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur
from secateur.errors import InputError, SecateurError, SecateurWarning
from secateur.graph.workers import share_processors, worker_count
from secateur.search.clusters import KINDS
from secateur.search.store import Store

GRID: dict[str, Any] = {"method": ["scale", "saliency"], "remove": ["25%", "50%", "75%"], "samples": 64}


@cache
def dense() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


def swept(folder: Path, **more: Any) -> list[str]:
    found = secateur.sweep(dense(), torch.zeros(1, 4), output=folder, **{**GRID, **more})
    return [trial.result for trial in found.trials]


class Standing:
    """A cluster that runs trials in this process, and whose workers die as often as is asked."""

    connections = 0
    open = False

    def __init__(self, address: str, token: str) -> None:
        self.died = (ChildProcessError,)
        self.token, self.deaths = token, int(address)
        type(self).connections += 1
        type(self).open = True

    def send(self, job: Any) -> None:
        self.job = job

    def outcomes(self, asked: Any) -> Iterator[Any]:
        from secateur.search.worker import measured

        for given in asked:
            if given[0] > 2 and self.connections <= self.deaths:
                raise ChildProcessError
            yield measured(self.token, 1, self.job, *given)

    def close(self) -> None:
        type(self).open = False


@pytest.fixture
def standing(monkeypatch: pytest.MonkeyPatch) -> type[Standing]:
    monkeypatch.setattr(Standing, "connections", 0)
    monkeypatch.setitem(KINDS, "dask", replace(KINDS["dask"], connect=Standing, package="torch"))
    return Standing


def test_one_connection_serves_all_trials_and_what_is_lost_is_run_again(
    tmp_path: Path, standing: type[Standing]
) -> None:
    alone = swept(tmp_path / "a")
    assert swept(tmp_path / "b", engine="dask://0") == alone and standing.connections == 1
    assert not standing.open
    standing.connections = 0
    with pytest.warns(SecateurWarning, match="a worker process ended early"):
        assert swept(tmp_path / "c", engine="dask://2") == alone
    assert standing.connections == 3
    standing.connections = 0
    with pytest.raises(SecateurError, match="ended early 3 times"), pytest.warns(SecateurWarning):
        swept(tmp_path / "d", engine="dask://9")


@pytest.mark.parametrize(
    ("step", "error", "said"),
    [
        ("__init__", OSError("timed out"), "engine='dask://0' does not answer: OSError: timed out"),
        (
            "send",
            TypeError("cannot pickle"),
            "the model cannot be sent to worker processes; save it to a file",
        ),
    ],
)
def test_a_cluster_that_cannot_be_had(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    standing: type[Standing],
    step: str,
    error: Exception,
    said: str,
) -> None:
    def fail(*given: Any) -> Any:
        raise error

    monkeypatch.setattr(Standing, step, fail)
    with pytest.raises(InputError) as raised:
        swept(tmp_path, engine="dask://0")
    assert said in str(raised.value) and not standing.open


def test_processes_share_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 6 usable ones, three processes take 2 each; more than there are, one each."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    found = {}
    for processes in (1, 2, 3, 4, 7, None):
        share_processors(processes)
        found[processes] = worker_count()
    share_processors(1)
    assert found == {1: 6, 2: 3, 3: 2, 4: 1, 7: 1, None: 1}


# --- real clusters of two workers, one of which is killed ----------------------------------------------------


@contextmanager
def dask() -> Iterator[str]:
    distributed = pytest.importorskip("distributed", reason="needs the extra dask")
    with distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster.scheduler_address.replace("tcp://", "dask://")


@contextmanager
def ray() -> Iterator[str]:
    found = pytest.importorskip("ray", reason="needs the extra ray")
    found.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        yield "ray://local"
    finally:
        found.shutdown()


def running(engine: str) -> list[int]:
    """Processes of workers; of Ray, those that run a trial."""
    if engine.startswith("dask"):
        import distributed

        with distributed.Client(engine.replace("dask://", "tcp://"), set_as_default=False) as client:
            return list(client.run(os.getpid).values())
    titles = {path.parent.name: path for path in Path("/proc").glob("[0-9]*/cmdline")}
    return [int(pid) for pid, path in titles.items() if _begins(path, b"ray::measured")]


def _begins(path: Path, words: bytes) -> bool:
    try:
        return path.read_bytes().startswith(words)
    except OSError:  # it has ended
        return False


@pytest.mark.slow
@pytest.mark.judged  # in the processes of workers, nothing is patched
@pytest.mark.filterwarnings("default")  # of the clusters' own packages
@pytest.mark.parametrize("cluster", [dask, ray])
def test_a_cluster_of_which_a_worker_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Any
) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else workers wait for all that runs beside them
    alone = swept(tmp_path / "a")
    killed, put = list[int](), Store.put
    with cluster() as engine:

        def put_and_kill(store: Store, *written: Any) -> None:
            put(store, *written)
            if not killed and (alive := running(engine)):
                killed.append(alive[0])
                os.kill(alive[0], signal.SIGKILL)

        monkeypatch.setattr(Store, "put", put_and_kill)
        there = swept(tmp_path / "b", engine=engine)
        monkeypatch.setattr(dense(), "lock", threading.Lock(), raising=False)
        with pytest.raises(InputError, match="the model cannot be sent to worker processes"):
            swept(tmp_path / "c", engine=engine)
    assert killed and there == alone
