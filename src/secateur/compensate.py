"""Changes to consumers that make up for removed units: by one other unit, or by several."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from secateur.types import Group, Removal


def merged(tensors: Mapping[str, Tensor], group: Group, removal: Removal) -> dict[str, Tensor]:
    """Consumer weights after `removal`: for each a→b, W[:, b] += W[:, a] (unless b is −1), then W[:, a] = 0.

    Of a normed group, all that removed units have becomes 0, and nothing is merged. Returns only the tensors
    that change, of full size; `tensors` is left alone. A removed unit then has no effect on the model's
    outputs, so that dropping it changes nothing more.
    """
    changed: dict[str, Tensor] = {}
    stood_in = torch.zeros_like(removal.into, dtype=torch.bool) if group.normed else removal.into >= 0
    for slot in group.slots if group.normed else group.having("consumer"):
        weight = changed.get(slot.tensor, tensors[slot.tensor]).clone()
        gone = slot.positions[removal.units].reshape(-1)
        source = slot.positions[removal.units[stood_in]].reshape(-1)
        target = slot.positions[removal.into[stood_in]].reshape(-1)
        weight.index_add_(slot.axis, target, weight.index_select(slot.axis, source))
        weight.index_fill_(slot.axis, gone, 0.0)
        changed[slot.tensor] = weight
    return changed


def combined(
    tensors: Mapping[str, Tensor], group: Group, units: Tensor, kept: Tensor, coefficients: Tensor
) -> dict[str, Tensor]:
    """Consumer weights in which `kept` take over shares of `units`: W[:, S] += Σ_a W[:, a]·C[a, S].

    Args:
        coefficients: C, shape (units, kept), the same at every position and tap of a unit.

    Returns:
        The tensors that change, of full size; `tensors` and the columns of other units are left alone.
    """
    changed: dict[str, Tensor] = {}
    for slot in group.having("consumer"):
        weight = changed.get(slot.tensor, tensors[slot.tensor]).clone()
        columns = weight.movedim(slot.axis, 0)
        # shape: (kept, width, …)
        given = torch.tensordot(coefficients.T, columns[slot.positions[units]], dims=1)
        columns.index_add_(0, slot.positions[kept].reshape(-1), given.flatten(0, 1))
        changed[slot.tensor] = weight
    return changed
