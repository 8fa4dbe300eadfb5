"""Bounds on the parts of normalisation and attention, shared by the rules of `interval` and `difference`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor

from secateur.bounds.arithmetic import (
    Value,
    add,
    as_interval,
    divide,
    each,
    intersect,
    multiply,
    product,
    settle,
    square,
    subtract,
)
from secateur.bounds.op import Op
from secateur.graph.node import kind
from secateur.types import Interval


def batch_norm_line(
    weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Batch norm as factor · x + offset, per channel."""
    factor = torch.rsqrt(variance + eps) if weight is None else torch.rsqrt(variance + eps) * weight
    return factor, -mean * factor if bias is None else bias - mean * factor


def on_channels(parameter: Tensor, ndim: int) -> Tensor:
    """A parameter per channel (axis 1), to broadcast over a value of `ndim` axes."""
    return parameter.reshape(-1, *[1] * (ndim - 2))


@dataclass(frozen=True)
class Norm:
    """How a norm groups its input.

    `fold` brings what is normalised together to the last axis, and `unfold` undoes it.
    """

    fold: Callable[[Tensor], Tensor]
    unfold: Callable[[Tensor], Tensor]
    eps: float
    centred: bool = True
    channels: bool = False  # whether the affine parameters stand on axis 1, not on the normalised axes

    def centre(self, x: Value) -> Any:
        """z_i = x_i − mean(x) = (1 − 1/n) x_i − Σ_{j≠i} x_j / n."""
        if not self.centred:
            return x
        n = as_interval(x).lower.shape[-1]
        others = each(lambda t: t.sum(-1, keepdim=True), x)
        rest = settle(
            as_interval(others).lower - as_interval(x).lower, as_interval(others).upper - as_interval(x).upper
        )
        return subtract(multiply(x, 1 - 1 / n), multiply(rest, 1 / n))

    def deviation(self, z: Value) -> Value:
        """σ = √(mean z² + eps)."""
        return each(lambda t: torch.sqrt(t.mean(-1, keepdim=True) + self.eps), square(z))

    def normalise(self, x: Value) -> Interval:
        """z/σ, which is at most √(n − 1) in size (√n where the mean stays): z_i² ≤ (n − 1)/n · Σ z²."""
        z = self.centre(x)
        n = as_interval(x).lower.shape[-1]
        most = torch.full_like(as_interval(x).lower, math.sqrt(n - 1 if self.centred else n))
        return intersect(divide(z, self.deviation(z)), Interval(-most, most))

    def parameter(self, value: Tensor, ndim: int) -> Tensor:
        return on_channels(value, ndim) if self.channels else value


def norm_of(op: Op, shape: torch.Size) -> Norm:
    """The grouping of `layer_norm`, `rms_norm`, `group_norm` and `instance_norm` for an input of `shape`."""
    name = kind(op.node)
    if name == "instance_norm" and not op["use_input_stats"]:
        raise op.unsupported("instance norm with running statistics is not supported")
    if name in ("layer_norm", "rms_norm"):
        axes = len(op["normalized_shape"])
        leading = shape[: len(shape) - axes]
        eps = torch.finfo(op.like.dtype).eps if op["eps"] is None else op["eps"]
        return Norm(lambda x: x.reshape(*leading, -1), lambda x: x.reshape(shape), eps, name == "layer_norm")
    groups = op["num_groups"] if name == "group_norm" else shape[1]
    return Norm(
        lambda x: x.reshape(shape[0], groups, -1), lambda x: x.reshape(shape), op["eps"], channels=True
    )


def softmax(x: Value, dim: int) -> Interval:
    """p_i = σ(x_i − log Σ_{j≠i} exp x_j), which grows with x_i and falls with the others: tight."""
    x = as_interval(x)
    p = settle(
        torch.sigmoid(x.lower - log_sum_of_others(x.upper, dim)),
        torch.sigmoid(x.upper - log_sum_of_others(x.lower, dim)),
    )
    return Interval(p.lower.clamp(0, 1), p.upper.clamp(0, 1))


def log_sum_of_others(x: Tensor, dim: int) -> Tensor:
    """log Σ_{j≠i} exp x_j for each i.

    The sum without the greatest is computed anew, since subtracting that would cancel.
    """
    top = x.amax(dim, keepdim=True).clamp(min=torch.finfo(x.dtype).min)
    first = torch.zeros_like(x, dtype=torch.bool).scatter(dim, x.argmax(dim, keepdim=True), True)
    scaled = torch.exp(x - top)
    rest = scaled.sum(dim, keepdim=True) - scaled
    without_top = torch.logsumexp(x.masked_fill(first, -math.inf), dim, keepdim=True)
    return torch.where(first, without_top, top + torch.log(rest))


def require_plain_attention(op: Op) -> None:
    if op["dropout_p"]:
        raise op.unsupported("attention drops out; capture the model in eval mode")
    if op.arguments.get("enable_gqa"):
        raise op.unsupported("grouped queries are not supported; repeat keys and values instead")


def attention_scale(op: Op, query: Value) -> float:
    return float(op["scale"] or 1 / math.sqrt(as_interval(query).lower.shape[-1]))


def attention_scores(op: Op, query: Value, key: Value, mask: Value | None) -> Value:
    transposed = each(lambda k: k.transpose(-2, -1), key)
    scores: Value = multiply(product(torch.matmul, query, transposed), attention_scale(op, query))
    scores = attention_hidden(op, scores, mask, -math.inf)
    return add(scores, mask) if mask is not None and not _is_boolean(mask) else scores


def attention_hidden(op: Op, scores: Value, mask: Value | None, fill: float) -> Value:
    """The scores with `fill` where the causal or a boolean mask allows no attention."""
    if op["is_causal"]:
        mask = torch.ones(
            as_interval(scores).lower.shape[-2:], dtype=torch.bool, device=op.like.device
        ).tril()
    if mask is None or not _is_boolean(mask):
        return scores
    allowed = mask
    return each(lambda s: torch.where(allowed, s, fill), scores)


def _is_boolean(mask: Value) -> TypeGuard[Tensor]:
    return isinstance(mask, Tensor) and mask.dtype == torch.bool


def attention_mean(weights: Value, value: Value) -> Interval:
    """Σ_j p_j v_j with p ≥ 0 and Σ p = 1: between the least and the greatest v_j."""
    v = as_interval(value)
    between = Interval(v.lower.amin(-2, keepdim=True), v.upper.amax(-2, keepdim=True))
    return intersect(product(torch.matmul, weights, value), between)
