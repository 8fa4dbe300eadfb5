"""Find the groups of units that must leave a network together, by carrying unit labels through its graph.

Every producer's outputs get labels; rules (see `rules.py`) say which labels are equal and which are pinned.
Equal labels are one unit, and units in the same slots are one group.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.graph.graph import Graph
from secateur.graph.interpret import as_work, call_op, walk
from secateur.graph.labels import (
    FIXED,
    Labels,
    compacted,
    compressed,
    fixed,
    varying_axes,
    without_repetition,
)
from secateur.graph.layouts import Layout
from secateur.graph.node import bound_arguments, kind
from secateur.graph.ops import of
from secateur.graph.rules import RULES
from secateur.graph.stream import Stream
from secateur.graph.values import Value, unknown, values_in
from secateur.graph.widths import UNREAD, Width, is_replaced, is_summed, width_groups
from secateur.types import Group, Groups, Slot

_TRANSPOSES = of("copy", "transpose")
_PRODUCTS = of("attention", "product")


@dataclass(frozen=True, eq=False)
class Coupling(Groups):
    """The groups of a graph, and for each node the unit of each element of its value."""

    # node → unit id of each element (−1: none), stride 0 where it does not change
    units: Mapping[fx.Node, Tensor]
    ids: Mapping[str, Tensor]  # group name → unit id of each of its units, shape: (units,)
    # the same for the widths of heads, whose units cross those of `units`; nodes that have some alone
    inner: Mapping[fx.Node, Tensor] = field(default_factory=dict)
    streams: tuple[Stream, ...] = ()  # groups along the residual width, where asked for

    def levels(self, node: fx.Node) -> tuple[Tensor, ...]:
        """The unit ids of a node's elements; an element leaves with its unit at any of the levels.

        Empty for a node without units of its own, such as a parameter along its axes.
        """
        return tuple(ids[node] for ids in (self.units, self.inner) if node in ids)


def couple(graph: Graph, norms: frozenset[str] = frozenset()) -> Coupling:
    """The groups of `graph`; units that the norms of these names normalise together may leave.

    Cost: one forward pass on the example, and label work linear in the number of units.
    """
    pinned: tuple[Group, ...] = ()
    while True:
        settled = frozenset((slot.tensor, slot.axis) for group in pinned for slot in group.slots)
        labels, node_labels = _label(graph, settled, norms)
        classes = _rectangular(labels, [*node_labels.values(), *_stored_labels(graph, labels)])
        groups, ids = _groups(labels, classes, taken={group.name for group in pinned})
        known = tuple(group for group in groups if group.pinned)
        if not labels.crossed or not known:
            break
        # exclude the pinned groups and label again: layers whose inputs carry their units have units, too
        pinned += known
    units = {node: _classes_of(tensor, classes) for node, tensor in node_labels.items()}
    blocked, first = labels.blocked | labels.crossed, labels.count
    stays = [group for group in pinned if not is_summed(group)]
    settled = frozenset((slot.tensor, slot.axis) for group in stays for slot in group.slots)
    found, inner = _widths(graph, first, (*pinned, *groups), settled, norms)
    ids |= {width.group.name: width.ids for width in found}
    replaced = {(slot.tensor, slot.axis) for width in found for slot in width.group.slots}
    whole = (group for group in (*pinned, *groups) if not is_replaced(group, replaced))
    return Coupling((*whole, *(width.group for width in found)), blocked, units, ids, inner)


def _widths(
    graph: Graph,
    first: int,
    others: Sequence[Group],
    settled: frozenset[tuple[str, int]],
    norms: frozenset[str],
) -> tuple[list[Width], dict[fx.Node, Tensor]]:
    """The groups along the widths of heads, and the unit of each element of a node; ids begin at `first`.

    From a second labelling, in which products of activations join heads and leave their widths apart.
    """
    if not any(kind(node) in _PRODUCTS for node in graph.nodes if node.op == "call_function"):
        return [], {}
    labels, node_labels = _label(graph, settled, norms, widths=True)
    if not labels.summed and not labels.columns and not labels.stacked:
        return [], {}
    classes = _rectangular(labels, [*node_labels.values(), *_stored_labels(graph, labels)])
    found = width_groups(labels, classes, *_groups(labels, classes), first, others)
    number = torch.full((labels.count + 1,), FIXED)  # by class; the last is for elements of no unit
    for width in found:
        number[width.ids - first] = width.ids
    inner = {}
    for node, tensor in node_labels.items():
        units = without_repetition(_classes_of(tensor, classes))
        if varying_axes(own := number[units]):
            inner[node] = own.expand(tensor.shape)
    return found, inner


def _label(
    graph: Graph, settled: frozenset[tuple[str, int]], norms: frozenset[str], widths: bool = False
) -> tuple[Labels, dict[fx.Node, Tensor]]:
    buffers = frozenset(graph.tensors) - frozenset(graph.parameters)
    labels = Labels(settled, widths, not graph.own_form, buffers, norms)
    node_labels = dict[fx.Node, Tensor]()
    given = dict(zip(graph.inputs, graph.example, strict=True))
    like = torch.zeros(0)  # of the default dtype, which recurrent ops of oneDNN take for what they make

    def leaf(node: fx.Node) -> Value:
        if node.op == "placeholder":
            node_labels[node] = fixed(given[node].shape)
            return Value(as_work(given[node], like), node_labels[node])
        data = as_work(graph.tensors[str(node.target)], like)
        return Value(data, fixed(data.shape), str(node.target), tuple(range(data.ndim)))

    def call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raw = pytree.tree_map(lambda v: v.data if isinstance(v, Value) else v, (args, kwargs))
        out = call_op(node, *raw, like=like)
        if kind(node) == "getitem" and isinstance(args[0], list | tuple):
            made = args[0][args[1]]
        elif not any(isinstance(t, Tensor) for t in pytree.tree_leaves(out)):
            return out
        else:
            made = _labelled(labels, node, bound_arguments(node, args, kwargs), out)
        if isinstance(made, Value) and not made.tensor:
            node_labels[node] = made.labels
        return made

    env = walk(graph, leaf, call)
    for node in graph.outputs:
        if isinstance(env[node], Value):
            labels.pin(env[node].labels, "an output of the model")
            labels.read.clear()
            _fix_unread(labels, [env[node]])
    labels.join_uses()
    elements = {node: labels.elements.get(str(node.target)) for node in graph.nodes if node.op == "get_attr"}
    return labels, node_labels | {node: given for node, given in elements.items() if given is not None}


def _labelled(labels: Labels, node: fx.Node, a: dict[str, Any], out: Any) -> Any:
    """The op's output as `Value`s."""
    values = list(values_in(list(a.values())))
    first = values[0] if values else None
    if kind(node) in _TRANSPOSES and first is not None and first.tensor and len(values) == 1:
        probe = torch.empty([2 + i for i in range(first.data.ndim)], device="meta")
        moved = call_op(node, (), {**a, next(iter(a)): probe}, like=probe)
        return Value(out, fixed(out.shape), first.tensor, tuple(first.axes[s - 2] for s in moved.shape))
    if not any(v.tensor or bool((compressed(v.labels) != FIXED).any()) for v in values):
        return pytree.tree_map(lambda t: Value(t, fixed(t.shape)) if isinstance(t, Tensor) else t, out)
    labels.read.clear()
    made = RULES.get(kind(node), unknown)(labels, node, a, out)
    _fix_unread(labels, values)
    if isinstance(out, Tensor):
        return Value(out, made)
    return [Value(t, m) if isinstance(t, Tensor) else t for t, m in zip(out, made, strict=True)]


