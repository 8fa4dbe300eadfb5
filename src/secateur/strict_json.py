"""JSON that every parser reads: numbers that are not finite are written by name."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

_BY_NAME = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}  # as pydantic reads numbers


def dumps(value: Any) -> str:
    """Plain data as JSON; infinities and NaN are the texts "Infinity", "-Infinity" and "NaN"."""
    return json.dumps(written(value), indent=1, allow_nan=False)


def loads(content: bytes) -> Any:
    """JSON from a file that someone else wrote. Raises `ValueError`, also for a key that stands twice in one
    object, of which parsers take different ones, and for nesting too deep to be read.
    """
    try:
        return json.loads(content.decode(), object_pairs_hook=_without_repetition)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"the key {counts.most_common(1)[0][0]!r} stands twice")
    return found


def written(value: Any) -> Any:
    """Plain data with those texts in place of the numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return _mapped(written, value)


def read(value: Any) -> Any:
    """Plain data with the numbers in place of the texts, for fields where pydantic expects no number."""
    if isinstance(value, str):
        return _BY_NAME.get(value, value)
    return _mapped(read, value)


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: function(item) for name, item in value.items()}
    return [function(item) for item in value] if isinstance(value, list | tuple) else value
