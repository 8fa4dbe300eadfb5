"""Bounds on the drift δ = g(x) − f(x) of each op, of two networks that share a graph and differ in tensors.

x (in f), x′ (in g) and δ are kept together at every node: a rule of `RULES`, at the bottom of the file,
bounds the δ of an op from those of its arguments, and interval propagation of x′ tightens it, since δ ∈ I(x′)
− I(x) and x′ ∈ x + δ. What no changed tensor reaches has δ = 0 and costs nothing. Exact up to rounding, as in
`interval`. `drift` takes whole networks through `step`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.bounds import interval
from secateur.bounds.activations import SLOPES
from secateur.bounds.affine import linear_part, linear_part_of, makes_units, offset
from secateur.bounds.arithmetic import (
    Value,
    add,
    as_interval,
    divide,
    each,
    multiply,
    negate,
    product,
    scale,
    subtract,
)
from secateur.bounds.layers import (
    attention_hidden,
    attention_scale,
    attention_scores,
    batch_norm_line,
    norm_of,
    on_channels,
)
from secateur.bounds.op import Op, Rounding
from secateur.bounds.pairs import (
    Pair,
    Rows,
    after,
    before,
    change,
    dense,
    moved,
    normalised_pair,
    pair,
    product_change,
    reached,
    relative_to_all,
    relu_change,
    sloped_change,
    softmax_pair,
    tight_pair,
)
from secateur.graph.functions import kinked_slope
from secateur.graph.node import bound_arguments, kind
from secateur.graph.ops import AFFINE, FILLING, MAXIMA, MINIMA, MOVEMENT, SIZES_ALONE, WEIGHTED_SUMS, of
from secateur.types import Interval


@dataclass(frozen=True, eq=False)
class Change(Op):
    """An op some of whose arguments are a `Pair` (or `Rows`)."""

    value: Any  # in f
    direct: Any  # in g, by interval propagation; None for affine ops where it was not asked for

    def pairs(self) -> list[Pair]:
        return [leaf for leaf in pytree.tree_leaves(dict(self.arguments)) if isinstance(leaf, Pair)]


Rule = Callable[[Change], Any]  # gives the bounds on the change of each of the op's outputs


# --- one step -----------------------------------------------------------------------------------------------


def step(
    node: fx.Node,
    args: Any,
    kwargs: Any,
    value: Any,
    like: Tensor,
    tighten: bool,
    rounding: Rounding | None = None,
) -> Any:
    """The value of one op: f's own, `value`, where no change reaches it; elsewhere a `Pair`, or several."""
    name = kind(node)
    if name in SIZES_ALONE or not any(map(reached, pytree.tree_leaves((args, kwargs)))):
        return value
    if name == "getitem":
        return args[0][args[1]]
    in_inputs = any(isinstance(x, Interval) for x in pytree.tree_leaves(value))
    if name not in BY_ROWS or not in_inputs:
        args, kwargs = pytree.tree_map(dense, (args, kwargs))
    direct = None
    if name not in BY_ROWS or not in_inputs or tighten:
        direct = interval.apply(node, *pytree.tree_map(after, (args, kwargs)), like=like, rounding=rounding)
    if not in_inputs:
        return pytree.tree_map(lambda f, g: Pair(f, g, g - f), value, direct)
    op = Change(node, bound_arguments(node, args, kwargs), like, value, direct)
    changes = RULES[name](op)
    if direct is None:
        return pytree.tree_map(pair, value, changes)
    if rounding is not None:
        return rounding.change(op, value, changes, direct)
    return pytree.tree_map(tight_pair, value, changes, direct)


# --- rules --------------------------------------------------------------------------------------------------


def _linear(op: Change) -> Any:
    """δ goes where values go; what no change reaches, and every constant filled in, stands for 0."""
    filled = ("value", "self", "other") if kind(op.node) in FILLING else ()
    zeros = {name: 0 for name in filled if isinstance(op.arguments.get(name), (int, float))}
    return pytree.tree_map(Interval, _on_change(op, "lower", **zeros), _on_change(op, "upper", **zeros))


def _on_change(op: Change, side: str, sign: int = 1, **others: Any) -> Any:
    """The op on one end of δ (0 for what no change reaches), times `sign`."""

    def end(leaf: Any) -> Any:
        if isinstance(leaf, Pair):
            return sign * getattr(as_interval(leaf.change), side)
        if isinstance(leaf, Interval):
            return torch.zeros_like(leaf.lower)
        return torch.zeros_like(leaf) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return op.run(**pytree.tree_map(end, dict(op.arguments)) | others)


def _by_intervals(op: Change) -> Any:
    """I(x′) − I(x), and 0 where nothing changes at all."""
    ends = [end for p in op.pairs() for end in (as_interval(p.change).lower, as_interval(p.change).upper)]
    changes = torch.stack([(end != 0).any() for end in ends]).any()

    def subtracted(x: Value, direct: Value) -> Value:
        return each(lambda t: torch.where(changes, t, 0.0), subtract(direct, x))

    return pytree.tree_map(subtracted, op.value, op.direct)


