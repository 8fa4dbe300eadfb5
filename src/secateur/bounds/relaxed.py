"""Element-wise functions between straight lines: coefficients of values → of arguments."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from secateur.bounds.activations import SLOPES
from secateur.bounds.arithmetic import as_interval, by_row, magnitude
from secateur.bounds.coefficients import Arrival, Coefficients, dot_size
from secateur.bounds.engine import Backward
from secateur.bounds.lines import Lines, change_lines, relu_lines, slope_range, smooth_lines
from secateur.bounds.maxima import compared
from secateur.bounds.op import Op
from secateur.bounds.pairs import Pair, after, before
from secateur.bounds.rounding import gamma, jump
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
    lines = _lines(engine, node, engine.bounds[source])
    f, g, change = lines
    a, b = found
    if a is not None and b is not None and change is not None:
        return _of_both(engine, source, (f.at(seen), g.at(seen), change.at(seen)), a, b, seen)
    return _of_one(engine, source, lines, found, seen)


def _of_one(
    engine: Backward,
    source: fx.Node,
    lines: tuple[Lines, Lines, Lines | None],
    found: Coefficients,
    seen: Where,
) -> tuple[Tensor, Arrival]:
    """Of the function in f alone, or in g alone."""
    a, b = found
    side, c = (0, a) if b is None else (1, b)
    assert c is not None
    line, up = lines[side], c >= 0
    assert line is not None
    slope = torch.where(up, seen.at(line.low_slope), seen.at(line.high_slope))
    offset = torch.where(up, seen.at(line.low_offset), seen.at(line.high_offset))
    new: Coefficients = (c * slope, None) if side == 0 else (None, c * slope)
    size = dot_size(new, engine.bounds[source], seen) + by_row((c * offset).abs()).sum(1)
    constant = by_row(c * offset).sum(1) - gamma(offset.shape[1:].numel()) * size
    return constant, Arrival(source, 0, new, seen)


def _of_both(
    engine: Backward, source: fx.Node, lines: tuple[Lines, Lines, Lines], a: Tensor, b: Tensor, seen: Where
) -> tuple[Tensor, Arrival]:
    """Of f and g: at each neuron the way to see them that gives least away."""
    f, g, change = lines
    value, both = engine.bounds[source], a + b
    (sf, of), (sg, og) = _line_below(f, a), _line_below(g, b)
    (s1, o1), (s2, o2) = _line_below(f, both), _line_below(g, both)
    (sd, od), (se, oe) = _line_below(change, b), _line_below(change, -a)
    loss = torch.stack([
        _gap_below(f, a) + _gap_below(g, b),  # f and g apart
        _gap_below(f, both) + _gap_below(change, b),  # (a + b) x + b δ
        _gap_below(g, both) + _gap_below(change, -a),  # (a + b) x′ − a δ
    ])  # fmt: skip
    least = loss.argmin(0)

    def best(*ways: Tensor) -> Tensor:
        return torch.where(least == 0, ways[0], torch.where(least == 1, ways[1], ways[2]))

    new_a = best(a * sf, both * s1 - b * sd, a * se)
    new_b = best(b * sg, b * sd, both * s2 - a * se)
    offset = best(a * of + b * og, both * o1 + b * od, both * o2 - a * oe)
    # errors of the products above, wherever they cancel
    sizes = seen.at(magnitude(value.before) + magnitude(value.after))
    slopes = (a.abs() + b.abs()) * (sf.abs() + sg.abs() + s1.abs() + s2.abs() + sd.abs() + se.abs())
    offsets = (a.abs() + b.abs()) * (of.abs() + og.abs() + o1.abs() + o2.abs() + od.abs() + oe.abs())
    error = by_row(slopes * sizes + offsets).sum(1)
    constant = by_row(offset).sum(1) - 2 * gamma(offset.shape[1:].numel()) * error
    return constant, Arrival(source, 0, (new_a, new_b), seen)


def _lines(engine: Backward, node: fx.Node, value: Pair | Interval) -> tuple[Lines, Lines, Lines | None]:
    """Lines of the function in f and in g, and of its change."""
    if node not in engine.lines:
        name, arguments = kind(node), bound_arguments(node, node.args, node.kwargs)
        name = "relu" if compared(node) is not None else name
        fall = jump(name, arguments)

        def of(x: Interval) -> Lines:
            if name == "relu":
                return relu_lines(x)
            op = Op(node, arguments, engine.networks.like)
            return smooth_lines(lambda t: op.run(self=t), SLOPES[name](arguments), x, fall)

        f = of(as_interval(before(value)))
        if isinstance(value, Pair):
            x, y = as_interval(value.before), as_interval(after(value))
            slopes = slope_range(name, arguments, x, y)
            engine.lines[node] = (f, of(y), change_lines(slopes, as_interval(value.change), fall))
        else:
            engine.lines[node] = (f, f, None)
    return engine.lines[node]


def _line_below(lines: Lines, c: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and offset of the line below c · φ: the lower line where c ≥ 0, the upper one elsewhere."""
    up = c >= 0
    slope = torch.where(up, lines.low_slope, lines.high_slope)
    return slope, torch.where(up, lines.low_offset, lines.high_offset)


def _gap_below(lines: Lines, c: Tensor) -> Tensor:
    """How much of c · φ that line gives away, on the mean."""
    return c.abs() * torch.where(c >= 0, lines.low_gap, lines.high_gap)
