"""Interval propagation: for a box of inputs, an interval that holds all that a value of the graph can be.

`propagate` sends the box (see `box`) through the graph, and `RULES` at the bottom of the file says how each
op is bounded. Ends are computed to nearest, or outward where a claim depends on it
(`rounding.OUTWARD`). Ends never cross, and to nearest a box of one point gives the forward pass.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.bounds.activations import TURNING
from secateur.bounds.affine import linear_part, offset
from secateur.bounds.arithmetic import (
    Value,
    add,
    as_interval,
    divide,
    each,
    extremes,
    magnitude,
    multiply,
    product,
    reciprocal,
    scale,
    settle,
    subtract,
)
from secateur.bounds.layers import (
    attention_mean,
    attention_scores,
    batch_norm_line,
    log_sum_of_others,
    norm_of,
    on_channels,
    require_plain_attention,
    softmax,
)
from secateur.bounds.op import Op, Rounding
from secateur.errors import UnsupportedOpError, few
from secateur.graph.graph import Graph
from secateur.graph.interpret import as_work, call_op, walk
from secateur.graph.node import bound_arguments, kind, told
from secateur.graph.ops import (
    AFFINE,
    FILLING,
    MAXIMA,
    MINIMA,
    MOVEMENT,
    SIZES_ALONE,
    WEIGHTED_SUMS,
    of,
    where,
)
from secateur.graph.sources import place_of
from secateur.types import Interval

Rule = Callable[[Op], Any]


# --- propagation --------------------------------------------------------------------------------------------


def propagate(
    graph: Graph,
    box: Sequence[Interval],
    tensors: Mapping[str, Tensor] | None = None,
    keep: Callable[[fx.Node], bool] = lambda node: False,
    *,
    dtype: torch.dtype | None = None,
    rounding: Rounding | None = None,
) -> dict[fx.Node, Any]:
    """Bounds on the outputs of the graph, and on the nodes that `keep` names, for inputs in `box`.

    A value is an `Interval` where it depends on the inputs; sizes, constants and parameters are plain.
    `tensors` overrides weights by name. Work is done in `dtype`, by default that of the first floating-point
    interval of the box; ends are rounded to nearest, or as `rounding` says. Raises `UnsupportedOpError`
    before any work where an op has no rule.
    """
    require_rules(graph)
    like = _like(box, dtype)
    given = dict(zip(graph.inputs, box, strict=True))
    source = graph.tensors if tensors is None else {**graph.tensors, **tensors}

    def leaf(node: fx.Node) -> Value:
        return given[node] if node.op == "placeholder" else as_work(source[str(node.target)], like)

    with torch.no_grad():
        return walk(graph, leaf, partial(apply, like=like, rounding=rounding), keep)


def apply(node: fx.Node, args: Any, kwargs: Any, *, like: Tensor, rounding: Rounding | None = None) -> Any:
    """The value of one op: by its rule where an argument is an interval, by plain execution elsewhere."""
    if not any(isinstance(leaf, Interval) for leaf in pytree.tree_leaves((args, kwargs))):
        return call_op(node, args, kwargs, like=like)
    op = Op(node, bound_arguments(node, args, kwargs), like)
    if kind(node) not in _ON_WHOLE_NUMBERS and _holds_whole_numbers(op):
        raise op.unsupported("it computes with whole numbers or truth values that depend on the input")
    try:
        result = RULES[kind(node)](op)
    except ZeroDivisionError:
        raise op.unsupported("it divides by the number 0") from None
    return result if rounding is None else rounding.value(op, result)


def _holds_whole_numbers(op: Op) -> bool:
    return not all(map(is_floating, _intervals(op)))


def is_floating(x: Interval) -> bool:
    return x.lower.is_floating_point()


def _intervals(op: Op) -> list[Interval]:
    return [leaf for leaf in pytree.tree_leaves(dict(op.arguments)) if isinstance(leaf, Interval)]


def require_rules(graph: Graph) -> None:
    """Raise `UnsupportedOpError` naming every op that depends on input values and has no rule."""
    varying, missing = set(graph.inputs), []
    for node in graph.nodes:
        if node.op != "call_function" or varying.isdisjoint(node.all_input_nodes):
            continue
        if kind(node) not in RULES:
            missing.append(node)
        if kind(node) not in SIZES_ALONE:
            varying.add(node)
    if missing:
        names, place = sorted({told(node) for node in missing}), place_of(missing[0])
        raise UnsupportedOpError(
            f"{missing[0].name}: there is no rule to bound {told(missing[0])}"
            f"{f' ({place})' if place else ''}. Ops of this model without a rule: "
            f"{few(names)}. Rewrite these parts with other ops (`secateur ops` lists those that can be "
            "bounded), or add for each a function and a row of RULES in secateur/bounds/interval.py and "
            "difference.py"
        )


def _like(box: Sequence[Interval], dtype: torch.dtype | None) -> Tensor:
    floating = next((x.lower.dtype for x in box if x.lower.is_floating_point()), torch.float64)
    return torch.empty(0, dtype=dtype or floating, device=box[0].lower.device)


# --- rules: what moves or orders ----------------------------------------------------------------------------


def ends(arguments: Mapping[str, Any], side: str) -> Any:
    """The arguments with every interval replaced by its `lower` or `upper` end."""
    return pytree.tree_map(
        lambda leaf: getattr(leaf, side) if isinstance(leaf, Interval) else leaf, dict(arguments)
    )


def _increasing(op: Op) -> Any:
    """f(x) ∈ [f(l), f(u)], for all outputs of an op that is non-decreasing in every interval."""
    return pytree.tree_map(
        _between, op.run(**ends(op.arguments, "lower")), op.run(**ends(op.arguments, "upper"))
    )


def _decreasing(op: Op) -> Any:
    """f(x) ∈ [f(u), f(l)]."""
    return pytree.tree_map(
        settle, op.run(**ends(op.arguments, "upper")), op.run(**ends(op.arguments, "lower"))
    )


def _between(low: Tensor, high: Tensor) -> Interval:
    """An interval of two images; the position of a maximum may be any."""
    if low.is_floating_point():
        return settle(low, high)
    limits = torch.iinfo(low.dtype)
    return Interval(torch.zeros_like(low), torch.full_like(low, limits.max))


def _moved(op: Op) -> Any:
    """Data movement, of whole numbers (token ids) too."""
    indices = pytree.tree_leaves((op.arguments.get("index"), op.arguments.get("indices")))
    if any(isinstance(index, Interval) for index in indices):
        raise op.unsupported("the input decides which entries are read")
    low, high = op.run(**ends(op.arguments, "lower")), op.run(**ends(op.arguments, "upper"))
    if isinstance(low, Tensor):
        _require_same_numbers(op, low.dtype)
    return pytree.tree_map(Interval, low, high)


def _require_same_numbers(op: Op, dtype: torch.dtype) -> None:
    """Refuse casts that change values."""
    if dtype == torch.bool and any(x.lower.dtype != torch.bool for x in _intervals(op)):
        raise op.unsupported("a truth value made from a number has no bounds")
    if not dtype.is_floating_point and any(map(is_floating, _intervals(op))):
        raise op.unsupported("a whole number made from a fraction is not a movement of data")


def _of_shape(op: Op) -> Any:
    """The result depends on sizes alone."""
    return op.run(**ends(op.arguments, "lower"))


def _item(op: Op) -> Any:
    """Python's `value[index]` on the outputs of an op."""
    return operator.getitem(op["0"], op["1"])


