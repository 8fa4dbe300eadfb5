"""How windows lie on an axis: padding and sizes, as TensorFlow counts them."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def same_padding(
    sizes: Sequence[int], window: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Numbers before and after each axis, so that there is an output for each stride."""
    before, after = [], []
    for size, width, stride, step in zip(sizes, window, strides, dilation, strict=True):
        total = max((-(-size // stride) - 1) * stride + (width - 1) * step + 1 - size, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return before, after


def padded(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    """`x` (n, channels, *axes) with so many numbers around it. Negative ones cut."""
    amounts = [n for pair in reversed(list(zip(before, after, strict=True))) for n in pair]
    return F.pad(x, amounts, value=value) if any(amounts) else x
