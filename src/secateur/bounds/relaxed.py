"""Element-wise functions between straight lines: coefficients of values → of arguments."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, fx

from secateur.bounds.activations import SLOPES
from secateur.bounds.arithmetic import as_interval, magnitude
from secateur.bounds.coefficients import Arrival, Coefficients, size_of
from secateur.bounds.engine import Backward
from secateur.bounds.lines import (
    TINY,
    Lines,
    relu_lines,
    relu_planes,
    slope_range,
    smooth_lines,
    smooth_planes,
)
from secateur.bounds.maxima import compared
from secateur.bounds.op import Op
from secateur.bounds.pairs import Pair, after, before
from secateur.bounds.rounding import gamma, jump
from secateur.bounds.table import OPEN, Table, below
from secateur.bounds.windows import Where
from secateur.graph.node import bound_arguments, kind
from secateur.graph.ops import OPS
from secateur.types import Interval

RELAXED = {"relu", *(name for name in SLOPES if OPS[name].everywhere)}


def is_relaxed(node: fx.Node) -> bool:
    """Whether the node is a function of one value, and of numbers, that lines can stand for."""
    return kind(node) in RELAXED and len(node.all_input_nodes) == 1


def through_function(
    engine: Backward, node: fx.Node, source: fx.Node, found: Coefficients, seen: Where
) -> tuple[Tensor, Arrival]:
    """What an element-wise function of `source` comes to: a constant for each row, and coefficients."""
    table = _table(engine, node, engine.bounds[source])
    shape = next(c.shape[1:] for c in found if c is not None)
    codes = [
        None if c is None else seen.at(code)
        for c, code in zip(found, (table.first, table.second), strict=True)
    ]
    code = next(seen.flat(code.expand(len(seen.box), *shape)) for code in codes if code is not None)
    places = (code >= OPEN).nonzero()[:, 0]
    new = [
        None if c is None or slope is None else seen.flat(c * slope)
        for c, slope in zip(found, codes, strict=True)
    ]
    constant = engine.nothing(len(seen.box))
    if len(places):
        a, b = (None if c is None else seen.flat(c)[places] for c in found)
        *sides, offset = _at_open(table, (code[places] - OPEN).long(), a, b)
        for flat, side in zip(new, sides, strict=True):
            if flat is not None and side is not None:
                flat[places] = side
        constant = constant.index_add(0, places // shape.numel(), offset)
    error = 2 * gamma(shape.numel()) * seen.of_box(table.largest) + 2 * TINY
    first, second = (None if c is None else seen.unflat(c, shape) for c in new)
    return constant - error * size_of(*found), Arrival(source, 0, (first, second), seen)


def _at_open(
    table: Table, number: Tensor, a: Tensor | None, b: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """The coefficients of x and x′, and the offset, below a · φ(x) + b · φ(x′) at open neurons."""
    f, g = table.lines
    if a is not None and b is not None and table.planes is not None:
        return _of_both(f, g, table.planes, number, a, b)
    if b is None:
        assert a is not None
        slope, offset = below(f[:2], number, a)
        return a * slope, None, a * offset
    slope, offset = below(g[:2], number, b)
    return None, b * slope, b * offset


def _of_both(
    f: Tensor, g: Tensor, planes: Tensor, number: Tensor, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of f and g: the way to see them that gives least away."""
    both = a + b
    (sf, of, gf), (sg, og, gg) = below(f, number, a), below(g, number, b)
    (s1, o1, g1), (s2, o2, g2) = below(f, number, both), below(g, number, both)
    (tb, sb, ob, gb), (ta, sa, oa, ga) = below(planes, number, b), below(planes, number, -a)
    size_a, size_b, size = a.abs(), b.abs(), both.abs()
    apart = size_a * gf + size_b * gg  # what each way gives away
    first = size * g1 + size_b * gb  # (a + b) x + b δ, planes in x and δ = x′ − x
    second = size * g2 + size_a * ga  # (a + b) x′ − a δ
    by_first, by_second = first < apart, second < torch.minimum(apart, first)

    def best(*ways: Tensor) -> Tensor:
        return torch.where(by_second, ways[2], torch.where(by_first, ways[1], ways[0]))

    new_a = best(a * sf, both * s1 + b * (tb - sb), a * (sa - ta))
    new_b = best(b * sg, b * sb, both * s2 - a * sa)
    return new_a, new_b, best(a * of + b * og, both * o1 + b * ob, both * o2 - a * oa)


def _table(engine: Backward, node: fx.Node, value: Pair | Interval) -> Table:
    """Lines of the function in f and in g, and planes of its change."""
    if node not in engine.tables:
        name, arguments = kind(node), bound_arguments(node, node.args, node.kwargs)
        name = "relu" if compared(node) is not None else name
        fall = jump(name, arguments)

        def of(x: Interval) -> Lines:
            if name == "relu":
                return relu_lines(x)
            op = Op(node, arguments, engine.networks.like)
            return smooth_lines(lambda t: op.run(self=t), SLOPES[name](arguments), x, fall)

        x, y = as_interval(before(value)), as_interval(after(value))
        first, second, planes = of(x), None, None
        if isinstance(value, Pair):
            second, d = of(y), as_interval(value.change)
            slopes = partial(slope_range, name, arguments)
            planes = relu_planes(x, y, d) if name == "relu" else smooth_planes(slopes, x, y, d, fall)
        both = first, first if second is None else second
        engine.tables[node] = Table.of(*both, planes, magnitude(x) + magnitude(y))
    return engine.tables[node]
