"""How large a value becomes, known before it is made. Axes without a number (a free batch) count as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from math import prod
from typing import Any

from secateur.formats.onnx.node import Node, axes_of
from secateur.formats.onnx.ops import EXPANDED_LIKE, LINEAR

VALUE_BYTES = 2**32  # of one value; the largest maps of ordinary networks have a tenth of it
# Of all that ConstantOfShape makes of constant shapes; as much as a file may hold.
CONSTANT_BYTES = 2**31 - 1


def numbers_made(node: Node, given: Sequence[Any]) -> int:
    """The most numbers that the op's result can have.

    Raises `IndexError`, `TypeError` or `ValueError` on wrong input.
    """
    shapes = [_shape(v) for v in given if v is not None]
    return max(0, _MADE.get(node.kind, _largest)(node, given, shapes))


def _shape(value: Any) -> list[int]:
    return [_known(n) for n in value.shape]


def _known(size: Any) -> int:
    return int(size) if isinstance(size, int) else 1


def _listed(value: Any) -> list[int]:
    return [_known(n) if not hasattr(n, "dtype") else int(n) for n in value.reshape(-1)]


def _broadcast(node: Node, given: Sequence[Any], shapes: list[list[int]]) -> int:
    return prod(max(sizes) for sizes in zip_longest(*(s[::-1] for s in shapes), fillvalue=1))


def _largest(node: Node, given: Sequence[Any], shapes: list[list[int]]) -> int:
    """Ops that give at most as much as they take."""
    return max(map(prod, shapes), default=0)


def _filled(node: Node, given: Sequence[Any], shapes: list[list[int]]) -> int:
    return prod(_listed(given[0]))


def _expanded(node: Node, given: Sequence[Any], shapes: list[list[int]]) -> int:
    return _broadcast(node, given, [shapes[0], _listed(given[1])])


def _ranged(node: Node, given: Sequence[Any], shapes: list[list[int]]) -> int:
    start, limit, delta = (v.item() for v in given)
    return int(abs(limit - start) // abs(delta)) + 1 if delta else 0


def _tiled(node: Node, given: Sequence[Any], shapes: list[list[int]]) -> int:
    return prod(shapes[0]) * prod(_listed(given[1]))


def _gathered(node: Node, given: Sequence[Any], shapes: list[list[int]]) -> int:
    axis = int(node.attribute("axis", 0))
    return prod(shapes[0]) // max(1, shapes[0][axis]) * prod(shapes[1])


def _padded(node: Node, given: Sequence[Any], shapes: list[list[int]]) -> int:
    amounts = _listed(given[1]) if len(given) > 1 else node.attribute("pads")
    half = len(amounts) // 2
    axes = axes_of(node, given[3]) if len(given) > 3 and given[3] is not None else None
    sizes = list(shapes[0])
    for i, axis in enumerate(axes or range(half)):
        sizes[axis] += amounts[i] + amounts[i + half]
    return prod(sizes)


def _resized(node: Node, given: Sequence[Any], shapes: list[list[int]]) -> int:
    sizes = given[3] if len(given) > 3 else None
    if sizes is not None:
        return prod(_listed(sizes)) * (1 if sizes.size == len(shapes[0]) else prod(shapes[0][:2]))
    scales = given[1] if len(given) < 3 else given[2]
    factors = [float(v) for v in scales.reshape(-1)] if scales is not None else node.attribute("scales", [])
    return int(prod(shapes[0]) * prod(factors))


def _multiplied(node: Node, given: Sequence[Any], shapes: list[list[int]]) -> int:
    a, b = shapes[:2]
    return _broadcast(node, given, [a[:-2], b[:-2]]) * prod(a[-2:-1]) * prod(b[1:][-1:])


def _gemm(node: Node, given: Sequence[Any], shapes: list[list[int]]) -> int:
    (a, b), swap = shapes[:2], node.attribute("transA", 0)
    return int(a[1 if swap else 0] * max(b))


def _einsum(node: Node, given: Sequence[Any], shapes: list[list[int]]) -> int:
    left, _, right = node.attribute("equation").replace(" ", "").partition("->")
    terms = zip(left.split(","), shapes, strict=True)
    known = {c: n for term, shape in terms for c, n in zip(term, shape, strict=False)}
    return prod(known.get(c, 1) for c in (right or known))


def _windows(node: Node, given: Sequence[Any], shapes: list[list[int]]) -> int:
    """Convolutions and pools: with padding on, at most one window at each place."""
    sizes = shapes[0][2:]
    pads = node.attribute("pads", [0] * (2 * len(sizes)))
    ends = zip(sizes, pads, pads[len(sizes) :], strict=False)
    places = prod(int(n + max(0, a) + max(0, b)) for n, a, b in ends)
    return shapes[0][0] * (shapes[1][0] if node.kind == "Conv" else shapes[0][1]) * places


def _transposed(node: Node, given: Sequence[Any], shapes: list[list[int]]) -> int:
    """Transposed convolutions, before anything is cut off."""
    (x, weight), rank = shapes[:2], len(shapes[0]) - 2
    strides, dilations = (node.attribute(name, [1] * rank) for name in ("strides", "dilations"))
    extra = node.attribute("output_padding", [0] * rank)
    each = zip(x[2:], weight[2:], strides, dilations, extra, strict=True)
    places = prod(int((n - 1) * s + (k - 1) * d + 1 + e) for n, k, s, d, e in each)
    wanted = prod(int(n) for n in node.attribute("output_shape", [0]))
    return x[0] * weight[1] * int(node.attribute("group", 1)) * max(places, wanted)


def _one_hot(node: Node, given: Sequence[Any], shapes: list[list[int]]) -> int:
    return prod(shapes[0]) * int(given[1].item())


_MADE: dict[str, Callable[[Node, Sequence[Any], list[list[int]]], int]] = {
    "AveragePool": _windows,
    "Concat": lambda node, given, shapes: sum(map(prod, shapes)),
    "ConstantOfShape": _filled,
    "Conv": _windows,
    "ConvTranspose": _transposed,
    "Einsum": _einsum,
    "Expand": _expanded,
    "Gather": _gathered,
    "GatherND": lambda node, given, shapes: prod(shapes[0]) * prod(shapes[1]),
    "Gemm": _gemm,
    "MatMul": _multiplied,
    LINEAR: lambda node, given, shapes: prod(shapes[0][:-1]) * shapes[1][0],
    "MaxPool": _windows,
    "NonZero": lambda node, given, shapes: prod(shapes[0]) * max(1, len(shapes[0])),
    "OneHot": _one_hot,
    "Pad": _padded,
    "Range": _ranged,
    "Resize": _resized,
    "Tile": _tiled,
    "Upsample": _resized,
    **dict.fromkeys(
        "Add And BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean "
        "Min Mod Mul Or PRelu Pow Sub Sum Where Xor".split(),
        _broadcast,
    ),
    EXPANDED_LIKE: _broadcast,
}
