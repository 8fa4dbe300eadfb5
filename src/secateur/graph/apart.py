"""Queries, keys and values that one layer makes together, taken apart before they are split into heads.

`qkv(x).reshape(b, t, 3, heads, width).permute(2, 0, 3, 1, 4).unbind(0)` computes what three splits of
`qkv(x)` do, each reshaped to heads and permuted. Taken apart, the three may have widths of their own. The
same holds of `nn.MultiheadAttention`, which moves the three to the front.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from secateur.graph.node import bound_arguments, kind

aten = torch.ops.aten
_PACKED = ("unsqueeze", "transpose", "squeeze", "contiguous")  # how `nn.MultiheadAttention` goes on


def take_apart(module: fx.GraphModule) -> None:
    """Split the output of a layer before it is reshaped, where each part is read by itself later on."""
    changed = False
    for node in list(module.graph.nodes):
        if node.op == "call_function" and kind(node) in _SPLITS:
            layer = node.all_input_nodes[0]
            if kind(layer) == "linear" and len(layer.users) == 1 and "val" in node.meta:
                changed |= _SPLITS[kind(node)](node, layer)
    if changed:
        module.graph.eliminate_dead_code()
        module.recompile()


def _arguments(node: fx.Node) -> dict[str, Any]:
    return bound_arguments(node, node.args, node.kwargs)


def _value(node: fx.Node) -> Tensor:
    """A tensor of the node's shape, as the export noted it."""
    value: Tensor = node.meta["val"]
    return value


def _split_heads(reshape: fx.Node, layer: fx.Node) -> bool:
    """reshape(…, parts, heads, width), permute, and each part read: the split goes before the reshape."""
    permute, value, made = next(iter(reshape.users), reshape), _value(reshape), _value(layer)
    axis = made.ndim - 1  # of the parts
    if len(reshape.users) != 1 or kind(permute) != "permute" or value.ndim <= axis + 1:
        return False
    order = [dim % value.ndim for dim in _arguments(permute)["dims"]]
    readers = dict(_parts_read(permute))
    if list(value.shape[:axis]) != list(made.shape[:axis]) or order[0] != axis or not readers:
        return False
    shape, graph = list(_arguments(reshape)["shape"]), reshape.graph
    rest = [dim - (dim > axis) for dim in order[1:]]
    with graph.inserting_before(reshape):
        parts = _split(graph, layer, int(value.shape[axis]), readers.values())
        for part, own in parts.items():
            heads = graph.call_function(aten.reshape.default, (own, shape[:axis] + shape[axis + 1 :]))
            parts[part] = graph.call_function(aten.permute.default, (heads, rest))
    for reader, part in readers.items():
        reader.replace_all_uses_with(parts[part])
    return True


def _split_packed(unflatten: fx.Node, layer: fx.Node) -> bool:
    """unflatten(-1, (parts, width)), then the parts are moved to the front and read one by one."""
    node, value = unflatten, _value(unflatten)
    for wanted in _PACKED:
        node = next(iter(node.users)) if len(node.users) == 1 else node
        if kind(node) != wanted:
            return False
    readers = dict(_parts_read(node))
    if not readers or list(_value(node).shape[1:]) != [*value.shape[:-2], value.shape[-1]]:
        return False
    with unflatten.graph.inserting_before(unflatten):
        parts = _split(unflatten.graph, layer, int(value.shape[-2]), readers.values())
    for reader, part in readers.items():
        reader.replace_all_uses_with(parts[part])
    return True


def _split(graph: fx.Graph, layer: fx.Node, count: int, wanted: Iterable[int]) -> dict[int, fx.Node]:
    """The layer's output in `count` equal parts: those that are wanted."""
    sizes = [int(_value(layer).shape[-1]) // count] * count
    split = graph.call_function(aten.split_with_sizes.default, (layer, sizes, -1))
    return {part: graph.call_function(operator.getitem, (split, part)) for part in dict.fromkeys(wanted)}


def _parts_read(node: fx.Node) -> Iterator[tuple[fx.Node, int]]:
    """Each node that reads one index of axis 0, and which; nothing where another reads all of it."""
    found = list[tuple[fx.Node, int]]()
    for user in node.users:
        a = _arguments(user) if kind(user) in ("unbind", "select") else {}
        if a.get("dim") != 0:
            return
        if kind(user) == "select":
            found.append((user, int(a["index"])))
        else:
            found += [(item, int(_arguments(item)["1"])) for item in user.users]
    yield from found


_SPLITS: dict[str, Callable[[fx.Node, fx.Node], bool]] = {"reshape": _split_heads, "unflatten": _split_packed}
