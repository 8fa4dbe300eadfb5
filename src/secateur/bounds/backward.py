"""Linear bounds on two networks at once, from a node back to the inputs (CROWN, Zhang et al. 2018, is that on
one).

A row asks for a lower bound of Σ a·x + b·x′ at some node, x of f and x′ of g, in one of N boxes. Linear ops
pass its coefficients on by their transpose, element-wise functions by lines below and above them: of f and of
g apart, or of one of them and of the change δ = x′ − x, whichever leaves less room at this neuron. What f and
g share cancels. Any other op ends the row there, by the bounds on its value. At the inputs the least over the
box is taken.

Rounding: what the products and sums at a node may have erred by is worked out from bounds on the values and
taken off the result (see `rounding`), so that the bound holds in real arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.bounds.activations import SLOPES
from secateur.bounds.arithmetic import as_interval, by_row, magnitude
from secateur.bounds.joint import Bounds, Networks, over_boxes, quiet_fallback
from secateur.bounds.maxima import compared
from secateur.bounds.op import Op
from secateur.bounds.pairs import Pair, after, before
from secateur.bounds.relax import Lines, change_lines, relu_lines, slope_range, smooth_lines
from secateur.bounds.rounding import FUNCTIONS, absolute, gamma, jump, terms
from secateur.bounds.windows import VARIES, Where, Window, fitted, joined, move_apart, of_image, passed, whole
from secateur.graph.capture import bound_arguments, call_op, kind, walk
from secateur.graph.ops import AFFINE, FILLING, MOVEMENT, ONE_TO_ONE, OPS, WEIGHTED_SUMS, of
from secateur.types import Interval

Coefficients = tuple[Tensor | None, Tensor | None]  # of x and of x′, (rows, *shape of one sample); None: zero

ALWAYS_LINEAR = {*MOVEMENT, *WEIGHTED_SUMS, *of("batch_norm", "dropout"), "add", "neg", "rsub", "sub"}
RELAXED = {"relu", *(name for name in SLOPES if OPS[name].everywhere)}


def is_relaxed(node: fx.Node) -> bool:
    """Whether the node is a function of one value, and of numbers, that lines can stand for."""
    return kind(node) in RELAXED and len(node.all_input_nodes) == 1


def is_linear(node: fx.Node, bounds: Bounds) -> bool:
    """Whether the op is linear (and constant) in what depends on the inputs, given what does."""
    name = kind(node)
    if node.op != "call_function" or not all(
        map(_is_floating, [bounds.get(n) for n in node.all_input_nodes])
    ):
        return False
    if name in ALWAYS_LINEAR:
        return True
    if name == "getitem":
        return kind(node.all_input_nodes[0]) in MOVEMENT
    arguments = _arguments(node, lambda n: varies(bounds.get(n)))
    if name in FILLING:
        return arguments.get("condition") is not True and arguments.get("mask") is not True
    if name in AFFINE:
        form = AFFINE[name]
        return arguments[form.weight] is not True and (not form.bias or arguments[form.bias] is not True)
    if name == "mul":
        return (arguments["self"] is True) != (arguments["other"] is True)
    if name == "div":
        return arguments["other"] is not True and arguments.get("rounding_mode") is None
    return name == "einsum" and sum(x is True for x in arguments["tensors"]) == 1


def _is_floating(value: Any) -> bool:
    """Whether what depends on the inputs is of fractions."""
    ends = [as_interval(before(x)).lower for x in pytree.tree_leaves(value) if varies(x)]
    return all(end.is_floating_point() for end in ends)


def _arguments(node: fx.Node, value: Callable[[fx.Node], Any]) -> dict[str, Any]:
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), value)
    return bound_arguments(node, args, kwargs)


def varies(value: Any) -> bool:
    """Whether the value depends on the inputs."""
    leaves = pytree.tree_leaves(value)
    return any(isinstance(x.before if isinstance(x, Pair) else x, Interval) for x in leaves)


@dataclass(eq=False)
class Backward:
    """Both networks, the bounds known so far, and what was worked out from them."""

    networks: Networks
    bounds: Bounds = field(default_factory=dict)
    transposes: dict[tuple[fx.Node, bool], tuple[tuple[Tensor, ...], Callable[..., Any]]] = field(
        default_factory=dict
    )
    sizes: dict[fx.Node, tuple[list[Tensor], int]] = field(default_factory=dict)
    lines: dict[fx.Node, tuple[Lines, Lines, Lines | None]] = field(default_factory=dict)

    widest: int = 0  # the largest window of a row so far

    def __post_init__(self) -> None:
        self.samples = [
            on_zeros(self.networks, tensors) for tensors in (self.networks.first, self.networks.second)
        ]


def on_zeros(networks: Networks, tensors: Mapping[str, Tensor]) -> dict[fx.Node, Any]:
    """The value of every node on one sample of zeros."""
    graph, like = networks.graph, networks.like
    size = graph.example[0].shape[0]

    def zeros(x: Tensor) -> Tensor:
        one = x[:1] if x.ndim and x.shape[0] == size else x
        return torch.zeros_like(
            one, dtype=like.dtype if one.is_floating_point() else one.dtype, device=like.device
        )

    given = dict(zip(graph.inputs, map(zeros, graph.example), strict=True))

    def leaf(node: fx.Node) -> Tensor:
        return given[node] if node.op == "placeholder" else tensors[str(node.target)]

    with torch.no_grad():
        return walk(graph, leaf, partial(call_op, like=like), keep=lambda node: True)


# Coefficients (those of the outputs of a split by their number), and what they see.
Pending = dict[fx.Node, tuple[Any, Where]]


def lower(engine: Backward, seeds: Mapping[fx.Node, Coefficients], where: Where) -> Tensor:
    """Lower bounds, (rows,), of Σ a·x + b·x′ over the seeds, in the box of each row."""
    pending: Pending = {node: (pair, where) for node, pair in seeds.items()}
    parts = [_nothing(engine, where)]
    for node in reversed(engine.networks.graph.nodes):
        if node not in pending:
            continue
        found, seen = pending.pop(node)
        if isinstance(found, dict):
            alike = not any(isinstance(x, Pair) for x in pytree.tree_leaves(engine.bounds[node]))
            found = {i: (_sum(*pair), None) if alike else pair for i, pair in found.items()}
            parts.append(_pass_on(engine, node, found, seen, pending))
            continue
        value = engine.bounds[node]
        if not varies(value):
            parts.append(_constant(value, found))
            continue
        if isinstance(seen, Window):
            found, seen = _in_image(engine, node, found, seen)
        met = len(node.users) > 1 or (found[0] is not None and found[1] is not None)
        if not isinstance(value, Pair):
            found = (_sum(*found), None)
        if met:  # what the sums of coefficients may have erred by
            parts.append(-_dot_size(found, value, seen) * FUNCTIONS)
        if is_linear(node, engine.bounds):
            parts.append(_pass_on(engine, node, {0: found}, seen, pending))
        elif is_relaxed(node) and varies(engine.bounds[node.all_input_nodes[0]]):
            parts.append(_relaxed(engine, node, node.all_input_nodes[0], found, seen, pending))
        elif (difference := compared(node)) is not None:  # max(a, b) = a + relu(b − a)
            _add(engine, pending, node.all_input_nodes[0], found, seen)
            parts.append(_relaxed(engine, node, difference, found, seen, pending))
        else:  # an input, or an op without lines
            parts.append(_least(value, found, seen))
    found_parts = torch.stack(parts)
    total = found_parts.sum(0) - gamma(len(parts)) * found_parts.abs().sum(0)
    return total.nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)


def _nothing(engine: Backward, seen: Where) -> Tensor:
    return torch.zeros(len(seen.box), dtype=engine.networks.like.dtype, device=engine.networks.like.device)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _add(engine: Backward, pending: Pending, node: fx.Node, new: Coefficients, seen: Where) -> None:
    if node not in pending:
        pending[node] = (new, seen)
        return
    old, where = pending[node]
    if isinstance(seen, Window) and isinstance(where, Window):
        if move_apart(where, seen):
            shape = engine.samples[0][node].shape
            (old, where), (new, seen) = _whole(old, where, shape), _whole(new, seen, shape)
        where, pad_old, pad_new = joined(where, seen)
        old, new = _padded(old, pad_old), _padded(new, pad_new)
    pending[node] = ((_sum(old[0], new[0]), _sum(old[1], new[1])), where)


def _padded(pair: Coefficients, pad: tuple[int, ...]) -> Coefficients:
    a, b = (c if c is None or not any(pad) else torch.nn.functional.pad(c, pad) for c in pair)
    return a, b


def _in_image(
    engine: Backward, node: fx.Node, found: Coefficients, seen: Window
) -> tuple[Coefficients, Window]:
    """Coefficients of places outside of the image dropped, and a window no larger than the image."""
    shape = engine.samples[0][node].shape
    a, b = (fitted(c, seen, shape) for c in found)
    outgrown = seen.height * seen.width > shape[-2] * shape[-1]
    for c in (a, b):
        engine.widest = max(engine.widest, 0 if c is None else c[0].numel())
    return _whole((a, b), seen, shape) if outgrown else ((a, b), seen)


def _whole(pair: Coefficients, seen: Window, shape: Sequence[int]) -> tuple[Coefficients, Window]:
    """The same coefficients with the image as their window."""
    a, b = (c if c is None else whole(c, seen, shape) for c in pair)
    return (a, b), of_image(seen, shape)


def _constant(value: Any, found: Coefficients) -> Any:
    """Of what depends on no input."""
    total: Any = 0.0
    for c, x in zip(found, (before(value), after(value)), strict=True):
        if c is not None:
            total = total + _dot_below(c, x.to(c.dtype).expand(c.shape[1:]))
    return total


def _dot_below(c: Tensor, value: Tensor) -> Tensor:
    """c · value of each row, rounded down."""
    flat, value = by_row(c), value.flatten()
    return flat @ value - gamma(len(value)) * (flat.abs() @ value.abs())


def _dot(c: Tensor, value: Tensor) -> Tensor:
    """Of each row."""
    return by_row(c * value).sum(1)


def _dot_size(found: Coefficients, value: Any, seen: Where) -> Any:
    total: Any = 0.0
    for c, x in zip(found, (before(value), after(value)), strict=True):
        if c is not None:
            total = total + _dot(c.abs(), seen.at(magnitude(x)))
    return total


# --- at the end of a row ------------------------------------------------------------------------------------


def _least(value: Any, found: Coefficients, seen: Where) -> Any:
    """The least of a·x + b·x′ over the bounds on x, x′ and δ: of each neuron the best of three ways to see
    it.
    """
    a, b = found
    x = as_interval(before(value))
    if b is None or a is None:
        c, x = (a, x) if b is None else (b, as_interval(after(value)))
        assert c is not None
        centre, radius = x.lower / 2 + x.upper / 2, x.upper / 2 - x.lower / 2
        radius = radius + 4 * gamma(c.shape[1:].numel()) * magnitude(x)
        return _dot(c, seen.at(centre)) - _dot(c.abs(), seen.at(radius))
    y, d = as_interval(value.after), as_interval(value.change)
    apart = _least_of(a, x, seen) + _least_of(b, y, seen)
    first = _least_of(a + b, x, seen) + _least_of(b, d, seen)
    second = _least_of(a + b, y, seen) + _least_of(-a, d, seen)
    low = torch.maximum(torch.maximum(apart, first), second)
    size = _dot(a.abs() + b.abs(), seen.at(magnitude(x) + magnitude(y)))
    return by_row(low).sum(1) - gamma(low.shape[1:].numel()) * size * 4


def _least_of(c: Tensor, x: Interval, seen: Where) -> Tensor:
    out = torch.where(c > 0, c * seen.at(x.lower), c * seen.at(x.upper))
    return torch.where(c == 0, 0.0, out)


# --- linear ops ---------------------------------------------------------------------------------------------


def _pass_on(
    engine: Backward, node: fx.Node, found: Mapping[int, Coefficients], seen: Where, pending: Pending
) -> Any:
    """Coefficients of a linear op's results, by their number → of its arguments; what is constant is
    returned.
    """
    if kind(node) == "getitem":
        parts, _ = pending.setdefault(node.all_input_nodes[0], ({}, seen))
        old = parts.get(node.args[1], (None, None))
        parts[node.args[1]] = (_sum(old[0], found[0][0]), _sum(old[1], found[0][1]))
        return _nothing(engine, seen)
    sources = _varying_sources(engine, node)
    total: Any = _nothing(engine, seen)
    constant: Any
    sizes, count = ([], 0) if kind(node) in ONE_TO_ONE else _sizes(engine, node)
    incoming: list[list[Tensor | None]] = [[None, None] for _ in sources]
    windows: Sequence[Where] = [seen] * len(sources)
    for side in (0, 1):
        given: dict[int, Tensor] = {i: c for i, pair in found.items() if (c := pair[side]) is not None}
        if not given:
            continue
        for i, c in given.items():
            total = total - (
                gamma(max(count, c.shape[1:].numel())) * _dot(c.abs(), seen.at(sizes[i])) if sizes else 0.0
            )
        if isinstance(seen, Window):
            gradients, windows, constant = passed(
                node, partial(_constant_or_varies, engine, side), given[0], seen
            )
        else:
            constants, back = _transpose(engine, node, bool(side))
            rows = len(seen.box)
            cotangents = [given.get(i, x.new_zeros((rows, *x.shape))) for i, x in enumerate(constants)]
            constant = sum(_dot_below(c, constants[i]) for i, c in given.items())
            with quiet_fallback():
                gradients = list(torch.vmap(back)(*cotangents))
        total = total + constant
        for slot, gradient in zip(incoming, gradients, strict=True):
            slot[side] = gradient
    for source, pair, window in zip(sources, incoming, windows, strict=True):
        _add(engine, pending, source, (pair[0], pair[1]), window)
    return total


def _constant_or_varies(engine: Backward, side: int, node: fx.Node) -> Any:
    return VARIES if varies(engine.bounds[node]) else engine.samples[side][node]


def _varying_sources(engine: Backward, node: fx.Node) -> list[fx.Node]:
    """The nodes among the arguments that depend on the inputs; one that stands in two places is there
    twice.
    """
    places = [n for n in pytree.tree_leaves((node.args, dict(node.kwargs))) if isinstance(n, fx.Node)]
    return [n for n in places if varies(engine.bounds[n])]


def _transpose(
    engine: Backward, node: fx.Node, second: bool
) -> tuple[tuple[Tensor, ...], Callable[..., Any]]:
    """The op's results where all that varies is 0, and the map from their coefficients to those of the
    arguments.
    """
    key = (node, second)
    if key not in engine.transposes:
        sample = engine.samples[second]
        leaves, spec = pytree.tree_flatten((node.args, dict(node.kwargs)))
        free = [i for i, x in enumerate(leaves) if isinstance(x, fx.Node) and varies(engine.bounds[x])]
        values = [sample[x] if isinstance(x, fx.Node) else x for x in leaves]

        def op(*varying: Tensor) -> tuple[Tensor, ...]:
            filled = list(values)
            for i, x in zip(free, varying, strict=True):
                filled[i] = x
            args, kwargs = pytree.tree_unflatten(filled, spec)
            if kind(node) == "detach":  # to a derivative, a constant
                return (args[0],)
            return tuple(pytree.tree_leaves(call_op(node, args, kwargs, like=engine.networks.like)))

        with torch.enable_grad():
            constants, back, *_ = torch.func.vjp(op, *(torch.zeros_like(values[i]) for i in free))
        engine.transposes[key] = (tuple(c.detach() for c in constants), lambda *c: back(c))
    return engine.transposes[key]


def _sizes(engine: Backward, node: fx.Node) -> tuple[list[Tensor], int]:
    """For each result and box, the sum of the sizes of all terms, in f or g; and how many terms there are."""
    if node not in engine.sizes:
        count = 0

        def of(node: fx.Node, like: Tensor, given: Any) -> Any:
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
        sizes = over_boxes(of, node, engine.networks.like, (args, kwargs, engine.bounds[node]))
        engine.sizes[node] = ([x.upper for x in sizes], count)
    return engine.sizes[node]


# --- element-wise functions ---------------------------------------------------------------------------------


def _relaxed(
    engine: Backward, node: fx.Node, source: fx.Node, found: Coefficients, seen: Where, pending: Pending
) -> Any:
    """An element-wise function of `source`: coefficients of its value → of its argument."""
    value = engine.bounds[source]
    f, g, change = _lines(engine, node, value)
    a, b = found
    if b is None or a is None or change is None:
        side = 0 if b is None else 1
        c = a if b is None else b
        assert c is not None
        lines, up = (f, g)[side], c >= 0
        slope = torch.where(up, seen.at(lines.low_slope), seen.at(lines.high_slope))
        offset = torch.where(up, seen.at(lines.low_offset), seen.at(lines.high_offset))
        new: Coefficients = (c * slope, None) if side == 0 else (None, c * slope)
        _add(engine, pending, source, new, seen)
        size = _dot_size(new, value, seen) + by_row((c * offset).abs()).sum(1)
        return by_row(c * offset).sum(1) - gamma(offset.shape[1:].numel()) * size
    both = a + b
    f, g, change = f.at(seen), g.at(seen), change.at(seen)
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
    _add(engine, pending, source, (new_a, new_b), seen)
    # errors of the products above, wherever they cancel
    sizes = seen.at(magnitude(value.before) + magnitude(value.after))
    slopes = (a.abs() + b.abs()) * (sf.abs() + sg.abs() + s1.abs() + s2.abs() + sd.abs() + se.abs())
    offsets = (a.abs() + b.abs()) * (of.abs() + og.abs() + o1.abs() + o2.abs() + od.abs() + oe.abs())
    error = by_row(slopes * sizes + offsets).sum(1)
    return by_row(offset).sum(1) - 2 * gamma(offset.shape[1:].numel()) * error


def _lines(engine: Backward, node: fx.Node, value: Any) -> tuple[Lines, Lines, Lines | None]:
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
            x, y = as_interval(value.before), as_interval(value.after)
            slopes = slope_range(name, arguments, x, y)
            engine.lines[node] = (f, of(y), change_lines(slopes, as_interval(value.change), fall))
        else:
            engine.lines[node] = (f, f, None)
    return engine.lines[node]


def _line_below(lines: Lines, c: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and offset of the line that keeps c · φ from below: the lower one where c ≥ 0, the upper one
    else.
    """
    up = c >= 0
    return torch.where(up, lines.low_slope, lines.high_slope), torch.where(
        up, lines.low_offset, lines.high_offset
    )


def _gap_below(lines: Lines, c: Tensor) -> Tensor:
    """How much of c · φ that line gives away, on the mean."""
    return c.abs() * torch.where(c >= 0, lines.low_gap, lines.high_gap)
