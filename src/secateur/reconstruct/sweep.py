"""One pass through the original and the pruned network side by side, which visits every consumer.

All samples pass a layer, batch by batch, before the next layer is reached, since that one reads what the
refitted layer gives. Values wait in between where memory allows; elsewhere they are computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.graph.batch_norm import batch_norm_after, running_statistics
from secateur.graph.footprint import Footprint, batch_size, footprint
from secateur.graph.graph import Graph, tensor_name
from secateur.graph.interpret import as_work, batches, call_op, precision_of
from secateur.graph.node import bound_arguments, kind
from secateur.graph.workers import in_order, worker_count
from secateur.reconstruct.layers import Arguments, Consumer
from secateur.reconstruct.moments import Moments, MomentSum
from secateur.reconstruct.store import Both, Store, Values, scratch_room

_MUTED = 50.0  # gains so many times the median are of channels that carry nothing
_DISK = 5e8  # bytes a second that a scratch file is taken to give
_WORK = 2e10  # multiply-accumulates a second that a worker is taken to do


@dataclass(frozen=True, eq=False)
class Reading:
    """What a consumer reads of one batch, and what it should give."""

    consumer: Consumer
    arguments: Arguments  # in the original
    original: Tensor  # its input there
    pruned: Tensor  # its input in the pruned network
    target: Tensor
    start: int  # number of the batch's first sample
    samples: int  # of all batches


class Visitor(Protocol):
    """What is done at the consumers, in graph order."""

    def wants(self, consumer: Consumer, differs: bool) -> bool:
        """Whether to visit it; `differs`: whether its input may differ between the networks."""

    def measure(self, reading: Reading) -> list[tuple[Tensor, Tensor]]:
        """Rows of its input and target, of one batch; called in several threads."""

    def finish(self, consumer: Consumer, moments: Moments) -> None:
        """With the moments of all batches; may change the pruned tensors."""


@dataclass(frozen=True)
class _TensorName:
    """The name of a tensor, which is looked up when it is used, since it may change on the way."""

    name: str


class _Tensors:
    """Two networks' tensors, by name, each converted once to the precision and device of the work."""

    def __init__(self, original: Mapping[str, Tensor], pruned: Mapping[str, Tensor], like: Tensor) -> None:
        self.original, self.pruned, self.like = original, pruned, like
        # (name, whether pruned) → the tensor as it was converted, and its copy
        self.converted: dict[tuple[str, bool], tuple[Tensor, Tensor]] = {}

    def of_original(self, leaf: Any) -> Any:
        if isinstance(leaf, _TensorName):
            return self._copy(leaf.name, self.original[leaf.name], False)
        return leaf.original if isinstance(leaf, Both) else leaf

    def of_pruned(self, leaf: Any) -> Any:
        if isinstance(leaf, _TensorName):
            return self._copy(leaf.name, self.pruned[leaf.name], self.differ(leaf))
        return leaf.pruned if isinstance(leaf, Both) else leaf

    def differ(self, leaf: Any) -> bool:
        if isinstance(leaf, _TensorName):
            return self.original[leaf.name] is not self.pruned[leaf.name]
        return isinstance(leaf, Both) and leaf.original is not leaf.pruned

    def _copy(self, name: str, tensor: Tensor, pruned: bool) -> Tensor:
        found = self.converted.get((name, pruned))
        if found is None or found[0] is not tensor:
            found = self.converted[name, pruned] = tensor, as_work(tensor, self.like)
        return found[1]


def sweep(
    graph: Graph,
    consumers: Mapping[fx.Node, Consumer],
    original: Mapping[str, Tensor],
    pruned: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    visitor: Visitor,
    memory: int,
) -> None:
    """Visit the consumers in graph order, each with all samples in batches.

    `pruned` may change at a visit; what comes after is computed with the new tensors. Work is done in the
    precision and on the device of the first floating input. Values that later layers read are kept in at most
    `memory` bytes, beyond these in a scratch file, or computed again from the last ones that were kept,
    whichever is estimated to take less time; the results are the same bits. Further memory: the values of a
    batch and its moments, for each worker.
    """
    passes = _Passes(graph, consumers, original, pruned, inputs)
    with Store(len(passes.inputs)) as store:
        position = 0
        for index, node in enumerate(passes.sizes.nodes):
            if node not in consumers or not visitor.wants(consumers[node], passes.differs(index)):
                continue
            keep = _where(passes, position, index, memory)
            written = store.begin(keep == "disk") if keep else None
            total = MomentSum()

            def one(batch: int) -> tuple[list[tuple[Tensor, Tensor]], Values | None]:
                values = store.load(batch)
                reading = passes.reach(values, batch, position, index)  # noqa: B023  # done before the next turn
                return visitor.measure(reading), None if written is None else written(values)  # noqa: B023

            for batch, (rows, values) in enumerate(in_order(one, range(len(passes.inputs)))):
                for x, y in rows:
                    total.add(x, y)
                if values is not None:
                    store.save(batch, values)
            if keep:
                store.drop_older(keep == "disk")
                position = index
            visitor.finish(consumers[node], total.total())


