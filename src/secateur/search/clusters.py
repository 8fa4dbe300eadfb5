"""Clusters whose workers run trials: to each, the job is sent once, and outcomes come as they are ready."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

from secateur.errors import InputError
from secateur.graph.export import first_line
from secateur.search.bench import Job, Outcome
from secateur.search.worker import Asked, measured

_RETRIES = 3  # by the cluster, of a trial whose worker is gone
_LOCAL = "local"
Failures = tuple[type[Exception], ...]


class Cluster(Protocol):
    """A connection to a cluster.

    Attributes:
        died: Errors that say that workers ended early, again and again, or took what they held with them.
    """

    died: Failures

    def send(self, job: Job) -> None:
        """Send what trials have in common, once. Raises `TypeError` for what cannot be pickled."""
        ...

    def outcomes(self, asked: Sequence[Asked]) -> Iterator[Outcome]:
        """The outcomes, each as soon as it is there, in any order."""
        ...

    def close(self) -> None: ...


class OnDask:
    """Workers of a Dask scheduler. joblib's backend for Dask would send the job again with each batch."""

    def __init__(self, address: str, token: str) -> None:
        import distributed

        self.died: Failures = (distributed.KilledWorker, distributed.client.FutureCancelledError)
        self._as_completed: Callable[..., Any] = distributed.as_completed
        self._client = distributed.Client(f"tcp://{address}", set_as_default=False)
        self._token = token

    def send(self, job: Job) -> None:
        self._job = self._client.scatter(job, broadcast=True, hash=False)

    def outcomes(self, asked: Sequence[Asked]) -> Iterator[Outcome]:
        given = (self._token, None, self._job)
        futures = [self._client.submit(measured, *given, *each, pure=False) for each in asked]
        try:
            for future in self._as_completed(futures, loop=self._client.loop):
                yield future.result()
        finally:  # of what was not waited for
            self._client.cancel(futures)

    def close(self) -> None:
        self._client.close()


class OnRay:
    """Workers of Ray, of a cluster that this process is connected to already, or of the address.

    joblib's backend for Ray gives outcomes only when all of a batch are there, and none where a worker died.
    """

    died: Failures

    def __init__(self, address: str, token: str) -> None:
        import ray

        self._ray, self._began = ray, not ray.is_initialized()
        if self._began and address == _LOCAL:
            ray.init(_LOCAL, include_dashboard=False, log_to_driver=False)
        elif self._began:
            ray.init(f"ray://{address}")
        gone = ray.exceptions
        self.died = gone.WorkerCrashedError, gone.OutOfMemoryError, gone.NodeDiedError, gone.ObjectLostError
        self._run = ray.remote(num_cpus=1, max_retries=_RETRIES)(measured)
        self._token = token

    def send(self, job: Job) -> None:
        self._job = self._ray.put(job)

    def outcomes(self, asked: Sequence[Asked]) -> Iterator[Outcome]:
        left = [self._run.remote(self._token, None, self._job, *each) for each in asked]
        try:
            while left:
                done, left = self._ray.wait(left, num_returns=1)
                yield self._outcome(done[0])
        finally:
            for reference in left:
                self._ray.cancel(reference, force=True)

    def _outcome(self, reference: Any) -> Outcome:
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        return outcome

    def close(self) -> None:
        if self._began:
            self._ray.shutdown()


@dataclass(frozen=True)
class Kind:
    """A kind of cluster, by the beginning of its address.

    Attributes:
        connect: (address without its beginning, token of the job) → the connection.
        package: That it needs, which the extra of the same name installs.
        example: An address.
        told: What it is the address of.
    """

    connect: Callable[[str, str], Cluster]
    package: str
    example: str
    told: str


KINDS = {
    "dask": Kind(OnDask, "distributed", "dask://host:8786", "a Dask scheduler"),
    "ray": Kind(OnRay, "ray", "ray://host:10001", "a Ray cluster, or ray://local for this machine"),
}
MAY_BE = "; or ".join(f"the address of {kind.told}, as {kind.example}" for kind in KINDS.values())


def check_address(address: str) -> None:
    """Raise `InputError` for an address that cannot be one, and where a package is not installed."""
    name, place = _parts(address)
    if name not in KINDS or not place:
        raise InputError(f"engine={address!r}: give {MAY_BE}")
    kind = KINDS[name]
    if find_spec(kind.package) is None:
        raise InputError(f"{name}:// needs the package {kind.package}: pip install 'secateur[{name}]'")


def connected(address: str, job: Job, token: str) -> Cluster:
    """Raises `InputError` where nothing answers, or the model cannot be sent."""
    name, place = _parts(address)
    try:
        cluster = KINDS[name].connect(place, token)
    except OSError as error:  # of which ConnectionError and TimeoutError are kinds
        raise InputError(f"engine={address!r} does not answer: {first_line(error)}") from error
    try:
        cluster.send(job)
    except TypeError as error:  # as both say it of what pickle refuses
        cluster.close()
        raise cannot_be_sent(error) from error
    return cluster


def cannot_be_sent(error: Exception) -> InputError:
    """What to say where a model cannot be pickled."""
    return InputError(
        "the model cannot be sent to worker processes; save it to a file and give its path, or take "
        f"workers=1 and no engine ({first_line(error)})"
    )


def _parts(address: str) -> tuple[str, str]:
    name, _, place = address.partition("://")
    return name, place
