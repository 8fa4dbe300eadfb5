"""Where trials run: in this process, in several, or on a cluster. What they give does not depend on it."""

from __future__ import annotations

import threading
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any

from secateur.errors import InputError, SecateurError, SecateurWarning
from secateur.graph.export import first_line
from secateur.search.bench import Bench, Job, Outcome
from secateur.search.space import Setting

_TRIES = 3  # for trials whose process ended before they did

Asked = tuple[int, Setting]  # a trial's number and what to try
DASK = "dask://"  # how the address of a cluster begins
_benches: dict[str, Bench] = {}  # of a worker process, which keeps the last one
_alone = threading.Lock()  # a worker of a cluster may have several threads, and a bench runs one trial


class Engine:
    """Runs trials of one job.

    Args:
        job: What they have in common.
        workers: Processes of one thread each; this process alone if it is 1.
        cluster: `dask://host:port` of a Dask scheduler, whose workers then run the trials; or None.
    """

    def __init__(self, job: Job, workers: int, cluster: str | None = None) -> None:
        self.job, self.workers, self.cluster = job, workers, cluster
        self._bench = Bench(job)
        self._token = uuid.uuid4().hex

    def outcomes(self, asked: Sequence[Asked]) -> Iterator[Outcome]:
        """The outcomes, each as soon as it is there, in any order.

        Raises `SecateurError` where processes of workers end again and again.
        """
        if self.cluster is None and (self.workers == 1 or len(asked) < 2):
            for number, setting in asked:
                yield self._bench.outcome(number, setting)
            return
        left = dict(asked)
        for _ in range(_TRIES):
            try:
                for outcome in self._in_processes(list(left.items())):
                    del left[outcome.trial.number]
                    yield outcome
                return
            except _died():
                told = "a worker process ended early; its trials are run again"
                warnings.warn(told, SecateurWarning, stacklevel=2)
            except Exception as error:
                if type(error).__name__ != "PicklingError":
                    raise
                raise InputError(
                    "the model cannot be sent to worker processes; save it to a file and give its path, or "
                    f"take workers=1 ({first_line(error)})"
                ) from error
        raise SecateurError(
            f"worker processes ended early {_TRIES} times, likely for want of memory; take fewer workers"
        )

    def _in_processes(self, asked: Sequence[Asked]) -> Iterator[Outcome]:
        joblib = _joblib()
        tasks = (joblib.delayed(_in_worker)(self._token, self.job, *each) for each in asked)
        with self._backend(joblib):
            workers = self.workers if self.cluster is None else -1
            yield from joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(tasks)

    def _backend(self, joblib: Any) -> AbstractContextManager[Any]:
        if self.cluster is None:
            found = joblib.parallel_config(backend="loky", inner_max_num_threads=1)
        else:  # the model is sent to each worker once
            address = f"tcp://{self.cluster.removeprefix(DASK)}"
            found = joblib.parallel_config(backend="dask", scheduler_host=address, scatter=[self.job])
        backend: AbstractContextManager[Any] = found
        return backend


def _in_worker(token: str, job: Job, number: int, setting: Setting) -> Outcome:
    """In a process of its own, which keeps what settings of a job have in common."""
    with _alone:
        if token not in _benches:
            _benches.clear()
            _benches[token] = Bench(job)
        return _benches[token].outcome(number, setting)


def check_engine(workers: int, cluster: str | None) -> None:
    """Raise `InputError` for an address that cannot be one, and where a package is not installed."""
    if workers > 1 or cluster is not None:
        _joblib()
    if cluster is None:
        return
    if not cluster.startswith(DASK) or not cluster.removeprefix(DASK):
        raise InputError(f"engine={cluster!r}: give the address of a Dask scheduler, as dask://host:8786")
    if workers > 1:
        raise InputError("engine and workers: a cluster has workers of its own; leave workers out")
    if find_spec("distributed") is None:
        raise InputError("a Dask cluster needs the package distributed: pip install 'secateur[dask]'")


def _joblib() -> Any:
    try:
        import joblib
    except ImportError as error:
        raise InputError(
            "workers need the package joblib: pip install 'secateur[search]', or take workers=1"
        ) from error
    return joblib


def _died() -> type[Exception]:
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    found: type[Exception] = TerminatedWorkerError
    return found
