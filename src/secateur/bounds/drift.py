"""Bounds on the drift δ = g(x) − f(x) of two networks that share a graph and differ in some tensors.

`difference` compares two sets of weights. `merge_difference` bounds what each of many merges would do, in one
pass: the rules of `difference.py` see a single candidate, and `torch.vmap` runs them over all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.bounds.arithmetic import as_interval
from secateur.bounds.difference import step
from secateur.bounds.interval import propagate
from secateur.bounds.pairs import Pair, Rows, after, before, change, reached
from secateur.graph.graph import Graph
from secateur.graph.interpret import as_work, walk
from secateur.types import Group, Interval


def difference(
    graph: Graph,
    box: Sequence[Interval],
    tensors: Mapping[str, Tensor],
    original: Mapping[str, Tensor] | None = None,
) -> tuple[Interval, ...]:
    """Bounds on g(x) − f(x) for x in `box`, one interval of batch 1 per output.

    f is the graph with its own tensors (some overridden by `original`); g has `tensors` put in place by name.
    """
    values = propagate(graph, box, original, keep=lambda node: True)
    changes: dict[str, Pair | Rows] = {}
    for node in graph.nodes:
        name = str(node.target)
        if node.op == "get_attr" and name in tensors:
            ours, theirs = values[node], as_work(tensors[name], values[node])
            if not torch.equal(ours, theirs):
                changes[name] = Pair(ours, theirs, theirs - ours)
    return _changes_of_outputs(graph, values, changes, tighten=True)


def merge_difference(
    graph: Graph,
    values: Mapping[fx.Node, Any],
    group: Group,
    removed: Tensor,
    into: Tensor,
    *,
    block_bytes: int = 2**28,
) -> tuple[Interval, ...]:
    """Bounds on how far each of K merges moves the outputs: intervals of shape (K, …), K = len(removed) ≥ 1.

    Candidate k removes unit removed[k] and lets unit into[k] stand for it (W_next[:, b] += W_next[:, a]).
    That is the function in which unit a computes what b computes: a's rows become copies of b's in every
    producer and on the way, and the consumers stay. `values` are f's, from `propagate(graph, box, keep=lambda
    node: True)`, and fix f's weights. Candidates are worked on in blocks of about `block_bytes`.
    """
    names = {str(node.target): node for node in graph.nodes if node.op == "get_attr"}
    swaps = (*group.having("producer"), *group.having("through"))
    # shape of each index tensor: (K, width)
    moves = tuple((s.positions[removed], s.positions[into]) for s in swaps)

    def one(moves: tuple[tuple[Tensor, Tensor], ...]) -> tuple[tuple[Tensor, Tensor], ...]:
        changes: dict[str, Pair | Rows] = {}
        for slot, (a, b) in zip(swaps, moves, strict=True):
            rows = Rows(values[names[slot.tensor]], slot.axis, a, b)
            changes[slot.tensor] = _joined(changes[slot.tensor], rows) if slot.tensor in changes else rows
        outputs = _changes_of_outputs(graph, values, changes, tighten=False)
        return tuple((x.lower, x.upper) for x in outputs)

    with torch.no_grad():
        block = _candidates_per_block(_later(values, [names[slot.tensor] for slot in swaps]), block_bytes)
        ends = torch.vmap(one, chunk_size=block)(moves)
    return tuple(Interval(_without_batch(low), _without_batch(high)) for low, high in ends)


def _joined(first: Pair | Rows, second: Rows) -> Pair | Rows:
    """Two sets of rows of one tensor (queries, keys and values; tied weights), replaced together."""
    if isinstance(first, Rows) and first.axis == second.axis:
        return Rows(
            first.tensor,
            first.axis,
            torch.cat([first.removed, second.removed]),
            torch.cat([first.into, second.into]),
        )
    now = Rows(after(first), second.axis, second.removed, second.into).dense().after
    return Pair(before(first), now, now - before(first))


def _later(values: Mapping[fx.Node, Any], nodes: Iterable[fx.Node]) -> list[Any]:
    """The values of the ops that the named tensors reach."""
    found = set(nodes)
    for node in values:  # in the order of the graph
        if not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return [value for node, value in values.items() if node in found]


def _candidates_per_block(values: Iterable[Any], block_bytes: int) -> int:
    """How many candidates fit in a block: 24 values for each value of the largest of these nodes.

    A node holds four bounds, its rule some more, and a residual stream keeps several nodes alive.
    """
    intervals = [x for x in pytree.tree_leaves(list(values)) if isinstance(x, Interval)]
    largest = max((x.lower.numel() * x.lower.element_size() for x in intervals), default=block_bytes)
    return max(1, block_bytes // (24 * largest))


def _without_batch(x: Tensor) -> Tensor:
    """(K, 1, …) → (K, …)."""
    return x.flatten(0, 1) if x.ndim > 1 and x.shape[1] == 1 else x


def _changes_of_outputs(
    graph: Graph, values: Mapping[fx.Node, Any], changes: Mapping[str, Pair | Rows], *, tighten: bool
) -> tuple[Interval, ...]:
    """Bounds on the change of every output when the tensors in `changes` change.

    `tighten` bounds x′ by interval propagation after affine ops too; elsewhere that is cheap, and always
    done.
    """
    like = _like(values)

    def leaf(node: fx.Node) -> Any:
        return changes.get(str(node.target), values[node]) if node.op == "get_attr" else values[node]

    def call(node: fx.Node, args: Any, kwargs: Any) -> Any:
        return step(node, args, kwargs, values[node], like, tighten)

    with torch.no_grad():
        env = walk(graph, leaf, call)
        return tuple(_change_of_output(env[node]) for node in graph.outputs)


def _like(values: Mapping[fx.Node, Any]) -> Tensor:
    """The dtype and device that f's bounds were worked out in."""
    ends = (x.lower for x in pytree.tree_leaves(list(values.values())) if isinstance(x, Interval))
    return next(x for x in ends if x.is_floating_point()).new_empty(0)


def _change_of_output(value: Any) -> Interval:
    if reached(value):
        return as_interval(change(value))
    return as_interval(torch.zeros_like(as_interval(value).lower))
