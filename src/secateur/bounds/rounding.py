"""What floating point can add to a bound: an error bound for every rule, and intervals rounded outward by it.

The standard model of IEEE arithmetic: each of + − × ÷ √ errs by at most u = 2⁻⁵³ of its result in float64,
and a sum of k products, in whatever order, by at most γ_k = k u / (1 − k u) of the sum of their sizes (Higham
2002, *Accuracy and Stability of Numerical Algorithms*, §3.1). Elementary functions are taken to err by at
most 64 u of their result, and by 64 u of their argument too where they are computed as a difference.
`ERRORS`, at the bottom, has a row for every rule. Underflow is covered by the least normal number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.bounds import interval
from secateur.bounds.activations import SLOPES
from secateur.bounds.affine import linear_part, offset
from secateur.bounds.arithmetic import Value, as_interval, each, magnitude, reciprocal, settle
from secateur.bounds.layers import Norm, batch_norm_line, norm_of, on_channels
from secateur.bounds.op import Op, Rounding
from secateur.bounds.pairs import Pair, after, tight_pair
from secateur.errors import InputError, UnsupportedOpError
from secateur.graph.node import kind
from secateur.graph.ops import (
    AFFINE,
    FILLING,
    MAXIMA,
    MINIMA,
    MOVEMENT,
    OPS,
    SIZES_ALONE,
    SOFTMAXES,
    WEIGHTED_SUMS,
    RoundingError,
    of,
)
from secateur.types import Interval

UNIT = 2.0**-53
FUNCTIONS = 64 * UNIT
_LEAST = torch.finfo(torch.float64).tiny

Error = Callable[[Op, Interval], Any]  # (op, result) → bound on the error of each end, shape of the result


def gamma(terms: int) -> float:
    """γ for sums of so many products, and a few operations on top."""
    k = terms + 8
    return k * UNIT / (1 - k * UNIT)


def outward(op: Op, result: Any) -> Any:
    """What a rule gave, each end moved outward by its error; whole numbers and truth values are exact."""

    def wide(x: Any) -> Any:
        if not isinstance(x, Interval) or not x.lower.is_floating_point():
            return x
        _require_float64(x)
        error = ERRORS[kind(op.node)](op, x)
        return x if error is None else widened(x, error)

    return pytree.tree_map(wide, result)


def _require_float64(x: Interval) -> None:
    if x.lower.dtype != torch.float64:
        raise InputError(
            f"bounds are rounded outward in float64, not in {x.lower.dtype}; give a box of float64"
        )


def outward_change(op: Op, value: Any, changes: Any, direct: Any) -> Any:
    """Pairs from what the rule for δ gave, δ and x′ moved outward by their errors."""

    def wide(x: Value, delta: Any, now: Value) -> Pair:
        if not as_interval(x).lower.is_floating_point():
            return tight_pair(x, delta, now)
        _require_float64(as_interval(x))
        size = _size(x) + _size(now)
        error = _error_of_change(op, size + _size(delta))
        found = tight_pair(x, widened(as_interval(delta), error), now)
        return Pair(
            x,
            widened(as_interval(found.after), FUNCTIONS * size),
            widened(as_interval(found.change), FUNCTIONS * size),
        )

    return pytree.tree_map(wide, value, changes, direct)


def _error_of_change(op: Op, size: Tensor) -> Tensor:
    """What the rule for δ can err by where x, x′ and δ of the result are of `size` together.

    Every term of a rule for δ is at most what the op would give on |x| + |x′| with weights |w| + |w′|, so
    four times the error of that covers it; and slopes err by a share of their argument.
    """
    name = kind(op.node)
    if name in MOVEMENT:
        return FUNCTIONS * size * 0.0
    whole = ("input",) if name in of("norm") else ()
    joint = Op(
        op.node, {key: x if key in whole else _joint(key, x) for key, x in op.arguments.items()}, op.like
    )
    own = ERRORS[name](joint, Interval(-size, size))
    error = 0.0 if own is None else magnitude(own)
    x = op.arguments.get("self")
    if isinstance(x, Pair) and name in SLOPES:
        error = error + FUNCTIONS * (1.0 + _both(x)) * _size(x.change)
    if name in _PRODUCTS:
        error = error + FUNCTIONS * _PRODUCTS[name](op, size)
    return 4 * error + FUNCTIONS * size


def _quotient(op: Op, size: Tensor) -> Any:
    """(δ_a − (a/b) δ_b) / b′."""
    return (_both(op["self"]) + size * _both(op["other"])) * _size(reciprocal(after(op["other"])))


def _prelu(op: Op, size: Tensor) -> Any:
    """Slopes of up to 1 + |w′| times δ, and w′ − w times min(x, 0)."""
    return _both(op["self"]) * (1.0 + on_channels(_both(op["weight"]), size.ndim))


# The terms of products cancel in δ: in a′b′ − ab = δ_a b′ + a δ_b, either may be larger than the result.
_PRODUCTS: dict[str, Callable[[Op, Tensor], Any]] = {
    "div": _quotient,
    "glu": lambda op, size: 2 * _both(op["self"]).chunk(2, op["dim"])[0],
    "mul": lambda op, size: _both(op["self"]) * _both(op["other"]),
    "prelu": _prelu,
}


def _joint(name: str, argument: Any) -> Any:
    def joint(leaf: Any) -> Any:
        if not isinstance(leaf, Pair):
            return leaf
        if name == "running_var":  # the factor grows as it falls
            return torch.minimum(as_interval(leaf.before).lower, as_interval(leaf.after).lower)
        size = _both(leaf)
        return (
            Interval(-size, size)
            if isinstance(leaf.before, Interval) or isinstance(leaf.after, Interval)
            else size
        )

    return pytree.tree_map(joint, argument)


def _both(value: Any) -> Any:
    """|x| + |x′| + |δ|."""
    if isinstance(value, Pair):
        return sum(map(_size, (value.before, value.after, value.change)))
    return 2 * _size(value)


def widened(x: Interval, error: Interval | Tensor) -> Interval:
    """Both ends moved outward by a non-negative error (one for each end, where they differ)."""
    low, high = (error.lower, error.upper) if isinstance(error, Interval) else (error, error)
    return settle(x.lower - (low + _LEAST), x.upper + (high + _LEAST))


# --- sums of products ---------------------------------------------------------------------------------------


def absolute(op: Op, result: Interval | Tensor) -> Tensor:
    """Of an op that is linear in its inputs: the sum of the sizes of all terms of each result."""
    found = ABSOLUTE.get(kind(op.node))
    return magnitude(result) if found is None else found(op)


def terms(op: Op) -> int:
    """No result of the op, and no entry of its transpose, is a sum of more products than this."""
    form = AFFINE.get(kind(op.node))
    if form is not None:
        weight = as_interval(op[form.weight]).lower
        axes = weight.shape[-2:] if kind(op.node) in ("matmul", "bmm", "baddbmm") else weight.shape[:2]
        return int(weight.numel() // min(axes)) if weight.ndim > 1 else int(weight.numel())
    values = [x.lower for x in pytree.tree_leaves(dict(op.arguments)) if isinstance(x, Interval)]
    return sum(int(x.numel()) for x in values)


def _affine_sizes(op: Op) -> Tensor:
    form = AFFINE[kind(op.node)]
    # the size of a factor below 0, too
    out = linear_part(op, magnitude(op[form.data]), magnitude(op[form.weight])).abs()
    bias = op[form.bias] if form.bias else None
    return out if bias is None else out + magnitude(offset(op, bias))


def _batch_norm_sizes(op: Op) -> Tensor:
    x = magnitude(op["input"])
    factor, _ = batch_norm_line(op["weight"], None, op["running_mean"], op["running_var"], op["eps"])
    offset = (op["running_mean"] * factor).abs()
    offset = offset if op["bias"] is None else offset + op["bias"].abs()
    return x * on_channels(factor.abs(), x.ndim) + on_channels(offset, x.ndim)


def _of_two(op: Op) -> Tensor:
    first, second = ("other", "self") if kind(op.node) == "rsub" else ("self", "other")
    return _size(op[first]) + abs(op["alpha"]) * _size(op[second])  # type: ignore[no-any-return]


def _size(value: Any) -> Any:
    """|x| at the most; ends at infinity do not count, as nothing can move them."""
    if isinstance(value, Interval):
        return torch.maximum(_finite(value.lower), _finite(value.upper))
    return _finite(value) if isinstance(value, Tensor) else abs(value)


def _sum_of_sizes(op: Op) -> Tensor:
    return op.run(**interval.ends(_sizes(op), "upper"))  # type: ignore[no-any-return]


def _sizes(op: Op) -> dict[str, Any]:
    """The arguments with every interval [l, u] replaced by that of its sizes."""

    def size(leaf: Any) -> Any:
        return Interval(magnitude(leaf), magnitude(leaf)) if isinstance(leaf, Interval) else leaf

    return pytree.tree_map(size, dict(op.arguments))  # type: ignore[no-any-return]


def _einsum_sizes(op: Op) -> Tensor:
    operands = [magnitude(x) for x in op["tensors"]]
    return op.run(tensors=operands)  # type: ignore[no-any-return]


ABSOLUTE: dict[str, Callable[[Op], Tensor]] = {
    **dict.fromkeys(AFFINE, _affine_sizes),
    **dict.fromkeys(WEIGHTED_SUMS, _sum_of_sizes),
    **dict.fromkeys(("add", "sub", "rsub"), _of_two),
    "batch_norm": _batch_norm_sizes,
    "einsum": _einsum_sizes,
}


# --- errors -------------------------------------------------------------------------------------------------


def _none(op: Op, x: Interval) -> None:
    """Data that move, and choices between values, are exact."""


def _of_sums(op: Op, x: Interval) -> Tensor:
    return gamma(terms(op)) * absolute(op, x)


def _of_batch_norm(op: Op, x: Interval) -> Tensor:
    return FUNCTIONS * absolute(op, x)


def _relative(op: Op, x: Interval) -> Interval:
    return Interval(FUNCTIONS * _finite(x.lower), FUNCTIONS * _finite(x.upper))


def _finite(end: Tensor) -> Tensor:
    """|end|, and 0 for one that is infinite already."""
    return torch.where(torch.isfinite(end), end.abs(), 0.0)


def _of_function(op: Op, x: Interval) -> Interval:
    """Functions that are computed as a difference err by a share of their argument too."""
    own, argument = _relative(op, x), FUNCTIONS * _size(op["self"])
    argument = argument + FUNCTIONS + jump(kind(op.node), op.arguments)
    return Interval(own.lower + argument, own.upper + argument)


def jump(name: str, arguments: Mapping[str, Any]) -> float:
    """The most that a function falls at one point: torch has softplus(x) = x where βx > threshold."""
    if name != "softplus":
        return 0.0
    beta, threshold = float(arguments["beta"]), float(arguments["threshold"])
    if not beta > 0:
        raise UnsupportedOpError(f"softplus with beta={beta:g} cannot be bounded: give a beta above 0")
    return math.log1p(math.exp(-threshold)) / beta * (1 + FUNCTIONS)


def _of_log_sum(op: Op, x: Interval) -> Interval:
    """Softmax, its logarithm and logsumexp: log Σ exp errs by γ of its size and of the greatest argument."""
    greatest = _size(op["self"]).amax(op["dim"], keepdim=True)
    error = gamma(terms(op) + 64) * (1.0 + greatest)
    error = error.reshape(x.lower.shape) if kind(op.node) == "logsumexp" else error.expand(x.lower.shape)
    own = _relative(op, x)
    return Interval(own.lower + error, own.upper + error)


def _of_norm(op: Op, x: Interval) -> Tensor:
    """z errs by e = γ max |x|; σ, a norm of z, by no more; so n = z/σ by (1 + |n|) e/σ, where |n| ≤ √n.

    The error of n goes into δ (of a `Pair`) times √mean δ²/σ′, too (see `normalised_pair`).
    """
    given, norm = op["input"], norm_of(op, x.lower.shape)
    sides = [
        each(norm.fold, side)
        for side in ((given.before, given.after) if isinstance(given, Pair) else (given,))
    ]
    n = norm.fold(x.lower).shape[-1]
    share = gamma(4 * n + 64)
    sizes = [_size(side).amax(-1, keepdim=True) for side in sides]
    deviations = [_least_deviation(norm, side, share * size) for side, size in zip(sides, sizes, strict=True)]
    ratio = sum(1.0 + size / least for size, least in zip(sizes, deviations, strict=True))
    if isinstance(given, Pair):
        ratio = ratio * (1.0 + (sizes[0] + sizes[1]) / deviations[1])
    error = norm.unfold(((1.0 + math.sqrt(n)) * share * ratio).expand(norm.fold(x.lower).shape))
    ndim = x.lower.ndim
    if op["weight"] is not None:
        error = error * norm.parameter(_size(op["weight"]), ndim)
    bias = op.arguments.get("bias")
    return error + FUNCTIONS * (magnitude(x) + (0.0 if bias is None else norm.parameter(_size(bias), ndim)))


def _least_deviation(norm: Norm, x: Value, error: Tensor) -> Tensor:
    found = as_interval(norm.deviation(norm.centre(x))).lower - error
    return found.clamp(min=math.sqrt(norm.eps))


def _of_attention(op: Op, x: Interval) -> Tensor:
    """Errors of scores (γ |q| |k|) and of weights move a mean of values by at most Σ error · max |v|."""
    query, key, value = (magnitude(op[name]) for name in ("query", "key", "value"))
    mask = op["attn_mask"]
    n = key.shape[-2]
    scores = query.sum(-1, keepdim=True) * key.amax((-2, -1), keepdim=True) * float(op["scale"] or 1.0)
    boolean = isinstance(mask, Tensor) and mask.dtype == torch.bool
    added = 0.0 if mask is None or boolean else _size(mask).amax()
    share = gamma(4 * (query.shape[-1] + n) + 64) * (1.0 + scores + added)
    return share * n * value.amax((-2, -1), keepdim=True) + torch.zeros_like(x.lower)


def _of_length(op: Op, x: Interval) -> Interval:
    own = _relative(op, x)
    factor = gamma(terms(op)) / FUNCTIONS + 1.0
    return Interval(own.lower * factor, own.upper * factor)


_OF_FUNCTIONS: dict[RoundingError, Error] = {
    "exact": _none,
    "relative": _relative,
    "cancelling": _of_function,
}
ERRORS: dict[str, Error] = {
    **dict.fromkeys((*SIZES_ALONE, *MOVEMENT, *FILLING, *MAXIMA, *MINIMA, *of("dropout", "item")), _none),
    **{name: _OF_FUNCTIONS[OPS[name].rounding] for name in of("function") if name in interval.RULES},
    **dict.fromkeys((*AFFINE, *WEIGHTED_SUMS, "add", "sub", "rsub", "einsum"), _of_sums),
    **dict.fromkeys(of("norm"), _of_norm),
    **dict.fromkeys((*SOFTMAXES, "logsumexp"), _of_log_sum),
    "batch_norm": _of_batch_norm,
    "div": _relative,
    "glu": _relative,
    "gru": _relative,
    "embedding": _none,
    "linalg_vector_norm": _of_length,
    "lstm": _relative,
    "mul": _relative,
    "scaled_dot_product_attention": _of_attention,
}

OUTWARD = Rounding(outward, outward_change)
