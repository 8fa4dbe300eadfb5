"""No inputs at all: what batch norm remembers of the data is put in place of what noise makes of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from secateur.errors import InputError
from secateur.graph.batch_norm import running_statistics
from secateur.graph.graph import Graph
from secateur.graph.interpret import call_op, precision_of, run
from secateur.graph.node import bound_arguments, kind
from secateur.surrogates.source import Inputs, Source
from secateur.types import Samples


def bn_moments(source: Source, count: int) -> Samples:
    """Gaussian noise, with statistics by which every batch norm gives its channels mean β and deviation γ.

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
    """`inputs`, with statistics by which every batch norm gives its channels mean β and deviation γ on them.

    Cost: one forward pass.
    """
    tensors: dict[str, Tensor] = {}

    def call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], *, like: Tensor) -> Any:
        if kind(node) != "batch_norm":
            return call_op(node, args, kwargs, like=like)
        x, names = args[0], running_statistics(node)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        variance, mean = torch.var_mean(x.double(), axes, correction=0)
        if names is not None:
            tensors.update(zip(names, (mean, variance), strict=True))
        a = bound_arguments(node, args, kwargs)
        a |= {"running_mean": mean.to(x), "running_var": variance.to(x)}
        return node.target(*a.values())  # type: ignore[operator]

    run(graph, inputs, dtype=precision_of(inputs), call=call)
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
