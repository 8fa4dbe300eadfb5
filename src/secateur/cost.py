"""Parameters, multiply-accumulates and bytes of a network after a removal, from the graph; nothing is run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.graph.interpret import call_op
from secateur.graph.node import bound_arguments, kind
from secateur.graph.ops import LAYERS, of
from secateur.graph.owners import groups_in_values
from secateur.surgery.sizes import Alive, alive_units, kept_indices, kept_shape

Shape = list[int]


def parameters_after(graph: Graph, coupling: Coupling, alive: Alive) -> int:
    """Parameters of the shrunk model; buffers are not counted."""
    shapes = _tensor_shapes(graph, coupling, alive)
    return sum(math.prod(shapes[name]) for name in graph.parameters)


def macs_after(graph: Graph, coupling: Coupling, alive: Alive) -> int:
    """Multiply-accumulates of the shrunk model for one sample.

    Counted are convolutions, linear layers, products and attention; element-wise ops and norms are not, as is
    usual. MACs are half of FLOPs.
    """
    return sum(_macs_of(graph, coupling, alive, _counted(graph)).values()) // graph.example[0].shape[0]


def parameters_before(graph: Graph) -> int:
    """Parameters of the model itself, in which each tied tensor stands once."""
    return sum(graph.tensors[name].numel() for name in set(graph.parameters) - graph.copies)


class Costs:
    """Sizes of one network after many removals.

    The whole network is counted once; a removal recounts only the tensors and ops that hold its units.
    """

    def __init__(self, graph: Graph, coupling: Coupling) -> None:
        self.graph, self.coupling = graph, coupling
        self._parameters = dict.fromkeys(graph.parameters, 1)
        stored = (name for name, aliases in graph.aliases.items() if aliases)
        self._bytes = {name: graph.tensors[name].element_size() for name in stored}

    def parameters(self, alive: Alive) -> int:
        """Parameters of the shrunk model."""
        return self._weighed(alive, self._parameters)

    def bytes(self, alive: Alive) -> int:
        """Bytes of the parameters and buffers that the shrunk model reads, each shared one once."""
        return self._weighed(alive, self._bytes)

    def copied_parameters(self) -> int:
        """Parameters that the graph has beside those of the model, where it has tied tensors apart."""
        return sum(self.graph.tensors[name].numel() for name in self.graph.copies)

    def copied_bytes(self) -> int:
        return sum(self.graph.tensors[name].nbytes for name in self.graph.copies)

    def _weighed(self, alive: Alive, weights: Mapping[str, int]) -> int:
        """The numbers that are left in the tensors of `weights`, each number as often as its tensor says."""
        groups = {group.name: group for group in self.coupling.groups}
        changed = {slot.tensor for name in _losing(alive) for slot in groups[name].slots} & weights.keys()
        shapes = {name: list(self.graph.tensors[name].shape) for name in changed}
        for (name, axis), keep in kept_indices(self.graph, self.coupling, alive).items():
            if name in shapes:
                shapes[name][axis] = len(keep)
        whole = sum(weight * self.graph.tensors[name].numel() for name, weight in weights.items())
        return whole - sum(
            weights[name] * (self.graph.tensors[name].numel() - math.prod(shape))
            for name, shape in shapes.items()
        )

    def macs(self, alive: Alive) -> int:
        """Multiply-accumulates of the shrunk model for one sample."""
        nodes = {node: None for name in _losing(alive) for node in self._ops[name]}
        recounted = _macs_of(self.graph, self.coupling, alive, nodes)
        removed = sum(self._whole_macs[node] - count for node, count in recounted.items())
        return (sum(self._whole_macs.values()) - removed) // self.graph.example[0].shape[0]

    @cached_property
    def _whole_macs(self) -> dict[fx.Node, int]:
        return _macs_of(self.graph, self.coupling, {}, _counted(self.graph))

    @cached_property
    def _ops(self) -> dict[str, list[fx.Node]]:
        """Group name → the counted ops that read its units, make them, or have them in their parameters."""
        found: dict[str, list[fx.Node]] = {group.name: [] for group in self.coupling.groups}
        of_tensor: dict[str, set[str]] = {}
        for group in self.coupling.groups:
            for slot in group.slots:
                of_tensor.setdefault(slot.tensor, set()).add(group.name)
        read = {node: [node, *node.all_input_nodes] for node in self._whole_macs}
        values = {v: None for nodes in read.values() for v in nodes if v in self.coupling.units}
        of_value = groups_in_values(self.coupling, values)
        for node, nodes in read.items():
            names = set[str]().union(
                *(of_value[v] if v in of_value else of_tensor.get(_parameter_of(v), ()) for v in nodes)
            )
            for name in names & found.keys():
                found[name].append(node)
        return found


def _losing(alive: Alive) -> list[str]:
    """The groups that lose units."""
    return [name for name, mask in alive.items() if not bool(mask.all())]


def _counted(graph: Graph) -> list[fx.Node]:
    """The ops whose multiply-accumulates are counted."""
    return [node for node in graph.nodes if node.op == "call_function" and kind(node) in _MACS]


def macs_of_op(node: fx.Node, shape: Callable[[Any], Shape]) -> int:
    """Multiply-accumulates of one op, 0 of one that is not counted; `shape` gives that of any value."""
    return _MACS[kind(node)](node, shape) if kind(node) in _MACS else 0


def _macs_of(graph: Graph, coupling: Coupling, alive: Alive, nodes: Iterable[fx.Node]) -> dict[fx.Node, int]:
    """Multiply-accumulates of each op for the example's batch."""
    tensors = _tensor_shapes(graph, coupling, alive)
    table = alive_units(coupling, alive)

    def shape(value: Any) -> Shape:
        if value in coupling.units:
            return kept_shape(coupling.levels(value), table)
        return _parameter_shape(value, tensors)

    return {node: _MACS[kind(node)](node, shape) for node in nodes}


def _tensor_shapes(graph: Graph, coupling: Coupling, alive: Alive) -> Mapping[str, Shape]:
    shapes = {name: list(tensor.shape) for name, tensor in graph.tensors.items()}
    for (name, axis), keep in kept_indices(graph, coupling, alive).items():
        shapes[name][axis] = len(keep)
    return shapes


def _parameter_of(node: fx.Node) -> str:
    """The name of a bare parameter, or of the one that ops have moved."""
    while node.op == "call_function" and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return str(node.target)


def _parameter_shape(node: fx.Node, tensors: Mapping[str, Shape]) -> Shape:
    """Shape of a bare parameter, or of a transpose of it."""
    if node.op == "get_attr":
        return tensors[str(node.target)]
    source = node.all_input_nodes[0]
    base = torch.empty(_parameter_shape(source, tensors), device="meta")
    moved = call_op(node, *fx.map_arg((node.args, node.kwargs), {source: base}.__getitem__), like=base)
    return list(moved.shape)


def _layer(node: fx.Node, shape: Callable[[Any], Shape]) -> int:
    """Each weight is used once at every position of the output, of a transposed convolution of the input."""
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
