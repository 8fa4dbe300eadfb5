"""Element-wise functions of one number: where they turn, and what their slopes are.

A function is monotone between its turning points, and its slope is monotone between the points where the
slope turns; both give exact ranges over an interval. `softplus` is the smooth function: PyTorch's switch to
the identity above a threshold moves it by at most log(1 + exp(−threshold))/beta, 2e-9 by default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Arguments = Mapping[str, Any]  # an op's arguments by schema name
Points = tuple[float, ...]

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
    kinks: tuple[Any, ...] = ()  # numbers, or tensors where a limit is one


SlopeOf = Callable[[Arguments], Slope]  # from an op's arguments
TurningPoints = Callable[[Arguments], Points]


def at(*points: float) -> TurningPoints:
    """Turning points that depend on no argument."""
    return lambda a: points


def fixed(
    derivative: Callable[[Tensor], Tensor], turning: Points = (), kinks: tuple[Any, ...] = ()
) -> SlopeOf:
    """A slope that depends on no argument."""
    slope = Slope(derivative, turning, kinks)
    return lambda a: slope


def clamp_slope(low: Any, high: Any) -> Slope:
    """1 between the limits and 0 outside; a limit of None is none."""

    def derivative(x: Tensor) -> Tensor:
        inside = torch.ones_like(x, dtype=torch.bool)
        inside = inside if low is None else inside & (x >= low)
        inside = inside if high is None else inside & (x <= high)
        return inside.to(x.dtype)

    return Slope(derivative, kinks=tuple(limit for limit in (low, high) if limit is not None))


def kinked_slope(negative: Callable[[Tensor], Tensor], positive: float = 1.0) -> Slope:
    """A slope that is constant above the kink at 0 and given below it."""
    return Slope(lambda x: torch.where(x > 0, positive, negative(x.clamp(max=0))), kinks=(0.0,))


# --- derivatives --------------------------------------------------------------------------------------------


def _erf(x: Tensor) -> Tensor:
    return 2 / math.sqrt(math.pi) * torch.exp(-x.square())


def _gelu(x: Tensor) -> Tensor:
    """(x Φ(x))′ = Φ(x) + x φ(x)."""
    share: Tensor = torch.special.ndtr(x)
    return share + x * torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


def _gelu_tanh(x: Tensor) -> Tensor:
    """(x (1 + tanh u)/2)′ = (1 + tanh u)/2 + x (1 − tanh² u) u′/2 with u = √(2/π) (x + 0.044715 x³)."""
    root = math.sqrt(2 / math.pi)
    t = torch.tanh(root * (x + 0.044715 * x**3))
    return (1 + t) / 2 + x * (1 - t.square()) * root * (1 + 3 * 0.044715 * x.square()) / 2


def _hardsigmoid(x: Tensor) -> Tensor:
    return (x.abs() <= 3).to(x.dtype) / 6


def _hardswish(x: Tensor) -> Tensor:
    return torch.where(x.abs() <= 3, (2 * x + 3) / 6, (x > 0).to(x.dtype))


def _mish(x: Tensor) -> Tensor:
    """(x t)′ = t + x (1 − t²) σ(x) with t = tanh(softplus(x))."""
    t = torch.tanh(torch.nn.functional.softplus(x))
    return t + x * (1 - t.square()) * torch.sigmoid(x)


def _selu(x: Tensor) -> Tensor:
    return SELU_SCALE * SELU_ALPHA * torch.exp(x)


def _sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x) * torch.sigmoid(-x)


def _silu(x: Tensor) -> Tensor:
    return torch.sigmoid(x) + x * _sigmoid(x)


# --- slopes and turning points, by the names of the ops -----------------------------------------------------

abs_slope = fixed(torch.sign, kinks=(0.0,))
asinh_slope = fixed(lambda x: torch.rsqrt(1 + x.square()), (0.0,))
atan_slope = fixed(lambda x: 1 / (1 + x.square()), (0.0,))
erf_slope = fixed(_erf, (0.0,))
exp_slope = fixed(torch.exp)
hardsigmoid_slope = fixed(_hardsigmoid, kinks=(-3.0, 3.0))
hardswish_slope = fixed(_hardswish, kinks=(-3.0, 3.0))
log_slope = fixed(torch.reciprocal, kinks=(0.0,))
log1p_slope = fixed(lambda x: 1 / (1 + x), kinks=(-1.0,))
log_sigmoid_slope = fixed(lambda x: torch.sigmoid(-x))
mish_slope = fixed(_mish, MISH_BENDS)
reciprocal_slope = fixed(lambda x: -1 / x.square(), kinks=(0.0,))
rsqrt_slope = fixed(lambda x: -0.5 * torch.pow(x, -1.5))
sigmoid_slope = fixed(_sigmoid, (0.0,))
silu_slope = fixed(_silu, (-SILU_BEND, SILU_BEND))
sinh_slope = fixed(torch.cosh, (0.0,))
sqrt_slope = fixed(lambda x: 0.5 * torch.rsqrt(x))
square_slope = fixed(lambda x: 2 * x)
tanh_slope = fixed(lambda x: 1 - torch.tanh(x).square(), (0.0,))


def celu_slope(a: Arguments) -> Slope:
    return kinked_slope(lambda x: torch.exp(x / a["alpha"]))


def elu_slope(a: Arguments) -> Slope:
    alpha, scale, inner = (float(a[name]) for name in ("alpha", "scale", "input_scale"))
    return kinked_slope(lambda x: scale * alpha * inner * torch.exp(inner * x), scale)


def gelu_turns(a: Arguments) -> Points:
    return (GELU_TANH_MIN if a["approximate"] == "tanh" else GELU_MIN,)


def gelu_slope(a: Arguments) -> Slope:
    if a["approximate"] == "tanh":
        return Slope(_gelu_tanh, (-GELU_TANH_BEND, GELU_TANH_BEND))
    return Slope(_gelu, (-GELU_BEND, GELU_BEND))


def leaky_relu_slope(a: Arguments) -> Slope:
    return kinked_slope(lambda x: torch.full_like(x, a["negative_slope"]))


def pow_turns(a: Arguments) -> Points:
    """x^p turns at 0 for even p; no other whole or fractional power p > 0 turns where it is real."""
    return (0.0,) if a["exponent"] % 2 == 0 else ()


def pow_slope(a: Arguments) -> Slope:
    p = a["exponent"]
    return Slope(lambda x: p * torch.pow(x, p - 1), kinks=(0.0,))


def relu6_slope(a: Arguments) -> Slope:
    return clamp_slope(0.0, 6.0)


def selu_slope(a: Arguments) -> Slope:
    return kinked_slope(_selu, SELU_SCALE)


def softplus_slope(a: Arguments) -> Slope:
    return Slope(lambda x: torch.sigmoid(a["beta"] * x))


def softshrink_slope(a: Arguments) -> Slope:
    limit = a["lambd"]
    return Slope(lambda x: (x.abs() > limit).to(x.dtype), kinks=(-limit, limit))
