"""Second moments of what a consumer reads and of what it should give, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_ROWS = 2048  # that are multiplied at once, at least
_NARROW = 128  # features up to which products in float64 cost next to nothing


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over rows: x is a layer's input in the pruned network, y its output in the original."""

    count: int
    x: Tensor  # shape: (B, D)
    y: Tensor  # shape: (B, O)
    xx: Tensor  # shape: (B, D, D)
    yx: Tensor  # shape: (B, O, D)
    yy: Tensor  # shape: (B, O): squares

    @staticmethod
    def of(x: Tensor, y: Tensor) -> Moments:
        """Of one block of rows; x: (B, n, D), y: (B, n, O).

        Products of wide layers stay in the rows' precision.
        """
        if x.shape[2] <= _NARROW:
            x, y = x.double(), y.double()
        cross, square = y.mT @ x, x.mT @ x
        sums = x.double().sum(1), y.double().sum(1)
        return Moments(
            x.shape[1], *(t.double().cpu() for t in (*sums, square, cross, y.double().square().sum(1)))
        )

    def __add__(self, other: Moments) -> Moments:
        pairs = zip(self.parts, other.parts, strict=True)
        return Moments(self.count + other.count, *(a + b for a, b in pairs))

    @property
    def finite(self) -> bool:
        return all(bool(torch.isfinite(part).all()) for part in self.parts)

    @property
    def parts(self) -> tuple[Tensor, ...]:
        return self.x, self.y, self.xx, self.yx, self.yy

    def normal(self, intercept: bool) -> tuple[Tensor, Tensor]:
        """E[xxᵀ] and E[yxᵀ], about the means where an intercept takes these up.

        Shapes: (B, D, D), (B, O, D).
        """
        xx, yx = self.xx / self.count, self.yx / self.count
        if intercept:
            x, y = self.x / self.count, self.y / self.count
            xx, yx = xx - x[:, :, None] * x[:, None], yx - y[:, :, None] * x[:, None]
        return xx, yx


class MomentSum:
    """Moments of blocks of rows that arrive one after the other.

    Rows are collected before they are multiplied, since a product of few rows costs as much memory traffic as
    one of many.
    """

    def __init__(self) -> None:
        self._total: Moments | None = None
        self._x, self._y, self._waiting = list[Tensor](), list[Tensor](), 0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Rows of shape (B, n, D) and (B, n, O)."""
        self._x.append(x)
        self._y.append(y)
        self._waiting += x.shape[1]
        if self._waiting >= _ROWS:
            self._multiply()

    def total(self) -> Moments:
        if self._waiting:
            self._multiply()
        assert self._total is not None, "no rows"
        return self._total

    def _multiply(self) -> None:
        found = Moments.of(torch.cat(self._x, 1), torch.cat(self._y, 1))
        self._total = found if self._total is None else self._total + found
        self._x, self._y, self._waiting = [], [], 0
