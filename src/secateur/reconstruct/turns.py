"""Rows or columns of tensors that are multiplied by a matrix, head by head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Turn:
    """Indices of one tensor that are multiplied by a matrix, head by head."""

    tensor: str
    axis: int
    positions: Tensor  # shape: (heads, units)
    matrix: Tensor  # shape: (heads, units, units)

    def of(self, tensor: Tensor) -> Tensor:
        """The tensor, turned; float64."""
        turned = tensor.movedim(self.axis, 0).clone()
        rows = turned[self.positions].flatten(2) if turned.ndim > 1 else turned[self.positions][..., None]
        turned[self.positions] = (self.matrix @ rows).reshape(turned[self.positions].shape)
        return turned.movedim(0, self.axis).contiguous()

    def back(self) -> Turn:
        """The turn that undoes this one."""
        return replace(self, matrix=torch.linalg.inv(self.matrix))


def turned(tensors: Mapping[str, Tensor], turns: Iterable[Turn]) -> dict[str, Tensor]:
    """New values of the tensors that are turned."""
    found = dict[str, Tensor]()
    for turn in turns:
        found[turn.tensor] = turn.of(found.get(turn.tensor, tensors[turn.tensor]))
    return found