def stored_groups(graph: Graph, groups: Sequence[Group]) -> tuple[Group, ...]:
    """The groups with the slots that they have in the tensors as the model stores them."""

    def stored(slot: Slot) -> Slot:
        layout = graph.layouts.get(slot.tensor)
        return slot if layout is None else _stored_slot(slot, layout)

    return tuple(replace(group, slots=tuple(map(stored, group.slots))) for group in groups)


def _stored_slot(slot: Slot, layout: Layout) -> Slot:
    """Units fill whole slices of one axis of the stored tensor, too (see `_rectangular`)."""
    units = torch.full((layout.order.shape[slot.axis],), FIXED)
    units[slot.positions] = torch.arange(len(slot.positions))[:, None]
    owner = compacted(units[layout.index_along(slot.axis)])
    axis = next(iter(varying_axes(owner)), 0)
    vector = owner.movedim(axis, 0).reshape(owner.shape[axis], -1)[:, 0]
    order = vector.argsort(stable=True)[int((vector == FIXED).sum()) :]
    return replace(slot, axis=axis, positions=order.reshape(len(slot.positions), -1))


def _fix_unread(labels: Labels, values: list[Value]) -> None:
    """Parameters, along the axes that the rule has not labelled, stay as the op reads them."""
    for value in values:
        for axis, size in zip(value.axes, value.data.shape, strict=True) if value.tensor else ():
            if size > 1 and (value.tensor, axis) not in labels.read:
                labels.fix(value.tensor, axis, size)