def _function(op: Change) -> Any:
    """A function of one value, by its slope; of several (clamp to limits that vary), by intervals."""
    varying = [x for x in pytree.tree_leaves(dict(op.arguments)) if isinstance(x, (Pair, Interval))]
    if len(varying) > 1 or not reached(op["self"]):
        return _by_intervals(op)
    return sloped_change(SLOPES[kind(op.node)](op.arguments), op["self"])


def _leaky_relu(op: Change) -> Any:
    """s x + (1 − s) relu(x); both parts grow with δ and are extreme together where 0 ≤ s ≤ 1."""
    s, x = op["negative_slope"], op["self"]
    if not 0 <= s <= 1:
        return _function(op)
    return add(multiply(x.change, s), multiply(relu_change(x), 1 - s))


def _prelu(op: Change) -> Any:
    """prelu(x′; w′) − prelu(x; w) = slope of prelu(·; w′) · δ + (w′ − w) min(x, 0)."""
    x, ndim = op["self"], as_interval(op.value).lower.ndim
    weight = moved(lambda w: on_channels(w, ndim), op["weight"])
    by_slope = sloped_change(kinked_slope(lambda t: after(weight).expand(t.shape)), x) if reached(x) else 0.0
    by_weight = multiply(change(weight), each(lambda t: t.clamp(max=0), before(x)))
    return add(by_slope, by_weight) if reached(weight) else by_slope


def _maximum(op: Change) -> Any:
    """min_i δ_i ≤ max_i (x_i + δ_i) − max_i x_i ≤ max_i δ_i."""
    low, high = _on_change(op, "lower", sign=-1), _on_change(op, "upper")
    return pytree.tree_map(lambda least, most: _between(-least, most), low, high)


def _minimum(op: Change) -> Any:
    """min_i δ_i ≤ min_i (x_i + δ_i) − min_i x_i ≤ max_i δ_i."""
    low, high = _on_change(op, "lower"), _on_change(op, "upper", sign=-1)
    return pytree.tree_map(lambda least, most: _between(least, -most), low, high)


def _between(low: Tensor, high: Tensor) -> Interval:
    """Positions (of a maximum) can change to any other."""
    if low.is_floating_point():
        return Interval(low, high)
    largest = torch.full_like(low, torch.iinfo(low.dtype).max)
    return Interval(-largest, largest)


def _add(op: Change) -> Any:
    return add(change(op["self"]), scale(change(op["other"]), op["alpha"]))


def _sub(op: Change) -> Any:
    return subtract(change(op["self"]), scale(change(op["other"]), op["alpha"]))


def _rsub(op: Change) -> Any:
    return subtract(change(op["other"]), scale(change(op["self"]), op["alpha"]))


def _mul(op: Change) -> Any:
    return product_change(multiply, op["self"], op["other"])


def _div(op: Change) -> Any:
    """a′/b′ − a/b = (δ_a − (a/b) δ_b) / b′."""
    a, b = op["self"], op["other"]
    moved_by_b = multiply(op.value, change(b)) if reached(b) else 0.0
    return divide(subtract(change(a), moved_by_b), after(b))


def _einsum(op: Change) -> Any:
    operands = op["tensors"]
    if len(operands) == 1:
        return _linear(op)
    return product_change(partial(product, partial(interval.contract, op)), *operands)


def _affine(op: Change) -> Any:
    """W′x′ + b′ − (W x + b) = W′ δ + (W′ − W) x + (b′ − b)."""
    form = AFFINE[kind(op.node)]
    data, weight = dense(op[form.data]), op[form.weight]
    if isinstance(weight, Rows) and makes_units(op, weight.tensor, weight.axis):
        out = _rows_change(op, data, weight)
    else:
        out = product_change(partial(product, partial(linear_part, op)), data, dense(weight))
    bias = op[form.bias] if form.bias else None
    return add(out, offset(op, change(bias))) if reached(bias) else out


def _rows_change(op: Change, data: Any, rows: Rows) -> Interval:
    """W δ everywhere, but W_b δ + (W_b − W_a) x at the units a that are overwritten by units b."""
    times = partial(linear_part_of, op, rows.removed, len(rows.tensor))
    own = product(times, before(data), rows.difference())
    everywhere = as_interval(torch.zeros_like(op.value.lower))
    if reached(data):
        own = add(own, product(times, change(data), rows.copies()))
        everywhere = as_interval(product(partial(linear_part, op), change(data), rows.tensor))
    return _overwritten(everywhere, AFFINE[kind(op.node)].output_axis, rows.removed, own)


def _overwritten(everywhere: Interval, axis: int, index: Tensor, own: Value) -> Interval:
    own = as_interval(own)
    return Interval(
        everywhere.lower.index_copy(axis, index, own.lower),
        everywhere.upper.index_copy(axis, index, own.upper),
    )


