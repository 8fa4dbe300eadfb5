"""What is known of element-wise functions: where they turn, and where their slopes lie.

An element-wise function is monotone between its turning points, and so is its derivative between the critical
points of the slope; both give exact ranges over an interval. `softplus` is the smooth function: PyTorch's
switch to the identity above a threshold moves it by at most log(1 + exp(−threshold))/beta, 2e-9 by default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from secateur.bounds.arithmetic import extremes
from secateur.types import Interval

Arguments = Mapping[str, Any]  # an op's arguments by schema name
Points = tuple[Any, ...]

# Minimisers and inflection points, to double precision (checked on a grid in the tests).
GELU_MIN, GELU_BEND = -0.75179152469356445746, math.sqrt(2)
GELU_TANH_MIN, GELU_TANH_BEND = -0.75246142207101625849, 1.4185040087908283555
SILU_MIN, SILU_BEND = -1.2784645427610737951, 2.3993572805154676678
MISH_MIN, MISH_BENDS = -1.1924312145154952121, (-2.25637639636079312, 1.4905711794854284593)
SELU_ALPHA, SELU_SCALE = 1.6732632423543772848, 1.0507009873554804934


@dataclass(frozen=True)
class Slope:
    """A derivative, the points where it turns, and the kinks of the function, where it may jump."""

    derivative: Callable[[Tensor], Tensor]
    turning: Points = ()
    kinks: Points = field(default=())

    def over(self, value: Interval) -> Interval:
        """The range of the slope over an interval: both sides of each kink inside count."""
        sides = tuple(side for kink in self.kinks for side in _beside(kink, value.lower))
        return extremes(self.derivative, value, self.turning + sides)


def _beside(kink: Tensor | float, like: Tensor) -> tuple[Tensor, Tensor]:
    """A point just below and one just above the kink."""
    limits = torch.finfo(like.dtype)
    at = torch.as_tensor(kink, dtype=like.dtype, device=like.device)
    step = torch.clamp(at.abs() * (2 * limits.eps), min=limits.tiny)
    return at - step, at + step


def _is_tanh(a: Arguments) -> bool:
    return bool(a["approximate"] == "tanh")


def _power_turns(a: Arguments) -> Points:
    """x^p turns at 0 for even p; no other whole or fractional power p > 0 turns where it is real."""
    return (0.0,) if a["exponent"] % 2 == 0 else ()


# op -> the points where the function itself turns, from the op's arguments.
TURNING: dict[str, Callable[[Arguments], Points]] = {
    "abs": lambda a: (0.0,),
    "celu": lambda a: (0.0,),
    "elu": lambda a: (0.0,),
    "gelu": lambda a: (GELU_TANH_MIN if _is_tanh(a) else GELU_MIN,),
    "hardswish": lambda a: (-1.5,),
    "leaky_relu": lambda a: (0.0,),
    "mish": lambda a: (MISH_MIN,),
    "pow": _power_turns,
    "prelu": lambda a: (0.0,),
    "silu": lambda a: (SILU_MIN,),
    "square": lambda a: (0.0,),
}


def _step_between(low: Any, high: Any) -> Slope:
    """The slope of clamp: 1 between its limits, 0 outside; a limit of None is none."""

    def derivative(x: Tensor) -> Tensor:
        inside = torch.ones_like(x, dtype=torch.bool)
        inside = inside if low is None else inside & (x >= low)
        inside = inside if high is None else inside & (x <= high)
        return inside.to(x.dtype)

    return Slope(derivative, kinks=tuple(limit for limit in (low, high) if limit is not None))


def two_sided(negative: Callable[[Tensor], Tensor], positive: float = 1.0) -> Slope:
    """A slope that is constant above the kink at 0 and given below it."""
    return Slope(lambda x: torch.where(x > 0, positive, negative(x.clamp(max=0))), kinks=(0.0,))


def _elu(a: Arguments) -> Slope:
    alpha, scale, inner = (float(a[name]) for name in ("alpha", "scale", "input_scale"))
    return two_sided(lambda x: scale * alpha * inner * torch.exp(inner * x), scale)


def _gelu(a: Arguments) -> Slope:
    if _is_tanh(a):
        return Slope(_gelu_tanh_slope, (-GELU_TANH_BEND, GELU_TANH_BEND))
    # (x Φ(x))′ = Φ(x) + x φ(x)
    return Slope(
        lambda x: torch.special.ndtr(x) + x * torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi),
        (-GELU_BEND, GELU_BEND),
    )


def _gelu_tanh_slope(x: Tensor) -> Tensor:
    """(x (1 + tanh u)/2)′ = (1 + tanh u)/2 + x (1 − tanh² u) u′/2 with u = √(2/π) (x + 0.044715 x³)."""
    root = math.sqrt(2 / math.pi)
    t = torch.tanh(root * (x + 0.044715 * x**3))
    return (1 + t) / 2 + x * (1 - t.square()) * root * (1 + 3 * 0.044715 * x.square()) / 2


def _hardswish_slope(x: Tensor) -> Tensor:
    return torch.where(x.abs() <= 3, (2 * x + 3) / 6, (x > 0).to(x.dtype))


def _mish_slope(x: Tensor) -> Tensor:
    """(x t)′ = t + x (1 − t²) σ(x) with t = tanh(softplus(x))."""
    t = torch.tanh(torch.nn.functional.softplus(x))
    return t + x * (1 - t.square()) * torch.sigmoid(x)


def _sigmoid_slope(x: Tensor) -> Tensor:
    return torch.sigmoid(x) * torch.sigmoid(-x)


def _silu_slope(x: Tensor) -> Tensor:
    return torch.sigmoid(x) + x * _sigmoid_slope(x)


def _power(a: Arguments) -> Slope:
    p = a["exponent"]
    return Slope(lambda x: p * torch.pow(x, p - 1), kinks=(0.0,))


# op -> the slope of the function, from the op's arguments.
SLOPES: dict[str, Callable[[Arguments], Slope]] = {
    "abs": lambda a: Slope(torch.sign, kinks=(0.0,)),
    "celu": lambda a: two_sided(lambda x: torch.exp(x / a["alpha"])),
    "clamp": lambda a: _step_between(a["min"], a["max"]),
    "clamp_max": lambda a: _step_between(None, a["max"]),
    "clamp_min": lambda a: _step_between(a["min"], None),
    "elu": _elu,
    "erf": lambda a: Slope(lambda x: 2 / math.sqrt(math.pi) * torch.exp(-x.square()), (0.0,)),
    "exp": lambda a: Slope(torch.exp),
    "gelu": _gelu,
    "hardsigmoid": lambda a: Slope(lambda x: _step_between(-3.0, 3.0).derivative(x) / 6, kinks=(-3.0, 3.0)),
    "hardswish": lambda a: Slope(_hardswish_slope, kinks=(-3.0, 3.0)),
    "hardtanh": lambda a: _step_between(a["min_val"], a["max_val"]),
    "leaky_relu": lambda a: two_sided(lambda x: torch.full_like(x, a["negative_slope"])),
    "log": lambda a: Slope(torch.reciprocal, kinks=(0.0,)),
    "log_sigmoid": lambda a: Slope(lambda x: torch.sigmoid(-x)),
    "mish": lambda a: Slope(_mish_slope, MISH_BENDS),
    "pow": _power,
    "reciprocal": lambda a: Slope(lambda x: -1 / x.square(), kinks=(0.0,)),
    "relu6": lambda a: _step_between(0.0, 6.0),
    "rsqrt": lambda a: Slope(lambda x: -0.5 * torch.pow(x, -1.5)),
    "selu": lambda a: two_sided(lambda x: SELU_SCALE * SELU_ALPHA * torch.exp(x), SELU_SCALE),
    "sigmoid": lambda a: Slope(_sigmoid_slope, (0.0,)),
    "silu": lambda a: Slope(_silu_slope, (-SILU_BEND, SILU_BEND)),
    "softplus": lambda a: Slope(lambda x: torch.sigmoid(a["beta"] * x)),
    "sqrt": lambda a: Slope(lambda x: 0.5 * torch.rsqrt(x)),
    "square": lambda a: Slope(lambda x: 2 * x),
    "tanh": lambda a: Slope(lambda x: 1 - torch.tanh(x).square(), (0.0,)),
}
