"""Values of two networks side by side: x in f, x′ in g, and bounds on δ = x′ − x; and how they combine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from secateur.bounds.activations import slope_over
from secateur.bounds.arithmetic import (
    Operand,
    Value,
    add,
    as_interval,
    divide,
    each,
    hull,
    intersect,
    magnitude,
    multiply,
    subtract,
)
from secateur.bounds.layers import Norm, softmax
from secateur.graph.functions import Slope
from secateur.types import Interval


@dataclass(frozen=True, eq=False)
class Pair:
    """A value in f and in g, and bounds on their difference; plain tensors where they depend on no input."""

    before: Value
    after: Value
    change: Value


@dataclass(frozen=True, eq=False)
class Rows:
    """A tensor of f some of whose rows are copies of others in g."""

    tensor: Tensor
    axis: int
    removed: Tensor  # indices of `axis` that are overwritten, (width,)
    into: Tensor  # indices whose copies they are, (width,)

    def copies(self) -> Tensor:
        return self.tensor.index_select(self.axis, self.into)

    def difference(self) -> Tensor:
        return self.copies() - self.tensor.index_select(self.axis, self.removed)

    def dense(self) -> Pair:
        after = self.tensor.index_copy(self.axis, self.removed, self.copies())
        return Pair(self.tensor, after, after - self.tensor)


def reached(value: Any) -> bool:
    """Whether a change can move the value."""
    return isinstance(value, (Pair, Rows))


def dense(value: Any) -> Any:
    return value.dense() if isinstance(value, Rows) else value


def before(value: Any) -> Any:
    if isinstance(value, Rows):
        return value.tensor
    return value.before if isinstance(value, Pair) else value


def after(value: Any) -> Any:
    return dense(value).after if reached(value) else value


def change(value: Any) -> Any:
    """δ, which is 0 for what no change reaches."""
    return dense(value).change if reached(value) else 0.0


def pair(x: Value, delta: Operand) -> Pair:
    """x′ ∈ x + δ."""
    like = as_interval(x).lower
    filled = (
        torch.zeros_like(like)
        if isinstance(delta, (int, float))
        else each(lambda t: t.expand(like.shape), delta)
    )
    return Pair(x, add(x, filled), filled)


def tight_pair(x: Value, delta: Any, direct: Value) -> Pair:
    """x′ ∈ I(x′) ∩ (x + δ), and δ ∈ x′ − x; `direct` is I(x′)."""
    if not as_interval(x).lower.is_floating_point():  # positions: nothing to subtract
        return Pair(x, direct, delta)
    loose = pair(x, delta)
    both = intersect(loose.after, direct)
    return Pair(x, both, intersect(loose.change, subtract(both, x)))


def moved(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A movement of data, of a pair, of what no change reaches, or of a parameter that is not there."""
    if isinstance(value, Pair):
        return Pair(each(function, value.before), each(function, value.after), each(function, value.change))
    return None if value is None else each(function, value)


def product_change(times: Callable[[Value, Value], Value], a: Any, b: Any) -> Any:
    """a′ b′ − a b = δ_a b′ + a δ_b, for any bilinear `times`."""
    parts = [times(change(a), after(b))] if reached(a) else []
    parts += [times(before(a), change(b))] if reached(b) else []
    return reduce(add, parts) if parts else 0.0


def sloped_change(slope: Slope, x: Pair) -> Value:
    """φ(x′) − φ(x) = φ′(ξ) δ for some ξ between x and x′."""
    return multiply(slope_over(slope, hull(x.before, x.after)), x.change)  # type: ignore[no-any-return]


def relu_change(x: Pair) -> Interval:
    """relu(x + δ) − relu(x) grows with δ; it grows with x where δ ≥ 0 and falls where δ < 0: exact for a box.

    It is relu(min(x, 0) + max(δ, 0)) + max(min(δ, 0), −relu(x)), of which one is 0.
    """
    x0, d = as_interval(x.before), as_interval(x.change)

    def rise(x: Tensor, d: Tensor) -> Tensor:
        return torch.relu(x.clamp(max=0) + d.clamp(min=0))

    def fall(x: Tensor, d: Tensor) -> Tensor:
        return torch.maximum(d.clamp(max=0), -torch.relu(x))

    return Interval(
        rise(x0.lower, d.lower) + fall(x0.upper, d.lower), rise(x0.upper, d.upper) + fall(x0.lower, d.upper)
    )


def softmax_pair(x: Any, dim: int) -> Any:
    """p′_i/p_i = exp δ_i / Σ_j p_j exp δ_j is between exp(δ_i − max_j δ_j) and exp(δ_i − min_j δ_j)."""
    if not reached(x):
        return softmax(x, dim)
    shift = relative_to_all(x.change, dim)
    ratio = Interval(torch.expm1(shift.lower), torch.expm1(shift.upper))
    p = softmax(x.before, dim)
    return tight_pair(p, multiply(p, ratio), softmax(x.after, dim))


def relative_to_all(delta: Value, dim: int) -> Interval:
    """δ_i minus a mean of all δ_j."""
    d = as_interval(delta)
    return Interval(d.lower - d.upper.amax(dim, keepdim=True), d.upper - d.lower.amin(dim, keepdim=True))


def normalised_pair(norm: Norm, x: Any) -> Any:
    """n′ − n for n = z/σ: (δ_z + n (σ − σ′)) / σ′, where |σ′ − σ| ≤ √mean δ_z² by the triangle inequality."""
    if not reached(x):
        return each(norm.unfold, norm.normalise(each(norm.fold, x)))
    x = moved(norm.fold, x)
    n, direct = norm.normalise(x.before), norm.normalise(x.after)
    dz = norm.centre(x.change)
    most = magnitude(dz).square().mean(-1, keepdim=True).sqrt()
    deviation = norm.deviation(norm.centre(x.after))
    delta = divide(add(dz, multiply(n, Interval(-most, most))), deviation)
    return moved(norm.unfold, tight_pair(n, delta, direct))
