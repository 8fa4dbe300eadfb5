"""Groups along the widths of attention heads: the same dimension of every head is one unit.

A product sums over the width of queries and keys. Its second factor reads the first through the weights that
make it, so that these stand for the consumers of such a group: where they are 0, the unit has no effect.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.graph.labels import FIXED, Labels
from secateur.types import Group, Slot

UNREAD = "no layer reads it"  # why a group is pinned
QK, V, QKV = "/qk", "/v", "/qkv"  # ends of the names of groups of widths


@dataclass(frozen=True, eq=False)
class Width:
    """A group of widths."""

    group: Group
    ids: Tensor  # of its units, shape: (units,)


def is_width(group: Group) -> bool:
    """Whether the units of a group are dimensions of heads."""
    return group.name.endswith((QK, V, QKV))


def not_widths(groups: Iterable[Group]) -> list[Group]:
    """The groups whose units are no dimensions of heads."""
    return [group for group in groups if not is_width(group)]


def crossed_by_widths(groups: Iterable[Group]) -> set[str]:
    """The names of the groups of heads: those that have an index with a group of widths in common."""
    groups = list(groups)
    held: dict[tuple[str, int], set[int]] = {}
    for group in groups:
        for slot in group.slots if is_width(group) else ():
            held.setdefault((slot.tensor, slot.axis), set()).update(slot.positions.flatten().tolist())
    return {
        group.name
        for group in not_widths(groups)
        for slot in group.slots
        if (slot.tensor, slot.axis) in held
        and not held[slot.tensor, slot.axis].isdisjoint(slot.positions.flatten().tolist())
    }


def is_replaced(group: Group, places: Collection[tuple[str, int]]) -> bool:
    """Whether a pinned group stands where groups of widths do: what a product sums over."""
    return is_summed(group) and all((slot.tensor, slot.axis) in places for slot in group.slots)


def is_summed(group: Group) -> bool:
    """Whether a group is pinned since a product sums over it, as widths are in a labelling by heads."""
    return group.pinned.startswith("summed over")


def width_groups(
    labels: Labels,
    classes: Tensor,
    groups: Sequence[Group],
    ids: Mapping[str, Tensor],
    first: int,
    others: Sequence[Group],
) -> list[Width]:
    """Of the groups of a labelling by widths, those that are along widths and can shrink.

    Hidden units of layers that are stacked in one weight are such, too, where the layers themselves stay.

    Args:
        classes: The class of each label.
        ids: Group name → the classes of its units.
        first: The number that unit ids begin at.
        others: The groups of the other labelling.
    """
    nothing = torch.zeros(0, dtype=torch.int64)
    apart = labels.classes(sides_apart=True)
    seconds = torch.cat([nothing, *(b for _, b in labels.summed)])
    columns = torch.cat([nothing, *labels.columns])
    summed = torch.isin(torch.arange(labels.count), classes[seconds])
    joined = torch.isin(torch.arange(labels.count), classes[columns[columns != FIXED]])
    readers = torch.isin(torch.arange(labels.count), apart[seconds])
    stacked = torch.isin(torch.arange(labels.count), classes[torch.cat([nothing, *labels.stacked])])
    normed = torch.isin(torch.arange(labels.count), classes[torch.cat([nothing, *labels.normed])])
    shrinking = {slot.tensor for group in others if not group.pinned for slot in group.slots}
    found, names = list[Width](), {group.name for group in others}
    for group in groups:
        own = ids[group.name]
        sums, is_read = bool(summed[own].any()), bool(group.having("consumer"))
        is_stacked = bool(stacked[own].any()) and shrinking.isdisjoint(slot.tensor for slot in group.slots)
        is_along = sums or bool(joined[own].any())
        if group.units < 2 or not (is_along or is_stacked):
            continue
        if group.pinned and not (sums and group.pinned == UNREAD):
            continue
        slots, is_normed = group.slots, bool(normed[own].any())
        if sums:
            slots = tuple(part for slot in slots for part in _by_side(labels, slot, readers[apart]))
            if is_normed and all(slot.role == "consumer" for slot in slots):
                continue  # queries and keys share a norm: neither reads the other
        end = "" if not is_along else V if not sums else QKV if is_read else QK
        name = _unused(group.name.partition("#")[0], end, names)
        names.add(name)
        found.append(Width(replace(group, name=name, slots=slots, pinned="", normed=is_normed), own + first))
    return found


def _by_side(labels: Labels, slot: Slot, is_reader: Tensor) -> Iterator[Slot]:
    """The slot, with the weights of a product's second factor as consumers of the first.

    `is_reader`: of each label, shape (labels,), bool.
    """
    known = labels.axes.get((slot.tensor, slot.axis))
    if known is None:
        elements = labels.elements[slot.tensor].movedim(slot.axis, 0)
        known = elements.reshape(len(elements), -1)[:, 0]
    reads = is_reader[known[slot.positions]]
    for wanted, role in ((False, slot.role), (True, "consumer")):
        width = (reads == wanted).sum(1)
        if int(width[0]):
            yield Slot(slot.tensor, slot.axis, slot.positions[reads == wanted].reshape(len(width), -1), role)


def _unused(base: str, end: str, taken: Collection[str]) -> str:
    name, number = base + end, 2
    while name in taken:
        name, number = f"{base}#{number}{end}", number + 1
    return name
