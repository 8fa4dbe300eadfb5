"""Whole networks on one sample, timed in turns with the original."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.export import ExportedProgram

from secateur.evaluate.cost import turns_of
from secateur.evaluate.latency import example_of, one_sample_pass, usual_runtime
from secateur.evaluate.runtime import fixed_batch
from secateur.formats.format import Runtime
from secateur.graph.example import ExampleInputs

_REPEATS, _SECONDS = 200, 1.5  # of each network, but no more turns once all together have taken so long
_NORMAL = 1.96  # of a 95 % interval


@dataclass(frozen=True)
class Turns:
    """Milliseconds of two networks, medians; and 95 % intervals of what they tell."""

    before: float
    after: float
    ratio: float  # median of the ratios after / before, turn by turn
    ratio_interval: tuple[float, float]
    after_interval: tuple[float, float]


class Clock:
    """Times networks against the original, in the runtime where that is usually run.

    `threads`: of torch, as the caller has set them; onnxruntime takes its own number. The batch is one
    sample, or what the model fixes.
    """

    def __init__(
        self, model: nn.Module | ExportedProgram, example_inputs: ExampleInputs | None, threads: int
    ) -> None:
        self.runtime: Runtime = usual_runtime(model)
        self.threads = threads if self.runtime == "torch" else None
        self.batch = (fixed_batch(model) if isinstance(model, nn.Module) else None) or 1
        self._example = example_of(model, example_inputs)
        self._whole = self._pass(model)

    def whole_and(self, networks: Sequence[nn.Module]) -> list[float]:
        """Median milliseconds of the original, and of each of the others."""
        return [1000 * statistics.median(seconds) for seconds in self._turns(networks)]

    def compare(self, network: nn.Module) -> Turns:
        """The original and another network."""
        before, after = self._turns([network])
        ratios = sorted(b / a for a, b in zip(before, after, strict=True))
        milliseconds = sorted(1000 * seconds for seconds in after)
        return Turns(
            1000 * statistics.median(before),
            statistics.median(milliseconds),
            statistics.median(ratios),
            interval_of_median(ratios),
            interval_of_median(milliseconds),
        )

    def _turns(self, networks: Sequence[nn.Module]) -> list[list[float]]:
        passes = [self._whole, *map(self._pass, networks)]
        with self.with_threads():
            return turns_of(
                passes, torch.device("cpu"), repeats=_REPEATS, warm_up=3, limit_s=_SECONDS * len(passes) / 2
            )

    def _pass(self, network: nn.Module | ExportedProgram) -> Callable[[], object]:
        with self.with_threads():
            return one_sample_pass(network, self._example, self.runtime)

    @contextmanager
    def with_threads(self) -> Iterator[None]:
        """As many threads of torch as the networks will run on."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def interval_of_median(ascending: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the median, from the order of the numbers alone."""
    n = len(ascending)
    margin = _NORMAL * math.sqrt(n) / 2
    low, high = math.floor(n / 2 - margin), math.ceil(n / 2 + margin)
    return ascending[max(0, low - 1)], ascending[min(n - 1, high)]
