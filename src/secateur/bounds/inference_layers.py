"""Rounding in inference of softmax, attention and norms; see `inference`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.bounds.arithmetic import as_interval, each, magnitude
from secateur.bounds.inference import ULP, Step, is_floating, size_of
from secateur.bounds.layers import (
    attention_scale,
    attention_scores,
    batch_norm_line,
    norm_of,
    on_channels,
)
from secateur.bounds.layers import softmax as softmax_of
from secateur.types import Interval

_BLOCK = 16  # keys that an implementation of attention in blocks takes at a time, at least

# --- softmax ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Exponentials:
    """Of exp(x_i − max x) along an axis of n elements, in logarithms."""

    moved: Tensor  # by the errors of x
    own: Tensor  # what rounding adds
    counts: Tensor  # which do not vanish: the others are below half of the least number, real or computed
    n: int

    @staticmethod
    def of(step: Step, x: Interval, e: Tensor, dim: int) -> _Exponentials:
        unit = step.format.unit
        deep = -math.log(step.format.least) + 40.0
        top, low = ((end).amax(dim, keepdim=True) for end in (x.upper + e, x.lower - e))
        counts = x.upper + e > low - deep
        depth = torch.where(counts, top - (x.lower - e), 0.0)
        own = 2 * ULP * unit + 2 * unit * depth
        return _Exponentials(torch.where(counts, e, 0.0), own, counts, x.lower.shape[dim])


def softmax(step: Step) -> Any:
    found = _Exponentials.of(step, as_interval(step.op["self"]), step.errors["self"], step.op["dim"])
    return _of_weights(step, found, magnitude(step.result), step.op["dim"])


def _of_weights(step: Step, found: _Exponentials, p: Tensor, dim: int, blocks: int = 0) -> Any:
    """p̂_i is p_i times e^±t, where t holds what exp(x_i) and the sum of all of them err by.

    Each of some `blocks` may be rescaled when the maximum grows.
    """
    one = found.moved + found.own
    t = one + one.amax(dim, keepdim=True) + 2 * step.format.gamma(found.n + 8)
    t = t + blocks * found.own.amax(dim, keepdim=True)
    return torch.where(found.counts, p * torch.expm1(t), 0.0) + 2 * (found.n + 2) * step.format.least


def log_softmax(step: Step) -> Any:
    return step.rounded(step.errors["self"] + _of_log(step, step.op["dim"]), 2)


def log_sum_exp(step: Step) -> Any:
    if len(step.op["dim"]) != 1:
        raise step.unsupported("it is over several axes")
    (dim,) = step.op["dim"]
    error = _of_log(step, dim)
    return step.rounded(error if step.op["keepdim"] else error.squeeze(dim), 2)


def _of_log(step: Step, dim: int) -> Any:
    """The error of max x + log Σ exp(x − max x)."""
    x, e, unit = as_interval(step.op["self"]), step.errors["self"], step.format.unit
    found = _Exponentials.of(step, x, e, dim)
    greatest = torch.where(found.counts, magnitude(x) + e, 0.0).amax(dim, keepdim=True)
    of_sum = (found.moved + found.own).amax(dim, keepdim=True) + 2 * step.format.gamma(found.n + 8)
    own = unit * (2 * ULP * (1 + math.log(found.n)) + 4 * greatest)
    return of_sum + own + 2 * found.n * step.format.least


# --- attention ----------------------------------------------------------------------------------------------


def attention(step: Step) -> Any:
    """softmax(q kᵀ · scale + mask) v; blocks of keys may be rescaled on the way."""
    op, unit = step.op, step.format.unit
    mask = op["attn_mask"]
    scores = as_interval(attention_scores(op, op["query"], op["key"], mask))
    q, k, v = (size_of(op[name]) for name in ("query", "key", "value"))
    eq, ek, ev = (step.errors[name] for name in ("query", "key", "value"))
    width, n = q.shape[-1], k.shape[-2]
    sizes = torch.matmul(q + eq, (k + ek).mT)
    moved = torch.matmul(eq, (k + ek).mT) + torch.matmul(q, ek.mT)
    scale = abs(attention_scale(op, op["query"]))
    e = scale * (moved + step.format.gamma(width + 12) * sizes) + 2 * (width + 2) * step.format.least
    if mask is not None and is_floating(mask):
        e = (
            e
            + step.errors["attn_mask"]
            + 2 * unit * torch.where(scores.upper > -torch.inf, magnitude(scores), 0.0)
        )
    p = magnitude(softmax_of(scores, -1))
    found = _Exponentials.of(step, scores, e, -1)
    ep = _of_weights(step, found, p, -1, blocks=n // _BLOCK + 1)
    own = step.format.gamma(2 * n + 12) * torch.matmul(p + ep, v + ev)
    return own + torch.matmul(ep, v + ev) + torch.matmul(p, ev) + 2 * n * step.format.least


# --- norms --------------------------------------------------------------------------------------------------


def batch_norm(step: Step) -> Any:
    """Times a factor that is off by at most 24 units."""
    op = step.op
    names = ("weight", "bias", "running_mean", "running_var")
    parameters = [op[name] for name in names]
    if any(
        isinstance(p, Interval) or bool((torch.as_tensor(step.error(n)) > 0).any())
        for n, p in zip(names, parameters, strict=True)
    ):
        raise step.unsupported("its parameters are computed, or not normal numbers")
    weight, bias, mean, variance = parameters
    factor, _ = batch_norm_line(weight, None, mean, variance, op["eps"])
    x, e = size_of(op["input"]), step.errors["input"]
    factor, mean, bias = (
        on_channels(torch.zeros_like(factor) if p is None else p.abs(), x.ndim) for p in (factor, mean, bias)
    )
    return factor * e + 24 * step.format.unit * (factor * (x + e + mean) + bias) + 8 * step.format.least


def norm(step: Step) -> Any:
    """n = z/σ: (δ_z + n (σ − σ̂))/σ̂, where σ̂ differs by √mean δ_z² and by what its variance errs by.

    The variance may be worked out as mean x² − (mean x)², whose terms cancel.
    """
    op, unit = step.op, step.format.unit
    if op["eps"] is None:
        raise step.unsupported("its eps is that of the format that it is run in")
    x = op["input"]
    shape = as_interval(x).lower.shape
    group = norm_of(op, shape)
    x, e = each(group.fold, x), group.fold(step.errors["input"])
    n = as_interval(x).lower.shape[-1]
    share = step.format.gamma(2 * n + 32)
    size = size_of(x) + e
    most = size.square().mean(-1, keepdim=True)
    z = as_interval(group.centre(x))
    deviation = as_interval(group.deviation(z)).lower * (1 - 2.0**-20)
    moved = (e + e.mean(-1, keepdim=True)) if group.centred else e
    computed = step.format.gamma(n + 8) * size.mean(-1, keepdim=True) + 4 * unit * size  # of z
    delta = moved + computed
    shift = delta.square().mean(-1, keepdim=True).sqrt()
    least = (deviation - shift).clamp(min=math.sqrt(group.eps) * (1 - 2.0**-20))
    floor = (least.square() - 2 * share * most).clamp(min=0).sqrt()
    spread = shift + 2 * share * most / least
    normal = math.sqrt(n)  # |n_i| is at most this
    size_n = torch.minimum(magnitude(z) / deviation, torch.full_like(size, normal))
    error = (delta + size_n * spread) / floor + 16 * unit * (size + size.mean(-1, keepdim=True)) / floor
    error = torch.where(floor > 0, error, torch.inf)
    error, size_n = group.unfold(error), group.unfold(size_n)
    weight, bias = (op.arguments.get(name) for name in ("weight", "bias"))
    ew, eb = (step.error(name) if op.arguments.get(name) is not None else 0.0 for name in ("weight", "bias"))
    if weight is not None:
        w, ew = group.parameter(size_of(weight), len(shape)), group.parameter(torch.as_tensor(ew), len(shape))
        error = error * (w + ew) + size_n * ew
        size_n = size_n * w
    if bias is not None:
        error = error + group.parameter(torch.as_tensor(eb), len(shape))
        size_n = size_n + group.parameter(size_of(bias), len(shape))
    return error + 16 * unit * (size_n + error)
