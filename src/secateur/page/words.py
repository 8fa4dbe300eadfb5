"""Numbers and lists as a report writes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from secateur.page.facts import Figure, Kind
from secateur.report.tables import upward


def _count(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else f"{value}"


def _at_least(value: float) -> str:
    """Rounded down, but for what a quotient of counts is rounded by."""
    return f"{math.floor(10_000 * value + 1e-9) / 10_000:.2%}"


_WRITTEN: dict[Kind, Callable[[float], str]] = {
    "count": _count,
    "bytes": lambda value: f"{value / 1000:,.1f} kB",
    "ms": lambda value: f"{value:.3g} ms",
    "share": lambda value: f"{value:.2%}",
    "number": lambda value: f"{value:.4g}",
    "at most": upward,
    "share at most": lambda value: f"{upward(100 * value)}%",
    "share at least": _at_least,
}


def number(value: float | None, kind: Kind = "number") -> str:
    """A number as text; empty for None."""
    return "" if value is None else _WRITTEN[kind](value)


def share(value: float | None) -> str:
    return number(value, "share")


def plain_percent(value: float) -> str:
    """A share that was set and not measured, with all of its digits."""
    return f"{100 * value:.10g}%"


def interval(value: tuple[float, float] | None, kind: Kind) -> str:
    return "" if value is None else f"{number(value[0], kind)} to {number(value[1], kind)}"


def change(figure: Figure) -> str:
    """What went of a size; of a share, by how many points it changed."""
    if figure.removed is not None:
        return f"−{figure.removed:.1%}" if figure.removed >= 0 else f"+{-figure.removed:.1%}"
    if figure.kind == "share" and figure.before is not None and figure.after is not None:
        return f"{points(figure.before, figure.after)} points"
    return ""


def points(before: float | None, after: float | None) -> str:
    """The change of a share in percentage points; empty where one is not known."""
    if before is None or after is None:
        return ""
    return f"{100 * (after - before):+.2f}".replace("-", "−")


def listed(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def counted(number_of: int, thing: str) -> str:
    return f"{number_of:,} {thing}{'' if number_of == 1 else 's'}"
