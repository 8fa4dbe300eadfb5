"""Coupling rules: how each op ties the units of its inputs, weights and output together.

`RULES`, at the bottom, has one for every op of `ops.OPS`: that of its family, or one of its own. The rules of
layers and of products stand in `layer_rules.py` and `product_rules.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.graph import ops
from secateur.graph.head_norms import widths_normed
from secateur.graph.interpret import call_op
from secateur.graph.labels import FIXED, Labels, compacted, fixed, varying_axes
from secateur.graph.layer_rules import (
    batch_normed,
    convolved,
    embedded,
    group_normed,
    layer_normed,
    linear,
    prelu,
)
from secateur.graph.node import kind
from secateur.graph.product_rules import attention, einsum, matmul, matmul_added
from secateur.graph.values import Arguments, Rule, Value, element_labels, frozen, joined, unknown, values_in

_PLACES = {"index", "indices", "repeats", "tensor_indices_or_sections"}  # arguments that say where to move


def same(labels: Labels, node: fx.Node, a: Arguments, out: Any) -> Any:
    """Element-wise functions of one tensor keep its labels."""
    values = list(values_in(list(a.values())))
    if len(values) != 1:
        return joined(labels, node, a, out)
    return values[0].labels if _is_table(labels, values[0]) else element_labels(labels, values[0])


def _is_table(labels: Labels, value: Value) -> bool:
    """Whether a value is a buffer of numbers of which each reader takes what it needs, such as cosines."""
    return labels.widths and labels.tables and value.tensor in labels.buffers


# --- elements that move -------------------------------------------------------------------------------------


def moved(labels: Labels, node: fx.Node, a: Arguments, out: Any) -> Any:
    """Ops that only move elements run on the labels; arguments that say where to move stay as they are."""

    def to_labels(leaf: Any) -> Any:
        if not isinstance(leaf, Value):
            return leaf
        if _is_table(labels, leaf):
            return leaf.labels.contiguous()
        return element_labels(labels, leaf).contiguous()

    def to_places(leaf: Any) -> Any:
        if not isinstance(leaf, Value):
            return leaf
        labels.pin(leaf.labels, f"places in {node.name}")
        return leaf.data

    given = {k: pytree.tree_map(to_places if k in _PLACES else to_labels, value) for k, value in a.items()}
    made = call_op(node, (), given, like=torch.zeros(0, dtype=torch.int64))
    return pytree.tree_map(compacted, made)


def chunked(labels: Labels, node: fx.Node, a: Arguments, out: Any) -> Any:
    """Equal chunks stay equal: units at the same offset of each leave together."""
    parts = list(moved(labels, node, a, out))
    for part in parts[1:]:
        if part.shape == parts[0].shape:
            labels.equate(parts[0], part, f"chunked beside a value that cannot shrink by {node.name}")
    return parts


def picked(labels: Labels, node: fx.Node, a: Arguments, out: Any) -> Any:
    """Picking by fixed indices along an axis: all units of that axis stay, since the indices do."""
    for axis in _axes(a[ops.OPS[kind(node)].axes], a["self"].data.ndim):
        labels.whole.append((element_labels(labels, a["self"]), axis, f"picked by index in {node.name}"))
    return moved(labels, node, a, out)


def _axes(named: int | Sequence[int] | None, ndim: int) -> list[int]:
    """The axes that an argument names; all of them where it names none."""
    if named is None or named == []:
        return list(range(ndim))
    return sorted({axis % ndim for axis in ([named] if isinstance(named, int) else named)})


def item(labels: Labels, node: fx.Node, a: Arguments, out: Any) -> Tensor:
    """Python's `value[index]` on a tensor."""
    return element_labels(labels, a["0"])[a["1"]]


