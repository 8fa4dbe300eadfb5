"""No inputs at all: what batch norm remembers of the data is put in place of what noise makes of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from secateur.errors import InputError
from secateur.graph.capture import Graph, as_work, bound_arguments, call_op, kind, walk
from secateur.surrogates.source import Inputs, Source
from secateur.types import Samples


def bn_moments(source: Source, count: int) -> Samples:
    """Gaussian noise, and statistics under which every batch norm gives each channel its mean β and deviation
    γ.

    Behind each norm the channels then have the moments of (rectified) Gaussians that their parameters tell,
    and the correlations that the weights make. Cost: one forward pass. Raises `InputError` where the model
    has none.
    """
    graph = source.graph
    if not any(kind(node) == "batch_norm" for node in graph.nodes):
        raise InputError("bn_moments needs a model with batch norm; use another surrogate, such as auto")
    inputs = tuple(_noise(source, i, count) for i in range(len(graph.inputs)))
    return standardised(graph, inputs)


def standardised(graph: Graph, inputs: Inputs) -> Samples:
    """`inputs` with statistics under which every batch norm gives each channel its mean β and deviation γ on
    them.

    Cost: one forward pass.
    """
    given = dict(zip(graph.inputs, inputs, strict=True))
    like = next((x for x in inputs if x.is_floating_point()), torch.zeros(0))
    tensors: dict[str, Tensor] = {}

    def leaf(node: fx.Node) -> Tensor:
        return (
            given[node] if node.op == "placeholder" else as_work(graph.tensors[str(node.target)].cpu(), like)
        )

    def call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kind(node) == "batch_norm":
            x, names = args[0], bound_arguments(node, node.args, node.kwargs)
            variance, mean = torch.var_mean(
                x.double(), [axis for axis in range(x.ndim) if axis != 1], correction=0
            )
            tensors[str(names["running_mean"].target)] = mean
            tensors[str(names["running_var"].target)] = variance
            a = bound_arguments(node, args, kwargs) | {
                "running_mean": mean.to(x),
                "running_var": variance.to(x),
            }
            return node.target(*a.values())  # type: ignore[operator]
        return call_op(node, args, kwargs, like=like)

    with torch.no_grad():
        walk(graph, leaf, call)
    return Samples(inputs, tensors)


def _noise(source: Source, index: int, count: int) -> Tensor:
    """Noise over the box, or the example's own numbers over and over where the input takes whole numbers."""
    example, box = source.graph.example[index], source.box[index]
    if not example.is_floating_point():
        return example[torch.arange(count) % len(example)]
    noise = torch.randn(count, *example.shape[1:], generator=source.generator)
    finite = torch.isfinite(box.upper - box.lower)
    low, high = torch.where(finite, box.lower, -2.0), torch.where(finite, box.upper, 2.0)
    return ((low + high) / 2 + noise * (high - low) / 4).clamp(box.lower, box.upper)