def _classes_of(labels: Tensor, classes: Tensor) -> Tensor:
    """Each label replaced by its class, −1 kept, stride-0 axes kept."""
    distinct = without_repetition(labels)
    named = classes[distinct.clamp(min=0)] if len(classes) else distinct
    return torch.where(distinct == FIXED, FIXED, named).expand(labels.shape)


def _stored_labels(graph: Graph, labels: Labels) -> Iterator[Tensor]:
    """The labels along each axis that is read, in tensors that the model stores in another layout."""
    for (name, axis), vector in labels.axes.items():
        if name in graph.layouts:
            index = compacted(graph.layouts[name].index_along(axis))
            yield vector[without_repetition(index)].expand(index.shape)


def _rectangular(labels: Labels, tensors: list[Tensor]) -> Tensor:
    """Join and pin until every tensor without a unit is a rectangle; returns the class of each label.

    A unit must fill whole slices of one axis. Where units differ along several axes (a head split, a channel
    shuffle), those that differ along all but the longest of them are joined.
    """
    many = [t for t in [*tensors, *labels.elements.values()] if len(varying_axes(t)) > 1]
    while True:
        classes = labels.classes()
        before = len(labels.pairs)
        for tensor in many:
            units = _classes_of(tensor, classes)
            axes = varying_axes(units)
            if len(axes) > 1:
                longest = max(axes, key=lambda axis: (units.shape[axis], -axis))
                first = units
                for axis in axes - {longest}:
                    first = first.narrow(axis, 0, 1)
                labels.equate(
                    units,
                    first.expand_as(units),
                    "shares a slice of a tensor with a value that cannot shrink",
                )
        if len(labels.pairs) == before:
            return classes


def _groups(
    labels: Labels, classes: Tensor, taken: Collection[str] = ()
) -> tuple[tuple[Group, ...], dict[str, Tensor]]:
    """Units with the same slots (and the same reason to stay) are one group."""
    slots = _axis_classes(labels, classes)
    pins = np.zeros(labels.count, np.int64)  # index into reasons, by class; 0: free
    reasons = [""]
    _pin_whole_axes(labels, classes)
    for pinned, reason in labels.pins:
        chosen = classes[pinned].numpy()
        reasons.append(reason)
        pins[chosen[pins[chosen] == 0]] = len(reasons) - 1

    # Equal signatures: equal numbers of indices in every slot. Random weights make the comparison one sum.
    random = np.random.default_rng(0).integers(1, 2**62, size=len(slots), dtype=np.int64)
    free = [vector[vector != FIXED] for vector in slots.values()]
    used = np.concatenate([np.zeros(0, np.int64), *free])
    signature = pins.copy()
    np.add.at(signature, used, np.repeat(random, [len(vector) for vector in free]))
    present = np.unique(used)
    _, first, member = np.unique(signature[present], return_index=True, return_inverse=True)
    owner = np.full(labels.count, -1)
    owner[present] = np.argsort(np.argsort(first))[member]
    places = _places(slots, owner, len(first))
    members = _split(present, owner[present], len(first))

    groups, ids, names = list[Group](), dict[str, Tensor](), set(taken)
    for number, own in enumerate(places):
        units = members[number]
        group = _group(labels, slots, own, units, reasons[pins[units[0]]], names)
        groups.append(group)
        names.add(group.name)
        ids[group.name] = torch.from_numpy(units)
    return tuple(groups), ids


