"""How well inputs explain the weights: whether they are like the data that a model was trained on.

Training leaves every layer with WᵀW in proportion to a power of the average outer product of the gradients
with respect to its inputs, over the training data (the neural feature ansatz; Radhakrishnan et al. 2024,
arXiv 2212.13881). Inputs for which the two agree better are more like the data. The power is ½ here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from secateur.graph.graph import tensor_name
from secateur.graph.interpret import batches
from secateur.graph.node import bound_arguments, kind
from secateur.graph.workers import in_order
from secateur.surrogates.forward import forward, gradient_batch
from secateur.surrogates.source import Inputs, Source

_LAYERS = {"linear", "conv1d", "conv2d", "conv3d"}
_WIDEST = 1024  # units of a layer that is asked


def agreement(source: Source, inputs: Inputs, probes: Sequence[Tensor]) -> float:
    """Mean over the layers of the correlation of WᵀW and √AGOP, at most 1; 0 where no layer can be asked.

    `probes`: for each output, random directions of its shape; the same for all inputs that are compared.
    """
    layers = {node for node in source.graph.nodes if _is_asked(source, node)} - set(source.graph.outputs)
    outer: dict[fx.Node, Tensor] = {}
    size = gradient_batch(source, inputs)

    def one(pair: tuple[Inputs, Sequence[Tensor]]) -> dict[fx.Node, Tensor]:
        return _gradients(source, layers, *pair)

    pairs = zip(batches(inputs, size), batches(probes, size), strict=True)
    for found_of_batch in in_order(one, pairs):
        for node, q in found_of_batch.items():
            outer[node] = outer.get(node, torch.zeros(())) + q
    found = [_correlation(_weight(source, node), q) for node, q in outer.items()]
    return sum(found) / len(found) if found else 0.0


def draw_probes(source: Source, inputs: Inputs) -> list[Tensor]:
    """Directions in the outputs, without the part that moves all classes alike."""
    with torch.no_grad():
        shapes = [y.shape[1:] for y in forward(source, tuple(x[:1] for x in inputs))]
    drawn = [torch.randn(len(inputs[0]), *shape, generator=source.generator) for shape in shapes]
    return [p - p.mean(1, keepdim=True) if p.ndim > 1 and p.shape[1] > 1 else p for p in drawn]


def _gradients(
    source: Source, layers: Collection[fx.Node], inputs: Inputs, probes: Sequence[Tensor]
) -> dict[fx.Node, Tensor]:
    """Σ g gᵀ for each layer, g the gradient of the probed outputs with respect to its output units."""
    values: dict[fx.Node, Tensor] = {}

    def observe(node: fx.Node, args: tuple[Any, ...], value: Any) -> None:
        if kind(node) == "embedding" and not value.requires_grad:
            value.requires_grad_()  # of tokens, this is where gradients can begin
        if node in layers and value.requires_grad:
            values[node] = value

    given = tuple(x.detach().requires_grad_() if x.is_floating_point() else x for x in inputs)
    outputs = forward(source, given, observe)
    pairs = [(y, p) for y, p in zip(outputs, probes, strict=True) if y.requires_grad and y.shape == p.shape]
    if not pairs or not values:
        return {}
    total = sum(((y * p).sum() for y, p in pairs), torch.zeros((), device=inputs[0].device))
    slopes = torch.autograd.grad(total, list(values.values()), allow_unused=True)
    outer = dict[fx.Node, Tensor]()
    for node, slope in zip(values, slopes, strict=True):
        if slope is not None:
            units = slope if kind(node) == "linear" else slope.movedim(1, -1)
            rows = units.reshape(-1, units.shape[-1]).nan_to_num(0.0, 0.0, 0.0)
            outer[node] = (rows.T @ rows).double()
    return outer


def _is_asked(source: Source, node: fx.Node) -> bool:
    """Whether it is a layer with one tensor as its weight, every output of which depends on every input."""
    if kind(node) not in _LAYERS:
        return False
    a = bound_arguments(node, node.args, node.kwargs)
    name = tensor_name(a["weight"])
    return name is not None and a.get("groups", 1) == 1 and len(source.graph.tensors[name]) <= _WIDEST


def _weight(source: Source, node: fx.Node) -> Tensor:
    name = bound_arguments(node, node.args, node.kwargs)["weight"]
    return source.graph.tensors[str(name.target)].cpu().double().flatten(1)


def _correlation(w: Tensor, q: Tensor) -> float:
    """⟨WᵀW, √(WᵀQW)⟩ / (‖WᵀW‖ ‖√(WᵀQW)‖) by matrices as small as the output: Q = L Lᵀ, K = W Wᵀ, M = Lᵀ K L.

    NaN where the gradients overflow.
    """
    if not bool(torch.isfinite(q).all() and torch.isfinite(w).all()):
        return math.nan
    value, vector = torch.linalg.eigh(q)
    root = vector * value.clamp(min=0).sqrt()
    k = w @ w.T
    value, vector = torch.linalg.eigh(root.T @ k @ root)
    keep = value > 1e-9 * value.amax().clamp(min=1e-300)
    value, vector = value[keep], vector[:, keep]
    if not len(value):
        return 0.0
    inner = (k @ root @ vector).square().sum(0)
    # √(WᵀQW) = Wᵀ L M^(−½) Lᵀ W, so the product with WᵀW is tr(M^(−½) Lᵀ K K L)
    return float((inner / value.sqrt()).sum() / (value.sum().sqrt() * k.norm()))
