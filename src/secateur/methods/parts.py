"""A unit as the comparison methods see it: what it does to its inputs, what it adds, and how large that
is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.methods.context import Context, Norm, fold
from secateur.types import Group, Slot


@dataclass(frozen=True, eq=False)
class Parts:
    """Every unit as x ↦ linear·x + constant, the batch norms right after its producers folded into both."""

    linear: Tensor  # rows in the producers, and kernels on the way; shape: (units, weights)
    constant: Tensor  # shape: (units, constants)
    normed: bool  # whether there was a batch norm to fold


def parts(context: Context, group: Group) -> Parts:
    """Norms that stand elsewhere (after a sum, of another kind) are left out: no formula of the papers covers
    them.
    """
    slots, norms = makers(group), own_norms(context, group)
    folded = fold(context.weights, norms)
    added = {norm.shift or norm.mean for norm in norms.values()}
    linear = [slot for slot in slots if folded[slot.tensor].ndim > 1]
    constant = [
        slot
        for slot in slots
        if folded[slot.tensor].ndim == 1 and (slot.role == "producer" or slot.tensor in added)
    ]  # a bias before a norm is folded away and adds zeros
    return Parts(rows(folded, linear, group.units), rows(folded, constant, group.units), bool(norms))


def makers(group: Group) -> list[Slot]:
    return [slot for slot in group.slots if slot.role != "consumer"]


def own_norms(context: Context, group: Group) -> dict[str, Norm]:
    """Weight name → batch norm, of the group's producers and depthwise layers."""
    own = {slot.tensor for slot in makers(group)}
    return {weight: norm for weight, norm in context.norms.items() if weight in own}


def rows(tensors: Mapping[str, Tensor], slots: Sequence[Slot], units: int) -> Tensor:
    """All that stands in `slots` for each unit, side by side; shape: (units, numbers), of which there may be
    none.
    """
    none = torch.zeros(units, 0, dtype=torch.float64)
    return torch.cat(
        [none, *(tensors[s.tensor].movedim(s.axis, 0)[s.positions].flatten(1) for s in slots)], dim=1
    )


def smallest(context: Context, group: Group, count: int, norm: float) -> tuple[Tensor, Tensor]:
    """The `count` units that leave, of the least L1 or L2 filter norms (no bias, no norm), and those that
    stay.

    Cost: n·d for n units of d weights.
    """
    producers = [slot for slot in group.having("producer") if context.weights[slot.tensor].ndim > 1]
    size = torch.linalg.vector_norm(rows(context.weights, producers, group.units), ord=norm, dim=1)
    size[~context.alive[group.name]] = float("inf")
    order = torch.sort(size, stable=True).indices[: int(context.alive[group.name].sum())]
    return order[:count], order[count:].sort().values
