"""What runs in a process of its own: one trial after another, of the last job that it was given."""

from __future__ import annotations

import threading

from secateur.graph.workers import share_processors
from secateur.search.bench import Bench, Job, Outcome
from secateur.search.space import Setting

Asked = tuple[int, Setting]  # a trial's number and what to try
_benches: dict[str, Bench] = {}  # the last one
_alone = threading.Lock()  # a worker of a cluster may have several threads, and a bench runs one trial


def measured(token: str, processes: int | None, job: Job, number: int, setting: Setting) -> Outcome:
    """One trial; what settings of a job have in common is kept, under `token`, for the next.

    `processes` such processes share this machine; None: as many as it has processors.
    """
    with _alone:
        share_processors(processes)
        if token not in _benches:
            _benches.clear()
            _benches[token] = Bench(job)
        return _benches[token].outcome(number, setting)
