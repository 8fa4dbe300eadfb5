"""Coefficients (a, b) of a·x + b·x′, one row for each bound that is asked for, and where they are to go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from secateur.bounds.arithmetic import by_row
from secateur.bounds.rounding import gamma
from secateur.bounds.windows import Where, Window, added, fitted, joined, move_apart, of_image, whole

Coefficients = tuple[Tensor | None, Tensor | None]  # of x and of x′, (rows, *shape of one sample); None: zero
Results = dict[int, Coefficients]  # by the number of a node's result; 0 where it has only one


@dataclass(frozen=True, eq=False)
class Arrival:
    """Coefficients of one result of a node."""

    node: fx.Node
    result: int
    coefficients: Coefficients
    where: Where


Pending = dict[fx.Node, list[Arrival]]  # what has arrived at each node so far


def collected(arrivals: Sequence[Arrival], shape: Sequence[int], spread: bool) -> tuple[Results, Where]:
    """The sum of what has arrived at a node whose value has `shape` for one sample.

    `spread`: whether the op takes the places of a window that are apart as they are.
    """
    first = arrivals[0].where
    if isinstance(first, Window):
        windows = [(a.coefficients, a.where) for a in arrivals if isinstance(a.where, Window)]
        pair, window = windows[0] if spread and len(windows) == 1 else _joined(windows, shape)
        return {0: pair}, window
    results: Results = {}
    for arrival in arrivals:
        old, new = results.get(arrival.result, (None, None)), arrival.coefficients
        results[arrival.result] = (total(old[0], new[0]), total(old[1], new[1]))
    return results, first


def _joined(
    windows: Sequence[tuple[Coefficients, Window]], shape: Sequence[int]
) -> tuple[Coefficients, Window]:
    """The sum of windows as one without gaps."""
    if any(move_apart(windows[0][1], window) for _, window in windows):
        windows = [on_image(*_joined([part], shape), shape) for part in windows]
    union = joined([window for _, window in windows])
    sides = [
        added([(c, window) for pair, window in windows if (c := pair[side]) is not None], union)
        for side in (0, 1)
    ]
    return (sides[0], sides[1]), union


def total(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """a + b, where None is zero."""
    if a is None or b is None:
        return b if a is None else a
    return a + b


def merged(pair: Coefficients) -> Coefficients:
    """The coefficients where x and x′ are the same."""
    return total(*pair), None


def on_image(pair: Coefficients, seen: Window, shape: Sequence[int]) -> tuple[Coefficients, Window]:
    """The same coefficients with the whole image as their window."""
    a, b = (c if c is None else whole(c, seen, shape) for c in pair)
    return (a, b), of_image(seen, shape)


def inside_image(pair: Coefficients, seen: Window, shape: Sequence[int]) -> Coefficients:
    """The coefficients with zeros outside the image."""
    a, b = (fitted(c, seen, shape) for c in pair)
    return a, b


# --- products with values -----------------------------------------------------------------------------------


def over_rows(c: Tensor) -> Tensor:
    """The sum of each row, in whatever order its numbers lie in memory."""
    return c.sum(tuple(range(1, c.ndim))) if c.ndim > 1 else c


def dot(c: Tensor, value: Tensor) -> Tensor:
    """The product of each row of coefficients with `value`, shape (rows,)."""
    return over_rows(c * value)


def size_of(*coefficients: Tensor | None) -> Tensor | float:
    """Σ |c| of each row: times the largest value, what its products with all values come to at most."""
    sizes = [
        torch.linalg.vector_norm(c, 1, tuple(range(1, c.ndim))) if c.ndim > 1 else c.abs()
        for c in coefficients
        if c is not None
    ]
    return sum(sizes[1:], sizes[0]) if sizes else 0.0


def dot_below(c: Tensor, value: Tensor) -> Tensor:
    """The same rounded down, for one `value` of all rows."""
    return by_row(c) @ value.flatten() - gamma(value.numel()) * value.abs().max() * size_of(c)
