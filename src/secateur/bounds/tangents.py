"""Tangents: ops of several values (products, softmax, norms) as linear at a point, plus a remainder.

Over a box round x₀, op(x) = J x + offset + r with |r| ≤ gap, element by element. Coefficients go back by Jᵀ.
Where the bounds of the value itself leave no more room than the gap, an element is bounded by these, and its
coefficients end there.
The rules, in `products`, `softmax` and `norms`, give the tangent of one op in one network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from secateur.bounds.coefficients import Arrival, Coefficients, dot
from secateur.bounds.rounding import gamma
from secateur.bounds.windows import Where
from secateur.types import Interval

# rows of coefficients of the result, and their boxes → of each argument that varies
Transpose = Callable[[Tensor, Tensor], list[tuple[fx.Node, Tensor]]]


@dataclass(frozen=True, eq=False)
class Tangent:
    """J by its transpose; offset and gap, (boxes, *shape); `used`: where intervals leave more room."""

    transpose: Transpose
    offset: Tensor
    gap: Tensor
    used: Tensor

    @staticmethod
    def of(transpose: Transpose, offset: Tensor, gap: Tensor, value: Interval) -> Tangent:
        """`value`: bounds on the op's result."""
        found = torch.isfinite(offset) & torch.isfinite(gap) & (gap < (value.upper - value.lower) / 2)
        return Tangent(transpose, torch.where(found, offset, 0.0), torch.where(found, gap, 0.0), found)


def through_tangent(
    tangents: tuple[Tangent, Tangent], found: Coefficients, seen: Where
) -> tuple[list[Tensor], list[Arrival], Coefficients]:
    """What rows come to at an op with tangents in f and in g.

    Returns constants (rows,) to add up, coefficients of the arguments, and those that end at the op itself.
    """
    constants, arrivals = list[Tensor](), list[Arrival]()
    rest: list[Tensor | None] = [None, None]
    for side, c in enumerate(found):
        if c is None:
            continue
        tangent = tangents[side]
        used = seen.at(tangent.used)
        line, rest[side] = torch.where(used, c, 0.0), torch.where(used, 0.0, c)
        offset, gap = seen.at(tangent.offset), seen.at(tangent.gap)
        size = dot(line.abs(), offset.abs() + gap)
        constants += [dot(line, offset), -dot(line.abs(), gap), -4 * gamma(offset[0].numel()) * size]
        for source, new in tangent.transpose(line, seen.box):
            pair: Coefficients = (None, new) if side else (new, None)
            arrivals.append(Arrival(source, 0, pair, seen))
    return constants, arrivals, (rest[0], rest[1])


def centre_and_radius(x: Interval) -> tuple[Tensor, Tensor]:
    """A point of an interval, and how far its ends are from it at most."""
    centre = x.lower / 2 + x.upper / 2
    return centre, torch.maximum(x.upper - centre, centre - x.lower) * (1 + gamma(8))


def of_boxes(value: Tensor, box: Tensor) -> Tensor:
    """What is known for each row's box."""
    return value[box] if len(value) > 1 else value


def is_bounded(x: Interval) -> bool:
    """Whether all ends are finite."""
    return bool(torch.isfinite(x.lower).all() & torch.isfinite(x.upper).all())