def _where(passes: _Passes, position: int, index: int, memory: int) -> str:
    """Where the values before node `index` are kept: "memory", "disk", or "": they are computed again."""
    alive = passes.sizes.alive(index)
    needed = passes.bytes_of(alive, index)
    if needed <= memory:
        return "memory"
    again = passes.macs(position, index) * passes.samples / (_WORK * worker_count())
    return "disk" if 2 * needed / _DISK < again and needed < scratch_room() else ""


class _Passes:
    """Runs parts of both networks on batches."""

    def __init__(
        self,
        graph: Graph,
        consumers: Mapping[fx.Node, Consumer],
        original: Mapping[str, Tensor],
        pruned: Mapping[str, Tensor],
        inputs: Sequence[Tensor],
    ) -> None:
        self.graph, self.consumers = graph, consumers
        self.like = torch.empty(0, dtype=precision_of(inputs), device=inputs[0].device)
        self.tensors = _Tensors(original, pruned, self.like)
        self.sizes: Footprint = footprint(graph)
        self.samples = len(inputs[0])
        self.batch = batch_size(2 * self.sizes.peak, inputs)
        self.inputs = list(batches(inputs, self.batch))
        self.joins = _joins(graph, consumers)

    def reach(self, values: Values, batch: int, start: int, stop: int) -> Reading:
        """Run nodes `start` to `stop` (excluded) of both networks; what the consumer at `stop` then reads.

        `values` are those of the nodes before `start`, and become those of the nodes before `stop`.
        """
        node = self.sizes.nodes[stop]
        with torch.no_grad():
            for index in range(start, stop):
                self._step(values, batch, index)
            args, kwargs = self._given(values, batch, node)
            first = pytree.tree_map(self.tensors.of_original, (args, kwargs))
            target = call_op(node, *first, like=self.like)
            if node in self.joins:
                join = self.joins[node]
                target = target + join.missing(values[join.other], target.shape, self.tensors.of_original)
        consumer = self.consumers[node]
        arguments = bound_arguments(node, *first)
        x = self.tensors.of_pruned(bound_arguments(node, args, kwargs)[consumer.view.input])
        return Reading(
            consumer, arguments, arguments[consumer.view.input], x, target, batch * self.batch, self.samples
        )

    def _step(self, values: Values, batch: int, index: int) -> None:
        """Run one node, and drop what no later one reads."""
        node = self.sizes.nodes[index]
        if node.op != "call_function":
            return
        args, kwargs = self._given(values, batch, node)
        first = pytree.tree_map(self.tensors.of_original, (args, kwargs))
        value = second = call_op(node, *first, like=self.like)
        if any(map(self.tensors.differ, pytree.tree_leaves((args, kwargs)))):
            second = call_op(node, *pytree.tree_map(self.tensors.of_pruned, (args, kwargs)), like=self.like)
        if self.sizes.last_use[node] > index:
            values[node] = Both(value, second)
        for source in node.all_input_nodes:
            if self.sizes.last_use[source] <= index:
                values.pop(source, None)

    def _given(self, values: Values, batch: int, node: fx.Node) -> tuple[Any, Any]:
        """The node's arguments: values, inputs, and names of tensors."""

        def value_of(source: fx.Node) -> Any:
            if source.op == "placeholder":
                x = as_work(self.inputs[batch][self.graph.inputs.index(source)], self.like)
                return Both(x, x)
            return _TensorName(str(source.target)) if source.op == "get_attr" else values[source]

        return fx.map_arg(node.args, value_of), fx.map_arg(node.kwargs, value_of)

    def differs(self, index: int) -> bool:
        """Whether the input of the consumer at `index` can differ between the networks as they are now."""
        changed = self._changed(index)
        return any(source in changed for source in self.sizes.nodes[index].all_input_nodes)

    def _changed(self, index: int) -> Collection[fx.Node]:
        """Ops before `index` whose values can differ."""
        found = set[fx.Node]()
        for node in self.sizes.nodes[:index]:
            if node.op == "call_function":
                leaves = [_TensorName(str(n.target)) for n in node.all_input_nodes if n.op == "get_attr"]
                if any(n in found for n in node.all_input_nodes) or any(map(self.tensors.differ, leaves)):
                    found.add(node)
        return found

    def bytes_of(self, nodes: Sequence[fx.Node], index: int) -> int:
        """That the values of `nodes` take for all samples, in both networks where they can differ."""
        changed = self._changed(index)
        numbers = sum(self.sizes.numbers[node] * (2 if node in changed else 1) for node in nodes)
        return numbers * self.samples * self.like.element_size()

    def macs(self, start: int, stop: int) -> float:
        """Work of the nodes `start` to `stop` for one sample in both networks, roughly."""
        total = 0.0
        for node in self.sizes.nodes[start:stop]:
            if node.op == "call_function":
                weights = [
                    self.graph.tensors[str(n.target)] for n in node.all_input_nodes if n.op == "get_attr"
                ]
                fan_in = max((w[0].numel() for w in weights if w.ndim > 1), default=1)
                total += 2.0 * self.sizes.numbers[node] * fan_in
        return total


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
            value_of(_TensorName(str(self.norm[name].target))) for name in ("weight", "running_var")
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