def _embedding(op: Change) -> Any:
    """The hull, over the ids that may stand there, of the change of the table's row."""
    ids, table = op["indices"], op["weight"]
    if reached(ids):
        raise op.unsupported("the changed tensors decide which row is read")
    if not isinstance(table, Rows) or table.axis == 0:
        return interval.hull_of_rows(ids, change(table))
    nothing = as_interval(torch.zeros_like(op.value.lower))
    return _overwritten(nothing, -1, table.removed, interval.hull_of_rows(ids, table.difference()))


def _batch_norm(op: Change) -> Any:
    """factor · x + offset, both of which may change."""
    x, ndim = op["input"], as_interval(op.value).lower.ndim
    parameters = [op[name] for name in ("weight", "bias", "running_mean", "running_var", "eps")]
    was = batch_norm_line(*map(before, parameters))
    if not any(map(reached, parameters)):
        return multiply(x.change, on_channels(was[0], ndim))
    now = batch_norm_line(*map(after, parameters))
    factor, offset = (
        moved(lambda t: on_channels(t, ndim), Pair(f, g, g - f)) for f, g in zip(was, now, strict=True)
    )
    return add(product_change(multiply, x, factor), change(offset))


def _normalised(op: Change) -> Any:
    x, ndim = op["input"], op.value.lower.ndim
    norm = norm_of(op, op.value.lower.shape)
    n = normalised_pair(norm, x)
    weight, bias = (
        moved(lambda t: norm.parameter(t, ndim), p) for p in (op["weight"], op.arguments.get("bias"))
    )
    out = change(n) if weight is None else product_change(multiply, n, weight)
    return add(out, change(bias)) if reached(bias) else out


def _softmax(op: Change) -> Any:
    return softmax_pair(op["self"], op["dim"]).change


def _log_softmax(op: Change) -> Any:
    """δ_i − log Σ_j p_j exp δ_j."""
    return relative_to_all(op["self"].change, op["dim"])


def _attention(op: Change) -> Any:
    """The changes of scores, of weights and of their means of values, one after the other."""
    query, key, mask = op["query"], op["key"], op["attn_mask"]
    scores: Any = attention_scores(op, before(query), before(key), before(mask))
    if any(map(reached, (query, key, mask))):
        transposed = moved(lambda k: k.transpose(-2, -1), key)
        delta = product_change(partial(product, torch.matmul), query, transposed)
        delta = add(multiply(delta, attention_scale(op, before(query))), change(mask))
        delta = attention_hidden(op, delta, mask, 0.0)
        scores = tight_pair(scores, delta, attention_scores(op, after(query), after(key), after(mask)))
    return product_change(partial(product, torch.matmul), softmax_pair(scores, -1), op["value"])


def _glu(op: Change) -> Any:
    """a · σ(b)."""
    a, b = (moved(part, op["self"]) for part in interval.halves(op["dim"]))
    gate = tight_pair(
        each(torch.sigmoid, b.before), sloped_change(SLOPES["sigmoid"]({}), b), each(torch.sigmoid, b.after)
    )
    return product_change(multiply, a, gate)


# --- the table ----------------------------------------------------------------------------------------------

# Ops whose rule takes `Rows` as they are, and for which x′ costs as much as δ.
BY_ROWS = {*AFFINE, "embedding"}

# Ops of `interval.RULES` that `step` sees to: those of sizes, and Python's `value[index]`.
UNCHANGED = {*SIZES_ALONE, *of("item")}

# The other ops of `interval.RULES`. A monotone function of which no more is known is bounded by intervals.
RULES: dict[str, Rule] = {
    **dict.fromkeys((*interval.INCREASING, *interval.DECREASING), _by_intervals),
    **dict.fromkeys((*MOVEMENT, *WEIGHTED_SUMS, *FILLING), _linear),
    **dict.fromkeys(MAXIMA, _maximum),
    **dict.fromkeys(MINIMA, _minimum),
    **dict.fromkeys(SLOPES, _function),
    **dict.fromkeys(AFFINE, _affine),
    **dict.fromkeys(of("dropout"), lambda op: op["input"].change),
    **dict.fromkeys(of("softmax"), _softmax),
    **dict.fromkeys(of("log_softmax"), _log_softmax),
    **dict.fromkeys(of("norm"), _normalised),
    "add": _add,
    "batch_norm": _batch_norm,
    "div": _div,
    "einsum": _einsum,
    "embedding": _embedding,
    "glu": _glu,
    "gru": _by_intervals,
    "leaky_relu": _leaky_relu,
    "linalg_vector_norm": _by_intervals,
    "lstm": _by_intervals,
    "mul": _mul,
    "neg": lambda op: negate(op["self"].change),
    "prelu": _prelu,
    "relu": lambda op: relu_change(op["self"]),
    "rsub": _rsub,
    "scaled_dot_product_attention": _attention,
    "sub": _sub,
}
