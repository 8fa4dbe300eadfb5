"""Rounding of each op in inference: `RULES`, at the bottom, has a row for every op that is bounded.

An op without a row (recurrent layers, resampling, steps) has no bound, and a certificate of a network with
such an op is about real arithmetic.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.bounds.activations import SLOPES, slope_over
from secateur.bounds.affine import linear_part, offset
from secateur.bounds.arithmetic import as_interval, magnitude
from secateur.bounds.inference import ULP, Rule, Step, is_floating, size_of, spread
from secateur.bounds.inference_layers import attention, batch_norm, log_softmax, log_sum_exp, norm, softmax
from secateur.bounds.interval import contract
from secateur.bounds.layers import on_channels
from secateur.bounds.rounding import jump
from secateur.graph.ops import AFFINE, FILLING, MAXIMA, MINIMA, MOVEMENT, OPS, SIZES_ALONE, of

# --- data that move, and choices between values -------------------------------------------------------------


def _moved(step: Step) -> Any:
    return step.op.run(**step.errors)


def _cast(step: Step) -> Any:
    return step.rounded(_moved(step))


def _filled(step: Step) -> Any:
    """What is filled in is rounded; constants have no other error."""
    numbers = {
        name: 0 for name in ("value", "self", "other") if isinstance(step.op.arguments.get(name), int | float)
    }
    return step.rounded(step.op.run(**{**step.errors, **numbers}))


def _greatest(step: Step) -> Any:
    """max x̂ − max x is at most the greatest error."""
    return step.op.run(**step.errors)


def _least(step: Step) -> Any:
    negated = pytree.tree_map(lambda e: -e if is_floating(e) else e, dict(step.errors))
    return pytree.tree_map(lambda e: -e if is_floating(e) else e, step.op.run(**negated))


def _constant(step: Step) -> Any:
    return step.rounded(0.0, 2)


def _embedding(step: Step) -> Any:
    return torch.as_tensor(step.error("weight")).amax()


# --- sums ---------------------------------------------------------------------------------------------------


def _sum(step: Step) -> Any:
    """Of all elements along some axes, or their mean."""
    x = as_interval(step.op["self"]).lower
    count = x.numel() if step.name == "cumsum" else x.numel() / as_interval(step.result).lower.numel()
    return _weighted(step, count)


def _pool(step: Step) -> Any:
    x, y = (as_interval(value).lower.shape for value in (step.op["self"], step.result))
    axes = int(step.name[-2])
    if "kernel_size" in step.op.arguments:
        kernel = step.op["kernel_size"]
        sizes = list(kernel) * (axes // len(kernel)) if isinstance(kernel, list | tuple) else [kernel] * axes
    else:
        sizes = [-(-a // b) + 1 for a, b in zip(x[-axes:], y[-axes:], strict=True)]
    return _weighted(step, math.prod(sizes))


def _weighted(step: Step, count: float) -> Any:
    carried, sizes = step.op.run(self=step.errors["self"]), step.op.run(self=step.size("self"))
    return carried + step.format.gamma(count + 4) * sizes + 2 * count * step.format.least


def _affine(step: Step) -> Any:
    """γ Σ |w| |x| with as many terms as there are weights that are not 0."""
    form = AFFINE[step.name]
    bias = step.op[form.bias] if form.bias else None
    x, w = step.op[form.data], step.op[form.weight]

    def times(a: Any, b: Any) -> Any:
        return linear_part(step.op, a, b).abs()

    of_bias = 0.0 if bias is None else magnitude_of(offset(step.op, bias))
    error_of_bias = 0.0 if bias is None else magnitude_of(offset(step.op, step.errors[form.bias]))
    ex, ew = step.errors[form.data], step.errors[form.weight]
    return _products(step, times, (x, ex), (w, ew), of_bias, error_of_bias)


def _products(
    step: Step,
    times: Any,
    first: tuple[Any, Tensor],
    second: tuple[Any, Tensor],
    offset: Any = 0.0,
    off: Any = 0.0,
) -> Any:
    """Of a bilinear `times`, whose terms are summed, plus an offset with an error of `off`."""
    (x, ex), (w, ew) = first, second
    size_x, size_w = size_of(x) + ex, size_of(w) + ew
    alpha = abs(step.op.arguments.get("alpha", 1))
    count = times((size_x > 0).to(ex.dtype), (size_w > 0).to(ew.dtype)) / alpha + 6
    sizes = times(size_x, size_w) + offset + off
    own = step.format.gamma(count) * sizes + 2 * count * step.format.least
    own = torch.where(sizes < step.format.most / 4, own, torch.inf)
    return own + times(ex, size_w) + times(size_of(x), ew) + off


def magnitude_of(value: Any) -> Any:
    return abs(value) if isinstance(value, int | float) else magnitude(value)


def _einsum(step: Step) -> Any:
    operands, errors = step.op["tensors"], step.errors["tensors"]
    if len(operands) == 1:
        x, e = size_of(operands[0]), errors[0]
        own = step.format.gamma(x.numel() + 4) * step.op.run(tensors=[x + e])
        return own + step.op.run(tensors=[e]) + 2 * x.numel() * step.format.least
    pairs = list(zip(operands, errors, strict=True))
    return _products(step, lambda a, b: contract(step.op, a, b), pairs[0], pairs[1])


# --- arithmetic ---------------------------------------------------------------------------------------------


def _added(step: Step) -> Any:
    scaled, plain = ("self", "other") if step.name == "rsub" else ("other", "self")
    alpha = abs(step.op["alpha"])
    error = step.rounded(step.error(plain) + alpha * step.error(scaled), 2)
    if alpha != 1:
        error = error + 2 * step.format.unit * alpha * step.size(scaled)
    return error + 2 * step.format.unit * (1 + alpha) * step.scalars("self", "other")


def _multiplied(step: Step) -> Any:
    a, b = (size_of(step.op[name]) for name in ("self", "other"))
    ea, eb = step.error("self"), step.error("other")
    return step.rounded(a * eb + b * ea + ea * eb, 4)


def _divided(step: Step) -> Any:
    """(a + e)/(b + e′) − a/b = (e − (a/b) e′)/(b + e′)."""
    least = _distance_from_zero(step.op["other"]) - step.error("other")
    quotient = (step.error("self") + size_of(step.result) * step.error("other")) / least
    return step.rounded(torch.where(torch.as_tensor(least) > 0, quotient, torch.inf), 4)


def _distance_from_zero(value: Any) -> Any:
    if isinstance(value, int | float):
        return abs(value)
    x = as_interval(value)
    return torch.clamp(torch.maximum(x.lower, -x.upper), min=0.0)


def _glu(step: Step) -> Any:
    """a · σ(b), with a slope of σ of at most ¼."""
    (a, ea), (_, eb) = (
        (
            size_of(step.op["self"]).chunk(2, step.op["dim"])[i],
            step.errors["self"].chunk(2, step.op["dim"])[i],
        )
        for i in (0, 1)
    )
    gate = eb / 4 + ULP * step.format.unit * (1 + size_of(step.op["self"]).chunk(2, step.op["dim"])[1] + eb)
    return step.rounded(ea + (a + ea) * gate, 4)


def _length(step: Step) -> Any:
    """A norm is 1-Lipschitz in itself."""
    if step.op["ord"] not in (1, 2, math.inf):
        raise step.unsupported(f"a norm of order {step.op['ord']}")
    e, n = step.errors["self"], as_interval(step.op["self"]).lower.numel()
    carried = step.op.run(self=e)
    own = step.format.gamma(n + 16) * (size_of(step.result) + carried)
    return carried + own + 2 * n * math.sqrt(step.format.least)  # squares may underflow


# --- functions of one number --------------------------------------------------------------------------------


def _relu(step: Step) -> Any:
    return step.errors["self"]


def _function(step: Step) -> Any:
    """The greatest slope between x̂ and x times the error, and what the function itself errs by."""
    x, e = as_interval(step.op["self"]), step.errors["self"]
    _require_exact(step)
    slope = SLOPES[step.name](step.op.arguments)
    steepest = magnitude(slope_over(slope, spread(x, e)))
    carried = torch.where(e > 0, steepest * e, 0.0)
    return carried + own_error(step, magnitude(x) + e, carried)


def own_error(step: Step, argument: Any, carried: Any) -> Any:
    """What a function errs by, given its argument and what the argument's error does to its result."""
    name, unit = step.name, step.format.unit
    result = size_of(step.result) + carried
    if name in _ARITHMETIC:
        return 4 * unit * result
    largest = torch.maximum(torch.maximum(argument, result), torch.ones_like(argument))
    return ULP * unit * _scale(step) * largest + jump(name, step.op.arguments)


