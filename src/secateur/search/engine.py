"""Where trials run: in this process, in several, or on a cluster. What they give does not depend on it."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from secateur.errors import InputError, SecateurError, SecateurWarning
from secateur.search.bench import Bench, Job, Outcome
from secateur.search.clusters import Cluster, Failures, cannot_be_sent, check_address, connected
from secateur.search.worker import Asked, measured

_TRIES = 3  # for trials whose process ended before they did


class Engine:
    """Runs trials of one job. Use it in a `with` statement, which ends the connection to a cluster.

    Args:
        job: What they have in common.
        workers: Processes, which share the processors; this process alone if it is 1.
        address: Of a cluster, whose workers then run the trials; or None.
    """

    def __init__(self, job: Job, workers: int, address: str | None = None) -> None:
        self.job, self.workers, self.address = job, workers, address
        self._bench = Bench(job)
        self._token = uuid.uuid4().hex
        self._cluster: Cluster | None = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self._disconnect()

    def outcomes(self, asked: Sequence[Asked]) -> Iterator[Outcome]:
        """The outcomes, each as soon as it is there, in any order.

        Raises `SecateurError` where processes of workers end again and again.
        """
        if self.address is None and (self.workers == 1 or len(asked) < 2):
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
            except Exception as error:
                if type(error).__name__ == "PicklingError":
                    raise cannot_be_sent(error) from error
                if not isinstance(error, self._died()):
                    raise
                self._disconnect()
                told = "a worker process ended early; its trials are run again"
                warnings.warn(told, SecateurWarning, stacklevel=2)
        raise SecateurError(
            f"worker processes ended early {_TRIES} times, likely for want of memory; take fewer workers"
        )

    def _in_processes(self, asked: Sequence[Asked]) -> Iterator[Outcome]:
        if self.address is None:
            joblib = _joblib()
            given = (self._token, self.workers, self.job)
            tasks = (joblib.delayed(measured)(*given, *each) for each in asked)
            with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
                yield from joblib.Parallel(n_jobs=self.workers, return_as="generator_unordered")(tasks)
            return
        if self._cluster is None:
            self._cluster = connected(self.address, self.job, self._token)
        yield from self._cluster.outcomes(asked)

    def _died(self) -> Failures:
        """Errors that say that a worker process ended early."""
        if self._cluster is not None:
            return self._cluster.died
        if self.address is not None:
            return ()
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        return (TerminatedWorkerError,)

    def _disconnect(self) -> None:
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None


def check_engine(workers: int, address: str | None) -> None:
    """Raise `InputError` for an address that cannot be one, and where a package is not installed."""
    if workers > 1 and address is not None:
        raise InputError("engine and workers: a cluster has workers of its own; leave workers out")
    if workers > 1:
        _joblib()
    if address is not None:
        check_address(address)


def _joblib() -> Any:
    try:
        import joblib
    except ImportError as error:
        raise InputError(
            "workers need the package joblib: pip install 'secateur[search]', or take workers=1"
        ) from error
    return joblib
