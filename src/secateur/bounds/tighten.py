"""Bounds on two networks over many boxes: intervals forward, tightened by linear bounds where it matters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from secateur.bounds.arithmetic import add, as_interval, by_row, intersect, magnitude, subtract
from secateur.bounds.backward import lower
from secateur.bounds.coefficients import Coefficients
from secateur.bounds.engine import Backward, on_zeros, varies
from secateur.bounds.joint import Networks, forward
from secateur.bounds.maxima import compared
from secateur.bounds.pairs import Pair, before
from secateur.bounds.relaxed import is_relaxed
from secateur.bounds.rounding import FUNCTIONS, widened
from secateur.bounds.site import Site
from secateur.bounds.tangent_rules import RULES as TANGENTS
from secateur.bounds.tangent_rules import has_tangent, may_be_product
from secateur.bounds.window_rules import ELEMENTWISE
from secateur.bounds.window_rules import RULES as WINDOWED
from secateur.bounds.windows import Everywhere, Where, Window
from secateur.graph.node import kind
from secateur.types import Interval

BLOCK_BYTES = 2**26
_NEGLIGIBLE = 1e-6

# Rows for one node of one box, times the values that they pass; beyond, rows through tangents take minutes.
MOST_WORK = 2**30
Rows = Callable[[Tensor, Tensor], Tensor]  # unit rows and their boxes → rows
Seeds = Callable[[Tensor, torch.Size, torch.dtype], tuple[Tensor, Where]]  # (end, box, element) → rows


def bounded(networks: Networks, boxes: Sequence[Interval], linear: bool = True) -> Backward:
    """Bounds on every node of both networks; without `linear`, by intervals alone."""
    engine = Backward(networks)
    refine = partial(_refined, engine, _Paths()) if linear else lambda node, value: value
    with torch.no_grad():
        forward(networks, boxes, engine.bounds, refine)
    return engine


@dataclass(eq=False)
class _Paths:
    """Which nodes stand behind a function that bends, and which depend on an op that windows do not pass.

    Nodes are noted in the order of the graph, so that nobody walks back through all that a node depends on.
    """

    bent: set[fx.Node] = field(default_factory=set)
    unfit: set[fx.Node] = field(default_factory=set)

    def note(self, engine: Backward, node: fx.Node) -> None:
        sources = node.all_input_nodes
        if any(s in self.bent or _bends(engine, s) for s in sources):
            self.bent.add(node)
        if not self.unfit.isdisjoint(sources) or not _passes_windows(engine, node):
            self.unfit.add(node)


def _bends(engine: Backward, node: fx.Node) -> bool:
    return is_relaxed(node) or compared(node) is not None or node in engine.tangents


def _refined(engine: Backward, paths: _Paths, node: fx.Node, value: Any) -> Any:
    """The bounds of a node that functions read, tightened where these are not linear."""
    readers = [user for user in node.users if is_relaxed(user)]
    comparison = kind(node) == "sub" and compared(node) is not None
    engine.bounds[node] = value
    if varies(value) and has_tangent(engine, node):
        value = engine.bounds[node] = _with_tangents(engine, paths, node, value)
    paths.note(engine, node)
    if not varies(value) or node not in paths.bent:
        return value
    if not (readers or comparison):
        return _factor(engine, paths, node, value)
    unsure = _crosses if all(kind(reader) == "relu" for reader in readers) else _anywhere

    def tightened(x: Interval, f: float, g: float) -> Interval:
        up = x.lower + x.upper >= 0
        # the end that may settle the sign comes first; the other is of no use where it does
        for ends in ((up, ~up), (~up, up)):
            x = _tightened(engine, paths, node, x, torch.stack(ends) & unsure(x), f, g)
        return x

    if not isinstance(value, Pair):
        return tightened(value, 1.0, 0.0)
    first, second, change = map(as_interval, (value.before, value.after, value.change))
    first = tightened(first, 1.0, 0.0)
    second = tightened(intersect(second, widened_sum(first, change)), 0.0, 1.0)
    change = intersect(change, widened_difference(second, first))
    either = torch.stack(2 * (unsure(first) | unsure(second),))
    change = _tightened(engine, paths, node, change, either, -1.0, 1.0)
    return Pair(first, second, change)


def _with_tangents(engine: Backward, paths: _Paths, node: fx.Node, value: Any) -> Any:
    """The bounds of an op with tangents, which are noted; rows from its arguments may tighten both."""

    def of_side(side: int) -> Any:
        return TANGENTS[kind(node)](Site(engine, node, side, partial(_rows_at, engine, side)))

    found = [of_side(side) for side in ((0, 1) if isinstance(value, Pair) else (0,))]
    if any(one is None for one in found):
        return value
    engine.tangents[node] = (found[0][0], found[-1][0])
    first, second = found[0][1], found[-1][1]
    if not isinstance(value, Pair):
        return first
    return Pair(first, second, intersect(as_interval(value.change), widened_difference(second, first)))


def _rows_at(engine: Backward, side: int, node: fx.Node, rows: Rows, where: Tensor | None) -> Interval:
    """Bounds on rows of a node's value in f or in g, for each element `where` they are wanted."""
    value = engine.bounds[node]
    like = as_interval(value.before if isinstance(value, Pair) else value).lower
    nothing = Interval(torch.full_like(like, -torch.inf), torch.full_like(like, torch.inf))
    where = torch.ones_like(like, dtype=torch.bool) if where is None else where

    def seeds(part: Tensor, shape: torch.Size, dtype: torch.dtype) -> tuple[Tensor, Where]:
        unit, seen = _units(part, shape, dtype)
        return rows(unit, seen.box), seen

    if _too_many(engine, int(where[0].sum())):
        return nothing
    places = torch.stack(2 * (by_row(where),)).nonzero()
    sides = (0.0, 1.0) if side else (1.0, 0.0)
    return _by_rows(engine, node, nothing, places, sides, seeds, rows_at_a_time(engine))


