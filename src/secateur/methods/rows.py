"""The numbers that make a unit, gathered from the tensors that hold it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from secateur.types import Group, Slot


def makers(group: Group) -> list[Slot]:
    """The slots that make the units: producers, and parameters on the way such as norms and scales."""
    return [slot for slot in group.slots if slot.role != "consumer"]


def entries(tensors: Mapping[str, Tensor], slot: Slot, units: Tensor | None = None) -> Tensor:
    """The numbers of `slot` for each of `units`, by default all; shape: (units, width, …)."""
    positions = slot.positions if units is None else slot.positions[units]
    return tensors[slot.tensor].movedim(slot.axis, 0)[positions]


def rows(tensors: Mapping[str, Tensor], slots: Iterable[Slot], units: Tensor) -> Tensor:
    """The numbers of `slots` for each of `units`, side by side; shape: (units, numbers)."""
    none = torch.zeros(len(units), 0, dtype=torch.float64)
    return torch.cat([none, *(entries(tensors, slot, units).flatten(1) for slot in slots)], dim=1)


def all_rows(tensors: Mapping[str, Tensor], slots: Iterable[Slot], group: Group) -> Tensor:
    """`rows` of all units of the group."""
    return rows(tensors, slots, torch.arange(group.units))
