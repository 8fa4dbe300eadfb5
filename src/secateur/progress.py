"""Progress on stderr: shown to a person at a terminal, silent everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

Item = TypeVar("Item")


def track(items: Sequence[Item], description: str, enabled: bool) -> Iterator[Item]:
    """Yield `items`, with a progress bar where it is `enabled` and stderr is a terminal."""
    if enabled and sys.stderr.isatty():
        yield from rich_track(items, description, console=Console(stderr=True), transient=True)
    else:
        yield from items
