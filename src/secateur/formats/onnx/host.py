"""Arithmetic on sizes: the ops through which ONNX graphs work out shapes, on small arrays of numbers.

Sizes may be symbols (a free batch); numbers that are only moved about keep their origin (see
`tensors.Number`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import zip_longest
from math import prod
from typing import Any

import numpy as np

from secateur.errors import UnsupportedOpError
from secateur.formats.onnx.node import Node, axes_of
from secateur.formats.onnx.tensors import Number, dtype_of

MOST_SIZES = 2**22  # numbers in an array that shapes are worked out from

Host = np.ndarray[Any, Any]


def host(values: Any) -> Host:
    """An array of Python objects, whatever numpy would make of them."""
    if isinstance(values, np.ndarray):
        return values.astype(object) if values.dtype != object else values
    if not isinstance(values, list | tuple):
        single: Host = np.empty((), dtype=object)
        single[()] = values
        return single
    found = np.empty(len(values), dtype=object)
    found[:] = list(values)
    return found


def _cast(node: Node, x: Host) -> Host:
    dtype = dtype_of(node.attribute("to"))
    if dtype.is_floating_point:
        return _each(x, lambda v: v if isinstance(v, int) and not isinstance(v, bool) else float(v))
    return _each(x, lambda v: int(v) if isinstance(v, float | bool) else v)


def _each(x: Host, f: Callable[[Any], Any]) -> Host:
    found = np.empty(x.shape, dtype=object)
    for index in np.ndindex(x.shape):
        found[index] = f(x[index])
    return found


def _binary(f: Callable[[Any, Any], Any]) -> Callable[[Node, Host, Host], Host]:
    def rule(node: Node, a: Host, b: Host) -> Host:
        a, b = np.broadcast_arrays(a, b)
        found = np.empty(a.shape, dtype=object)
        for index in np.ndindex(a.shape):
            found[index] = f(_plain(a[index]), _plain(b[index]))
        return found

    return rule


def _folded(f: Callable[[Any, Any], Any]) -> Callable[..., Host]:
    """Over any number of arrays."""
    return lambda node, *parts: reduce(partial(_binary(f), node), parts)


def _plain(value: Any) -> Any:
    """Without its origin, which no result has."""
    return int(value) if isinstance(value, Number) else value


def _divided(a: Any, b: Any) -> Any:
    """Whole numbers stay whole, and are rounded towards zero."""
    if isinstance(a, float) or isinstance(b, float):
        return a / b
    return a // b if (a >= 0) == (b > 0) else -(-a // b)


def _gather(node: Node, x: Host, index: Host) -> Host:
    axis = node.attribute("axis", 0)
    return host(np.take(x, index.astype(np.int64), axis=axis))


def _slice(node: Node, x: Host, *bounds: Host | None) -> Host:
    starts, ends, axes, steps = slice_of(node, bounds, x.ndim)
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(int(start), int(end), int(step))
    return host(x[tuple(index)])


def slice_of(
    node: Node, bounds: tuple[Any, ...], ndim: int
) -> tuple[list[Any], list[Any], list[int], list[int]]:
    """(starts, ends, axes, steps), from inputs (opset 10 on) or attributes."""
    if not bounds:
        starts, ends = node.attribute("starts"), node.attribute("ends")
        axes, steps = node.attribute("axes", None), None
    else:
        given = [None if b is None else list(b.reshape(-1)) for b in (*bounds, None, None)[:4]]
        starts, ends, axes, steps = given[0] or [], given[1] or [], given[2], given[3]
    axes = list(range(len(starts))) if axes is None else [int(a) % ndim for a in axes]
    return list(starts), list(ends), axes, [1] * len(starts) if steps is None else [int(s) for s in steps]


def _concat(node: Node, *parts: Host) -> Host:
    return host(np.concatenate(parts, axis=node.attribute("axis", 0)))


def _unsqueeze(node: Node, x: Host, axes: Host | None = None) -> Host:
    wanted = axes_of(node, axes) or []
    return x.reshape(_unsqueezed(list(x.shape), wanted))


def _unsqueezed(shape: list[int], axes: list[int]) -> list[int]:
    places = sorted(a % (len(shape) + len(axes)) for a in axes)
    for place in places:
        shape.insert(place, 1)
    return shape


def _squeeze(node: Node, x: Host, axes: Host | None = None) -> Host:
    wanted = axes_of(node, axes)
    gone = [i for i, n in enumerate(x.shape) if n == 1] if wanted is None else [a % x.ndim for a in wanted]
    return x.reshape([n for i, n in enumerate(x.shape) if i not in gone])


def _filled(node: Node, shape: Host) -> Host:
    value = node.attribute("value", None)
    number = 0.0 if value is None else value[0]
    sizes = [int(n) for n in shape.reshape(-1)]
    found = np.empty(sizes, dtype=object)
    found[...] = number
    return found


def _range(node: Node, *bounds: Host) -> Host:
    start, limit, delta = (_plain(b.item()) for b in bounds)
    if any(isinstance(b, float) for b in (start, limit, delta)):
        return host([start + i * delta for i in range(math.ceil((limit - start) / delta))])
    return host(list(range(int(start), int(limit), int(delta))))


def _mod(node: Node, a: Host, b: Host) -> Host:
    """The sign is the divisor's, or with `fmod` the dividend's."""
    return _binary(math.fmod if node.attribute("fmod", 0) else operator.mod)(node, a, b)


def _where(node: Node, condition: Host, a: Host, b: Host) -> Host:
    condition, a, b = np.broadcast_arrays(condition, a, b)
    found = np.empty(a.shape, dtype=object)
    for index in np.ndindex(a.shape):
        found[index] = a[index] if condition[index] else b[index]
    return found


def _reduced(f: Callable[[Any, Any], Any]) -> Callable[..., Host]:
    def rule(node: Node, x: Host, axes: Host | None = None) -> Host:
        if x.ndim > 1:
            raise UnsupportedOpError(f"{node}: sizes of {x.ndim} axes")
        total = reduce(f, map(_plain, x.reshape(-1)))
        return host([total]) if node.attribute("keepdims", 1) else host(total)

    return rule


def _reshape(node: Node, x: Host, shape: Host) -> Host:
    zero = node.attribute("allowzero", 0)
    return x.reshape([x.shape[i] if n == 0 and not zero else int(n) for i, n in enumerate(shape.reshape(-1))])


def _split(node: Node, x: Host, sizes: Host | None = None) -> list[Host]:
    axis, parts = node.attribute("axis", 0), len(node.outputs)
    given = node.attribute("split", None) if sizes is None else [int(n) for n in sizes.reshape(-1)]
    given = given or [-(-x.shape[axis] // parts)] * parts
    return [host(part) for part in np.split(x, np.cumsum(given)[:-1], axis=axis)]


def _triangle(node: Node, x: Host, k: Host | None = None) -> Host:
    shift = 0 if k is None else int(k.item())
    rows, columns = np.indices(x.shape[-2:])
    inside = columns - rows >= shift if node.attribute("upper", 1) else columns - rows <= shift
    return np.where(inside, x, np.zeros_like(x))


def _same(node: Node, x: Host, *rest: Any) -> Host:
    return x


def sizes_made(node: Node, given: Sequence[Any]) -> int:
    """How many numbers the op handles at most, known before any is made."""
    if node.kind == "Range":
        start, limit, delta = (int(v.item()) for v in given)
        return abs(limit - start) // max(1, abs(delta))
    if node.kind == "Tile":
        return int(given[0].size * prod(int(n) for n in given[1].reshape(-1)))
    if node.kind == "Gather":
        return int(given[1].size * given[0].size)
    if node.kind == "Concat":
        return sum(v.size for v in given)
    if node.kind == "ReduceProd":  # digits add up
        return int(given[0].size ** 2)
    shapes = [v.shape for v in given if v is not None]
    if node.kind in ("ConstantOfShape", "Expand"):
        shapes[-1] = tuple(int(n) for n in given[-1].reshape(-1))
    return prod(max(sizes) for sizes in zip_longest(*(s[::-1] for s in shapes), fillvalue=1))


RULES: dict[str, Callable[..., Any]] = {
    "Add": _binary(operator.add),
    "And": _binary(lambda a, b: bool(a) and bool(b)),
    "Cast": _cast,
    "Ceil": lambda node, x: _each(x, lambda v: float(-(-v // 1))),
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Cos": lambda node, x: _each(x, math.cos),
    "Div": _binary(_divided),
    "Equal": _binary(operator.eq),
    "Expand": lambda node, x, shape: np.broadcast_to(
        x, np.broadcast_shapes(x.shape, [int(n) for n in shape])
    ),
    "Floor": lambda node, x: _each(x, lambda v: v if isinstance(v, int) else float(v // 1)),
    "Gather": _gather,
    "Greater": _binary(operator.gt),
    "GreaterOrEqual": _binary(operator.ge),
    "Identity": _same,
    "Less": _binary(operator.lt),
    "LessOrEqual": _binary(operator.le),
    "Max": _folded(lambda a, b: a if a >= b else b),
    "Min": _folded(lambda a, b: a if a <= b else b),
    "Mod": _mod,
    "Mul": _binary(operator.mul),
    "Neg": lambda node, x: _each(x, operator.neg),
    "Not": lambda node, x: _each(x, operator.not_),
    "Or": _binary(lambda a, b: bool(a) or bool(b)),
    "Range": _range,
    "ReduceMax": _reduced(max),
    "ReduceMin": _reduced(min),
    "ReduceProd": _reduced(operator.mul),
    "ReduceSum": _reduced(operator.add),
    "Reshape": _reshape,
    "Sin": lambda node, x: _each(x, math.sin),
    "Slice": _slice,
    "Split": _split,
    "Sqrt": lambda node, x: _each(x, math.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(operator.sub),
    "Tile": lambda node, x, repeats: np.tile(x, [int(n) for n in repeats.reshape(-1)]),
    "Transpose": lambda node, x: x.transpose(node.attribute("perm", None)),
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
