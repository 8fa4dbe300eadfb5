"""Mean and variance of each channel over samples and space, of batches that are joined."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ChannelMoments:
    """Of each channel, in float64."""

    count: int
    mean: Tensor
    squares: Tensor  # sum about the mean

    @staticmethod
    def of(x: Tensor) -> ChannelMoments:
        """Of one batch, shape (n, channels, ...), without gradients.

        `torch.var_mean` would take four times as long on a CPU, by Welford's recurrence; sums in the
        precision of x are of one sample.
        """
        flat = x.detach().contiguous().reshape(len(x), x.shape[1], -1)  # the same bits in any layout
        mean = flat.mean(2).double().mean(0)
        gaps = torch.linalg.vector_norm(flat - mean.to(x.dtype)[:, None], dim=2)
        count = x.numel() // x.shape[1]
        return ChannelMoments(count, mean.cpu(), gaps.double().square().sum(0).cpu())

    def __add__(self, other: ChannelMoments) -> ChannelMoments:
        """Of both batches together (Chan, Golub & LeVeque 1979)."""
        total, gap = self.count + other.count, other.mean - self.mean
        mean = self.mean + gap * (other.count / total)
        squares = self.squares + other.squares + gap.square() * (self.count * other.count / total)
        return ChannelMoments(total, mean, squares)

    @property
    def variance(self) -> Tensor:
        return self.squares / self.count
