"""Straight lines below and above element-wise functions over intervals, and below and above their changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from secateur.bounds.activations import SLOPES, slope_over
from secateur.bounds.arithmetic import hull, magnitude
from secateur.bounds.rounding import FUNCTIONS
from secateur.bounds.windows import Where
from secateur.graph.functions import Slope
from secateur.types import Interval

_PIECES = 12  # that an interval is cut into, to bound a smooth function's distance from a line


@dataclass(frozen=True, eq=False)
class Lines:
    """Lines slope · v + offset below and above a function over the interval of v.

    `gap`: their mean distance from the function.
    """

    low_slope: Tensor
    low_offset: Tensor
    high_slope: Tensor
    high_offset: Tensor
    low_gap: Tensor
    high_gap: Tensor

    def at(self, where: Where) -> Lines:
        """As each row sees them."""
        return Lines(*(where.at(getattr(self, field.name)) for field in fields(self)))


def relu_lines(x: Interval) -> Lines:
    """max(0, x) is below its chord and above every line through 0 of slope 0 to 1 (Zhang et al. 2018)."""
    low, high = x.lower.clamp(max=0), x.upper.clamp(min=0)
    crossing = (x.lower < 0) & (x.upper > 0)
    width = torch.where(crossing, high - low, 1.0)
    slope = torch.where(crossing, high / width, (x.lower >= 0).to(high.dtype))
    slack = FUNCTIONS * (high - low)
    offset = torch.where(crossing, -slope * low + slack, 0.0)
    chosen = (high > -low).to(high.dtype)
    below = torch.where(crossing, chosen, slope)
    # mean gaps: triangles between the function and the lines
    high_gap = torch.where(crossing, -low * high / width / 2, 0.0)
    low_gap = torch.where(crossing, ((1 - chosen) * high.square() + chosen * low.square()) / (2 * width), 0.0)
    return Lines(below, torch.zeros_like(below), slope, offset, low_gap, high_gap)


def smooth_lines(function: Callable[[Tensor], Tensor], slope: Slope, x: Interval, jump: float = 0.0) -> Lines:
    """Lines of the chord's slope k, moved so far that φ(x) − k x stays between them.

    The interval is cut into pieces; on each, φ − k x is at most its value at an end plus the width times the
    greatest slope there, for which the range of φ′ over the piece is known. `jump`: the most that φ jumps by.
    """
    width = (x.upper - x.lower).clamp(min=torch.finfo(x.lower.dtype).tiny)
    left, right = function(x.lower), function(x.upper)
    k = ((right - left) / width).nan_to_num(0.0, 0.0, 0.0)
    steps = torch.linspace(0, 1, _PIECES + 1, dtype=width.dtype, device=width.device)
    steps = steps.reshape(-1, *[1] * width.ndim)
    at = torch.minimum(x.lower + steps * (x.upper - x.lower), x.upper)
    at[-1] = x.upper
    rest = function(at) - k * at
    piece = slope_over(slope, Interval(at[:-1], at[1:]))
    run = at[1:] - at[:-1]
    rise, fall = (piece.upper - k).clamp(min=0) * run, (k - piece.lower).clamp(min=0) * run
    high = torch.minimum(rest[:-1] + rise, rest[1:] + fall).amax(0)
    low = torch.maximum(rest[:-1] - fall, rest[1:] - rise).amin(0)
    error = FUNCTIONS * 4 * (1 + magnitude(x) * (1 + k.abs()) + left.abs() + right.abs()) + jump
    gap = (high - low) / 2
    return Lines(k, low - error, k, high + error, gap, gap)


def change_lines(slope: Interval, d: Interval, jump: float = 0.0) -> Lines:
    """φ(x + δ) − φ(x) = s δ for some s of the range `slope`: below max(s₋ δ, s₊ δ) and above min(s₋ δ, s₊ δ).

    The one is convex and below its chord, the other concave and above it. `jump`: the most that φ jumps by.
    """
    most_low = torch.maximum(slope.lower * d.lower, slope.upper * d.lower)
    most_high = torch.maximum(slope.lower * d.upper, slope.upper * d.upper)
    least_low = torch.minimum(slope.lower * d.lower, slope.upper * d.lower)
    least_high = torch.minimum(slope.lower * d.upper, slope.upper * d.upper)
    width = d.upper - d.lower
    flat = width <= 0
    width = torch.where(flat, 1.0, width)
    above = torch.where(flat, slope.upper, (most_high - most_low) / width)
    below = torch.where(flat, slope.lower, (least_high - least_low) / width)
    error = FUNCTIONS * (1 + magnitude(slope)) * magnitude(d) + jump
    # of both ends the farther: rounding of the slopes moves them apart
    above_offset = torch.maximum(most_low - above * d.lower, most_high - above * d.upper) + error
    below_offset = torch.minimum(least_low - below * d.lower, least_high - below * d.upper) - error
    at = (d.lower + d.upper) / 2
    gap = ((above - below) * at + above_offset - below_offset).clamp(min=0) / 2
    return Lines(below, below_offset, above, above_offset, gap, gap)


def relu_slope(x: Interval, y: Interval) -> Interval:
    """The range of (relu(y) − relu(x)) / (y − x)."""
    both = hull(x, y)
    return Interval((both.lower >= 0).to(both.lower.dtype), (both.upper > 0).to(both.lower.dtype))


def slope_range(kind: str, arguments: Any, x: Interval, y: Interval) -> Interval:
    """The range of (φ(y) − φ(x)) / (y − x), rounded outward."""
    if kind == "relu":
        return relu_slope(x, y)
    both = hull(x, y)
    found = slope_over(SLOPES[kind](arguments), both)
    error = FUNCTIONS * 4 * (1 + magnitude(both)) * (1 + magnitude(found))
    return Interval(found.lower - error, found.upper + error)