def sliced(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Any:
    """A range of indices can follow the units that stay; one with steps, if whole steps leave."""
    if a["step"] == 1:
        return moved(labels, node, a, out)
    value, axis, step = a["self"], a["dim"] % a["self"].data.ndim, a["step"]
    size = value.data.shape[axis]
    start, end, _ = slice(a["start"], a["end"]).indices(size)
    if not labels.tables or start >= step or end < size or size % step:
        return picked(labels, node, a, out)
    steps = element_labels(labels, value).unflatten(axis, (-1, step))
    first = steps.narrow(axis + 1, 0, 1)
    labels.equate(steps, first, f"one step of {node.name} with a value that cannot shrink")
    return moved(labels, node, a, out)


def gathered(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Any:
    """Indexing with tensors: moved as they are, with every indexed axis left whole."""
    value = a["self"]
    for axis, index in enumerate(a["indices"]):
        if index is not None:
            labels.whole.append((element_labels(labels, value), axis, f"indexed by {node.name}"))
    return moved(labels, node, a, out)


def put(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Any:
    """Writing at indices (`y[:, [0, 3]] = 0`): indexed axes and the units that are written stay whole."""
    value, written = a["self"], a["values"]
    indices = [index for index in a["indices"] if index is not None]
    if value.tensor or any(index.data.dtype == torch.bool for index in indices):
        return unknown(labels, node, a, out)
    labels.pin(written.labels, f"written at indices by {node.name}")
    for axis, index in enumerate(a["indices"]):
        if index is not None:
            labels.whole.append((value.labels, axis, f"indexed by {node.name}"))
    return value.labels


def padded(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Any:
    """Padding around units (spatial) belongs to them; constants beside units (channels) to no unit."""
    steady = element_labels(labels, a["self"])
    varying = varying_axes(steady)
    amounts = a["pad"] if "pad" in a else a["padding"]
    for i, axis in enumerate(range(steady.ndim - 1, steady.ndim - 1 - len(amounts) // 2, -1)):
        before, after = amounts[2 * i : 2 * i + 2]
        if axis not in varying:
            steady = steady.narrow(axis, 0, 1)
        elif before or after:
            if a.get("mode", "constant") != "constant" or "value" not in a:
                return frozen(labels, a, out, f"padded with its own units by {node.name}")
            beside = [0] * (2 * i) + [before, after]
            steady = torch.nn.functional.pad(steady, beside, value=FIXED)
    return steady.expand(out.shape)


# --- elements that are mixed --------------------------------------------------------------------------------


def pooled(labels: Labels, node: fx.Node, a: Arguments, out: Any) -> Any:
    """Pooling and resampling over the trailing axes: units may not differ along them."""
    value = next(values_in(list(a.values())))
    spatial = range(2, value.data.ndim)
    steady = labels.uniform(value.labels, list(spatial), f"pooled together by {node.name}")
    for axis in spatial:
        steady = steady.narrow(axis, 0, 1)
    return pytree.tree_map(lambda t: steady.expand(t.shape), out)


def sampled(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Any:
    """Values between the points of space: channels pass, places stay."""
    frozen(labels, {"grid": a["grid"]}, out, f"places to sample at in {node.name}")
    return pooled(labels, node, {"input": a["input"]}, out)


def reduced(labels: Labels, node: fx.Node, a: Arguments, out: Any) -> Any:
    """Reductions over some axes: units may not differ along them."""
    value = a["self"]
    axes = _axes(a.get("dim"), value.data.ndim)
    by_head = kind(node) == "mean" and axes == [value.data.ndim - 1] and not value.tensor
    if by_head and widths_normed(labels, node, value.labels):
        return fixed(out.shape)
    steady = labels.uniform(element_labels(labels, value), axes, f"reduced over its units by {node.name}")
    for axis in axes:
        steady = steady.narrow(axis, 0, 1)
    if not a.get("keepdim", False):
        for axis in reversed(axes):
            steady = steady.squeeze(axis)
    return pytree.tree_map(lambda t: steady.expand(t.shape), out)


def along(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Tensor:
    """Softmax, cumulative sums and the like mix elements along `dim`: units may not differ along it."""
    value = a["self"]
    return labels.uniform(value.labels, [a["dim"]], f"mixed along its axis by {node.name}")


# --- the rest -----------------------------------------------------------------------------------------------


def unrelated(labels: Labels, node: fx.Node, a: Arguments, out: Any) -> Any:
    """A new tensor that depends on sizes alone has no units, and pins none."""
    return pytree.tree_map(lambda t: fixed(t.shape), out)


def recurrent(labels: Labels, node: fx.Node, a: Arguments, out: Any) -> Any:
    """Recurrent layers stay whole, under the name that the layer has in the model."""
    owner = next((v.tensor for v in values_in(a["params"]) if v.tensor), "").rpartition(".")[0]
    return frozen(labels, a, out, f"recurrent layers stay whole ({owner or node.name})")


def whole(labels: Labels, node: fx.Node, a: Arguments, out: Any) -> Any:
    """An op of another format that runs as it is stays whole."""
    return frozen(labels, a, out, f"{a['name']} has no rule and stays whole")


# --- the table ----------------------------------------------------------------------------------------------

_BY_FAMILY: dict[ops.Family, Rule] = {
    "arithmetic": joined,
    "attention": attention,
    "batch_norm": batch_normed,
    "choice": joined,
    "comparison": joined,
    "convolution": convolved,
    "copy": same,
    "dropout": same,
    "embedding": embedded,
    "filled": same,
    "foreign": whole,
    "function": same,
    "item": item,
    "join": moved,
    "linear": linear,
    "log_softmax": along,
    "padding": padded,
    "pick": picked,
    "pooling": pooled,
    "product": matmul,
    "put": put,
    "recurrent": recurrent,
    "reduction": reduced,
    "reorder": moved,
    "repeat": moved,
    "resampling": pooled,
    "reshape": moved,
    "sampling": sampled,
    "scan": along,
    "size": unrelated,
    "softmax": along,
    "split": moved,
    "transpose": moved,
}
_BY_OP: dict[str, Rule] = {  # these go before their family
    **dict.fromkeys("addmm baddbmm".split(), matmul_added),
    **dict.fromkeys("roll tensor_split unbind".split(), picked),
    **dict.fromkeys("layer_norm rms_norm".split(), layer_normed),
    "chunk": chunked,
    "einsum": einsum,
    "group_norm": group_normed,
    "im2col": unknown,
    "index": gathered,
    "instance_norm": batch_normed,
    "prelu": prelu,
    "slice": sliced,
}
RULES: dict[str, Rule] = {
    name: _BY_OP.get(name, _BY_FAMILY.get(row.family, unknown)) for name, row in ops.OPS.items()
}
