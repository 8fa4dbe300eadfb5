"""Summaries of results for notebooks, as small HTML tables."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from secateur.printable import printable


def html_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()
) -> str:
    """A table with a title, and lines below it. Text is escaped, since it may hold names from files."""

    def cells(tag: str, texts: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{_safe(text)}</{tag}>" for text in texts) + "</tr>"

    body = "".join(cells("td", row) for row in rows)
    below = "".join(f"<div>{_safe(note)}</div>" for note in notes)
    return f"<div><b>{_safe(title)}</b><table>{cells('th', columns)}{body}</table>{below}</div>"


def _safe(text: str) -> str:
    return escape(printable(text))
