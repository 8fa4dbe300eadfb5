"""Two networks f and g on one graph, bounded side by side for many boxes of inputs at once.

`Bounds` hold, for every node, intervals of x (in f), x′ (in g) and δ = x′ − x for each of N boxes. The rules
of `interval` and `difference` see one box; `torch.vmap` runs them over all.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.bounds import interval
from secateur.bounds.arithmetic import as_interval
from secateur.bounds.difference import step
from secateur.bounds.pairs import Pair, before
from secateur.bounds.rounding import OUTWARD
from secateur.graph.graph import Graph
from secateur.graph.interpret import as_work, walk
from secateur.graph.node import kind
from secateur.graph.ops import SIZES_ALONE
from secateur.types import Interval


@dataclass(frozen=True, eq=False)
class Networks:
    """f and g: one graph, two sets of tensors; and the value of every node of both on one sample of zeros."""

    graph: Graph
    first: Mapping[str, Tensor]  # f's tensors, float64
    second: Mapping[str, Tensor]
    like: Tensor
    leaves: Mapping[fx.Node, Any]  # parameters: a tensor, or a `Pair` of them where they differ

    @staticmethod
    def of(graph: Graph, first: Mapping[str, Tensor], second: Mapping[str, Tensor], like: Tensor) -> Networks:
        leaves: dict[fx.Node, Any] = {}
        f = {name: as_work(first[name], like) for name in graph.tensors}
        g = {name: as_work(second[name], like) for name in graph.tensors}
        for node in graph.nodes:
            if node.op == "get_attr":
                name = str(node.target)
                same = torch.equal(f[name], g[name])
                leaves[node] = f[name] if same else Pair(f[name], g[name], g[name] - f[name])
        return Networks(graph, f, g, like, leaves)


# node → Interval (where f and g are alike), Pair of intervals, or what depends on no input
Bounds = dict[fx.Node, Any]


def forward(
    networks: Networks,
    boxes: Sequence[Interval],
    bounds: Bounds,
    refine: Callable[[fx.Node, Any], Any] = lambda node, value: value,
) -> None:
    """Fill `bounds` for every node and N boxes, leading axis N, rounded outward.

    `boxes` holds one interval (N, 1, …) for each input. `refine(node, value)` may replace the bounds of a
    node by tighter ones before they are used.
    """
    graph = networks.graph
    given = dict(zip(graph.inputs, boxes, strict=True))

    def leaf(node: fx.Node) -> Any:
        bounds[node] = given[node] if node.op == "placeholder" else networks.leaves[node]
        return bounds[node]

    def call(node: fx.Node, args: Any, kwargs: Any) -> Any:
        bounds[node] = refine(node, over_boxes(_one, node, networks.like, (args, kwargs)))
        return bounds[node]

    interval.require_rules(graph)
    with torch.no_grad():
        walk(graph, leaf, call)


def _one(node: fx.Node, like: Tensor, given: Any) -> Any:
    args, kwargs = given
    value = interval.apply(node, *pytree.tree_map(before, (args, kwargs)), like=like, rounding=OUTWARD)
    return step(node, args, kwargs, value, like, True, OUTWARD)


# --- many boxes at once -------------------------------------------------------------------------------------


def over_boxes(function: Callable[..., Any], node: fx.Node, like: Tensor, given: Any) -> Any:
    """`function(node, like, given)` for each box: intervals in `given` have a leading axis of boxes."""
    leaves, spec = pytree.tree_flatten(given)
    parts = [_tensors(leaf) for leaf in leaves]
    stacked = [t for part in parts for t in part]
    if not stacked:
        return function(node, like, given)
    if kind(node) in SIZES_ALONE:  # the same for every box
        first = [
            _rebuilt(leaf, iter([t[0] for t in part])) if part else leaf
            for leaf, part in zip(leaves, parts, strict=True)
        ]
        return function(node, like, pytree.tree_unflatten(first, spec))
    shape: list[Any] = []

    def one(*tensors: Tensor) -> tuple[Tensor, ...]:
        rest = iter(tensors)
        values = [_rebuilt(leaf, rest) if part else leaf for leaf, part in zip(leaves, parts, strict=True)]
        found, found_spec = pytree.tree_flatten(function(node, like, pytree.tree_unflatten(values, spec)))
        shape[:] = [found, found_spec]
        return tuple(t for value in found for t in _tensors(value))

    with quiet_fallback():
        out = iter(torch.vmap(one)(*stacked))
    found, found_spec = shape
    return pytree.tree_unflatten([_rebuilt(v, out) if _tensors(v) else v for v in found], found_spec)


@contextmanager
def quiet_fallback() -> Iterator[None]:
    """Some ops have no batching rule; `torch.vmap` then loops, and says so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        yield


def _tensors(value: Any) -> list[Tensor]:
    """The ends of what depends on the box: two of an interval, six of a pair."""
    if isinstance(value, Interval):
        return [value.lower, value.upper]
    if isinstance(value, Pair) and (isinstance(value.before, Interval) or isinstance(value.after, Interval)):
        return [end for x in (value.before, value.after, value.change) for end in _tensors(as_interval(x))]
    return []


def _rebuilt(value: Any, ends: Any) -> Any:
    if isinstance(value, Interval):
        return Interval(next(ends), next(ends))
    return Pair(*(Interval(next(ends), next(ends)) for _ in range(3)))