def _scale(step: Step) -> float:
    """The factor by which an activation scales what its elementary function errs by."""
    a = step.op.arguments
    if step.name == "elu":
        alpha, scale, inner = (abs(float(a[name])) for name in ("alpha", "scale", "input_scale"))
        return max(1.0, scale, alpha * scale, alpha * scale * inner)
    if step.name == "softplus":
        return max(1.0, 1 / abs(float(a["beta"])))
    return max(1.0, abs(float(a["alpha"]))) if step.name == "celu" else 1.0


def _require_exact(step: Step) -> None:
    """A power whose exponent the runtime rounds is another function."""
    exponent = step.op.arguments.get("exponent")
    if exponent is not None and float(torch.tensor(exponent, dtype=torch.float32)) != exponent:
        raise step.unsupported(f"its exponent {exponent} is rounded when it is run")


def _limited(step: Step) -> Any:
    """Limits are rounded, and may have errors where they are tensors."""
    names = ("self", "min", "max")
    error = sum(step.error(name) for name in names)
    return step.rounded(error, 2)


def _prelu(step: Step) -> Any:
    x, e, ndim = size_of(step.op["self"]), step.errors["self"], as_interval(step.result).lower.ndim
    weight, ew = (
        on_channels(torch.as_tensor(t), ndim) for t in (size_of(step.op["weight"]), step.errors["weight"])
    )
    return step.rounded(e * torch.clamp(weight + ew, min=1.0) + x * ew, 4)


