"""How many numbers the values of a graph hold, and how many samples fit into one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.graph.graph import Graph
from secateur.graph.interpret import run
from secateur.graph.node import kind

BATCH_BYTES = 2**25  # that the values of one batch may take
_LARGEST = 512  # samples of a batch
_SPATIAL = {*(f"conv{way}{rank}d" for way in ("", "_transpose") for rank in (1, 2, 3)), "batch_norm"}


@dataclass(frozen=True, eq=False)
class Footprint:
    """Numbers in the values of one sample, and when they are last used."""

    nodes: tuple[fx.Node, ...]  # of the graph, in execution order
    numbers: Mapping[fx.Node, int]  # in the value of an op
    last_use: Mapping[fx.Node, int]  # node → index of the last node that reads it; −1: none
    positions: Mapping[fx.Node, int]  # of a channel in space, in the value of a convolution or batch norm

    def alive(self, index: int) -> list[fx.Node]:
        """Ops before `index` whose values the nodes from `index` on still read."""
        return [node for node in self.nodes[:index] if node in self.numbers and self.last_use[node] >= index]

    @cached_property
    def live(self) -> tuple[int, ...]:
        """Numbers of the values that are there when a node is run, its own with them."""
        found, now = [], 0
        ends: dict[int, int] = {}
        for index, node in enumerate(self.nodes):
            now += self.numbers.get(node, 0)
            end = max(self.last_use[node], index)
            ends[end] = ends.get(end, 0) + self.numbers.get(node, 0)
            found.append(now)
            now -= ends.pop(index, 0)
        return tuple(found)

    @property
    def peak(self) -> int:
        """The most numbers that are there at a time."""
        return max(self.live, default=1)

    @property
    def total(self) -> int:
        """Numbers of all values, as a backward pass holds them."""
        return sum(self.numbers.values())


def multiplications(graph: Graph, sizes: Footprint, start: int = 0, stop: int | None = None) -> float:
    """Multiply-accumulates of the nodes `start` to `stop` for one sample, roughly: numbers times fan-in."""
    total = 0.0
    for node in sizes.nodes[start:stop]:
        if node.op == "call_function":
            names = [str(n.target) for n in node.all_input_nodes if n.op == "get_attr"]
            weights = [graph.tensors[name] for name in names]
            fan_in = max((w[0].numel() for w in weights if w.ndim > 1), default=1)
            total += float(sizes.numbers[node]) * fan_in
    return total


_known: WeakKeyDictionary[Graph, Footprint] = WeakKeyDictionary()


def footprint(graph: Graph) -> Footprint:
    """Cost: one forward pass of the example, the first time that a graph is asked for."""
    if graph not in _known:
        _known[graph] = _measured(graph)
    return _known[graph]


def _measured(graph: Graph) -> Footprint:
    numbers, positions, samples = dict[fx.Node, int](), dict[fx.Node, int](), len(graph.example[0])

    def observe(node: fx.Node, args: tuple[Any, ...], value: Any) -> None:
        parts = (x for x in pytree.tree_leaves(value) if isinstance(x, Tensor))
        numbers[node] = max(1, sum(-(-x.numel() // samples) for x in parts))
        if kind(node) in _SPATIAL and isinstance(value, Tensor):
            positions[node] = value.shape[2:].numel()

    run(graph, graph.example, observe=observe)
    nodes = tuple(node for node in graph.nodes if node.op != "output")
    index = {node: i for i, node in enumerate(graph.nodes)}
    last_use = {
        node: max((index[user] for user in node.users if user in index), default=-1) for node in nodes
    }
    return Footprint(nodes, numbers, last_use, positions)


def batch_size(numbers: int, inputs: Sequence[Tensor]) -> int:
    """How many samples of so many numbers make a batch of at most 32 MiB: at least 1, at most 512.

    It depends on nothing but the graph, so that results do not depend on the memory at hand.
    """
    bytes_of_one = max(1, numbers) * max(
        (x.element_size() for x in inputs if x.is_floating_point()), default=4
    )
    return max(1, min(_LARGEST, BATCH_BYTES // bytes_of_one))
