"""Run a graph in stages: all samples reach a node, batch by batch, before anything behind it is computed.

A stage may change tensors that later nodes read. Two networks of the same graph run side by side, each value
computed once as long as nothing that it depends on differs. Values wait between the stages where memory
allows; elsewhere they are computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.graph.footprint import Footprint, batch_size, footprint, multiplications
from secateur.graph.graph import Graph
from secateur.graph.interpret import as_work, batches, call_op, evenly, precision_of
from secateur.graph.node import bound_arguments
from secateur.graph.store import Both, Store, Values, scratch_room
from secateur.graph.workers import in_order, worker_count
from secateur.memory import give_back

Found = TypeVar("Found")
Keep = Literal["memory", "disk", ""]

_DISK = 7.5e8  # bytes a second that a scratch file is taken to give
_WORTH_GIVING_BACK = 2**28  # bytes of values of all samples
_POSITIONS = 2**20  # of a channel in all samples, by which a node is measured
_FEWEST = 256
_WORK = 2e10  # multiply-accumulates a second that a worker is taken to do
_MOVED = 5e8  # numbers of values a second that it is taken to read and write beside them


@dataclass(frozen=True)
class TensorName:
    """The name of a tensor, which is looked up when it is used, since it may change on the way."""

    name: str


class Networks:
    """Two networks' tensors, by name, each converted to the precision and device of the work when it is read.

    Pass the same mapping twice for one network.
    """

    def __init__(self, original: Mapping[str, Tensor], pruned: Mapping[str, Tensor], like: Tensor) -> None:
        self.original, self.pruned, self.like = original, pruned, like
        # (name, whether of the pruned alone) → the tensor as it was converted, and its copy
        self._converted: dict[tuple[str, bool], tuple[Tensor, Tensor]] = {}

    def of_original(self, leaf: Any) -> Any:
        """A value, or a tensor by its name, in the original network."""
        if isinstance(leaf, TensorName):
            return self._copy(leaf.name, self.original[leaf.name], False)
        return leaf.original if isinstance(leaf, Both) else leaf

    def of_pruned(self, leaf: Any) -> Any:
        """The same in the pruned network."""
        if isinstance(leaf, TensorName):
            return self._copy(leaf.name, self.pruned[leaf.name], self.differ(leaf))
        return leaf.pruned if isinstance(leaf, Both) else leaf

    def differ(self, leaf: Any) -> bool:
        """Whether it is not one and the same object in both."""
        if isinstance(leaf, TensorName):
            return self.original[leaf.name] is not self.pruned[leaf.name]
        return isinstance(leaf, Both) and leaf.original is not leaf.pruned

    def forget(self, names: Collection[str]) -> None:
        """Drop the converted copies of tensors that are not read again."""
        for name in names:
            self._converted.pop((name, False), None)
            self._converted.pop((name, True), None)

    def _copy(self, name: str, tensor: Tensor, pruned: bool) -> Tensor:
        found = self._converted.get((name, pruned))
        if found is None or found[0] is not tensor:
            found = self._converted[name, pruned] = tensor, as_work(tensor, self.like)
        return found[1]


@dataclass(frozen=True, eq=False)
class Arrival:
    """One batch at a node that is not run yet: its arguments, and the values that are there."""

    node: fx.Node
    args: Any  # of `Both` and `TensorName`
    kwargs: Any
    values: Values
    networks: Networks
    start: int  # number of the batch's first sample
    samples: int  # of all batches that are measured

    def arguments(self, value_of: Callable[[Any], Any]) -> dict[str, Any]:
        """By name, in the network that `value_of` (`Networks.of_original`, `of_pruned`) is of."""
        return bound_arguments(self.node, *pytree.tree_map(value_of, (self.args, self.kwargs)))

    def output(self) -> Any:
        """What the node gives in the original network."""
        args, kwargs = pytree.tree_map(self.networks.of_original, (self.args, self.kwargs))
        return call_op(self.node, args, kwargs, like=self.networks.like)


class Visitor(Protocol, Generic[Found]):
    """What is done at the stops, in graph order."""

    def wants(self, node: fx.Node, differs: bool) -> bool:
        """Whether to stop at a node; `differs`: whether its arguments may differ between the networks."""

    def measure(self, arrival: Arrival) -> Found:
        """Of one batch, without gradients; called in several threads."""

    def add(self, found: Found) -> None:
        """Take over what was measured, batch after batch in order."""

    def finish(self, node: fx.Node) -> None:
        """After the last batch; may change tensors that this node and later ones read."""


def run_stages(
    graph: Graph,
    stops: Collection[fx.Node],
    original: Mapping[str, Tensor],
    pruned: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    visitor: Visitor[Found],
    memory: int,
) -> None:
    """Stop at nodes in graph order, each with all samples in batches of about 32 MiB of values.

    Convolutions and batch norms of large pictures are measured on fewer: evenly spread, at least 256 samples
    and 2²⁰ positions of each channel, since a picture shows them many times what it shows later layers once.
    Work is done in the precision and on the device of the first floating input. Values that later nodes read
    are kept in at most `memory` bytes, beyond these in a scratch file, or computed again from the last ones
    that were kept, whichever is estimated to take less time; the results are the same bits. Further memory:
    the values of one batch for each worker.
    """
    passes = _Passes(graph, original, pruned, inputs)
    with Store(len(passes.inputs)) as store:
        position = 0
        for index, node in enumerate(passes.sizes.nodes):
            if node not in stops:
                continue
            changed = passes.changed_before(index)
            if visitor.wants(node, differs=not changed.isdisjoint(node.all_input_nodes)):
                needed = passes.bytes_before(index, changed)
                keep = _where(passes, position, index, needed, memory)
                written = store.begin(keep == "disk", needed) if keep else None
                _stage(passes, store, position, index, visitor, written)
                if keep:
                    store.drop_older(keep == "disk")
                if needed > _WORTH_GIVING_BACK:
                    give_back()
                position = index if keep else position
                passes.forget_before(position)
                visitor.finish(node)


def _stage(
    passes: _Passes,
    store: Store,
    start: int,
    stop: int,
    visitor: Visitor[Found],
    written: Callable[[Values], Values] | None,
) -> None:
    """Bring batches to one node, from the values that were kept at node `start`, and measure what it needs.

    `written`: what values go through to be kept, of all batches; None: they are not kept, and batches that
    are not measured stay behind.
    """
    measured = passes.measured_at(stop)
    samples = sum(len(passes.inputs[batch][0]) for batch in measured)

    def one(batch: int) -> tuple[Found | None, Values | None]:
        values = store.load(batch)
        with torch.no_grad():
            arrival = passes.reach(values, batch, start, stop, samples)
            found = visitor.measure(arrival) if batch in measured else None
        return found, None if written is None else written(values)

    run = range(len(passes.inputs)) if written is not None else measured
    for batch, (found, values) in zip(run, in_order(one, run), strict=True):
        if found is not None:
            visitor.add(found)
        if values is not None:
            store.save(batch, values)


def _where(passes: _Passes, start: int, stop: int, needed: int, memory: int) -> Keep:
    """Where values of `needed` bytes before node `stop` are kept; "": they are computed again."""
    if needed <= memory:
        return "memory"
    sizes = passes.sizes
    moved = sum(sizes.numbers.get(node, 0) for node in sizes.nodes[start:stop])
    both = 2 * (multiplications(passes.graph, sizes, start, stop) / _WORK + moved / _MOVED)
    again = both * passes.samples / worker_count()
    return "disk" if 2 * needed / _DISK < again and needed < scratch_room() else ""


class _Passes:
    """Runs parts of both networks on batches."""

    def __init__(
        self,
        graph: Graph,
        original: Mapping[str, Tensor],
        pruned: Mapping[str, Tensor],
        inputs: Sequence[Tensor],
    ) -> None:
        self.graph = graph
        self.like = torch.empty(0, dtype=precision_of(inputs), device=inputs[0].device)
        self.networks = Networks(original, pruned, self.like)
        self.sizes: Footprint = footprint(graph)
        self.samples = len(inputs[0])
        self.batch = batch_size(2 * self.sizes.peak, inputs)
        self.inputs = list(batches(inputs, self.batch))

    def measured_at(self, stop: int) -> list[int]:
        """The batches by which a node is measured: with many positions in each sample, fewer of them."""
        samples = max(_FEWEST, _POSITIONS // self.sizes.positions.get(self.sizes.nodes[stop], 1))
        return evenly(len(self.inputs), -(-samples // self.batch))

    def reach(self, values: Values, batch: int, start: int, stop: int, samples: int) -> Arrival:
        """Run nodes `start` to `stop` (excluded) of both networks.

        `values` are those of the nodes before `start`, and become those of the nodes before `stop`;
        `samples`: of all batches that are measured there.
        """
        for index in range(start, stop):
            self._step(values, batch, index)
        node = self.sizes.nodes[stop]
        args, kwargs = self._given(values, batch, node)
        return Arrival(node, args, kwargs, values, self.networks, batch * self.batch, samples)

    def _step(self, values: Values, batch: int, index: int) -> None:
        """Run one node, and drop what no later one reads."""
        node = self.sizes.nodes[index]
        if node.op != "call_function":
            return
        given = self._given(values, batch, node)
        networks = self.networks
        value = second = call_op(node, *pytree.tree_map(networks.of_original, given), like=self.like)
        if any(map(networks.differ, pytree.tree_leaves(given))):
            second = call_op(node, *pytree.tree_map(networks.of_pruned, given), like=self.like)
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
            return TensorName(str(source.target)) if source.op == "get_attr" else values[source]

        return fx.map_arg(node.args, value_of), fx.map_arg(node.kwargs, value_of)

    def forget_before(self, index: int) -> None:
        """Drop the copies of tensors that no node from `index` on reads."""
        self.networks.forget([name for name, use in self._last_read.items() if use < index])

    @cached_property
    def _last_read(self) -> dict[str, int]:
        """Tensor → index of the last node that reads it."""
        last = dict[str, int]()
        for node in self.sizes.nodes:
            if node.op == "get_attr":
                last[str(node.target)] = max(last.get(str(node.target), -1), self.sizes.last_use[node])
        return last

    def changed_before(self, index: int) -> set[fx.Node]:
        """Ops before `index` whose values can differ between the networks as they are now."""
        found = set[fx.Node]()
        for node in self.sizes.nodes[:index]:
            if node.op != "call_function":
                continue
            names = [TensorName(str(n.target)) for n in node.all_input_nodes if n.op == "get_attr"]
            if any(map(self.networks.differ, names)) or not found.isdisjoint(node.all_input_nodes):
                found.add(node)
        return found

    def bytes_before(self, index: int, changed: Collection[fx.Node]) -> int:
        """That the values which nodes from `index` on read take for all samples, twice where `changed`."""
        numbers = sum(
            self.sizes.numbers[node] * (2 if node in changed else 1) for node in self.sizes.alive(index)
        )
        return numbers * self.samples * self.like.element_size()
