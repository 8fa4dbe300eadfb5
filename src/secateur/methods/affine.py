"""Units as affine functions of their layer's inputs, with the batch norms after their layers folded in."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from secateur.methods.batch_norm import fold, own_norms
from secateur.methods.context import Context
from secateur.methods.rows import all_rows, makers
from secateur.types import Group


@dataclass(frozen=True, eq=False)
class AffineUnits:
    """The units of a group as x ↦ linear·x + constant."""

    linear: Tensor  # rows of the producers, and depthwise kernels; shape: (units, weights)
    constant: Tensor  # shape: (units, constants)
    normed: bool  # whether a batch norm was folded in


def affine_units(context: Context, group: Group) -> AffineUnits:
    """The units of a group as affine functions.

    Norms in other places (after a sum) or of another kind are left out: the papers do not cover them.
    """
    norms = own_norms(context.norms, group)
    folded = fold(context.weights, norms)
    added = {norm.shift or norm.mean for norm in norms.values()}
    linear = [slot for slot in makers(group) if folded[slot.tensor].ndim > 1]
    # a bias before a norm is folded away and adds zeros
    constant = [
        slot
        for slot in makers(group)
        if folded[slot.tensor].ndim == 1 and (slot.role == "producer" or slot.tensor in added)
    ]
    return AffineUnits(all_rows(folded, linear, group), all_rows(folded, constant, group), bool(norms))
