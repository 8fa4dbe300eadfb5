"""What stays the same through a run: the layers that read units, the samples, the outputs' sensitivities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from secateur.errors import InputError
from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.graph.interpret import evenly
from secateur.graph.stream import Stream
from secateur.graph.widths import is_width
from secateur.reconstruct.elimination import Problem
from secateur.reconstruct.few_rows import FewRows
from secateur.reconstruct.layers import Consumer, all_linear, blocks_of_rows, find_consumers
from secateur.reconstruct.moments import Moments
from secateur.reconstruct.naming import described, naming
from secateur.reconstruct.sensitivity import Root, sensitivities
from secateur.reconstruct.settings import Settings
from secateur.reconstruct.solve import system
from secateur.reconstruct.sweep import Reading, Rows
from secateur.types import Group, Interval, Samples

_SENSED = 256  # samples of the backward pass
_ROWS_PER_FEATURE = 8
_ROWS_PER_FEATURE_OF_BLOCKS = 128


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """All that a round of `reconstruct` reads and never changes."""

    graph: Graph
    groups: tuple[Group, ...]  # all of whose consumers can be solved for
    keyed: tuple[Group, ...]  # of queries, which rows of keys read
    consumers: Mapping[str, list[Consumer]]  # by weight
    readers: Mapping[str, tuple[Group, ...]]  # weight → groups whose units stand along its inputs
    samples: Samples
    plain: Mapping[str, Tensor]  # the original's tensors, float64 where floating
    original: Mapping[str, Tensor]  # the same, the samples' own in place
    roots: Mapping[fx.Node, Root]  # √S of each consumer
    box: tuple[Interval, ...]
    settings: Settings
    seed: int
    memory: int  # bytes that values between layers may take
    streams: tuple[Stream, ...] = ()

    @property
    def names(self) -> set[str]:
        return {group.name for group in self.groups}

    @property
    def nodes(self) -> dict[fx.Node, Consumer]:
        return {consumer.node: consumer for nodes in self.consumers.values() for consumer in nodes}

    def consumers_of(self, group: Group) -> list[Consumer]:
        weights = dict.fromkeys(slot.tensor for slot in group.having("consumer"))
        return [consumer for weight in weights for consumer in self.consumers[weight]]

    def intercept(self, consumer: Consumer) -> bool:
        """Whether something takes up a change of the mean of the consumer's output."""
        return consumer.shift is not None and len(self.consumers[consumer.weight]) == 1


def layer_statistics(
    graph: Graph,
    coupling: Coupling,
    plain: Mapping[str, Tensor],
    samples: Samples,
    box: Sequence[Interval],
    settings: Settings,
    seed: int,
    memory: int,
) -> LayerStatistics:
    """Find the layers that read units, and how the outputs depend on them (one backward pass).

    `plain` are the model's tensors, float64 where floating. Rounds recognise a tensor that has not changed by
    its identity.
    """
    consumers = find_consumers(graph)
    groups = tuple(group for group in coupling.prunable if _solvable(group, consumers))
    readers: dict[str, tuple[Group, ...]] = {}
    for group in groups:
        for weight in dict.fromkeys(slot.tensor for slot in group.having("consumer")):
            readers[weight] = (*readers.get(weight, ()), group)
    original = {**plain, **samples.tensors}
    few = [x[evenly(len(x), _SENSED)] for x in samples.inputs]
    read = [consumer for weight in readers for consumer in consumers[weight]]
    roots = sensitivities(graph, read, original, few, seed)
    return LayerStatistics(
        graph,
        groups,
        tuple(group for group in coupling.prunable if is_width(group) and group not in groups),
        consumers,
        readers,
        samples,
        dict(plain),
        original,
        roots,
        tuple(box),
        settings,
        seed,
        memory,
        coupling.streams,
    )


def _solvable(group: Group, consumers: Mapping[str, list[Consumer]]) -> bool:
    slots = group.having("consumer")
    return bool(slots) and all_linear(slots, consumers)


def rows_at(stats: LayerStatistics, reading: Reading) -> Rows:
    """What a consumer reads, and what it should give, at some positions of one batch."""
    consumer = reading.consumer
    weight = stats.original[consumer.weight]
    features = weight.shape[consumer.view.axis] * consumer.taps
    share = max(1, -(-rows_wanted(stats.settings, features, consumer.blocks) // reading.samples))
    generator = torch.Generator().manual_seed(stats.seed + reading.start)
    blocks = blocks_of_rows(consumer, reading.arguments, reading.pruned, reading.target, share, generator)
    return list(blocks)


def rows_wanted(settings: Settings, features: int, blocks: int = 1) -> int:
    """How many rows the moments of a layer are taken from, at least, where there are as many.

    In each of several channel groups few features are fitted: with as many rows for each of them as for one
    of a layer of 128, nothing is gained by more.
    """
    few = settings.rows if blocks == 1 else min(settings.rows, _ROWS_PER_FEATURE_OF_BLOCKS * features)
    return max(few, _ROWS_PER_FEATURE * features)


def without_bias(stats: LayerStatistics, consumer: Consumer, total: Moments | FewRows) -> Moments | FewRows:
    """The moments with the bias taken off the targets, where it must stay as it is.

    Raises `InputError` for moments that are not finite.
    """
    if not total.finite:
        raise InputError(
            f"{described(consumer)}: the second moments of its inputs and outputs are not finite; values "
            "overflow or are NaN there. Give narrower input_bounds, another surrogate, or leave the layer "
            "whole (ignore=)"
        )
    if consumer.bias is None or stats.intercept(consumer):
        return total
    return total.without(stats.original[consumer.bias].reshape(consumer.blocks, -1))


def features_left(stats: LayerStatistics, weight: str, alive: Mapping[str, Tensor]) -> Tensor:
    """Which features of a weight's inputs belong to no removed unit; shape: (D,), bool."""
    consumer = stats.consumers[weight][0]
    left = torch.ones(stats.original[weight].shape[consumer.view.axis] * consumer.taps, dtype=torch.bool)
    read = (weight, consumer.view.axis)
    keyed = (group for group in stats.keyed if read in {(s.tensor, s.axis) for s in group.having("consumer")})
    for group in (*stats.readers.get(weight, ()), *keyed):
        left[consumer.features(group)[~alive[group.name]].flatten()] = False
    return left


def problem_of(
    stats: LayerStatistics,
    consumer: Consumer,
    moments: Moments | FewRows,
    group: Group,
    weights: Mapping[str, Tensor],
    alive: Mapping[str, Tensor],
) -> Problem:
    """What leaving out units of `group` costs at one consumer; removed features have no part in it any
    more.
    """
    present = consumer.view.matrix(weights[consumer.weight], consumer.blocks)
    left = features_left(stats, consumer.weight, alive)
    with naming(consumer):
        inverse, optimum = system(moments, present, left, stats.settings.ridge, stats.intercept(consumer))
    return Problem(inverse, stats.roots[consumer.node].times(optimum), consumer.features(group))
