"""No inputs at all: what batch norm remembers of the data is put in place of what noise makes of it."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from secateur.errors import InputError
from secateur.graph.batch_norm import running_statistics
from secateur.graph.graph import Graph
from secateur.graph.node import kind
from secateur.graph.stages import Arrival, run_stages
from secateur.surrogates.channel_moments import ChannelMoments
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
    return standardised(graph, inputs, source.memory)


def standardised(graph: Graph, inputs: Inputs, memory: int, share: float = 1.0) -> Samples:
    """`inputs`, with statistics by which every batch norm gives its channels mean β and deviation γ on them.

    With a `share` below 1 the statistics go so far of the way from the running ones. Cost: one forward pass,
    or parts of it again where values take more than `memory` bytes.
    """
    visitor = _Standardise(graph, share)
    norms = [node for node in graph.nodes if running_statistics(node) is not None]
    run_stages(graph, norms, visitor.tensors, visitor.tensors, inputs, visitor, memory)
    return Samples(inputs, visitor.changed)


class _Standardise:
    """Puts the statistics of what each batch norm reads in place of its running ones, in graph order."""

    def __init__(self, graph: Graph, share: float) -> None:
        self.tensors, self.changed, self.share = dict(graph.tensors), dict[str, Tensor](), share
        self._sum: ChannelMoments | None = None

    def wants(self, node: fx.Node, differs: bool) -> bool:
        return True

    def measure(self, arrival: Arrival) -> ChannelMoments:
        return ChannelMoments.of(arrival.arguments(arrival.networks.of_original)["input"])

    def add(self, found: ChannelMoments) -> None:
        self._sum = found if self._sum is None else self._sum + found

    def finish(self, node: fx.Node) -> None:
        names = running_statistics(node)
        assert names is not None and self._sum is not None
        for name, found in zip(names, (self._sum.mean, self._sum.variance), strict=True):
            self.changed[name] = torch.lerp(self.tensors[name].double().cpu(), found, self.share)
        self.tensors |= self.changed
        self._sum = None


def _noise(source: Source, index: int, count: int) -> Tensor:
    """Noise over the box, or the example's own numbers over and over where the input takes whole numbers."""
    example, box = source.graph.example[index], source.box[index]
    if not example.is_floating_point():
        return example[torch.arange(count) % len(example)]
    noise = torch.randn(count, *example.shape[1:], generator=source.generator)
    finite = torch.isfinite(box.upper - box.lower)
    low, high = torch.where(finite, box.lower, -2.0), torch.where(finite, box.upper, 2.0)
    return ((low + high) / 2 + noise * (high - low) / 4).clamp(box.lower, box.upper)
