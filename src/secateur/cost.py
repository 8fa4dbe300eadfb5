"""Parameters and multiply-accumulates of a network after a removal, from the graph alone: nothing is run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from secateur.graph.capture import Graph, bound_arguments, call_op, kind
from secateur.graph.coupling import Coupling
from secateur.graph.ops import LAYERS, of
from secateur.surgery.sizes import Alive, alive_units, kept_indices, kept_shape

Shape = list[int]


def parameters_after(graph: Graph, coupling: Coupling, alive: Alive) -> int:
    """Parameters (buffers are not counted) of the shrunk model."""
    shapes = _tensor_shapes(graph, coupling, alive)
    return sum(math.prod(shapes[name]) for name in graph.parameters)


def macs_after(graph: Graph, coupling: Coupling, alive: Alive) -> int:
    """Multiply-accumulates of the shrunk model for one sample: convolutions, linear layers, products,
    attention.

    Element-wise ops and norms are not counted, as is usual. MACs are half of FLOPs.
    """
    tensors = _tensor_shapes(graph, coupling, alive)
    table = alive_units(coupling, alive)
    total = 0
    for node in graph.nodes:
        rule = _MACS.get(kind(node)) if node.op == "call_function" else None
        if rule is None:
            continue

        def shape(value: Any) -> Shape:
            if value in coupling.units:
                return kept_shape(coupling.units[value], table)
            return _parameter_shape(value, tensors)

        total += rule(node, shape)
    return total // graph.example[0].shape[0]


def _tensor_shapes(graph: Graph, coupling: Coupling, alive: Alive) -> Mapping[str, Shape]:
    shapes = {name: list(tensor.shape) for name, tensor in graph.tensors.items()}
    for (name, axis), keep in kept_indices(graph, coupling, alive).items():
        shapes[name][axis] = len(keep)
    return shapes


def _parameter_shape(node: fx.Node, tensors: Mapping[str, Shape]) -> Shape:
    """Shape of a bare parameter, or of a transpose of it."""
    if node.op == "get_attr":
        return tensors[str(node.target)]
    source = node.all_input_nodes[0]
    base = torch.empty(_parameter_shape(source, tensors), device="meta")
    moved = call_op(node, *fx.map_arg((node.args, node.kwargs), {source: base}.__getitem__), like=base)
    return list(moved.shape)


def _layer(node: fx.Node, shape: Callable[[Any], Shape]) -> int:
    """Each weight is used once at every position of the output (of the input, for transposed
    convolutions).
    """
    a = bound_arguments(node, node.args, node.kwargs)
    weight, out, x = shape(a["weight"]), shape(node), shape(a["input"])
    if kind(node) == "linear":
        return math.prod(weight) * math.prod(x[:-1])
    spatial = x[2:] if "transpose" in kind(node) else out[2:]
    return math.prod(weight) * out[0] * math.prod(spatial)


def _product(node: fx.Node, shape: Callable[[Any], Shape]) -> int:
    """(…, n, k) · (…, k, m): k for each element of the output."""
    a = bound_arguments(node, node.args, node.kwargs)
    first = next(a[name] for name in ("mat1", "batch1", "self") if name in a)
    return math.prod(shape(node)) * shape(first)[-1]


def _attention(node: fx.Node, shape: Callable[[Any], Shape]) -> int:
    a = bound_arguments(node, node.args, node.kwargs)
    q, k, v = shape(a["query"]), shape(a["key"]), shape(a["value"])
    return math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _recurrent(node: fx.Node, shape: Callable[[Any], Shape]) -> int:
    """Every weight matrix is used once for each step of each sample."""
    a = bound_arguments(node, node.args, node.kwargs)
    batch, steps = shape(a["input"])[:2]
    return batch * steps * sum(math.prod(w) for w in map(shape, a["params"]) if len(w) == 2)


def _einsum(node: fx.Node, shape: Callable[[Any], Shape]) -> int:
    a = bound_arguments(node, node.args, node.kwargs)
    terms = str(a["equation"]).replace(" ", "").partition("->")[0].split(",")
    if len(terms) != 2 or "." in a["equation"]:
        return 0
    sizes = {
        c: s for term, x in zip(terms, a["tensors"], strict=True) for c, s in zip(term, shape(x), strict=True)
    }
    return math.prod(sizes.values())


_MACS: dict[str, Callable[[fx.Node, Callable[[Any], Shape]], int]] = {
    **dict.fromkeys(LAYERS, _layer),
    **dict.fromkeys(of("product"), _product),
    **dict.fromkeys(of("recurrent"), _recurrent),
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
}


def full(coupling: Coupling) -> dict[str, Tensor]:
    """Every unit of every prunable group alive."""
    return {group.name: coupling.ids[group.name] >= 0 for group in coupling.prunable}
