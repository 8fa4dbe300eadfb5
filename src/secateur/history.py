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

    def add(self, run: Run, edits: Sequence[Edit]) -> None:
        """Record a finished step and call the callbacks."""
        step = run.record(len(self.steps) + 1, edits)
        seconds = time.perf_counter() - self._begin
        row = HistoryRow(step.step, step.units_removed, step.parameters, step.macs, seconds)
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
