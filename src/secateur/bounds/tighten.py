"""Bounds on two networks over many boxes: intervals forward, made tighter by linear bounds where it matters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from secateur.bounds.arithmetic import add, as_interval, intersect, magnitude, subtract
from secateur.bounds.backward import Backward, Coefficients, is_relaxed, lower, varies
from secateur.bounds.joint import Networks, forward
from secateur.bounds.pairs import Pair
from secateur.bounds.rounding import FUNCTIONS, widened
from secateur.graph.capture import kind
from secateur.types import Interval

BLOCK_BYTES = 2**25


def bounded(networks: Networks, boxes: Sequence[Interval], linear: bool = True) -> Backward:
    """Bounds on every node of both networks; without `linear`, by intervals and difference intervals alone."""
    engine = Backward(networks)
    with torch.no_grad():
        forward(networks, boxes, engine.bounds, partial(_refined, engine) if linear else lambda node, value: value)
    return engine


def _refined(engine: Backward, node: fx.Node, value: Any) -> Any:
    """The bounds of a node that an element-wise function reads, tightened where the function is not straight."""
    readers = [user for user in node.users if is_relaxed(user)]
    if not readers or not varies(value) or not _beyond_a_function(node):
        return value
    engine.bounds[node] = value
    unsure = _crosses if all(kind(reader) == "relu" for reader in readers) else _anywhere
    if not isinstance(value, Pair):
        return _tightened(engine, node, value, unsure(value), 1.0, 0.0)
    first, second, change = map(as_interval, (value.before, value.after, value.change))
    first = _tightened(engine, node, first, unsure(first), 1.0, 0.0)
    second = intersect(second, widened_sum(first, change))
    second = _tightened(engine, node, second, unsure(second), 0.0, 1.0)
    change = intersect(change, widened_difference(second, first))
    change = _tightened(engine, node, change, unsure(first) | unsure(second), -1.0, 1.0)
    return Pair(first, second, change)


def widened_sum(x: Interval, y: Interval) -> Interval:
    found = add(x, y)
    return widened(found, FUNCTIONS * (magnitude(x) + magnitude(y)))


def widened_difference(x: Interval, y: Interval) -> Interval:
    found = subtract(x, y)
    return widened(found, FUNCTIONS * (magnitude(x) + magnitude(y)))


def _crosses(x: Interval) -> Tensor:
    return (x.lower < 0) & (x.upper > 0)


def _anywhere(x: Interval) -> Tensor:
    return torch.ones_like(x.lower, dtype=torch.bool)


def _beyond_a_function(node: fx.Node) -> bool:
    """Whether anything but linear ops stands between the inputs and the node; intervals are exact else."""
    return any(map(is_relaxed, _ancestors(node)))


def _ancestors(node: fx.Node) -> set[fx.Node]:
    found, frontier = set[fx.Node](), [node]
    while frontier:
        for source in frontier.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                frontier.append(source)
    return found


def _tightened(engine: Backward, node: fx.Node, x: Interval, where: Tensor, f: float, g: float) -> Interval:
    """`x`, bounds on f · x + g · x′ at a node, with linear bounds `where` they are wanted."""
    places = where.flatten(1).nonzero()  # shape: (rows, 2), box and element
    if not len(places):
        return x
    low, high = x.lower.flatten(1).clone(), x.upper.flatten(1).clone()
    shape = x.lower.shape[1:]
    for part in places.split(rows_at_a_time(engine, 2)):
        box, element = part[:, 0], part[:, 1]
        unit = torch.zeros((len(part), low.shape[1]), dtype=low.dtype, device=low.device)
        unit[torch.arange(len(part)), element] = 1.0
        unit = torch.cat([unit, -unit]).reshape(-1, *shape)
        seed: Coefficients = (f * unit if f else None, g * unit if g else None)
        bound = lower(engine, {node: seed}, torch.cat([box, box]))
        low[box, element] = torch.maximum(low[box, element], bound[: len(part)])
        high[box, element] = torch.minimum(high[box, element], -bound[len(part) :])
    return intersect(Interval(low.reshape(x.lower.shape), high.reshape(x.upper.shape)), x)


def rows_at_a_time(engine: Backward, sides: int) -> int:
    """How many rows fit into a block, where a row may hold some dozens of values of the largest node."""
    values = [sample[node] for sample in engine.samples for node in engine.bounds if varies(engine.bounds[node])]
    largest = max(x.numel() for x in values if isinstance(x, Tensor))
    return max(1, BLOCK_BYTES // (8 * 8 * largest * sides))