_ARITHMETIC = ("abs", "leaky_relu", "reciprocal", "softshrink", "sqrt", "square", "hardtanh", "relu6")
_LIMITED = ("clamp", "clamp_max", "clamp_min")
_CASTS = ("to", "_to_copy", "type_as")
MADE = ("arange", "eye", "full", "ones", "scalar_tensor", "zeros")  # of no tensor
_POOLS = tuple(name for name in of("pooling") if "avg" in name)

RULES: dict[str, Rule] = {
    **dict.fromkeys(MOVEMENT, _moved),
    **dict.fromkeys(_CASTS, _cast),
    **dict.fromkeys(FILLING, _filled),
    **dict.fromkeys((*SIZES_ALONE, *MADE), _constant),
    **dict.fromkeys(MAXIMA, _greatest),
    **dict.fromkeys(MINIMA, _least),
    **dict.fromkeys(of("triangle"), _moved),
    **dict.fromkeys(("mean", "sum", "cumsum"), _sum),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(AFFINE, _affine),
    **dict.fromkeys((name for name in SLOPES if OPS[name].family == "function"), _function),
    **dict.fromkeys(_LIMITED, _limited),
    **dict.fromkeys(("add", "sub", "rsub"), _added),
    **dict.fromkeys(of("softmax"), softmax),
    **dict.fromkeys(of("log_softmax"), log_softmax),
    **dict.fromkeys(of("norm"), norm),
    **dict.fromkeys(of("dropout"), lambda step: step.errors["input"]),
    "batch_norm": batch_norm,
    "div": _divided,
    "einsum": _einsum,
    "embedding": _embedding,
    "glu": _glu,
    "linalg_vector_norm": _length,
    "logsumexp": log_sum_exp,
    "mul": _multiplied,
    "neg": _relu,
    "prelu": _prelu,
    "relu": _relu,
    "scaled_dot_product_attention": attention,
}
