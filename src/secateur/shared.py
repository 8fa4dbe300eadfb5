"""What several runs on one model have in common, computed once: the capture, samples, and preparations."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch

from secateur.methods import Task
from secateur.request import Request
from secateur.run import State

_Value = TypeVar("_Value")


class Shared:
    """What runs with requests that differ in what is removed, and how, can share.

    The requests may differ in `remove`, `target`, `method`, `allocation`, `round_to`, `step`, `resume` and
    `seed` alone. Results are those of runs by themselves. What depends on the seed is kept for the last one.

    Attributes:
        task: That of the first run, at its start; None before.
    """

    def __init__(self) -> None:
        self.task: Task | None = None
        self._start: State | None = None
        self._seed: int | None = None
        self._lossless = False
        self._kept: dict[Hashable, Any] = {}

    def begin(self, request: Request, make: Callable[[], Task]) -> Task:
        """The task of a run on the whole network; `make` captures the model the first time."""
        if self.task is None or self._start is None or request.method.lossless != self._lossless:
            self.task, self._lossless = make(), request.method.lossless  # other groups may lose units
            self._kept.clear()
        else:
            self.task.run.go_back(self._start)
        self._start = self.task.run.saved()
        if request.seed != self._seed:
            self._seed = request.seed
            self._kept.clear()
        return replace(
            self.task,
            generator=torch.Generator().manual_seed(request.seed),
            seed=request.seed,
            target=request.target,
            allocation=request.allocation,
            round_to=request.round_to,
            costs=self.once("costs", request, dict),
        )

    def once(self, what: str, request: Request, make: Callable[[], _Value]) -> _Value:
        """The value of `make`, from the first request with the same method and use of samples.

        Of methods whose preparation may depend on how much is removed, nothing is kept.
        """
        method = request.method
        if not method.prepares_for_all:
            return make()
        options = tuple(sorted(method.options_set.items()))
        return self._first((what, method.name, options, request.needs_samples), make)

    def drawn(self, request: Request, count: int, make: Callable[[], _Value]) -> _Value:
        """The value of `make`, from the first request that draws `count` samples in the same way."""
        return self._first(("samples", request.needs_samples, count), make)

    def _first(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        if key not in self._kept:
            self._kept[key] = make()
        return cast(_Value, self._kept[key])
