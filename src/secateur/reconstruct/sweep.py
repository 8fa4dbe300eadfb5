"""One walk through the original and the pruned network side by side; each consumer is looked at as it is
reached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.graph.graph import Graph
from secateur.graph.interpret import as_work, call_op, walk
from secateur.graph.ops import bound_arguments, kind
from secateur.reconstruct.layers import Arguments, Consumer, parameter

_MUTED = 50.0  # gains so many times the median are of channels that carry nothing

Look = Callable[
    [Consumer, Arguments, Tensor, Tensor, Tensor], None
]  # (…, the original's input, the pruned's, target)


@dataclass(frozen=True, eq=False)
class Both:
    """A value in the original and in the pruned network; one object as long as nothing differs."""

    original: Any
    pruned: Any


@dataclass(frozen=True)
class _Name:
    """A tensor that is looked up when it is used, since it may change on the way."""

    name: str


class _Tensors:
    """Two networks' tensors, by name, each converted once to the precision and device of the work."""

    def __init__(self, original: Mapping[str, Tensor], pruned: Mapping[str, Tensor], like: Tensor) -> None:
        self.original, self.pruned, self.like = original, pruned, like
        self.converted: dict[
            int, tuple[Tensor, Tensor]
        ] = {}  # id → (that tensor, so that its id stays its own; copy)

    def copy(self, tensor: Tensor) -> Tensor:
        if id(tensor) not in self.converted:
            self.converted[id(tensor)] = tensor, as_work(tensor, self.like)
        return self.converted[id(tensor)][1]

    def of_original(self, leaf: Any) -> Any:
        if isinstance(leaf, _Name):
            return self.copy(self.original[leaf.name])
        return leaf.original if isinstance(leaf, Both) else leaf

    def of_pruned(self, leaf: Any) -> Any:
        if isinstance(leaf, _Name):
            return self.copy(self.pruned[leaf.name])
        return leaf.pruned if isinstance(leaf, Both) else leaf

    def differ(self, leaf: Any) -> bool:
        if isinstance(leaf, _Name):
            return self.original[leaf.name] is not self.pruned[leaf.name]
        return isinstance(leaf, Both) and leaf.original is not leaf.pruned


def sweep(
    graph: Graph,
    consumers: Mapping[fx.Node, Consumer],
    original: Mapping[str, Tensor],
    pruned: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    look: Look,
) -> tuple[Both, ...]:
    """Walk in graph order and give the outputs of both networks.

    `look` is called before the pruned output of a consumer is made, and may change `pruned`. Work is done in
    the precision and on the device of the first floating input. Memory: the values of both networks that are
    still needed, for all samples at once.
    """
    like = next((x for x in inputs if x.is_floating_point()), inputs[0].new_zeros(0, dtype=torch.float32))
    tensors = _Tensors(original, pruned, like)
    given = dict(zip(graph.inputs, inputs, strict=True))
    joins = _joins(graph, consumers)
    partners = {join.other: Both(None, None) for join in joins.values()}

    def leaf(node: fx.Node) -> Any:
        return Both(given[node], given[node]) if node.op == "placeholder" else _Name(str(node.target))

    def call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Both:
        first = pytree.tree_map(tensors.of_original, (args, kwargs))
        value = call_op(node, *first, like=like)
        consumer = consumers.get(node)
        if consumer is not None:
            arguments = bound_arguments(node, *first)
            x = tensors.of_pruned(bound_arguments(node, args, kwargs)[consumer.view.input])
            target = value
            if node in joins:
                target = value + joins[node].missing(
                    partners[joins[node].other], value.shape, tensors.of_original
                )
            look(consumer, arguments, arguments[consumer.view.input], x, target)
        same = not any(map(tensors.differ, pytree.tree_leaves((args, kwargs))))
        second = (
            value if same else call_op(node, *pytree.tree_map(tensors.of_pruned, (args, kwargs)), like=like)
        )
        if node in partners:
            partners[node] = Both(value, second)
        return Both(value, second)

    with torch.no_grad():
        env = walk(graph, leaf, call)
    return tuple(env[node] for node in graph.outputs)


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
        scale, variance = (value_of(_Name(str(self.norm[name].target))) for name in ("weight", "running_var"))
        gain = torch.sqrt(variance + self.norm["eps"]) / scale
        gain = torch.where(gain.abs() < _MUTED * gain.abs().median(), gain, 0.0)
        return gap * gain.reshape(-1, *[1] * (gap.ndim - 2))  # type: ignore[no-any-return]


def _joins(graph: Graph, consumers: Mapping[fx.Node, Consumer]) -> dict[fx.Node, _Join]:
    order = {node: i for i, node in enumerate(graph.nodes)}
    found = {}
    for node in consumers:
        last, norm = node, None
        if len(last.users) == 1 and kind(next(iter(last.users))) == "batch_norm":
            (last,) = last.users
            norm = bound_arguments(last, last.args, last.kwargs)
            if any(parameter(norm[name]) is None for name in ("weight", "running_var")):
                continue
        users = list(last.users)
        if len(users) != 1 or kind(users[0]) != "add" or users[0].kwargs:
            continue
        others = [n for n in users[0].all_input_nodes if n is not last]
        alike = len(others) == 1 and others[0].op == "call_function" and order[others[0]] < order[node]
        if alike:
            found[node] = _Join(others[0], norm)
    return found