def _places(
    slots: Mapping[tuple[str, int], np.ndarray], owner: np.ndarray, count: int
) -> list[dict[tuple[str, int], np.ndarray]]:
    """For each group, the indices of its units by tensor and axis; `owner`: class → group, or −1."""
    places: list[dict[tuple[str, int], np.ndarray]] = [{} for _ in range(count)]
    for key, vector in slots.items():
        indices = np.flatnonzero(vector != FIXED)
        numbers, part = np.unique(owner[vector[indices]], return_inverse=True)
        for number, own in zip(numbers, _split(indices, part, len(numbers)), strict=False):
            places[number][key] = own
    return places


def _split(values: np.ndarray, numbers: np.ndarray, count: int) -> list[np.ndarray]:
    """The values with number 0, 1, …, `count` − 1, each ascending."""
    order = np.argsort(numbers, kind="stable")
    return np.split(values[order], np.cumsum(np.bincount(numbers, minlength=count))[:-1])


def _group(
    labels: Labels,
    slots: Mapping[tuple[str, int], np.ndarray],
    places: Mapping[tuple[str, int], np.ndarray],
    units: np.ndarray,
    reason: str,
    taken: Collection[str],
) -> Group:
    """The group of these units.

    Args:
        slots: The class of each index, by tensor and axis.
        places: The indices of the units, by tensor and axis.
        reason: Why the units are pinned; empty where nothing said so.
        taken: Names of other groups.
    """
    found, uneven = [], ""
    for (tensor, axis), indices in places.items():
        vector, raw = slots[tensor, axis], labels.axes.get((tensor, axis))
        order = raw.numpy()[indices] if raw is not None else indices
        indices = indices[np.lexsort((indices, order, vector[indices]))]
        if len(indices) % len(units):
            uneven = f"its units are of unequal size in {tensor}"
            continue
        positions = torch.from_numpy(indices.reshape(len(units), -1))
        found.append(Slot(tensor, axis, positions, labels.roles.get((tensor, axis), "through")))
    makers = [slot for slot in found if slot.role == "producer"] or found
    base = makers[0].tensor.removesuffix(".weight") if makers else "(unnamed)"
    name, number = base, 2
    while name in taken:
        name, number = f"{base}#{number}", number + 1
    why = reason or uneven or _why_pinned({slot.role for slot in found}, len(units))
    return Group(name, len(units), tuple(found), why)


def _why_pinned(roles: set[str], units: int) -> str:
    """Why a group cannot shrink although nothing pins its units; empty where it can."""
    if "producer" not in roles:
        return "no layer makes it"
    if "consumer" not in roles:
        return UNREAD
    return "a single unit" if units == 1 else ""


def _axis_classes(labels: Labels, classes: Tensor) -> dict[tuple[str, int], np.ndarray]:
    """(tensor, axis) → class of each index, in weights and in parameters used element by element."""
    slots = {key: _classes_of(vector, classes).numpy() for key, vector in labels.axes.items()}
    for tensor, elements in labels.elements.items():
        units = _classes_of(elements, classes)
        varying = varying_axes(units)
        for axis in varying or {0}:  # after _rectangular there is at most one
            flat = units
            for other in range(units.ndim - 1, -1, -1):
                if other != axis:
                    flat = flat.select(other, 0)
            slots.setdefault((tensor, axis), flat.numpy())
    return slots


def _pin_whole_axes(labels: Labels, classes: Tensor) -> None:
    """Pin the units along axes that fixed indices point into, where they still differ."""
    for tensor, axis, reason in labels.whole:
        if axis % tensor.ndim in varying_axes(_classes_of(tensor, classes)):
            labels.pin(tensor, reason)
