"""Arithmetic on intervals and plain tensors; a tensor is an interval of no width."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from secateur.types import Interval

Value = Interval | Tensor
Operand = Value | float  # numbers stay numbers: a tensor made of one would round it to float32
Bilinear = Callable[[Tensor, Tensor], Tensor]


def settle(lower: Tensor, upper: Tensor) -> Interval:
    """The interval between two computed ends.

    NaN (∞ − ∞, 0·∞) becomes unbounded; ends that rounding swapped are swapped back.
    """
    lower = torch.nan_to_num(lower, nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    upper = torch.nan_to_num(upper, nan=math.inf, posinf=math.inf, neginf=-math.inf)
    return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))


def _settle_in_place(lower: Tensor, upper: Tensor) -> Interval:
    """The same for ends that nothing else holds, and that rounding cannot swap, as it keeps order."""
    torch.nan_to_num_(lower, nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    torch.nan_to_num_(upper, nan=math.inf, posinf=math.inf, neginf=-math.inf)
    return Interval(lower, upper)


def lower(value: Operand) -> Any:
    return value.lower if isinstance(value, Interval) else value


def upper(value: Operand) -> Any:
    return value.upper if isinstance(value, Interval) else value


def as_interval(value: Value) -> Interval:
    return value if isinstance(value, Interval) else Interval(value, value)


def by_row(x: Tensor) -> Tensor:
    """All but the leading axis as one; a sample whose axes are squeezed away has one element."""
    return x.reshape(len(x), -1)


def each(function: Callable[[Tensor], Tensor], value: Value) -> Value:
    """A non-decreasing `function` (every movement of data is one) of both ends."""
    if isinstance(value, Interval):
        return Interval(function(value.lower), function(value.upper))
    return function(value)


def negate(value: Value) -> Value:
    return Interval(-value.upper, -value.lower) if isinstance(value, Interval) else -value


def add(a: Operand, b: Operand) -> Any:
    if isinstance(a, Interval) or isinstance(b, Interval):
        return _settle_in_place(lower(a) + lower(b), upper(a) + upper(b))
    return a + b


def subtract(a: Operand, b: Operand) -> Any:
    if isinstance(a, Interval) or isinstance(b, Interval):
        return _settle_in_place(lower(a) - upper(b), upper(a) - lower(b))
    return a - b


def multiply(a: Operand, b: Operand) -> Any:
    """The element-wise product: its extremes are among the products of the ends."""
    if isinstance(a, Interval) and isinstance(b, Interval):
        products = [a.lower * b.lower, a.lower * b.upper, a.upper * b.lower, a.upper * b.upper]
    elif isinstance(a, Interval) or isinstance(b, Interval):
        products = [lower(a) * lower(b), upper(a) * upper(b)]
    else:
        return a * b
    return _settle_in_place(reduce(torch.minimum, products), reduce(torch.maximum, products))


def scale(value: Operand, factor: float) -> Any:
    """Times a number that is most often 1."""
    return value if factor == 1 else multiply(value, factor)


def reciprocal(value: Operand) -> Any:
    """1/x, unbounded where the interval holds 0."""
    if not isinstance(value, Interval):
        return 1 / value
    crosses = (value.lower <= 0) & (value.upper >= 0)
    return settle(
        torch.where(crosses, -math.inf, 1 / value.upper),
        torch.where(crosses, math.inf, 1 / value.lower),
    )


def divide(a: Operand, b: Operand) -> Any:
    return multiply(a, reciprocal(b))


def square(value: Value) -> Value:
    """x²: 0 is the least where the interval holds it."""
    if isinstance(value, Interval):
        nearest = torch.clamp(torch.zeros_like(value.lower), value.lower, value.upper)
        return settle(nearest.square(), magnitude(value).square())
    return value.square()


def magnitude(value: Value) -> Tensor:
    """max |x|."""
    return torch.maximum(value.lower.abs(), value.upper.abs()) if isinstance(value, Interval) else value.abs()


def product(f: Bilinear, a: Value, b: Value) -> Value:
    """A bilinear `f` by centre c and radius r: f(c_a, c_b) ± [f(|c_a|, r_b) + f(r_a, |c_b| + r_b)].

    Where one side is a plain tensor this is the exact bound of an affine map, W c ± |W| r.
    """
    if not isinstance(a, Interval) and not isinstance(b, Interval):
        return f(a, b)
    (ca, ra), (cb, rb) = _centre_and_radius(a), _centre_and_radius(b)
    terms = []
    if rb is not None:
        terms.append(f(ca.abs(), rb))
    if ra is not None:
        terms.append(f(ra, cb.abs() if rb is None else cb.abs() + rb))
    centre, radius = f(ca, cb), reduce(torch.add, terms)
    return settle(centre - radius, centre + radius)


def _centre_and_radius(value: Value) -> tuple[Tensor, Tensor | None]:
    if not isinstance(value, Interval):
        return value, None
    lower, upper = value.lower / 2, value.upper / 2
    return lower + upper, upper - lower


def hull(a: Value, b: Value) -> Interval:
    return Interval(torch.minimum(lower(a), lower(b)), torch.maximum(upper(a), upper(b)))


def intersect(a: Value, b: Value) -> Interval:
    return settle(torch.maximum(lower(a), lower(b)), torch.minimum(upper(a), upper(b)))


def extremes(
    function: Callable[[Tensor], Tensor], value: Interval, turning: tuple[Tensor | float, ...] = ()
) -> Interval:
    """The range of an element-wise `function` that is monotone between its `turning` points.

    Its extremes are at the ends of the interval or at a turning point inside (clamped to the interval, so
    that one outside adds nothing).
    """
    points = [value.lower, value.upper]
    for turn in turning:
        points.append(torch.clamp(torch.zeros_like(value.lower) + turn, value.lower, value.upper))
    images = [function(point) for point in points]
    return settle(reduce(torch.minimum, images), reduce(torch.maximum, images))
