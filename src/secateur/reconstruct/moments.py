"""Second moments of what a consumer reads and of what it should give, in float64."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

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
