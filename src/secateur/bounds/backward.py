"""Linear bounds on two networks at once, from a node back to the inputs.

CROWN (Zhang et al. 2018, arXiv 1811.00866) is that on one network. A row asks for a lower bound of
Σ a·x + b·x′ at some node, x of f and x′ of g, in one of N boxes. Linear ops pass its coefficients on by their
transpose (`linear`), element-wise functions by lines below and above them (`relaxed`): of f and of g apart,
or of one of them and of the change δ = x′ − x, whichever gives less away at this neuron. What f and g share
cancels. Any other op ends the row there, by the bounds on its value. At the inputs the least over the box is
taken.

Rounding: what the products and sums at a node may have erred by is worked out from bounds on the values and
taken off the result (see `rounding`), so that the bound holds in real arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.bounds.arithmetic import as_interval, magnitude
from secateur.bounds.coefficients import (
    Arrival,
    Coefficients,
    Pending,
    Results,
    collected,
    dot,
    dot_below,
    inside_image,
    merged,
    on_image,
    over_rows,
    size_of,
)
from secateur.bounds.engine import Backward, varies
from secateur.bounds.linear import is_linear, through_linear
from secateur.bounds.maxima import compared
from secateur.bounds.pairs import Pair, after, before
from secateur.bounds.relaxed import is_relaxed, through_function
from secateur.bounds.rounding import FUNCTIONS, gamma
from secateur.bounds.tangents import through_tangent
from secateur.bounds.windows import Where, Window
from secateur.graph.node import kind
from secateur.types import Interval

Passed = tuple[list[Tensor], list[Arrival]]  # constants (rows,) to add up, and coefficients of other nodes


def lower(engine: Backward, seeds: Mapping[fx.Node, Coefficients], where: Where) -> Tensor:
    """Lower bounds, (rows,), of Σ a·x + b·x′ over the seeds, in the box of each row."""
    pending: Pending = {node: [Arrival(node, 0, pair, where)] for node, pair in seeds.items()}
    parts = [engine.nothing(len(where.box))]
    for node in reversed(engine.networks.graph.nodes):
        if node not in pending:
            continue
        several = isinstance(engine.samples[0][node], (list, tuple))
        shape = () if several else engine.shape(node)
        results, seen = collected(pending.pop(node), shape, kind(node) == "slice")
        constants, arrivals = (_several if several else _one)(engine, node, results, seen)
        parts += constants
        for arrival in arrivals:
            pending.setdefault(arrival.node, []).append(arrival)
    found = torch.stack(parts)
    total = found.sum(0) - gamma(len(parts)) * found.abs().sum(0)
    return total.nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)


def _several(engine: Backward, node: fx.Node, results: Results, seen: Where) -> Passed:
    """Of the results of a split."""
    if not any(isinstance(x, Pair) for x in pytree.tree_leaves(engine.bounds[node])):
        results = {i: merged(pair) for i, pair in results.items()}
    constant, arrivals = through_linear(engine, node, results, seen)
    return [constant], arrivals


def _one(engine: Backward, node: fx.Node, results: Results, seen: Where) -> Passed:
    """Of a node with one result."""
    found, value = results[0], engine.bounds[node]
    if not varies(value):
        return [_constant(value, found)], []
    if isinstance(seen, Window):
        found, seen = _in_image(engine, node, found, seen)
    met = len(node.users) > 1
    if not isinstance(value, Pair):
        met = met or (found[0] is not None and found[1] is not None)
        found = merged(found)
    # what the sums of coefficients may have erred by
    parts = [-FUNCTIONS * size_of(*found) * seen.of_box(engine.largest(node))] if met else []
    if node in engine.tangents:
        constants, arrivals, rest = through_tangent(engine.tangents[node], found, seen)
        return [*parts, *constants, _least(value, rest, seen)], arrivals
    if is_linear(node, engine.bounds):
        constant, arrivals = through_linear(engine, node, {0: found}, seen)
        return [*parts, constant], arrivals
    if is_relaxed(node) and varies(engine.bounds[node.all_input_nodes[0]]):
        constant, arrival = through_function(engine, node, node.all_input_nodes[0], found, seen)
        return [*parts, constant], [arrival]
    if (difference := compared(node)) is not None:  # max(a, b) = a + relu(b − a)
        constant, arrival = through_function(engine, node, difference, found, seen)
        return [*parts, constant], [Arrival(node.all_input_nodes[0], 0, found, seen), arrival]
    return [*parts, _least(value, found, seen)], []  # an input, or an op without lines


def _in_image(
    engine: Backward, node: fx.Node, found: Coefficients, seen: Window
) -> tuple[Coefficients, Window]:
    """Coefficients outside the image dropped, and a window no larger than the image."""
    shape = engine.shape(node)
    found = inside_image(found, seen, shape)
    engine.widest = max(engine.widest, *(0 if c is None else c[0].numel() for c in found))
    outgrown = seen.height * seen.width > shape[-2] * shape[-1]
    return on_image(found, seen, shape) if outgrown else (found, seen)


# --- at the end of a row ------------------------------------------------------------------------------------


def _constant(value: Any, found: Coefficients) -> Any:
    """The contribution of a value that depends on no input."""
    total: Any = 0.0
    for c, x in zip(found, (before(value), after(value)), strict=True):
        if c is not None:
            total = total + dot_below(c, x.to(c.dtype).expand(c.shape[1:]))
    return total


def _least(value: Any, found: Coefficients, seen: Where) -> Tensor:
    """The least of a·x + b·x′ over the bounds on x, x′ and δ."""
    a, b = found
    if a is not None and b is not None:
        return _least_of_both(value, a, b, seen)
    c, x = (a, before(value)) if b is None else (b, after(value))
    assert c is not None
    x = as_interval(x)
    centre, radius = x.lower / 2 + x.upper / 2, x.upper / 2 - x.lower / 2
    radius = radius + 4 * gamma(c.shape[1:].numel()) * magnitude(x)
    return dot(c, seen.at(centre)) - dot(c.abs(), seen.at(radius))


def _least_of_both(value: Any, a: Tensor, b: Tensor, seen: Where) -> Tensor:
    """Of each neuron the best of three ways to write a·x + b·x′."""
    x, y, d = map(as_interval, (before(value), value.after, value.change))
    apart = _least_of(a, x, seen) + _least_of(b, y, seen)
    first = _least_of(a + b, x, seen) + _least_of(b, d, seen)
    second = _least_of(a + b, y, seen) + _least_of(-a, d, seen)
    low = torch.maximum(torch.maximum(apart, first), second)
    size = dot(a.abs() + b.abs(), seen.at(magnitude(x) + magnitude(y)))
    return over_rows(low) - gamma(low.shape[1:].numel()) * size * 4


def _least_of(c: Tensor, x: Interval, seen: Where) -> Tensor:
    out = torch.where(c > 0, c * seen.at(x.lower), c * seen.at(x.upper))
    return torch.where(c == 0, 0.0, out)
