"""Batch norms right after layers, and folding them into the layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from secateur.graph.batch_norm import batch_norm_after, running_statistics
from secateur.graph.graph import Graph, tensor_name
from secateur.graph.node import bound_arguments, kind
from secateur.methods.rows import makers
from secateur.types import Group

_LAYERS = "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d".split()


@dataclass(frozen=True)
class Norm:
    """A batch norm right after a linear or convolution layer, by the names of its tensors."""

    axis: int  # of the layer's weight: that of its outputs
    bias: str | None  # of the layer
    scale: str | None
    shift: str | None
    mean: str
    variance: str
    eps: float


def following_norms(graph: Graph) -> dict[str, Norm]:
    """Weight name → batch norm, for layers whose output is read by that norm alone.

    Layers and norms that share a tensor with others are left out.
    """
    found, uses = {}, graph.uses()
    for node in graph.nodes:
        pair = _folded_pair(node)
        if pair is not None and all(uses[name] == 1 for name in _names(*pair)):
            found[pair[0]] = pair[1]
    return found


def _folded_pair(layer: fx.Node) -> tuple[str, Norm] | None:
    """The weight of a layer and the norm that follows it; None where the norm cannot be folded."""
    norm = batch_norm_after(layer) if kind(layer) in _LAYERS else None
    statistics = None if norm is None else running_statistics(norm)
    if norm is None or statistics is None:
        return None
    a, b = (bound_arguments(node, node.args, node.kwargs) for node in (norm, layer))
    weight, transposed = tensor_name(b["weight"]), "transpose" in kind(layer)
    if weight is None or (transposed and b["groups"] > 1):  # the latter has no axis of all outputs
        return None
    bias, scale, shift = (tensor_name(x) for x in (b["bias"], a["weight"], a["bias"]))
    return weight, Norm(1 if transposed else 0, bias, scale, shift, *statistics, a["eps"])


def _names(weight: str, norm: Norm) -> list[str]:
    """The tensors of a layer and of its norm."""
    names = (weight, norm.bias, norm.scale, norm.shift, norm.mean, norm.variance)
    return [name for name in names if name is not None]


def own_norms(norms: Mapping[str, Norm], group: Group) -> dict[str, Norm]:
    """Weight name → batch norm, for the group's producers and depthwise layers."""
    own = {slot.tensor for slot in makers(group)}
    return {weight: norms[weight] for weight in norms if weight in own}


def fold(tensors: Mapping[str, Tensor], norms: Mapping[str, Norm]) -> dict[str, Tensor]:
    """Rewrite γ(Wx + b − μ)/√(σ² + ε) + β as W′x + β′.

    The weights are scaled, all constants are in one tensor, and the norm becomes the identity. Units that
    compute the same function then have equal rows, however their norms are scaled.
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
