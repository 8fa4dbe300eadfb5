"""Where the elements of a value stood before moves of data, and which op made them."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.graph.graph import Graph, resized
from secateur.graph.interpret import call_op, run
from secateur.graph.meaning import MOVES, Meaning, arguments_of, meanings, op_name
from secateur.graph.ops import SOFTMAXES, of

_IN_PLACE = of("copy", "dropout")  # elements stay where they are
# op → the axis of its value that holds the classes
_CLASS_AXIS = {"linear": -1, **dict.fromkeys(of("convolution"), 1)}


@dataclass(frozen=True, eq=False)
class Look:
    """Shapes and sizes of all values, and what the values mean."""

    graph: Graph
    batch: int  # at least 2
    values: Mapping[fx.Node, Any]  # for so many samples: tensors without storage, sizes
    fewer: Mapping[fx.Node, Any]  # the same for one sample less
    meaning: Mapping[fx.Node, Meaning]

    @staticmethod
    def at(graph: Graph) -> Look:
        batch = len(graph.example[0]) + 1  # capture has run both
        return Look(graph, batch, _shapes(graph, batch), _shapes(graph, batch - 1), meanings(graph.nodes))

    def is_batched(self, node: fx.Node) -> bool:
        shape, fewer = (values[node].shape for values in (self.values, self.fewer))
        return (
            len(shape) > 0 and (shape[0], fewer[0]) == (self.batch, self.batch - 1) and shape[1:] == fewer[1:]
        )


def _shapes(graph: Graph, batch: int) -> dict[fx.Node, Any]:
    found: dict[fx.Node, Any] = {}

    def bare(value: Any) -> Any:
        return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value

    def observe(node: fx.Node, args: tuple[Any, ...], value: Any) -> None:
        found[node] = pytree.tree_map(bare, value)

    outputs = run(graph, resized(graph, batch), observe=observe)
    for node, value in zip(graph.outputs, outputs, strict=True):
        found.setdefault(node, bare(value))
    return found


def maker(look: Look, node: fx.Node, sample: tuple[int, ...]) -> tuple[str, int | None]:
    """The op that made the classes, before moves of data, and the axis of a sample's output that they are."""
    index = torch.arange(math.prod(sample))
    while op_name(node) not in (*SOFTMAXES, *_CLASS_AXIS):
        if op_name(node) == "log" and isinstance(node.args[0], fx.Node):
            node = node.args[0]
            continue
        moved = moved_back(look, node, index)
        if moved is None:
            return op_name(node), None
        node, index = moved
    shape, name = look.values[node].shape, op_name(node)
    made = (arguments_of(node)["dim"] if name in SOFTMAXES else _CLASS_AXIS[name]) % len(shape)
    if not made or not look.is_batched(node):
        return op_name(node), None
    return op_name(node), _axis_along(index.reshape(sample), tuple(shape[1:]), made - 1)


def _axis_along(index: Tensor, shape: tuple[int, ...], made: int) -> int | None:
    """The axis of `index`, numbers of elements of `shape`, along which only its axis `made` varies."""
    places = list(torch.unravel_index(index, shape))
    own = places.pop(made)
    for axis, size in enumerate(index.shape):
        along = torch.arange(size).reshape(-1, *[1] * (index.ndim - 1 - axis))
        still = all(bool((place == place.narrow(axis, 0, 1)).all()) for place in places)
        if size == shape[made] and still and bool((own == along).all()):
            return axis
    return None


def moved_back(look: Look, node: fx.Node, index: Tensor) -> tuple[fx.Node, Tensor] | None:
    """The op's only tensor, and where its elements `index` of the op's value stand in it.

    None for an op that is no move of data within each sample.
    """
    source = only_source(look, node)
    if source is None or op_name(node) not in MOVES:
        return None
    item = op_name(node) == "getitem"
    move, origin = (source, only_source(look, source)) if item else (node, source)
    if origin is None or op_name(move) not in MOVES or not _is_plain_move(look, node, move, origin):
        return None
    size = math.prod(look.values[origin].shape[1:])
    after = _moved_numbers(look, move, origin, size)
    if item and after is not None:
        after = operator.getitem(after, node.args[1])
    if after is None or after.shape != look.values[node].shape:
        return None
    # each sample's own elements, numbered from 0
    own = after.reshape(look.batch, -1) - size * torch.arange(look.batch)[:, None]
    if not bool(((own == own[:1]) & (own >= 0) & (own < size)).all()):
        return None
    return origin, own[0][index]


def _is_plain_move(look: Look, node: fx.Node, move: fx.Node, origin: fx.Node) -> bool:
    """Whether samples of numbers are moved, by sizes alone."""
    if not (look.is_batched(origin) and look.is_batched(node)):
        return False
    others = (n for n in move.all_input_nodes if n is not origin)
    sizes = all(isinstance(look.values.get(n), int) for n in others)
    return sizes and bool(look.values[origin].is_floating_point())


def _moved_numbers(look: Look, move: fx.Node, origin: fx.Node, size: int) -> Any:
    """What the op makes of the numbers of its elements; None for dropout that is active."""
    numbers = torch.arange(look.batch * size).reshape(look.values[origin].shape)
    if op_name(move) in _IN_PLACE:
        return None if arguments_of(move).get("train") else numbers
    given = (move.args, dict(move.kwargs))
    args, kwargs = fx.map_arg(given, lambda n: numbers if n is origin else look.values[n])
    return call_op(move, args, kwargs, like=numbers)


def only_source(look: Look, node: fx.Node) -> fx.Node | None:
    """The op's first argument, where no other one depends on the inputs but for sizes."""
    source = node.args[0] if node.args else None
    if node.op != "call_function" or not isinstance(source, fx.Node) or source.op != "call_function":
        return None
    varying = [n for n in node.all_input_nodes if look.meaning[n] != "constant"]
    return source if varying == [source] else None