def _dropout(op: Op) -> Any:
    if op["train"]:
        raise op.unsupported("dropout is active; capture the model in eval mode")
    return op["input"]


def _turning(op: Op) -> Interval:
    """An element-wise function from its values at the ends and where it turns."""
    points = TURNING[kind(op.node)](op.arguments)
    return extremes(lambda x: op.run(self=x), op["self"], points)


def _power(op: Op) -> Any:
    exponent = op["exponent"]
    if not isinstance(exponent, (int, float)) or isinstance(op["self"], (int, float)):
        raise op.unsupported("only a constant exponent is supported")
    if exponent >= 0:
        return _turning(op)
    # x^−p = 1/x^p
    return reciprocal(extremes(lambda x: torch.pow(x, -exponent), op["self"], TURNING["pow"](op.arguments)))


def _glu(op: Op) -> Any:
    a, b = (each(part, op["self"]) for part in halves(op["dim"]))
    return multiply(a, each(torch.sigmoid, b))


def halves(dim: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """The two movements of data that cut a value in half."""
    return lambda x: x.chunk(2, dim)[0], lambda x: x.chunk(2, dim)[1]


def _norm(op: Op) -> Any:
    """‖x‖ grows with every |x_i|."""
    x = op["self"]
    least = torch.clamp(torch.zeros_like(x.lower), x.lower, x.upper)
    return settle(op.run(self=least), op.run(self=magnitude(x)))


def _embedding(op: Op) -> Interval:
    if isinstance(op["weight"], Interval):
        raise op.unsupported("the embedding table depends on the input")
    return hull_of_rows(op["indices"], op["weight"])


def hull_of_rows(ids: Interval, table: Tensor) -> Interval:
    """The row of a known id, the hull of the table's rows for an unknown one."""
    known = (ids.lower == ids.upper).unsqueeze(-1)
    row = torch.nn.functional.embedding(ids.lower.clamp(0, table.shape[0] - 1), table)
    return Interval(torch.where(known, row, table.amin(0)), torch.where(known, row, table.amax(0)))


# --- rules: arithmetic --------------------------------------------------------------------------------------


def _add(op: Op) -> Any:
    return add(op["self"], scale(op["other"], op["alpha"]))


def _sub(op: Op) -> Any:
    return subtract(op["self"], scale(op["other"], op["alpha"]))


def _rsub(op: Op) -> Any:
    return subtract(op["other"], scale(op["self"], op["alpha"]))


def _mul(op: Op) -> Any:
    return multiply(op["self"], op["other"])


def _div(op: Op) -> Any:
    if op.arguments.get("rounding_mode") is not None:
        raise op.unsupported("division with rounding is not supported")
    return divide(op["self"], op["other"])


def _affine(op: Op) -> Any:
    form = AFFINE[kind(op.node)]
    out = product(partial(linear_part, op), op[form.data], op[form.weight])
    bias = op[form.bias] if form.bias else None
    return out if bias is None else add(out, offset(op, bias))


def _einsum(op: Op) -> Any:
    operands = op["tensors"]
    if len(operands) == 1:
        return _increasing(op)
    if len(operands) > 2:
        raise op.unsupported("einsum of more than two tensors; split it")
    return product(partial(contract, op), *operands)


def contract(op: Op, a: Tensor, b: Tensor) -> Tensor:
    return op.run(tensors=[a, b])  # type: ignore[no-any-return]


def _batch_norm(op: Op) -> Any:
    if op["training"]:
        raise op.unsupported("batch norm works on batch statistics; capture the model in eval mode")
    factor, offset = batch_norm_line(
        op["weight"], op["bias"], op["running_mean"], op["running_var"], op["eps"]
    )
    ndim = op["input"].lower.ndim
    return add(multiply(op["input"], on_channels(factor, ndim)), on_channels(offset, ndim))


# --- rules: norms and attention -----------------------------------------------------------------------------


def _normalised(op: Op) -> Any:
    x = op["input"]
    norm = norm_of(op, x.lower.shape)
    out: Value = each(norm.unfold, norm.normalise(each(norm.fold, x)))
    if op["weight"] is not None:
        out = multiply(out, norm.parameter(op["weight"], x.lower.ndim))
    bias = op.arguments.get("bias")
    return out if bias is None else add(out, norm.parameter(bias, x.lower.ndim))


def _softmax(op: Op) -> Interval:
    return softmax(op["self"], op["dim"])


def _log_softmax(op: Op) -> Interval:
    x, dim, log = op["self"], op["dim"], torch.nn.functional.logsigmoid
    return settle(
        log(x.lower - log_sum_of_others(x.upper, dim)),
        log(x.upper - log_sum_of_others(x.lower, dim)),
    )


def _attention(op: Op) -> Interval:
    """softmax(q kᵀ · scale + mask) v, each step by its own rule; the result is a mean of values."""
    require_plain_attention(op)
    scores = attention_scores(op, op["query"], op["key"], op["attn_mask"])
    return attention_mean(softmax(scores, -1), op["value"])


# --- rules: recurrent layers --------------------------------------------------------------------------------


def _recurrent(op: Op) -> tuple[Interval, ...]:
    """What an LSTM or GRU gives whatever its weights and inputs.

    LSTM: h = σ(·) tanh(c) is in [−1, 1], and |c_t| ≤ |c_{t−1}| + 1, so |c_T| ≤ T + |c_0|. GRU: h_t is a mean
    of h_{t−1} and a tanh, so |h_t| ≤ max(1, |h_0|).
    """
    if "batch_first" not in op.arguments:
        raise op.unsupported("packed sequences are not supported")
    x, start = as_interval(op["input"]).lower, op["hx"]
    lstm = kind(op.node) == "lstm"
    h0 = start[0] if lstm else start
    layers, batch, hidden = as_interval(h0).lower.shape
    if len(op["params"]) != layers * (4 if op["has_biases"] else 2):
        raise op.unsupported("an LSTM with projections is not supported")
    directions = 2 if op["bidirectional"] else 1
    steps = x.shape[1] if op["batch_first"] else x.shape[0]
    h = torch.ones((), dtype=x.dtype) if lstm else torch.clamp(magnitude(h0).amax(), min=1)
    state = h.expand(layers, batch, hidden)
    output = h.expand(*x.shape[:-1], hidden * directions)
    bounds = [output, state]
    if lstm:
        bounds.append(steps + magnitude(start[1]))
    return tuple(Interval(-bound, bound) for bound in bounds)


# --- the tables ---------------------------------------------------------------------------------------------

_ON_WHOLE_NUMBERS = {*SIZES_ALONE, *MOVEMENT, "embedding", "getitem"}
INCREASING = where(lambda row: row.monotone in ("increasing", "strictly increasing"))
DECREASING = where(lambda row: row.monotone == "decreasing")

RULES: dict[str, Rule] = {
    **dict.fromkeys(SIZES_ALONE, _of_shape),
    **dict.fromkeys(MOVEMENT, _moved),
    **dict.fromkeys((*WEIGHTED_SUMS, *FILLING, *MAXIMA, *MINIMA, *INCREASING), _increasing),
    **dict.fromkeys(DECREASING, _decreasing),
    **dict.fromkeys(TURNING, _turning),
    **dict.fromkeys(AFFINE, _affine),
    **dict.fromkeys(of("dropout"), _dropout),
    **dict.fromkeys(of("softmax"), _softmax),
    **dict.fromkeys(of("log_softmax"), _log_softmax),
    **dict.fromkeys(of("norm"), _normalised),
    "add": _add,
    "batch_norm": _batch_norm,
    "div": _div,
    "einsum": _einsum,
    "embedding": _embedding,
    "getitem": _item,
    "glu": _glu,
    "gru": _recurrent,
    "linalg_vector_norm": _norm,
    "lstm": _recurrent,
    "mul": _mul,
    "pow": _power,
    "reciprocal": lambda op: reciprocal(op["self"]),
    "rsub": _rsub,
    "scaled_dot_product_attention": _attention,
    "sub": _sub,
}
