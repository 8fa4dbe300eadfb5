"""What a method may look at when it decides: the graph, the weights as they stand, the input box. Never
data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from secateur.bounds.interval import propagate
from secateur.graph.capture import Graph, bound_arguments, kind
from secateur.graph.ops import LAYERS
from secateur.types import Group, Interval, Slot


@dataclass(frozen=True, eq=False)
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
    norms: Mapping[str, Norm] = field(
        default_factory=dict
    )  # producer weight → the batch norm that follows it

    @cached_property
    def values(self) -> dict[fx.Node, Any]:
        """Interval of every node's value over the box, of the folded network as it stands; float32, for
        scoring.
        """
        folded = fold(self.weights, self.norms)
        tensors = {name: w.float() if w.is_floating_point() else w for name, w in folded.items()}
        return propagate(self.graph, self.box, tensors, keep=lambda node: True)


@dataclass(frozen=True)
class Norm:
    """A batch norm right after a linear or convolution layer, by the names of its tensors."""

    axis: int  # of the layer's weight, along which its outputs stand
    bias: str | None  # the layer's own
    scale: str | None
    shift: str | None
    mean: str
    variance: str
    eps: float


def following_norms(graph: Graph) -> dict[str, Norm]:
    """Weight name → batch norm, for layers used once whose output goes into that norm and nowhere else."""
    found = {}
    uses = Counter(str(node.target) for node in graph.nodes if node.op == "get_attr" for _ in node.users)
    for node in graph.nodes:
        if kind(node) != "batch_norm":
            continue
        a = bound_arguments(node, node.args, node.kwargs)
        layer = a["input"]
        if kind(layer) not in LAYERS or len(layer.users) > 1:
            continue
        b = bound_arguments(layer, layer.args, layer.kwargs)
        weight, bias, scale, shift, mean, variance = (
            _name(x)
            for x in (b["weight"], b["bias"], a["weight"], a["bias"], a["running_mean"], a["running_var"])
        )
        named = [name for name in (weight, bias, scale, shift, mean, variance) if name]
        grouped = "transpose" in kind(layer) and b["groups"] > 1  # its weight has no axis of all outputs
        if weight and mean and variance and not grouped and all(uses[name] == 1 for name in named):
            axis = 1 if "transpose" in kind(layer) else 0
            found[weight] = Norm(axis, bias, scale, shift, mean, variance, a["eps"])
    return found


def fold(tensors: Mapping[str, Tensor], norms: Mapping[str, Norm]) -> dict[str, Tensor]:
    """γ(Wx + b − μ)/√(σ² + ε) + β as W′x + β′: weights scaled, all that is constant in one tensor, the norm
    idle.

    Units that make the same function then have equal rows, however their norms are scaled.
    """
    folded = dict(tensors)
    for weight, norm in norms.items():
        scale = torch.rsqrt(tensors[norm.variance] + norm.eps)
        if norm.scale:
            scale = scale * tensors[norm.scale]
            folded[norm.scale] = torch.ones_like(scale)
        constant = -scale * tensors[norm.mean]
        if norm.bias:
            constant = constant + scale * tensors[norm.bias]
            folded[norm.bias] = torch.zeros_like(scale)
        shape = [-1 if axis == norm.axis else 1 for axis in range(tensors[weight].ndim)]
        folded[weight] = tensors[weight] * scale.reshape(shape)
        folded[norm.variance] = torch.full_like(scale, 1.0 - norm.eps)
        folded[norm.mean] = torch.zeros_like(scale) if norm.shift else -constant
        if norm.shift:
            folded[norm.shift] = tensors[norm.shift] + constant
    return folded


def _name(node: Any) -> str | None:
    return str(node.target) if isinstance(node, fx.Node) and node.op == "get_attr" else None


def incoming(context: Context, group: Group) -> Tensor:
    """What makes each unit: its rows in every producer and its parameters on the way (depthwise kernels,
    norms, scales), batch norm folded. Shape: (units, features).
    """
    makers = [slot for slot in group.slots if slot.role != "consumer"]
    own = {slot.tensor for slot in makers}
    folded = fold(context.weights, {weight: norm for weight, norm in context.norms.items() if weight in own})
    return _rows(folded, makers)


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
    return _rows(context.weights, producers)


def _rows(tensors: Mapping[str, Tensor], slots: Sequence[Slot]) -> Tensor:
    """All that stands in `slots` for each unit, side by side; shape: (units, numbers)."""
    return torch.cat([tensors[s.tensor].movedim(s.axis, 0)[s.positions].flatten(1) for s in slots], dim=1)