def _factor(engine: Backward, paths: _Paths, node: fx.Node, value: Any) -> Any:
    """The bounds of a factor of a product, tightened in f and in g."""
    if node in engine.tangents or not any(may_be_product(engine, user) for user in node.users):
        return value
    first = as_interval(before(value))
    everywhere = torch.stack(2 * (_anywhere(first),))
    first = _tightened(engine, paths, node, first, everywhere, 1.0, 0.0)
    if not isinstance(value, Pair):
        return first
    second = as_interval(value.after)
    second = _tightened(engine, paths, node, second, everywhere, 0.0, 1.0)
    change = intersect(as_interval(value.change), widened_difference(second, first))
    return Pair(first, second, change)


def widened_sum(x: Interval, y: Interval) -> Interval:
    found = add(x, y)
    return widened(found, FUNCTIONS * (magnitude(x) + magnitude(y)))


def widened_difference(x: Interval, y: Interval) -> Interval:
    found = subtract(x, y)
    return widened(found, FUNCTIONS * (magnitude(x) + magnitude(y)))


def _crosses(x: Interval) -> Tensor:
    """Where the sign is open, by more than a share of the node's largest value that makes no difference."""
    least = _NEGLIGIBLE * magnitude(x).amax()
    return (x.lower < -least) & (x.upper > least)


def _anywhere(x: Interval) -> Tensor:
    return torch.ones_like(x.lower, dtype=torch.bool)


def _tightened(
    engine: Backward, paths: _Paths, node: fx.Node, x: Interval, where: Tensor, f: float, g: float
) -> Interval:
    """`x`, bounds on f · x + g · x′ at a node, with linear bounds on the lower and upper ends in `where`."""
    places = where.reshape(*where.shape[:2], -1).nonzero()  # shape: (rows, 3): end, box and element
    if not len(places) or _too_many(engine, where[0, 0].numel()):
        return x
    if _fits_windows(engine, paths, node):
        try:
            at_once = _rows_of_windows(engine, node, places, x.lower.shape[1:], (f, g))
            return _by_rows(engine, node, x, places, (f, g), _windows, at_once)
        except NotImplementedError:  # something that only rows of the whole image pass
            pass
    return _by_rows(engine, node, x, places, (f, g), _units, rows_at_a_time(engine))


