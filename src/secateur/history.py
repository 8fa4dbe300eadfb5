"""The steps of a run so far, for the recipe and for `Result.history`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from secateur.errors import StopPruning
from secateur.progress import logger
from secateur.report.recipe import Edit, Step
from secateur.result import HistoryRow
from secateur.run import Run


class History:
    """Rows for the caller and steps for the recipe.

    `stopped` is empty until a callback raises `StopPruning`; then it is the reason.
    """

    def __init__(self, callbacks: Sequence[Callable[[HistoryRow], None]]) -> None:
        self.steps, self.rows = list[Step](), list[HistoryRow]()
        self.stopped = ""
        self._callbacks, self._begin = callbacks, time.perf_counter()

    def restore(self, steps: Sequence[Step], seconds: Sequence[float]) -> None:
        """Go on after these steps of an interrupted run, and the times that it took; nothing is called."""
        self.steps = list(steps)
        self.rows = [_row(step, taken) for step, taken in zip(steps, seconds, strict=True)]
        self._begin = time.perf_counter() - seconds[-1]

    def add(self, run: Run, edits: Sequence[Edit]) -> None:
        """Record a finished step and call the callbacks."""
        step = run.record(len(self.steps) + 1, edits)
        row = _row(step, time.perf_counter() - self._begin)
        self.steps.append(step)
        self.rows.append(row)
        logger.info(
            "step %d: %d units removed, %d parameters, %d MACs",
            row.step,
            row.units_removed,
            row.parameters,
            row.macs,
        )
        for callback in self._callbacks:
            try:
                callback(row)
            except StopPruning as stop:
                self.stopped = f"by a callback: {stop}" if str(stop) else "by a callback"


def _row(step: Step, seconds: float) -> HistoryRow:
    return HistoryRow(step.step, step.units_removed, step.parameters, step.macs, seconds)
