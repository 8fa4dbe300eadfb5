"""Progress on stderr: a bar at a terminal, elsewhere a plain line every ten seconds.

The logger `secateur` receives every phase whether progress is shown or not: its end and its duration at INFO,
its beginning at DEBUG.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO, TypeVar

from rich.console import Console
from rich.progress import track as rich_track

from secateur.printable import printable

Item = TypeVar("Item")

SECONDS = 10.0  # between two lines

logger = logging.getLogger("secateur")
logger.addHandler(logging.NullHandler())  # the caller chooses what is shown, and where


def track(items: Sequence[Item], description: str, enabled: bool) -> Iterator[Item]:
    """Yield `items` and, if `enabled`, report how many are done."""
    with _logged(description):
        for number, item in enumerate(_tracked(items, description, enabled), 1):
            logger.debug("%s: %d of %d", description, number, len(items))
            yield item


def _tracked(items: Sequence[Item], description: str, enabled: bool) -> Iterator[Item]:
    if enabled and sys.stderr.isatty():
        yield from rich_track(items, description, console=Console(stderr=True), transient=True)
        return
    report = Report(description, len(items))
    with _written(report, enabled):
        for number, item in enumerate(items):
            report.done = number
            yield item


def notice(said: str, enabled: bool) -> None:
    """Write one line, where it is `enabled`; it may hold names from files."""
    logger.info(said)
    if enabled:
        sys.stderr.write(f"secateur: {printable(said)}\n")


@contextmanager
def phase(description: str, enabled: bool) -> Iterator[None]:
    """If `enabled`, report that work without steps is going on."""
    shown = Console(stderr=True).status(description) if enabled and sys.stderr.isatty() else None
    with _logged(description), shown or _written(Report(description), enabled):
        yield


@contextmanager
def _logged(description: str) -> Iterator[None]:
    begin = time.monotonic()
    logger.debug("%s …", description)
    try:
        yield
    finally:
        logger.info("%s: %.1f s", description, time.monotonic() - begin)


class Report:
    """The progress of one phase: its name, the number of finished steps, and the time since it began."""

    def __init__(self, name: str, steps: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.steps, self.done = name, steps, 0
        self._clock, self._begin = clock, clock()

    def line(self) -> str:
        share = f" {self.done}/{self.steps}" if self.steps > 1 else ""
        return f"secateur: {self.name}{share} ({self._clock() - self._begin:.0f} s)\n"

    def write(self, stream: TextIO, over: threading.Event) -> None:
        """Write a line every ten seconds until `over` is set."""
        while not over.wait(SECONDS):
            stream.write(self.line())
            stream.flush()


@contextmanager
def _written(report: Report, enabled: bool) -> Iterator[None]:
    """Write the lines from a thread, so that one long call does not delay them."""
    if not enabled:
        yield
        return
    over = threading.Event()
    stream = sys.stderr  # torch's own messages are kept from it while a model is exported, ours are not
    thread = threading.Thread(target=report.write, args=(stream, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
