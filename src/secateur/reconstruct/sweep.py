"""A pass through the original and the pruned network side by side, which stops at consumers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from secateur.graph.batch_norm import batch_norm_after, running_statistics
from secateur.graph.graph import Graph, tensor_name
from secateur.graph.node import bound_arguments, kind
from secateur.graph.stages import Arrival, TensorName, run_stages
from secateur.graph.store import Both
from secateur.reconstruct.few_rows import FewRows
from secateur.reconstruct.layers import Arguments, Consumer
from secateur.reconstruct.moments import Moments, MomentSum

_MUTED = 50.0  # gains so many times the median are of channels that carry nothing

Rows = list[tuple[Tensor, Tensor]]  # of a consumer's input and target; shapes: (B, n, D) and (B, n, O)


@dataclass(frozen=True, eq=False)
class Reading:
    """What a consumer reads of one batch, and what it should give."""

    consumer: Consumer
    arguments: Arguments  # in the original
    pruned: Tensor  # its input in the pruned network
    target: Tensor
    start: int  # number of the batch's first sample
    samples: int  # of all batches


class Visitor(Protocol):
    """What is done at the consumers, in graph order."""

    def wants(self, consumer: Consumer, differs: bool) -> bool:
        """Whether to visit it; `differs`: whether its input may differ between the networks."""

    def measure(self, reading: Reading) -> Rows:
        """Of one batch; called in several threads."""

    def finish(self, consumer: Consumer, moments: Moments | FewRows) -> None:
        """With the moments of all batches; may change the pruned tensors."""


def sweep(
    graph: Graph,
    consumers: Mapping[fx.Node, Consumer],
    original: Mapping[str, Tensor],
    pruned: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    visitor: Visitor,
    memory: int,
) -> None:
    """Visit the consumers in graph order; see `run_stages` for the memory and the order of the work.

    `pruned` may change at a visit; what comes after is computed with the new tensors.
    """
    stages = _Stages(graph, consumers, visitor)
    run_stages(graph, consumers, original, pruned, inputs, stages, memory)


class _Stages:
    """The visitor of `run_stages` that makes readings and moments for the visitor of a sweep."""

    def __init__(self, graph: Graph, consumers: Mapping[fx.Node, Consumer], visitor: Visitor) -> None:
        self.consumers, self.visitor = consumers, visitor
        self.joins, self.moments = _joins(graph, consumers), MomentSum()

    def wants(self, node: fx.Node, differs: bool) -> bool:
        return self.visitor.wants(self.consumers[node], differs)

    def measure(self, arrival: Arrival) -> Rows:
        node, networks, target = arrival.node, arrival.networks, arrival.output()
        if node in self.joins:
            other = arrival.values[self.joins[node].other]
            target = target + self.joins[node].missing(other, target.shape, networks.of_original)
        consumer = self.consumers[node]
        x = arrival.arguments(networks.of_pruned)[consumer.view.input]
        arguments = arrival.arguments(networks.of_original)
        return self.visitor.measure(Reading(consumer, arguments, x, target, arrival.start, arrival.samples))

    def add(self, found: Rows) -> None:
        for x, y in found:
            self.moments.add(x, y)

    def finish(self, node: fx.Node) -> None:
        moments, self.moments = self.moments.total(), MomentSum()
        self.visitor.finish(self.consumers[node], moments)


@dataclass(frozen=True, eq=False)
class _Join:
    """Where a consumer's output, perhaps through a batch norm, is added to a value that is there before
    it.
    """

    other: fx.Node
    norm: Mapping[str, Any] | None  # the batch norm's arguments, by name

    def missing(self, other: Both, shape: torch.Size, value_of: Callable[[Any], Any]) -> Tensor | float:
        """What the consumer has to give more than in the original, to make up for what the other value lacks.

        Channels that the norm all but mutes would have to give too much, and make up for nothing.
        """
        if other.original is other.pruned or other.original.shape != shape:
            return 0.0
        gap = other.original - other.pruned
        if self.norm is None:
            return gap  # type: ignore[no-any-return]
        scale, variance = (
            value_of(TensorName(str(self.norm[name].target))) for name in ("weight", "running_var")
        )
        gain = torch.sqrt(variance + self.norm["eps"]) / scale
        gain = torch.where(gain.abs() < _MUTED * gain.abs().median(), gain, 0.0)
        return gap * gain.reshape(-1, *[1] * (gap.ndim - 2))  # type: ignore[no-any-return]


def _joins(graph: Graph, consumers: Mapping[fx.Node, Consumer]) -> dict[fx.Node, _Join]:
    """The consumers whose output is added to a value of an op that runs before them."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    found = {}
    for node in consumers:
        norm = batch_norm_after(node)
        added = _added_to(node if norm is None else norm)
        if added is not None and order[added] < order[node] and (norm is None or _is_affine(norm)):
            arguments = None if norm is None else bound_arguments(norm, norm.args, norm.kwargs)
            found[node] = _Join(added, arguments)
    return found


def _added_to(node: fx.Node) -> fx.Node | None:
    """The op to whose value `node` is added, where nothing else reads `node`."""
    users = list(node.users)
    if len(users) != 1 or kind(users[0]) != "add" or users[0].kwargs:
        return None
    others = [other for other in users[0].all_input_nodes if other is not node]
    return others[0] if len(others) == 1 and others[0].op == "call_function" else None


def _is_affine(norm: fx.Node) -> bool:
    """Whether a batch norm has a scale of its own and running statistics."""
    a = bound_arguments(norm, norm.args, norm.kwargs)
    return tensor_name(a["weight"]) is not None and running_statistics(norm) is not None
