"""Amounts that a user states: a number, or a text with a number and its unit."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from numbers import Real

_AMOUNT = re.compile(r"\s*(\+?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z%]*)\s*")


def amount(value: object, units: Mapping[str, float]) -> float:
    """The number that `value` states, times its unit; finite, at least 0.

    Args:
        value: A real number, or a text such as "2GiB", "1.5 h" or "3e2ms".
        units: Unit → factor; upper and lower case differ. "" stands for a number without a unit.

    Raises:
        ValueError: `value` is something else, or has another unit.

    Examples:
        >>> amount("1.5 min", {"s": 1.0, "min": 60.0}), amount(2, {"": 1.0})
        (90.0, 2.0)
    """
    number, unit = _parts(value)
    if unit not in units or not math.isfinite(found := number * units[unit]):
        raise ValueError(f"{value!r} has none of the units {', '.join(filter(None, units))}, or is too large")
    return found


def as_share(value: object) -> float:
    """The share that `value` states: 0.5, "0.5" or "50%". Raises `ValueError` for anything else.

    Examples:
        >>> as_share("35%"), as_share(0.35)
        (0.35, 0.35)
    """
    number, unit = _parts(value)
    if unit not in ("", "%"):
        raise ValueError(f"{value!r} is not a share")
    return number / 100 if unit else number


def may_be(alone: str, units: Mapping[str, float], example: str) -> str:
    """What an amount may be, for errors; `alone` is what a number without a unit counts."""
    return f"{alone}, or a text with a unit ({', '.join(filter(None, units))}) such as {example!r}"


def _parts(value: object) -> tuple[float, str]:
    """The number, at least 0, and the unit, "" where there is none."""
    found = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    if found is not None:
        return float(found[1]), found[2]
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < math.inf:
        raise ValueError(f"{value!r} is not a number with a unit")
    return float(value), ""
