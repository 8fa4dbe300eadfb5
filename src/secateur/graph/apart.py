"""Queries, keys and values that one layer makes together, taken apart before they are split into heads.

`qkv(x).reshape(b, t, 3, heads, width).permute(2, 0, 3, 1, 4).unbind(0)` computes what three splits of
`qkv(x)` do, each reshaped to heads and permuted. Taken apart, the three may have widths of their own. The
same holds of `nn.MultiheadAttention`, which moves the three to the front.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator

import torch
from torch import fx

from secateur.graph.node import bound_arguments, kind
from secateur.graph.ops import of

aten = torch.ops.aten
_MAKERS = of("linear")
_PACKED = ("unsqueeze", "transpose", "squeeze", "contiguous")  # how `nn.MultiheadAttention` goes on


def take_apart(module: fx.GraphModule) -> None:
    """Split the output of a layer before it is reshaped, where each part is read by itself later on."""
    changed = False
    for node in list(module.graph.nodes):
        if kind(node) in _SPLITS and kind(node.args[0]) in _MAKERS:
            changed |= _SPLITS[kind(node)](node)
    if changed:
        module.graph.eliminate_dead_code()
        module.recompile()


def _split_first(reshape: fx.Node) -> bool:
    """reshape(…, parts, heads, width), permute, and each part read: the split goes before the reshape."""
    permute = next(iter(reshape.users), None)
    layer, value = reshape.args[0], reshape.meta.get("val")
    if len(reshape.users) != 1 or permute is None or kind(permute) != "permute" or value is None:
        return False
    shape, before = list(bound_arguments(reshape, reshape.args, reshape.kwargs)["shape"]), layer.meta["val"]
    axis = before.ndim - 1  # of the parts
    order = [d % value.ndim for d in bound_arguments(permute, permute.args, permute.kwargs)["dims"]]
    if value.ndim <= axis + 1 or list(value.shape[:axis]) != list(before.shape[:axis]) or order[0] != axis:
        return False
    readers = dict(_parts_read(permute))
    if not readers or len(layer.users) != 1:
        return False
    graph, parts = reshape.graph, int(value.shape[axis])
    size = int(before.shape[-1]) // parts
    rest = [d - (d > axis) for d in order[1:]]
    with graph.inserting_before(reshape):
        split = graph.call_function(aten.split_with_sizes.default, (layer, [size] * parts, -1))
        made = dict[int, fx.Node]()
        for part in dict.fromkeys(readers.values()):
            own = graph.call_function(operator.getitem, (split, part))
            heads = graph.call_function(aten.reshape.default, (own, shape[:axis] + shape[axis + 1 :]))
            made[part] = graph.call_function(aten.permute.default, (heads, rest))
    for reader, part in readers.items():
        reader.replace_all_uses_with(made[part])
    return True


def _split_packed(unflatten: fx.Node) -> bool:
    """unflatten(-1, (parts, width)), then the parts are moved to the front and read one by one."""
    node, layer, value = unflatten, unflatten.args[0], unflatten.meta.get("val")
    for wanted in _PACKED:
        node = next(iter(node.users)) if len(node.users) == 1 else node
        if kind(node) != wanted:
            return False
    readers = dict(_parts_read(node))
    if (
        not readers
        or len(layer.users) != 1
        or value is None
        or list(node.meta["val"].shape[1:]) != [*value.shape[:-2], value.shape[-1]]
    ):
        return False
    with unflatten.graph.inserting_before(unflatten):
        sizes = [int(value.shape[-1])] * int(value.shape[-2])
        split = unflatten.graph.call_function(aten.split_with_sizes.default, (layer, sizes, -1))
        made = {p: unflatten.graph.call_function(operator.getitem, (split, p)) for p in {*readers.values()}}
    for reader, part in readers.items():
        reader.replace_all_uses_with(made[part])
    return True


def _parts_read(permute: fx.Node) -> Iterator[tuple[fx.Node, int]]:
    """Each node that reads one index of axis 0, and which; nothing where another reads all of it."""
    found = list[tuple[fx.Node, int]]()
    for user in permute.users:
        if kind(user) == "unbind" and (len(user.args) < 2 or user.args[1] == 0):
            found += [(item, int(item.args[1])) for item in user.users]
        elif kind(user) == "select" and user.args[1] == 0:
            found.append((user, int(user.args[2])))
        else:
            return
    yield from found


_SPLITS: dict[str, Callable[[fx.Node], bool]] = {"reshape": _split_first, "unflatten": _split_packed}
