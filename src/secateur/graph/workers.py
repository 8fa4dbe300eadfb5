"""Work on batches side by side; results come in order, so that nothing depends on the number of workers."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

from secateur.memory import give_back_growth

Item = TypeVar("Item")
Value = TypeVar("Value")

MOST = 8  # workers; each holds the values of one batch
_processes: int | None = 1  # that share the processors with this one, itself included; None: one for each


def share_processors(processes: int | None) -> None:
    """Say how many processes like this one work at a time on this machine; None: one for each processor."""
    global _processes
    _processes = processes


def worker_count() -> int:
    """How many processors this process may use, at most 8."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(usable // (_processes or usable), MOST))


def in_order(
    function: Callable[[Item], Value], items: Iterable[Item], workers: int | None = None
) -> Iterator[Value]:
    """Yield `function(item)` for each item, in order, computed in threads of torch ops.

    Each thread runs torch on one thread, with gradients as torch has them by default: `function` switches
    them off where it needs none. At most one result for each worker waits. An error ends the iteration; calls
    that have begun are waited for. Memory that was freed goes back to the system when it has grown.
    """
    count = worker_count() if workers is None else workers
    if count < 2:
        for value in map(function, items):
            give_back_growth()
            yield value
            del value
        return
    left = iter(items)
    with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting: deque[Future[Value]] = deque(pool.submit(function, item) for item in islice(left, count))
        try:
            while waiting:
                value = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(left, 1))
                give_back_growth()
                yield value
                del value
        finally:
            for future in waiting:
                future.cancel()
