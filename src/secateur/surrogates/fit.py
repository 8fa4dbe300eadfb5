"""How well images fit a model in the units in which they are given, by batch norms, layers and outputs."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from secateur.graph.batch_norm import running_statistics
from secateur.graph.interpret import run
from secateur.graph.node import kind
from secateur.surrogates.channel_moments import ChannelMoments
from secateur.surrogates.forward import as_log_probabilities
from secateur.surrogates.source import Source

# layers and batch norms that are asked: later ones tell more of what images show than of their units
_FIRST = 5
_LAYERS = {"linear", "conv2d"}
_FAR = 5.0  # nats, at most, of one unit: filters that training left without effect put out a constant
_TINY = 1e-30
_FLOOR = 1e-6  # of a ratio of variances


@dataclass(frozen=True)
class Fit:
    """In nats, means over the first five layers; NaN where the model does not tell."""

    # log(1 + how far the statistics are from the running ones), as in `batch_norm.mismatch`
    batch_norm: float
    bias: float  # log(1 + mean² / variance) of a unit of a layer before its activation
    classes: int  # that are predicted at least once; 0 without classes
    information: float  # that the outputs give about the class
    spread: float  # deviation of the scores of one image


def fit(source: Source, parts: Sequence[Tensor], *, classes: bool) -> Fit:
    """The fit of all images in `parts`, each (n, c, h, w) as the model takes them.

    The fit of batch norm is that of the best part. `classes`: whether the only output holds scores of
    classes, (n, k). Cost: one forward pass.
    """
    norms = dict(list(_remembering(source).items())[:_FIRST])
    layers = [node for node in source.graph.nodes if kind(node) in _LAYERS][:_FIRST]
    units, nearest, scores = dict[fx.Node, ChannelMoments](), list[float](), list[Tensor]()
    for part in parts:
        seen, output = _moments(source, {*layers, *norms}, part)
        nearest.append(_mean([_distance(seen[x], *norms[x]) for x in norms if x in seen]))
        for node in layers:
            if node in seen:
                units[node] = units[node] + seen[node] if node in units else seen[node]
        if classes:
            scores.append(as_log_probabilities(source, output))
    bias = _mean([_off_zero(moments) for moments in units.values()])
    return Fit(min(nearest), bias, *_of_classes(scores))


def _moments(
    source: Source, nodes: Collection[fx.Node], part: Tensor
) -> tuple[dict[fx.Node, ChannelMoments], Tensor]:
    """Moments of the values of `nodes` on one part, and the first output. Cost: one forward pass."""
    found = {node: ChannelMoments.of(part) for node in source.graph.inputs if node in nodes}

    def observe(node: fx.Node, args: tuple[Any, ...], value: Any) -> None:
        if node in nodes and value.ndim in (2, 4):
            found[node] = ChannelMoments.of(value)

    return found, run(source.graph, [part], observe=observe)[0]


def _remembering(source: Source) -> dict[fx.Node, tuple[Tensor, Tensor]]:
    """The nodes that batch norms read → the running mean and variance of their values."""
    found = {}
    for node in source.graph.nodes:
        names = running_statistics(node)
        if names is not None:
            mean, variance = (source.graph.tensors[name].cpu().double() for name in names)
            found[node.all_input_nodes[0]] = mean, variance.clamp(min=_TINY)
    return found


def _distance(moments: ChannelMoments, mean: Tensor, variance: Tensor) -> float:
    ratio = (moments.variance / variance + _FLOOR).log()
    return float(((moments.mean - mean).square() / variance + 0.5 * ratio.square()).log1p().mean())


def _off_zero(moments: ChannelMoments) -> float:
    return float(
        torch.log1p(moments.mean.square() / moments.variance.clamp(min=_TINY)).clamp(max=_FAR).mean()
    )


def _of_classes(scores: Sequence[Tensor]) -> tuple[int, float, float]:
    if not scores:
        return 0, math.nan, math.nan
    log_p = torch.cat(list(scores)).double()
    p = log_p.softmax(1)
    entropy, left = (-(q * q.clamp(min=_TINY).log()).sum(-1) for q in (p.mean(0), p))
    return len(log_p.argmax(1).unique()), float(entropy - left.mean()), float(log_p.std(1).mean())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
