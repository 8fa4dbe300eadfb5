"""A value on its way through a model that keeps channels last.

Layers of torch want channels at axis 1. A value that such a layer made stays so until a layer needs the
order of axes that Keras has: the graph is then the one that a model written in torch would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor, and whether its channels stand at axis 1 where Keras has them last."""

    tensor: Tensor
    first: bool = False

    @property
    def ndim(self) -> int:
        return self.tensor.ndim

    @property
    def shape(self) -> tuple[Any, ...]:
        """As Keras has it."""
        sizes = tuple(self.tensor.shape)
        return (sizes[0], *sizes[2:], sizes[1]) if self.first else sizes

    def plain(self) -> Tensor:
        """Shape: as Keras has it."""
        return self.tensor.movedim(1, -1) if self.first else self.tensor

    def channels_first(self) -> Tensor:
        """Shape: (n, channels, …), of a value whose channels are last in Keras."""
        return self.tensor if self.first or self.ndim < 3 else self.tensor.movedim(-1, 1)

    def axis(self, axis: int) -> int:
        """Where an axis of Keras stands in the tensor."""
        axis %= self.ndim
        if not self.first or axis == 0:
            return axis
        return 1 if axis == self.ndim - 1 else axis + 1

    def like(self, tensor: Tensor) -> Value:
        """`tensor` with its axes in the order of this one."""
        return Value(tensor, self.first)


def aligned(values: Sequence[Value]) -> tuple[list[Tensor], bool]:
    """The tensors in one order of axes, and whether channels are first in it."""
    first = any(v.first for v in values) and len({v.ndim for v in values}) == 1
    return [v.channels_first() if first else v.plain() for v in values], first
