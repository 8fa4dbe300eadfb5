"""How long a run will take: forward passes, counted and timed, before it begins."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.amounts import amount, may_be
from secateur.graph.footprint import batch_size, footprint, multiplications
from secateur.graph.graph import Graph
from secateur.graph.interpret import run
from secateur.graph.workers import in_order, worker_count
from secateur.surrogates.effort import passes_for

_UNITS = {"": 1.0, "s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}
MAY_BE = f"{may_be('seconds', _UNITS, '5min')}, above 0"
_FEWEST = 32  # samples
_SWEEP = 3.0  # passes of a sample at a step: both networks, and parts of them again
_SENSED = (256, 3)  # samples of the backward pass, and passes that each costs
_DRAWN = 40.0  # passes that drawing one sample costs at most
_VALIDATED = 2 * 512


def as_seconds(value: object) -> float:
    """A number of seconds, or a text with a unit; raises `ValueError` for anything else, or 0."""
    seconds = amount(value, _UNITS)
    if not seconds:
        raise ValueError
    return seconds


@dataclass(frozen=True)
class Pace:
    """What one forward pass of one sample takes, with all workers at work, and how large it is."""

    seconds: float
    work: float  # multiply-accumulates

    def estimate(self, samples: int, steps: int, drawn: bool) -> float:
        """Seconds for a run that refits on `samples`, which are drawn or given."""
        passes = _SWEEP * samples * steps + _SENSED[0] * _SENSED[1] + _VALIDATED
        drawing = min(_DRAWN * samples, passes_for(samples, self.work)) if drawn else 0.0
        return self.seconds * (passes + drawing)

    def affordable(self, seconds: float, most: int, steps: int, drawn: bool) -> int:
        """The largest number of samples, from 32 to `most`, whose estimate is within `seconds`."""
        low, high = _FEWEST, max(_FEWEST, most)
        while low < high:
            middle = (low + high + 1) // 2
            if self.estimate(middle, steps, drawn) <= seconds:
                low = middle
            else:
                high = middle - 1
        return low


def pace_of(graph: Graph) -> Pace:
    """Time forward passes of the example. Cost: a few batches."""
    sizes = footprint(graph)
    size = min(64, batch_size(2 * sizes.peak, graph.example))
    batch = tuple(_repeated(x, size) for x in graph.example)
    workers = worker_count()

    def one(number: int) -> None:
        run(graph, batch)

    one(0)
    begin = time.perf_counter()
    for _ in in_order(one, range(workers)):
        pass
    seconds = (time.perf_counter() - begin) / (workers * size)
    return Pace(seconds, multiplications(graph, sizes))


def _repeated(x: Tensor, count: int) -> Tensor:
    return x[torch.arange(count) % len(x)]


def shown(seconds: float) -> str:
    """For messages: 40 s, 3 min, 1.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "less than 1 s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
