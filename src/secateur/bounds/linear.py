"""Linear ops: which they are, and how coefficients pass from their results to their arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.bounds.arithmetic import as_interval, by_row
from secateur.bounds.coefficients import Arrival, Coefficients, Results, dot_below, size_of
from secateur.bounds.engine import Backward, Transpose, varies
from secateur.bounds.joint import Bounds, over_boxes, quiet_fallback
from secateur.bounds.op import Op
from secateur.bounds.pairs import after, before
from secateur.bounds.rounding import absolute, gamma, terms
from secateur.bounds.window_rules import VARIES, passed
from secateur.bounds.windows import Where, Window
from secateur.graph.interpret import call_op
from secateur.graph.node import bound_arguments, kind
from secateur.graph.ops import AFFINE, FILLING, MOVEMENT, ONE_TO_ONE, WEIGHTED_SUMS, of
from secateur.types import Interval

# --- which ops are linear -----------------------------------------------------------------------------------

Varying = Mapping[str, Any]  # an op's arguments, each node replaced by whether it depends on the inputs
Condition = Callable[[fx.Node, Varying], bool]


def _always(node: fx.Node, a: Varying) -> bool:
    return True


def _of_movement(node: fx.Node, a: Varying) -> bool:
    """Python's value[index] on the parts of a split."""
    return kind(node.all_input_nodes[0]) in MOVEMENT


def _where_condition_is_constant(node: fx.Node, a: Varying) -> bool:
    return a.get("condition") is not True and a.get("mask") is not True


def _where_weight_is_constant(node: fx.Node, a: Varying) -> bool:
    form = AFFINE[kind(node)]
    return a[form.weight] is not True and (not form.bias or a[form.bias] is not True)


def _where_a_factor_is_constant(node: fx.Node, a: Varying) -> bool:
    return (a["self"] is True) != (a["other"] is True)


def _where_divisor_is_constant(node: fx.Node, a: Varying) -> bool:
    return a["other"] is not True and a.get("rounding_mode") is None


def _where_one_operand_varies(node: fx.Node, a: Varying) -> bool:
    return sum(x is True for x in a["tensors"]) == 1


LINEAR: dict[str, Condition] = {
    **dict.fromkeys((*MOVEMENT, *WEIGHTED_SUMS, *of("batch_norm", "dropout")), _always),
    **dict.fromkeys(("add", "neg", "rsub", "sub"), _always),
    **dict.fromkeys(FILLING, _where_condition_is_constant),
    **dict.fromkeys(AFFINE, _where_weight_is_constant),
    "div": _where_divisor_is_constant,
    "einsum": _where_one_operand_varies,
    "getitem": _of_movement,
    "mul": _where_a_factor_is_constant,
}


def is_linear(node: fx.Node, bounds: Bounds) -> bool:
    """Whether the op is linear (and constant) in what depends on the inputs, given what does."""
    holds = LINEAR.get(kind(node)) if node.op == "call_function" else None
    if holds is None or not all(_is_floating(bounds.get(n)) for n in node.all_input_nodes):
        return False
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda n: varies(bounds.get(n)))
    return holds(node, bound_arguments(node, args, kwargs))


def _is_floating(value: Any) -> bool:
    """Whether what depends on the inputs is of fractions."""
    ends = [as_interval(before(x)).lower for x in pytree.tree_leaves(value) if varies(x)]
    return all(end.is_floating_point() for end in ends)


# --- coefficients of results → of arguments -----------------------------------------------------------------


def through_linear(
    engine: Backward, node: fx.Node, results: Results, seen: Where
) -> tuple[Tensor, list[Arrival]]:
    """What a linear op's results come to: a constant for each row, and coefficients of the op's arguments."""
    total = engine.nothing(len(seen.box))
    if kind(node) == "getitem":
        split, number = node.args
        assert isinstance(split, fx.Node) and isinstance(number, int)
        return total, [Arrival(split, number, results[0], seen)]
    sources = varying_sources(engine, node)
    sizes, count = ([], 0) if kind(node) in ONE_TO_ONE else _sizes(engine, node)
    incoming: list[list[Tensor | None]] = [[None, None] for _ in sources]
    gradients: Sequence[Tensor | None]
    windows: Sequence[Where] = [seen] * len(sources)
    for side in (0, 1):
        given: dict[int, Tensor] = {i: c for i, pair in results.items() if (c := pair[side]) is not None}
        if not given:
            continue
        if sizes:
            for i, c in given.items():
                total = total - gamma(max(count, c.shape[1:].numel())) * size_of(c) * seen.of_box(sizes[i])
        if isinstance(seen, Window):
            value_of = partial(_constant_or_varies, engine, side)
            gradients, windows, constant = passed(node, value_of, given[0], seen)
        else:
            gradients, constant = _transposed(engine, node, side, given, len(seen.box))
        total = total + constant
        for slot, gradient in zip(incoming, gradients, strict=True):
            slot[side] = gradient
    pairs: list[Coefficients] = [(first, second) for first, second in incoming]
    arrivals = [Arrival(n, 0, c, window) for n, c, window in zip(sources, pairs, windows, strict=True)]
    return total, arrivals