def _too_many(engine: Backward, rows: int) -> bool:
    """Whether rows of one box pass more values than is worth while; without tangents, they never do."""
    if not engine.tangents:
        return False
    passed = sum(engine.shape(node).numel() for node, x in engine.bounds.items() if _is_passed(x))
    return rows * passed > MOST_WORK


def _is_passed(value: Any) -> bool:
    return isinstance(value, (Interval, Pair)) and varies(value)


def _by_rows(
    engine: Backward,
    node: fx.Node,
    x: Interval,
    places: Tensor,
    sides: tuple[float, float],
    seeds: Seeds,
    at_once: int,
) -> Interval:
    """`x` with linear bounds at `places`, for which `seeds` makes the rows, `at_once` of them together."""
    shape = x.lower.shape[1:]
    ends = torch.stack([by_row(x.lower), -by_row(x.upper)])  # lower bounds of x and of −x
    f, g = sides
    for part in places.split(at_once):
        unit, seen = seeds(part, shape, ends.dtype)
        seed: Coefficients = (f * unit if f else None, g * unit if g else None)
        end, box, element = part.T
        ends[end, box, element] = torch.maximum(ends[end, box, element], lower(engine, {node: seed}, seen))
    low, high = (side.reshape(x.lower.shape) for side in (ends[0], -ends[1]))
    return intersect(Interval(low, high), x)


def _units(part: Tensor, shape: torch.Size, dtype: torch.dtype) -> tuple[Tensor, Where]:
    """A row for each (end, box, element): 1 at the element for the lower end, −1 for the upper one."""
    end, box, element = part.T
    unit = torch.zeros((len(part), shape.numel()), dtype=dtype, device=part.device)
    unit[torch.arange(len(part)), element] = 1.0 - 2.0 * end.to(dtype)
    return unit.reshape(-1, *shape), Everywhere(box)


def _windows(part: Tensor, shape: torch.Size, dtype: torch.dtype) -> tuple[Tensor, Where]:
    """The same as windows of one place."""
    end, box, element = part.T
    _, channels, height, width = shape
    channel, place = element // (height * width), element % (height * width)
    sign = 1.0 - 2.0 * end.to(dtype)
    unit = torch.nn.functional.one_hot(channel, channels).to(dtype) * sign[:, None]
    return unit[:, None, :, None, None], Window(box, place // width, place % width, 1, 1)


def _fits_windows(engine: Backward, paths: _Paths, node: fx.Node) -> bool:
    """Whether the node is an image, and windows pass all ops between it and the inputs."""
    return engine.samples[0][node].ndim == 4 and node not in paths.unfit


def _passes_windows(engine: Backward, node: fx.Node) -> bool:
    """Whether windows pass the op, or do not reach it; those of images that are spread out do not."""
    if not varies(engine.bounds[node]):
        return True
    if node in engine.tangents:
        return False
    if not (kind(node) in WINDOWED or is_relaxed(node) or compared(node) is not None):
        return False
    sample = engine.samples[0]
    sources = [s for s in node.all_input_nodes if varies(engine.bounds[s])]
    return kind(node) not in ELEMENTWISE or all(sample[s].shape == sample[node].shape for s in sources)


def _rows_of_windows(
    engine: Backward, node: fx.Node, places: Tensor, shape: torch.Size, sides: tuple[float, float]
) -> int:
    """How many rows fit into a block, from the largest window that one row comes to."""
    unit, seen = _windows(places[:1], shape, torch.float64)
    engine.widest = 0
    lower(engine, {node: (unit if sides[0] else None, unit if sides[1] else None)}, seen)
    return max(1, BLOCK_BYTES // (8 * 8 * engine.widest))


def rows_at_a_time(engine: Backward) -> int:
    """How many rows fit into a block, where a row holds some values of the largest node's size."""
    values = [engine.samples[0][node] for node in engine.bounds if varies(engine.bounds[node])]
    largest = max(x.numel() for x in values if isinstance(x, Tensor))
    return max(1, BLOCK_BYTES // (8 * 8 * largest))


def values_per_sample(networks: Networks) -> int:
    """Of all that is computed in the graph."""
    values = on_zeros(networks, networks.first)
    return sum(x.numel() for node, x in values.items() if node.op != "get_attr" and isinstance(x, Tensor))
