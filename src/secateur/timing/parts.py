"""The parts of a network's time, and their sizes after a removal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from secateur.cost import macs_of_op
from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph, tensor_name
from secateur.graph.labels import varying_axes
from secateur.graph.meaning import MOVES
from secateur.graph.node import bound_arguments, kind
from secateur.graph.ops import LAYERS, of
from secateur.graph.owners import owners

_PRODUCTS = {*of("product"), "scaled_dot_product_attention"}
Removed = Mapping[str, int]  # units that each group loses


class Shape(NamedTuple):
    """What the time of a layer depends on, with all of its channels; equal shapes are measured once."""

    op: str
    x: tuple[int, ...]  # of one sample, channels included
    weight: tuple[int, ...]
    bias: bool
    settings: tuple[tuple[str, Any], ...]  # stride, padding, dilation, groups, output padding
    dtype: str

    @property
    def channel_axis(self) -> int:
        return len(self.x) - 1 if self.op == "linear" else 1

    @property
    def groups(self) -> int:
        return int(dict(self.settings).get("groups", 1))


@dataclass(frozen=True)
class Axis:
    """The size of one axis: `whole`, less so many indices for each unit of a group that goes.

    `crossing`: the same for groups whose units cross those of `per_unit`, as the widths of heads do heads.
    """

    whole: int
    per_unit: Mapping[str, int]
    crossing: Mapping[str, int] = field(default_factory=dict)

    def after(self, removed: Removed) -> int:
        left = [
            self.whole - sum(count * removed.get(name, 0) for name, count in own.items())
            for own in (self.per_unit, self.crossing)
        ]
        return left[0] * left[1] // max(1, self.whole)


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or linear layer: its shape, and its channels in and out."""

    name: str
    shape: Shape
    inputs: Axis
    outputs: Axis


@dataclass(frozen=True, eq=False)
class Parts:
    """The layers of a network, and the values that its other ops make."""

    layers: tuple[Layer, ...]
    values: Mapping[fx.Node, tuple[Axis, ...]]
    batch: int  # samples of the example, which `values` hold
    # products and attention → what they read, and what they make
    products: Mapping[fx.Node, Mapping[Any, tuple[Axis, ...]]]

    def elements(self, removed: Removed) -> float:
        """Elements of the values of ops that are no layers, for one sample."""
        sizes = (math.prod(axis.after(removed) for axis in axes) for axes in self.values.values())
        return sum(sizes) / self.batch

    def product_macs(self, removed: Removed) -> float:
        """Multiply-accumulates of products and attention, for one sample."""

        def macs(node: fx.Node, axes: Mapping[Any, tuple[Axis, ...]]) -> int:
            return macs_of_op(node, lambda value: [axis.after(removed) for axis in axes[value]])

        return sum(macs(node, axes) for node, axes in self.products.items()) / self.batch


def parts_of(graph: Graph, coupling: Coupling) -> Parts:
    """Found once for a network. Cost: one look at the units of every value."""
    names, owner = owners(coupling)
    layers, values = list[Layer](), dict[fx.Node, tuple[Axis, ...]]()
    products = dict[fx.Node, Mapping[Any, tuple[Axis, ...]]]()
    batch = graph.example[0].shape[0]

    def axes(node: fx.Node) -> tuple[Axis, ...]:
        if node in coupling.units:
            outer, *inner = (_axes(coupling, names, owner, units) for units in coupling.levels(node))
            crossed = inner[0] if inner else outer
            pairs = zip(outer, crossed, strict=True)
            return tuple(replace(a, crossing=b.per_unit) if inner else a for a, b in pairs)
        tensor = graph.tensors.get(tensor_name(node) or "")
        return () if tensor is None else tuple(Axis(size, {}) for size in tensor.shape)

    for node in graph.nodes:
        if node.op != "call_function" or node not in coupling.units or kind(node) in MOVES:
            continue
        layer = _layer(graph, node, axes, batch) if kind(node) in LAYERS else None
        if layer is not None:
            layers.append(layer)
        elif kind(node) in _PRODUCTS:
            products[node] = {value: axes(value) for value in (node, *node.all_input_nodes)}
        else:
            values[node] = axes(node)
    return Parts(tuple(layers), values, batch, products)


def _layer(graph: Graph, node: fx.Node, axes: Any, batch: int) -> Layer | None:
    """None where the weight is computed."""
    a = bound_arguments(node, node.args, node.kwargs)
    name = tensor_name(a["weight"])
    if name is None:
        return None
    x, out, weight = axes(a["input"]), axes(node), graph.tensors[name]
    channel = -1 if kind(node) == "linear" else 1
    sizes = [axis.whole for axis in x]
    settings = {n: a[n] for n in ("stride", "padding", "dilation", "groups", "output_padding") if n in a}
    plain = tuple((n, tuple(v) if isinstance(v, list | tuple) else v) for n, v in settings.items())
    shape = Shape(
        kind(node),
        (max(1, sizes[0] // batch), *sizes[1:]),
        tuple(weight.shape),
        a.get("bias") is not None,
        plain,
        str(weight.dtype).removeprefix("torch."),
    )
    return Layer(name, shape, x[channel], out[channel])


def _axes(coupling: Coupling, names: list[str], owner: Tensor, units: Tensor) -> tuple[Axis, ...]:
    """The axes of a value whose elements belong to `units`."""
    varying, found = varying_axes(units), list[Axis]()
    for axis, size in enumerate(units.shape):
        if axis not in varying:
            found.append(Axis(size, {}))
            continue
        along = units
        for other in range(units.ndim - 1, -1, -1):
            if other != axis:
                along = along.select(other, 0)
        counts = torch.bincount(owner[along], minlength=len(names) + 1).tolist()
        per_unit = {n: c // len(coupling.ids[n]) for n, c in zip(names, counts, strict=False)}
        found.append(Axis(size, {n: c for n, c in per_unit.items() if c}))
    return tuple(found)
