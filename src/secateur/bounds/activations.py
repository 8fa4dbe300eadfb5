"""The range of a slope over an interval, and the functions whose slopes and turning points are known."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.bounds.arithmetic import extremes
from secateur.graph.functions import Slope, SlopeOf, TurningPoints
from secateur.graph.ops import OPS
from secateur.types import Interval

TURNING: dict[str, TurningPoints] = {name: row.turns for name, row in OPS.items() if row.turns is not None}
SLOPES: dict[str, SlopeOf] = {name: row.slope for name, row in OPS.items() if row.slope is not None}


def slope_over(slope: Slope, value: Interval) -> Interval:
    """The range of `slope` over an interval; on both sides of each kink inside it."""
    sides = tuple(side for kink in slope.kinks for side in _beside(kink, value.lower))
    return extremes(slope.derivative, value, slope.turning + sides)


def _beside(kink: Tensor | float, like: Tensor) -> tuple[Tensor, Tensor]:
    """A point just below and one just above the kink."""
    limits = torch.finfo(like.dtype)
    at = torch.as_tensor(kink, dtype=like.dtype, device=like.device)
    step = torch.clamp(at.abs() * (2 * limits.eps), min=limits.tiny)
    return at - step, at + step
