"""Max pooling as maxima of two: max(a, b) = a + relu(b − a), whose lines and changes are those of ReLU.

The four values of a 2×2 window meet in two rounds, k values in ⌈log₂ k⌉. The difference b − a is a node of
its own beside each maximum, so that it has bounds; `compared` finds it. Pools that this does not fit are
bounded by intervals.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, fx

from secateur.graph.graph import Graph, copied
from secateur.graph.interpret import run
from secateur.graph.node import bound_arguments, kind
from secateur.graph.ops import where

_NEVER_NEGATIVE = where(lambda row: row.nonnegative)
POOL = "max_pool2d"  # the pool that is replaced
_LARGEST_WINDOW = 16
_COMPARED = "secateur_compared"

aten = torch.ops.aten


def without_max_pools(graph: Graph) -> Graph:
    """The same function on a new graph, with maxima of two slices in place of max pools where that fits."""
    if not any(kind(node) == POOL for node in graph.nodes):
        return graph
    module = copied(graph.module)
    twin = replace(graph, module=module)
    shapes: dict[fx.Node, tuple[int, ...]] = {}

    def observe(node: fx.Node, args: tuple[Any, ...], value: Any) -> None:
        if isinstance(value, Tensor):
            shapes[node] = tuple(value.shape)

    run(twin, graph.example, observe=observe)
    for node in list(module.graph.nodes):
        if kind(node) == POOL and node.op == "call_function":
            _replace(module, node, shapes[node])
    module.recompile()
    return twin


def _replace(module: fx.GraphModule, node: fx.Node, shape: tuple[int, ...]) -> None:
    a = bound_arguments(node, node.args, node.kwargs)
    kernel = _pair(a["kernel_size"])
    stride, padding, dilation = _pair(a["stride"] or kernel), _pair(a["padding"]), _pair(a["dilation"])
    source = node.all_input_nodes[0]
    padded = padding != (0, 0)
    if (
        a["ceil_mode"]
        or kernel[0] * kernel[1] > _LARGEST_WINDOW
        or (padded and kind(source) not in _NEVER_NEGATIVE)
    ):
        return
    with module.graph.inserting_before(node):
        call = module.graph.call_function
        if padded:  # the greatest of values that are never negative is not changed by zeros beside them
            source = call(
                aten.constant_pad_nd.default, (source, [padding[1], padding[1], padding[0], padding[0]], 0.0)
            )
        values = []
        for offset in product(range(kernel[0]), range(kernel[1])):
            part = source
            for dim, (i, s, d, out) in enumerate(
                zip(offset, stride, dilation, shape[2:], strict=True), start=2
            ):
                part = call(aten.slice.Tensor, (part, dim, i * d, i * d + (out - 1) * s + 1, s))
            values.append(part)
        while len(values) > 1:
            pairs = list(zip(values[::2], values[1::2], strict=False))
            values = [_maximum(module, a, b) for a, b in pairs] + values[len(pairs) * 2 :]
    node.replace_all_uses_with(values[0])
    module.graph.erase_node(node)


def _pair(size: Any) -> tuple[int, int]:
    values = list(size) if isinstance(size, (list, tuple)) else [size]
    return values[0], values[-1]


def _maximum(module: fx.GraphModule, a: fx.Node, b: fx.Node) -> fx.Node:
    difference = module.graph.call_function(aten.sub.Tensor, (b, a))
    larger = module.graph.call_function(aten.maximum.default, (a, b))
    larger.meta[_COMPARED], difference.meta[_COMPARED] = difference, larger
    return larger


def compared(node: fx.Node) -> fx.Node | None:
    """b − a for max(a, b), and the maximum for its difference; None for all other nodes."""
    return node.meta.get(_COMPARED)
