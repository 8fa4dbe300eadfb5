"""One pass through the original and the pruned network side by side, which visits every consumer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.graph.batch_norm import batch_norm_after, running_statistics
from secateur.graph.graph import Graph, tensor_name
from secateur.graph.interpret import as_work, call_op, precision_of, walk
from secateur.graph.node import bound_arguments, kind
from secateur.reconstruct.layers import Arguments, Consumer

_MUTED = 50.0  # gains so many times the median are of channels that carry nothing

# (consumer, its arguments, its input in the original, in the pruned network, what it should give)
Look = Callable[[Consumer, Arguments, Tensor, Tensor, Tensor], None]


@dataclass(frozen=True, eq=False)
class Both:
    """A value in the original and in the pruned network; one object as long as nothing differs."""

    original: Any
    pruned: Any


@dataclass(frozen=True)
class _TensorName:
    """The name of a tensor, which is looked up when it is used, since it may change on the way."""

    name: str


class _Tensors:
    """Two networks' tensors, by name, each converted once to the precision and device of the work."""

    def __init__(self, original: Mapping[str, Tensor], pruned: Mapping[str, Tensor], like: Tensor) -> None:
        self.original, self.pruned, self.like = original, pruned, like
        # id of a tensor → the tensor itself, which keeps the id from being used again, and its copy
        self.converted: dict[int, tuple[Tensor, Tensor]] = {}

    def copy(self, tensor: Tensor) -> Tensor:
        if id(tensor) not in self.converted:
            self.converted[id(tensor)] = tensor, as_work(tensor, self.like)
        return self.converted[id(tensor)][1]

    def of_original(self, leaf: Any) -> Any:
        if isinstance(leaf, _TensorName):
            return self.copy(self.original[leaf.name])
        return leaf.original if isinstance(leaf, Both) else leaf

    def of_pruned(self, leaf: Any) -> Any:
        if isinstance(leaf, _TensorName):
            return self.copy(self.pruned[leaf.name])
        return leaf.pruned if isinstance(leaf, Both) else leaf

    def differ(self, leaf: Any) -> bool:
        if isinstance(leaf, _TensorName):
            return self.original[leaf.name] is not self.pruned[leaf.name]
        return isinstance(leaf, Both) and leaf.original is not leaf.pruned


def sweep(
    graph: Graph,
    consumers: Mapping[fx.Node, Consumer],
    original: Mapping[str, Tensor],
    pruned: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    look: Look,
) -> None:
    """Run one batch through both networks in graph order, as far as the last consumer.

    `look` is called before the pruned output of a consumer is made, and may change `pruned`. Work is done in
    the precision and on the device of the first floating input. Memory: the values of both networks that are
    still needed, for all samples of the batch.
    """
    like = torch.empty(0, dtype=precision_of(inputs), device=inputs[0].device)
    tensors = _Tensors(original, pruned, like)
    given = dict(zip(graph.inputs, inputs, strict=True))
    joins = _joins(graph, consumers)
    waiting = Counter(join.other for join in joins.values())  # value → joins that still need it
    partners = dict[fx.Node, Both]()
    last = [node for node in graph.nodes if node in consumers][-1:]

    def leaf(node: fx.Node) -> Any:
        return Both(given[node], given[node]) if node.op == "placeholder" else _TensorName(str(node.target))

    def visit(node: fx.Node, args: Any, kwargs: Any, consumer: Consumer, first: Any, value: Tensor) -> None:
        arguments = bound_arguments(node, *first)
        x = tensors.of_pruned(bound_arguments(node, args, kwargs)[consumer.view.input])
        target = value
        if node in joins:
            other = partners[joins[node].other]
            target = value + joins[node].missing(other, value.shape, tensors.of_original)
            waiting[joins[node].other] -= 1
            if not waiting[joins[node].other]:
                del partners[joins[node].other]
        look(consumer, arguments, arguments[consumer.view.input], x, target)

    def call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Both:
        first = pytree.tree_map(tensors.of_original, (args, kwargs))
        value = second = call_op(node, *first, like=like)
        if node in consumers:
            visit(node, args, kwargs, consumers[node], first, value)
        if any(map(tensors.differ, pytree.tree_leaves((args, kwargs)))):
            second = call_op(node, *pytree.tree_map(tensors.of_pruned, (args, kwargs)), like=like)
        if waiting[node]:
            partners[node] = Both(value, second)
        return Both(value, second)

    with torch.no_grad():
        walk(graph, leaf, call, wanted=last)


@dataclass(frozen=True, eq=False)
class _Join:
    """A sum of a consumer's output, perhaps through a batch norm, and a value that is there before it."""

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
