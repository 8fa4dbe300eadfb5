"""The only printing: results on stdout, messages on stderr.

`report/tables.py` makes the tables of results.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from secateur.printable import printable
from secateur.strict_json import dumps


def say(message: str) -> None:
    """A message, on stderr."""
    print(f"secateur: {printable(message)}", file=sys.stderr)


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """The texts of warnings in this block, which are shown as always."""
    found: list[str] = []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def kept(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            found.append(str(message))
            show(message, category, *where, **more)

        warnings.showwarning = kept
        yield found


def print_line(text: str) -> None:
    """Text of our own, as it is."""
    print(text)


def print_json(value: Any) -> None:
    """Plain data; see `strict_json` for numbers that are not finite."""
    print(dumps(value))


def print_result(message: str) -> None:
    """A line of the result; it may hold names from files."""
    from rich.console import Console

    Console().print(_safe(message), soft_wrap=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Cells may hold names from files."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*map(_safe, columns))
    for row in rows:
        table.add_row(*map(_safe, row))
    Console().print(table)


def _safe(text: str) -> str:
    from rich.markup import escape

    return escape(printable(text))
