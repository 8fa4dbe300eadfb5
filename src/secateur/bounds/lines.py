"""Straight lines below and above element-wise functions over intervals, and below and above their changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.bounds.activations import SLOPES, slope_over
from secateur.bounds.arithmetic import hull, magnitude
from secateur.bounds.rounding import FUNCTIONS
from secateur.graph.functions import Slope
from secateur.types import Interval

TINY = 1e-290  # what an exact line may be off by; far above the least normal number, by which 0 is widened

_STEEP = 2.0**20
_PIECES = 12  # that an interval is cut into, to bound a smooth function's distance from a line
_STEPS = 4  # on the way from x to x + δ
_TILTS = (0.0, -1.0, -0.75, -0.5, -0.25, 0.25, 0.5, 0.75, 1.0)  # of planes, in shares of the steepest
_SLOPES = 9  # that are tried between the least and the greatest slope of a smooth function


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

    @property
    def exact(self) -> Tensor:
        """Where both are one line through 0, of a slope that is not too large for a table."""
        same = (self.low_slope == self.high_slope) & (self.low_slope.abs() < _STEEP)
        return same & (self.low_offset.abs() <= TINY) & (self.high_offset.abs() <= TINY)


@dataclass(frozen=True, eq=False)
class Planes:
    """Planes tilt · x + slope · δ + offset below and above φ(x + δ) − φ(x) over the intervals of x and δ.

    `gap`: their distance from the middle of both in the middle of the intervals.
    """

    low_tilt: Tensor
    low_slope: Tensor
    low_offset: Tensor
    high_tilt: Tensor
    high_slope: Tensor
    high_offset: Tensor
    low_gap: Tensor
    high_gap: Tensor


def relu_lines(x: Interval) -> Lines:
    """max(0, x) is below its chord and above every line through 0 of slope 0 to 1 (Zhang et al. 2018)."""
    low, high = x.lower.clamp(max=0), x.upper.clamp(min=0)
    crossing = (x.lower < 0) & (x.upper > TINY)
    width = torch.where(crossing, high - low, 1.0)
    slope = torch.where(crossing, high / width, (x.lower >= 0).to(high.dtype))
    slack = FUNCTIONS * (high - low)
    offset = torch.where(crossing, -slope * low + slack, high.clamp(max=TINY) * (x.lower < 0))
    chosen = (high > -low).to(high.dtype)
    below = torch.where(crossing, chosen, slope)
    # mean gaps: triangles between the function and the lines
    high_gap = torch.where(crossing, -low * high / width / 2, 0.0)
    low_gap = torch.where(crossing, ((1 - chosen) * high.square() + chosen * low.square()) / (2 * width), 0.0)
    return Lines(below, torch.zeros_like(below), slope, offset, low_gap, high_gap)


def smooth_lines(function: Callable[[Tensor], Tensor], slope: Slope, x: Interval, jump: float = 0.0) -> Lines:
    """Of lines of several slopes k, moved so far that φ(x) − k x stays on one side, the nearest on the mean.

    The interval is cut into pieces; on each, φ − k x is at most its value at an end plus the width times the
    greatest slope there, for which the range of φ′ over the piece is known. `jump`: the most that φ jumps by.
    """
    at = _cut(x)
    value, run = function(at), at[1:] - at[:-1]
    piece = slope_over(slope, Interval(at[:-1], at[1:]))
    width = (x.upper - x.lower).clamp(min=torch.finfo(x.lower.dtype).tiny)
    chord = ((value[-1] - value[0]) / width).nan_to_num(0.0, 0.0, 0.0)
    least, most = piece.lower.amin(0), piece.upper.amax(0)
    shares = torch.linspace(0, 1, _SLOPES, dtype=width.dtype, device=width.device).tolist()
    mean, middle, size = value.mean(0), (x.lower + x.upper) / 2, magnitude(x)
    lowest = highest = None
    for k in (chord, *((least + share * (most - least)).nan_to_num(0.0, 0.0, 0.0) for share in shares)):
        rest = value - k * at
        rise, fall = (piece.upper - k).clamp(min=0) * run, (k - piece.lower).clamp(min=0) * run
        error = FUNCTIONS * 4 * (1 + size * (1 + k.abs()) + value[0].abs() + value[-1].abs()) + jump
        high = torch.minimum(rest[:-1] + rise, rest[1:] + fall).amax(0) + error
        low = torch.maximum(rest[:-1] - fall, rest[1:] - rise).amin(0) - error
        lowest = _nearer(lowest, mean - k * middle - low, k, low)
        highest = _nearer(highest, k * middle + high - mean, k, high)
    assert lowest is not None and highest is not None
    (low_gap, low_slope, low), (high_gap, high_slope, high) = lowest, highest
    return Lines(low_slope, low, high_slope, high, low_gap.clamp(min=0), high_gap.clamp(min=0))


def _cut(x: Interval) -> Tensor:
    """The ends of the pieces of each interval, (pieces + 1, …)."""
    steps = torch.linspace(0, 1, _PIECES + 1, dtype=x.lower.dtype, device=x.lower.device)
    at = torch.minimum(x.lower + steps.reshape(-1, *[1] * x.lower.ndim) * (x.upper - x.lower), x.upper)
    at[-1] = x.upper
    return at


def _nearer(best: tuple[Tensor, ...] | None, *new: Tensor) -> tuple[Tensor, ...]:
    """At each neuron the one whose first number is less."""
    if best is None:
        return new
    take = new[0] < best[0]
    return tuple(torch.where(take, n, b) for n, b in zip(new, best, strict=True))


def relu_planes(x: Interval, y: Interval, d: Interval) -> Planes:
    """One piece, and no tilt: with more of both bounds are nearer by a hundredth."""
    whole = Interval(x.lower[None], x.upper[None])
    slope = relu_slope(x, y)
    return _planes(whole, d, Interval(slope.lower[None], slope.upper[None]), [torch.zeros_like(x.lower)], 0.0)


def smooth_planes(
    slopes: Callable[[Interval, Interval], Interval], x: Interval, y: Interval, d: Interval, jump: float = 0.0
) -> Planes:
    """From `slopes`, the range of (φ(y) − φ(x)) / (y − x) for intervals of x and y; see `slope_range`.

    The interval of x is cut into pieces. On each the slope from x to x + δ is the mean of those of some steps
    on the way. `jump`: the most that φ jumps by.
    """
    at, both = _cut(x), hull(x, y)
    left, right = at[:-1], at[1:]
    low, high = torch.zeros_like(left), torch.zeros_like(left)
    for step in range(_STEPS):
        ends = [end * share / _STEPS for end in (d.lower, d.upper) for share in (step, step + 1)]
        # on the way from x to y; its nearest end where that leaves nothing
        lower = (left + torch.minimum(ends[0], ends[1])).clamp(both.lower, both.upper)
        upper = (right + torch.maximum(ends[2], ends[3])).clamp(both.lower, both.upper)
        found = slopes(Interval(lower, upper), Interval(lower, upper))
        low, high = low + found.lower / _STEPS, high + found.upper / _STEPS
    width = (x.upper - x.lower).clamp(min=torch.finfo(left.dtype).tiny)
    steepest = (2 * (high.amax(0) - low.amin(0)) * magnitude(d) / width).nan_to_num(0.0, 0.0, 0.0)
    tilts = [share * steepest for share in _TILTS]
    return _planes(Interval(left, right), d, Interval(low, high), tilts, jump)


def _planes(x: Interval, d: Interval, slope: Interval, tilts: Sequence[Tensor], jump: float) -> Planes:
    """φ(x + δ) − φ(x) = s δ with s in `slope`, for each piece of x (leading axis).

    At a given x that is between min(s₋ δ, s₊ δ) and max(s₋ δ, s₊ δ). The latter is convex, so that a plane is
    above it where it is so at the ends of δ; and a plane is above a piece where it is so at both ends of x.
    """
    greatest = [torch.maximum(slope.lower * end, slope.upper * end) for end in (d.lower, d.upper)]
    least = [torch.maximum(-slope.lower * end, -slope.upper * end) for end in (d.lower, d.upper)]
    size, most, sizes = magnitude(d), magnitude(slope).amax(0), magnitude(x).amax(0)
    error = FUNCTIONS * 4 * ((1 + most) * size) + jump
    high, *above = _plane_above(x, d, greatest, tilts)
    low, *below = _plane_above(x, d, least, tilts)
    for plane in (above, below):
        plane[2] = plane[2] + error + FUNCTIONS * 4 * (plane[0].abs() * sizes + plane[1].abs() * size)
    gap = (high + low).clamp(min=0) / 2
    return Planes(-below[0], -below[1], -below[2], above[0], above[1], above[2], gap, gap)


def _plane_above(
    x: Interval, d: Interval, top: Sequence[Tensor], tilts: Sequence[Tensor]
) -> Sequence[Tensor]:
    """Height in the middle, tilt, slope and offset of the plane that is lowest there.

    `top`: what it has to be above at the lower and the upper end of δ, on each piece of x.
    """
    width = d.upper - d.lower
    flat = width <= 0
    width = torch.where(flat, 1.0, width)
    at_x, at_d = (x.lower[0] + x.upper[-1]) / 2, (d.lower + d.upper) / 2
    best: tuple[Tensor, ...] | None = None
    for tilt in tilts:
        edge = torch.maximum(-tilt * x.lower, -tilt * x.upper)
        left, right = ((t + edge).amax(0) for t in top)
        slope = torch.where(flat, 0.0, (right - left) / width)
        # of both ends the farther: rounding of the slope moves them apart
        offset = torch.maximum(left - slope * d.lower, right - slope * d.upper)
        best = _nearer(best, tilt * at_x + slope * at_d + offset, tilt, slope, offset)
    assert best is not None
    return best


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
