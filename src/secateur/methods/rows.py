"""Gather the entries of each unit from the tensors of its slots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from secateur.types import Group, Slot


def makers(group: Group) -> list[Slot]:
    """The slots that compute the units: producers, and parameters in between such as norms and scales."""
    return [slot for slot in group.slots if slot.role != "consumer"]


def entries(tensors: Mapping[str, Tensor], slot: Slot, units: Tensor | None = None) -> Tensor:
    """The entries of `slot` for each of `units`, by default all; shape: (units, width, …)."""
    positions = slot.positions if units is None else slot.positions[units]
    return tensors[slot.tensor].movedim(slot.axis, 0)[positions]


def rows(tensors: Mapping[str, Tensor], slots: Iterable[Slot], units: Tensor) -> Tensor:
    """The entries of all `slots` for each of `units`, concatenated; shape: (units, numbers)."""
    none = torch.zeros(len(units), 0, dtype=torch.float64)
    return torch.cat([none, *(entries(tensors, slot, units).flatten(1) for slot in slots)], dim=1)


def all_rows(tensors: Mapping[str, Tensor], slots: Iterable[Slot], group: Group) -> Tensor:
    """`rows` of all units of the group."""
    return rows(tensors, slots, torch.arange(group.units))