def varying_sources(engine: Backward, node: fx.Node) -> list[fx.Node]:
    """The nodes among the arguments that depend on the inputs; one in two places is there twice."""
    places = [n for n in pytree.tree_leaves((node.args, dict(node.kwargs))) if isinstance(n, fx.Node)]
    return [n for n in places if varies(engine.bounds[n])]


def _constant_or_varies(engine: Backward, side: int, node: fx.Node) -> Any:
    return VARIES if varies(engine.bounds[node]) else engine.samples[side][node]


def _transposed(
    engine: Backward, node: fx.Node, side: int, given: Mapping[int, Tensor], rows: int
) -> tuple[list[Tensor], Any]:
    """Rows of coefficients of the results → of the arguments, by autograd, and what is constant."""
    constants, back = _transpose(engine, node, side)
    cotangents = [given[i] if i in given else x.new_zeros((rows, *x.shape)) for i, x in enumerate(constants)]
    constant = sum(dot_below(c, constants[i]) for i, c in given.items() if bool(constants[i].any()))
    with quiet_fallback():
        return list(torch.vmap(back)(*cotangents)), constant


def _transpose(engine: Backward, node: fx.Node, side: int) -> Transpose:
    """The op's results where all that varies is 0, and the transpose of the op as a function."""
    key = (node, side)
    if key not in engine.transposes:
        constants, back = transpose(engine, node, side)
        engine.transposes[key] = (tuple(c.detach() for c in constants), back)
    return engine.transposes[key]


def transpose(
    engine: Backward, node: fx.Node, side: int, constant: Callable[[Any], Any] = lambda x: x
) -> tuple[tuple[Tensor, ...], Callable[..., Any]]:
    """The results of a linear op where all that varies is 0, and the op's transpose, by autograd.

    `constant`: what is put in the place of each argument that does not vary.
    """
    sample = engine.samples[side]
    leaves, spec = pytree.tree_flatten((node.args, dict(node.kwargs)))
    free = [i for i, x in enumerate(leaves) if isinstance(x, fx.Node) and varies(engine.bounds[x])]
    values = [sample[x] if isinstance(x, fx.Node) else x for x in leaves]
    constants = [constant(x) for x in values]

    def op(*varying: Tensor) -> tuple[Tensor, ...]:
        filled = list(constants)
        for i, x in zip(free, varying, strict=True):
            filled[i] = x
        args, kwargs = pytree.tree_unflatten(filled, spec)
        if kind(node) == "detach":  # to a derivative, a constant
            return (args[0],)
        return tuple(pytree.tree_leaves(call_op(node, args, kwargs, like=engine.networks.like)))

    with torch.enable_grad():
        results, back, *_ = torch.func.vjp(op, *(torch.zeros_like(values[i]) for i in free))
    return results, lambda *c: back(c)


def _sizes(engine: Backward, node: fx.Node) -> tuple[list[Tensor], int]:
    """For each result and box, the largest sum of sizes of terms, in f or g; and how many terms there are."""
    if node not in engine.sizes:
        count = 0

        def of_box(node: fx.Node, like: Tensor, given: Any) -> Any:
            nonlocal count
            found = []
            for side in (before, after):
                args, kwargs, result = pytree.tree_map(side, given)
                op = Op(node, bound_arguments(node, args, kwargs), like)
                results = pytree.tree_leaves(result)
                spread = 0 if kind(node) in AFFINE else sum(x.lower.numel() for x in results)
                count = max(count, terms(op) + spread)  # an argument may be read by every result
                found.append([absolute(op, x) for x in results])
            most = [torch.maximum(f, g) for f, g in zip(*found, strict=True)]
            return [Interval(m, m) for m in most]

        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), engine.bounds.__getitem__)
        sizes = over_boxes(of_box, node, engine.networks.like, (args, kwargs, engine.bounds[node]))
        engine.sizes[node] = ([by_row(x.upper).amax(1) for x in sizes], count)
    return engine.sizes[node]
