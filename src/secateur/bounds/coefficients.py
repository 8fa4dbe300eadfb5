"""Coefficients (a, b) of a·x + b·x′, one row for each bound that is asked for, and where they are to go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from secateur.bounds.arithmetic import by_row, magnitude
from secateur.bounds.pairs import after, before
from secateur.bounds.rounding import gamma
from secateur.bounds.windows import Where, Window, fitted, joined, move_apart, of_image, whole

Coefficients = tuple[Tensor | None, Tensor | None]  # of x and of x′, (rows, *shape of one sample); None: zero
Results = dict[int, Coefficients]  # by the number of a node's result; 0 where it has only one


@dataclass(frozen=True, eq=False)
class Arrival:
    """Coefficients of one result of a node."""

    node: fx.Node
    result: int
    coefficients: Coefficients
    where: Where


Pending = dict[fx.Node, tuple[Results, Where]]  # what has arrived at each node so far


def arrive(pending: Pending, new: Arrival, shape: Sequence[int]) -> None:
    """Add coefficients to those that wait at their node, whose value has `shape` for one sample."""
    if new.node not in pending:
        pending[new.node] = ({new.result: new.coefficients}, new.where)
        return
    results, where = pending[new.node]
    old, seen, added = results.get(new.result, (None, None)), new.where, new.coefficients
    if isinstance(seen, Window) and isinstance(where, Window):
        if move_apart(where, seen):
            (old, where), (added, seen) = on_image(old, where, shape), on_image(added, seen, shape)
        where, pad_old, pad_new = joined(where, seen)
        old, added = _padded(old, pad_old), _padded(added, pad_new)
    results[new.result] = (total(old[0], added[0]), total(old[1], added[1]))
    pending[new.node] = (results, where)


def total(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """a + b, where None is zero."""
    if a is None or b is None:
        return b if a is None else a
    return a + b


def merged(pair: Coefficients) -> Coefficients:
    """The coefficients where x and x′ are the same."""
    return total(*pair), None


def _padded(pair: Coefficients, pad: tuple[int, ...]) -> Coefficients:
    a, b = (c if c is None or not any(pad) else torch.nn.functional.pad(c, pad) for c in pair)
    return a, b


def on_image(pair: Coefficients, seen: Window, shape: Sequence[int]) -> tuple[Coefficients, Window]:
    """The same coefficients with the whole image as their window."""
    a, b = (c if c is None else whole(c, seen, shape) for c in pair)
    return (a, b), of_image(seen, shape)


def inside_image(pair: Coefficients, seen: Window, shape: Sequence[int]) -> Coefficients:
    """The coefficients with zeros outside the image."""
    a, b = (fitted(c, seen, shape) for c in pair)
    return a, b


# --- products with values -----------------------------------------------------------------------------------


def dot(c: Tensor, value: Tensor) -> Tensor:
    """The product of each row of coefficients with `value`, shape (rows,)."""
    return by_row(c * value).sum(1)


def dot_below(c: Tensor, value: Tensor) -> Tensor:
    """The same rounded down, for one `value` of all rows."""
    flat, value = by_row(c), value.flatten()
    return flat @ value - gamma(len(value)) * (flat.abs() @ value.abs())


def dot_size(found: Coefficients, value: Any, seen: Where) -> Any:
    """At most |a|·|x| + |b|·|x′|, shape (rows,)."""
    size: Any = 0.0
    for c, x in zip(found, (before(value), after(value)), strict=True):
        if c is not None:
            size = size + dot(c.abs(), seen.at(magnitude(x)))
    return size
