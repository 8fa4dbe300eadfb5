"""Values of the example run with the labels of their elements, as the coupling rules see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.graph.labels import FIXED, Labels, compacted, fixed, varying_axes
from secateur.graph.node import kind

Arguments = dict[str, Any]  # of an op, by schema name; tensors are `Value`s

# (labels so far, node, its arguments, its output on the example) → labels of the output, or of each output
Rule = Callable[[Labels, fx.Node, Arguments, Any], Any]


@dataclass(frozen=True, eq=False)
class Value:
    """One tensor of the example run with the labels of its elements."""

    data: Tensor
    labels: Tensor
    tensor: str = ""  # the name of a bare parameter or buffer
    axes: tuple[int, ...] = ()  # of a bare parameter: which of its axes each axis here is (after transposes)


def values_in(tree: Any) -> Iterator[Value]:
    """All values in a tree of arguments."""
    return (leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Value))


def element_labels(labels: Labels, value: Value) -> Tensor:
    """Labels of a value's elements; a bare parameter gets them at its first element-wise use."""
    if not value.tensor or value.data.numel() == 1:
        return value.labels
    order = [value.axes.index(i) for i in range(value.data.ndim)]
    return labels.element(value.tensor, value.data.permute(order)).permute(value.axes)


def frozen(labels: Labels, a: Arguments, out: Any, reason: str) -> Any:
    """Pin every unit that the op touches."""
    for value in values_in(list(a.values())):
        if value.tensor:
            labels.blocked.setdefault(value.tensor, reason)
        else:
            labels.pin(value.labels, reason)
    return pytree.tree_map(lambda t: fixed(t.shape), out)


def unknown(labels: Labels, node: fx.Node, a: Arguments, out: Any) -> Any:
    """No rule: nothing that the op touches may change."""
    reason = node.meta.get("computed") or f"no coupling rule for {node.target} ({node.name})"
    return frozen(labels, a, out, reason)


# --- element by element -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Joined:
    """Labels of the operands so far, the axes along which they change, and those that are still open."""

    labels: Tensor
    unit_axes: set[int]
    open_axes: set[int]  # along which every operand was broadcast


def joined(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Tensor:
    """Elements of several tensors that meet leave together; an operand that is broadcast is neutral."""
    operands = [v for v in values_in(list(a.values())) if v.data.numel() > 1]
    plain = [v for v in operands if not v.tensor]
    if not plain and all(max(v.data.shape) == v.data.numel() for v in operands):
        plain = operands  # arithmetic on vectors of parameters, of which units may have one number each
    parameters = [v for v in operands if v not in plain]
    found = _Joined(fixed(out.shape), set(), set(range(out.ndim)))
    for value in [*sorted(plain, key=lambda v: -len(varying_axes(v.labels))), *parameters]:
        broadcast = _broadcast_axes(value, out)
        if value in parameters and not found.unit_axes:
            continue  # a parameter that meets no unit
        if _is_of_each_head(labels, node, value, found, broadcast):
            continue
        if labels.widths and found.unit_axes & broadcast and found.unit_axes - broadcast:
            found = _alike_along(labels, node, found, broadcast)
        if value in parameters and found.unit_axes & broadcast:
            continue  # a parameter that is the same for all units
        if _is_sliced(labels, node, value, found):
            continue
        found = _met(labels, node, found, element_labels(labels, value).expand(out.shape), broadcast)
    return found.labels


def _alike_along(labels: Labels, node: fx.Node, found: _Joined, axes: set[int]) -> _Joined:
    """Units that differ along axes where an operand is the same for all are those of each head: joined."""
    axes = found.unit_axes & axes
    steady = labels.uniform(found.labels, sorted(axes), f"one for each head in {node.name}")
    return _Joined(steady, varying_axes(steady), found.open_axes)


def _is_of_each_head(
    labels: Labels, node: fx.Node, value: Value, found: _Joined, broadcast: set[int]
) -> bool:
    """Whether an operand is a factor of each head, such as 1 / its norm, the same for all of its widths."""
    if not labels.widths or value.tensor or varying_axes(value.labels) or not found.unit_axes:
        return False
    return kind(node) in ("mul", "div") and max(found.unit_axes) in broadcast


def _is_sliced(labels: Labels, node: fx.Node, value: Value, found: _Joined) -> bool:
    """Whether an operand is a table of numbers without units, which is sliced with the units that it meets.

    The cosines of rotary embeddings, and what is added to the scores of each head (`surgery.rewrite`).
    """
    if not labels.tables or value.tensor or varying_axes(value.labels) or not found.unit_axes:
        return False
    if labels.widths:
        return kind(node) == "mul"
    adds = kind(node) in ("add", "sub", "mul", "scaled_dot_product_attention")
    return adds and labels.are_heads(found.labels)


def _broadcast_axes(value: Value, out: Tensor) -> set[int]:
    """The axes of the output along which the value is repeated."""
    shape = (0,) * (out.ndim - value.data.ndim) + tuple(value.data.shape)
    return {axis for axis, (size, whole) in enumerate(zip(shape, out.shape, strict=True)) if size < whole}


def _met(labels: Labels, node: fx.Node, found: _Joined, mine: Tensor, broadcast: set[int]) -> _Joined:
    """One more operand, with labels `mine`."""
    my_axes = varying_axes(mine)
    if my_axes and my_axes < found.unit_axes:
        found = _alike_along(labels, node, found, broadcast)  # each head divided by its own norm
    if found.unit_axes & broadcast or not (found.unit_axes or my_axes):
        labels.pin(mine, f"broadcast over other units by {node.name}")
        return found
    if not found.unit_axes or my_axes & found.open_axes:
        labels.pin(found.labels, f"broadcast over other units by {node.name}")
        return _Joined(mine, my_axes, broadcast)
    labels.equate(found.labels, mine, f"joined with a value that cannot shrink by {node.name}")
    left = found.labels
    if labels.widths and not my_axes:  # pinned units are none to the products that follow
        left = compacted(torch.where(mine == FIXED, FIXED, left))
    return _Joined(left, varying_axes(left), found.open_axes & broadcast)
