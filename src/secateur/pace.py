"""How long a run will take: passes and the linear algebra, counted and timed, before it begins."""

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
from secateur.reconstruct.effort import SolveTime
from secateur.surrogates.effort import passes_for

_UNITS = {"": 1.0, "s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}
MAY_BE = f"{may_be('seconds', _UNITS, '5min')}, above 0"
_FEWEST = 32  # samples
_SWEEP = 3.0  # passes of a sample at a step: both networks, and parts of them again
_SENSED = (256, 3)  # samples of the backward pass, and passes that each costs
_DRAWN = 40.0  # passes that drawing one sample costs at most
_JUDGED = 2  # passes of a validation sample: both networks


def as_seconds(value: object) -> float:
    """A number of seconds, or a text with a unit; raises `ValueError` for anything else, or 0."""
    seconds = amount(value, _UNITS)
    if not seconds:
        raise ValueError
    return seconds


@dataclass(frozen=True)
class Pace:
    """What a run consists of, and what its parts take."""

    seconds: float  # of one forward pass of one sample, with all workers at work
    work: float  # multiply-accumulates of that
    steps: int  # of the run
    drawn: bool  # whether the samples for refitting are drawn, or a user's own
    judged: int  # validation samples
    solves: SolveTime

    def estimate(self, samples: int) -> float:
        """Seconds for a run that refits on `samples`."""
        passes = _SWEEP * samples * self.steps + _SENSED[0] * _SENSED[1] + _JUDGED * self.judged
        drawing = min(_DRAWN * samples, passes_for(samples, self.work)) if self.drawn else 0.0
        return self.seconds * (passes + drawing) + self.solves.estimate(samples, self.steps)

    def affordable(self, seconds: float, most: int) -> int:
        """The largest number of samples, from 32 to `most`, whose estimate is within `seconds`.

        `most` where that is less than 32.
        """
        low, high = min(_FEWEST, most), most
        while low < high:
            middle = (low + high + 1) // 2
            if self.estimate(middle) <= seconds:
                low = middle
            else:
                high = middle - 1
        return low


def pass_time(graph: Graph) -> tuple[float, float]:
    """Seconds of a forward pass of one sample with all workers at work, and its multiply-accumulates.

    Cost: a few batches of the example.
    """
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
    return seconds, multiplications(graph, sizes)


def _repeated(x: Tensor, count: int) -> Tensor:
    return x[torch.arange(count) % len(x)]


def shown(seconds: float) -> str:
    """For messages: 40 s, 3 min, 1.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "less than 1 s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
