"""What a method may look at when it decides: the graph, the weights as they stand, the input box. Never data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from secateur.bounds.interval import propagate
from secateur.graph.capture import Graph, bound_arguments, kind
from secateur.types import Group, Interval


@dataclass(eq=False)
class Context:
    """One moment of a pruning run. Full-size tensors, in which removed units have no effect any more."""

    graph: Graph
    weights: Mapping[str, Tensor]  # by name, float64 where floating
    box: Sequence[Interval]  # float32, one for each input, batch 1
    generator: torch.Generator
    alive: Mapping[str, Tensor]  # group name → units that stay so far, bool
    used: Mapping[str, Tensor]  # group name → units that stood in for another, bool
    recursive: bool  # whether a unit that stood in for another may do so again, or leave
    progress: float = 0.0  # share of the planned removals that is done
    norms: Mapping[str, Norm] = field(default_factory=dict)  # producer weight → the batch norm that follows it

    @cached_property
    def values(self) -> dict[fx.Node, Any]:
        """Interval of every node's value over the box, of the network as it stands; float32, for scoring."""
        tensors = {name: w.float() if w.is_floating_point() else w for name, w in self.weights.items()}
        return propagate(self.graph, self.box, tensors, keep=lambda node: True)


@dataclass(frozen=True)
class Norm:
    """A batch norm right after a linear or convolution layer, by the names of its tensors."""

    scale: str | None
    shift: str | None
    mean: str
    variance: str
    eps: float
    bias: str | None  # the layer's own bias

    def affine(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(s, t) such that the norm is y = s·x + t; shapes: (channels,)."""
        mean, variance = tensors[self.mean], tensors[self.variance]
        scale = torch.rsqrt(variance + self.eps) * (1.0 if self.scale is None else tensors[self.scale])
        return scale, (0.0 if self.shift is None else tensors[self.shift]) - scale * mean

    @property
    def tensors(self) -> set[str]:
        return {name for name in (self.scale, self.shift, self.mean, self.variance) if name}


_LAYERS = {"linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}


def following_norms(graph: Graph) -> dict[str, Norm]:
    """Weight name → batch norm, for layers whose output goes into that norm and nowhere else."""
    found = {}
    for node in graph.nodes:
        if kind(node) != "batch_norm":
            continue
        a = bound_arguments(node, node.args, node.kwargs)
        layer = a["input"]
        if kind(layer) not in _LAYERS or len(layer.users) > 1:
            continue
        b = bound_arguments(layer, layer.args, layer.kwargs)
        named = {k: _name(a[k]) for k in ("weight", "bias", "running_mean", "running_var")}
        weight, bias = _name(b["weight"]), _name(b["bias"])
        if weight and named["running_mean"] and named["running_var"]:
            found[weight] = Norm(
                named["weight"], named["bias"], named["running_mean"], named["running_var"], a["eps"], bias
            )
    return found


def _name(node: Any) -> str | None:
    return str(node.target) if isinstance(node, fx.Node) and node.op == "get_attr" else None


def incoming(context: Context, group: Group) -> Tensor:
    """What makes each unit: its rows in every producer with their biases, batch norm folded in, and its other
    parameters on the way (depthwise kernels, norms that follow no layer, scales). Shape: (units, features)."""
    folded: set[str] = set()
    weights = dict(context.weights)
    for name in {slot.tensor for slot in group.slots if slot.role != "consumer"} & context.norms.keys():
        norm = context.norms[name]
        axis = next(slot.axis for slot in group.slots if slot.tensor == name and slot.role != "consumer")
        scale, shift = norm.affine(context.weights)
        shape = [-1 if i == axis else 1 for i in range(weights[name].ndim)]
        weights[name] = weights[name] * scale.reshape(shape)
        weights[norm.mean] = shift if norm.bias is None else shift + scale * context.weights[norm.bias]
        folded |= (norm.tensors - {norm.mean}) | ({norm.bias} if norm.bias else set())
    rows = [
        weights[slot.tensor].movedim(slot.axis, 0)[slot.positions].flatten(1)
        for slot in group.slots
        if slot.role != "consumer" and slot.tensor not in folded
    ]
    return torch.cat(rows, dim=1)


def fan_out(context: Context, group: Group) -> Tensor:
    """‖W[:, a]‖² over all consumers; shape: (units,)."""
    total = torch.zeros(group.units, dtype=torch.float64)
    for slot in group.having("consumer"):
        columns = context.weights[slot.tensor].movedim(slot.axis, 0)  # shape: (indices, …)
        squared = columns.flatten(1).square().sum(1) if columns.ndim > 1 else columns.square()
        total += squared[slot.positions].sum(1)
    return total


def filters(context: Context, group: Group) -> Tensor:
    """The weights that make each unit as they are: no bias, no norm. Shape: (units, weights)."""
    producers = [slot for slot in group.having("producer") if context.weights[slot.tensor].ndim > 1]
    rows = [context.weights[s.tensor].movedim(s.axis, 0)[s.positions].flatten(1) for s in producers]
    return torch.cat(rows, dim=1)
