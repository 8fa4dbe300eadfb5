"""Second moments of what a consumer reads and of what it should give, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.reconstruct.few_rows import FewRows

_ROWS = 2048  # that are multiplied at once, at least
_NARROW = 128  # features up to which products in float64 cost next to nothing
_WIDE = 4096  # features from which rows stay as they are while they are few


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

    def grown(self, other: Moments) -> Moments:
        """The sum in the place of these moments, which are gone."""
        for mine, more in zip(self.parts, other.parts, strict=True):
            mine += more
        return replace(self, count=self.count + other.count)

    @property
    def finite(self) -> bool:
        return all(bool(torch.isfinite(part).all()) for part in self.parts)

    @property
    def parts(self) -> tuple[Tensor, ...]:
        return self.x, self.y, self.xx, self.yx, self.yy

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        return self.x / self.count, self.y / self.count

    def without(self, bias: Tensor) -> Moments:
        """The same with `bias`, of shape (B, O), taken off the targets."""
        y = self.y - self.count * bias
        yx = self.yx - bias[:, :, None] * self.x[:, None]
        return replace(self, y=y, yx=yx, yy=self.yy - bias * (self.y + y))

    def variances(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Of the outputs that `weight` gives, and of the targets; shapes: (B, O)."""
        xx, _ = self.normal(True)
        return ((weight @ xx) * weight).sum(2), self.yy / self.count - (self.y / self.count).square()

    def normal(self, intercept: bool) -> tuple[Tensor, Tensor]:
        """E[xxᵀ] and E[yxᵀ], about the means where an intercept takes these up.

        Shapes: (B, D, D), (B, O, D).
        """
        xx, yx = self.xx / self.count, self.yx / self.count
        if intercept:
            x, y = self.means
            xx.addcmul_(x[:, :, None], x[:, None], value=-1)
            yx.addcmul_(y[:, :, None], x[:, None], value=-1)
        return xx, yx

    def of_features(self, at: Tensor) -> Moments:
        """The same of the features `at`, of shape (D′,)."""
        return replace(self, x=self.x[:, at], xx=self.xx[:, at[:, None], at], yx=self.yx[:, :, at])


class MomentSum:
    """Moments of blocks of rows that arrive one after the other.

    Rows are collected before they are multiplied, since a product of few rows costs as much memory traffic as
    one of many. Of very wide layers they are kept as long as they are less than half of the features.
    """

    def __init__(self) -> None:
        self._total: Moments | None = None
        self._x, self._y, self._waiting = list[Tensor](), list[Tensor](), 0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Rows of shape (B, n, D) and (B, n, O)."""
        self._x.append(x)
        self._y.append(y)
        self._waiting += x.shape[1]
        if self._waiting >= max(_at_once(*x.shape[::2]), _most_kept(x.shape[2])):
            self._multiply()

    def total(self) -> Moments | FewRows:
        assert self._total is not None or self._waiting, "no rows"
        if self._total is None and self._waiting < _most_kept(self._x[0].shape[2]):
            return FewRows(torch.cat(self._x, 1), torch.cat(self._y, 1))
        return self._multiply()

    def _multiply(self) -> Moments:
        if self._waiting:
            found = Moments.of(torch.cat(self._x, 1), torch.cat(self._y, 1))
            self._x, self._y, self._waiting = [], [], 0
            self._total = found if self._total is None else self._total.grown(found)
        assert self._total is not None
        return self._total


def sum_of(parts: Sequence[Moments | FewRows]) -> Moments | FewRows:
    """Of rows alone they stay rows."""
    rows = [part for part in parts if isinstance(part, FewRows)]
    if len(rows) == len(parts):
        return FewRows(torch.cat([part.x for part in rows], 1), torch.cat([part.y for part in rows], 1))
    first, *rest = (Moments.of(p.x, p.y) if isinstance(p, FewRows) else p for p in parts)
    return sum(rest, first)


def _at_once(blocks: int, features: int) -> int:
    """Rows that are multiplied at once, at least; of many channel groups as few as are worth a product."""
    return min(_ROWS, max(16 * features, _ROWS // blocks))


def _most_kept(features: int) -> int:
    """Rows of a very wide layer, of which there must be less for them to be kept; 0 for other layers."""
    return features // 2 if features >= _WIDE else 0
