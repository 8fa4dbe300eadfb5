"""Run a captured graph: the one forward pass that values, gradients, observers and bounds share.

`run` computes tensors: outputs or the values of chosen nodes, with other weights, in another precision, with
or without gradients. `walk` is the loop below it, for values of any kind (labels, intervals, pairs of
networks). Both handle one batch and drop each value after its last use, so that memory is bounded by the
batch; `batches` cuts many samples into such batches.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.graph.graph import Graph

_COPIED = 2**30  # bytes of converted tensors that loops over batches may hold

Observe = Callable[[fx.Node, tuple[Any, ...], Any], None]  # (node, its positional arguments, its value)


class Call(Protocol):
    """How a pass computes the value of an op; `like` has the dtype and the device of the pass."""

    def __call__(
        self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], *, like: Tensor
    ) -> Any: ...


def walk(
    graph: Graph,
    leaf: Callable[[fx.Node], Any],
    call: Callable[[fx.Node, tuple[Any, ...], dict[str, Any]], Any],
    keep: Callable[[fx.Node], bool] = lambda node: False,
    wanted: Collection[fx.Node] | None = None,
) -> dict[fx.Node, Any]:
    """Give every node a value in execution order: `leaf` for inputs and tensors, `call` for ops.

    Tensors get theirs when they are first read: an export names them all at its beginning, and copies of all
    of them in another precision may be more than memory holds.

    Returns the values of the outputs, or of `wanted` nodes: then the walk ends at the last of these. Other
    values are dropped after their last use, unless `keep` holds for their node.
    """
    returned = set(graph.outputs if wanted is None else wanted)
    pending = {node: len(node.users) for node in graph.nodes}
    values: dict[fx.Node, Any] = {}
    for node in _nodes_to_run(graph, wanted):
        if node.op == "get_attr" and node.users and node not in returned:
            continue
        if node.op == "call_function":
            for source in node.all_input_nodes:
                if source not in values:
                    values[source] = leaf(source)
            args = fx.map_arg(node.args, values.__getitem__)
            kwargs = fx.map_arg(node.kwargs, values.__getitem__)
            values[node] = call(node, args, kwargs)
            del args, kwargs
        else:
            values[node] = leaf(node)
        for source in node.all_input_nodes:
            pending[source] -= 1
        for used in (*node.all_input_nodes, node):
            if not pending[used] and used not in returned and not keep(used):
                del values[used]
    return values


def _nodes_to_run(graph: Graph, wanted: Collection[fx.Node] | None) -> list[fx.Node]:
    """All inputs, tensors and ops, as far as the last of `wanted`."""
    nodes = [node for node in graph.nodes if node.op != "output"]
    if wanted is None:
        return nodes
    numbers = {node: number for number, node in enumerate(nodes, 1)}
    return nodes[: max((numbers[node] for node in wanted), default=0)]


def call_op(node: fx.Node, args: Any, kwargs: Any, *, like: Tensor) -> Any:
    """Run the node's op in the dtype and on the device of `like`, whatever the graph names.

    Of dtypes, only floating ones change.
    """

    def adapted(value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return like.dtype if value.is_floating_point else value
        return like.device if isinstance(value, torch.device) else value

    return node.target(  # type: ignore[operator]
        *map(adapted, args), **{name: adapted(value) for name, value in kwargs.items()}
    )


def as_work(value: Tensor, like: Tensor) -> Tensor:
    """`value` on the device and, where it is floating, in the dtype of `like`."""
    return value.to(like.device, like.dtype) if value.is_floating_point() else value.to(like.device)


def run(
    graph: Graph,
    inputs: Sequence[Tensor],
    tensors: Mapping[str, Tensor] | None = None,
    observe: Observe | None = None,
    dtype: torch.dtype | None = None,
    *,
    wanted: Sequence[fx.Node] | None = None,
    call: Call = call_op,
    gradients: bool = False,
) -> tuple[Any, ...]:
    """Run the graph on one batch.

    Args:
        inputs: one tensor for each input of the graph, axis 0 = samples; any batch size.
        tensors: tensors that replace those of the graph, by name.
        observe: called with each op's node, positional arguments and value, as soon as it is computed.
        dtype: of all floating-point work. Default: that of the first floating input, else of the first
            floating tensor of the graph. Work is done on the device of the first input.
        wanted: nodes whose values are returned; nothing after the last of them is run. Default: the outputs.
        call: computes an op in place of `call_op`.
        gradients: record gradients where they are enabled; without, none are.

    Returns:
        The model's outputs, flattened, or the value of each `wanted` node.
    """
    like = _like(graph, inputs, dtype)
    given = dict(zip(graph.inputs, inputs, strict=True))
    source = graph.tensors if tensors is None else {**graph.tensors, **tensors}

    def leaf(node: fx.Node) -> Tensor:
        return as_work(given[node] if node.op == "placeholder" else source[str(node.target)], like)

    def observed(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = call(node, args, kwargs, like=like)
        if observe is not None:
            observe(node, args, value)
        return value

    with nullcontext() if gradients else torch.no_grad():
        values = walk(graph, leaf, observed, wanted=wanted)
    return tuple(values[node] for node in (graph.outputs if wanted is None else wanted))


def for_passes(
    graph: Graph, tensors: Mapping[str, Tensor], inputs: Sequence[Tensor], dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """`tensors` as `run` uses them on batches of `inputs`: passes over many batches convert them once.

    Memory: copies of those in another precision or on another device. Where these would take over 1 GiB,
    `tensors` come back as they are, and each pass converts them layer by layer.
    """
    like = _like(graph, inputs, dtype)
    there = like.dtype, like.device
    copied = sum(tensor.numel() for tensor in tensors.values() if (tensor.dtype, tensor.device) != there)
    if copied * like.element_size() > _COPIED:
        return dict(tensors)
    return {name: as_work(tensor, like) for name, tensor in tensors.items()}


def _like(graph: Graph, inputs: Sequence[Tensor], dtype: torch.dtype | None) -> Tensor:
    """An empty tensor of the dtype and on the device of the work."""
    like = next((x for x in (*inputs, *graph.tensors.values()) if x.is_floating_point()), torch.zeros(0))
    return torch.empty(0, dtype=dtype or like.dtype, device=inputs[0].device)


def precision_of(inputs: Sequence[Tensor]) -> torch.dtype:
    """The dtype of the first floating input; float32 where all inputs hold whole numbers."""
    return next((x.dtype for x in inputs if x.is_floating_point()), torch.float32)


def batches(inputs: Sequence[Tensor], size: int) -> Iterator[tuple[Tensor, ...]]:
    """The samples of `inputs` in batches of at most `size`."""
    for start in range(0, len(inputs[0]), size):
        yield tuple(x[start : start + size] for x in inputs)


def evenly(count: int, few: int) -> list[int]:
    """`few` of `count` numbers, or all, evenly spread: samples of one kind lie beside each other."""
    few = min(few, count)
    return [i * count // few for i in range(few)]


def sizes_of_values(graph: Graph) -> list[int]:
    """How many numbers each value holds for one sample. Cost: one pass of the example."""
    found, samples = list[int](), len(graph.example[0])

    def observe(node: fx.Node, args: tuple[Any, ...], value: Any) -> None:
        found.extend(x.numel() // samples for x in pytree.tree_leaves(value) if isinstance(x, Tensor))

    run(graph, graph.example, observe=observe)
    return found
