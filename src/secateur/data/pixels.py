"""Pixels as numbers in a range, and axes in the order in which a model takes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_COLOURS = 4  # at most so many channels are on a last axis


def spread(pixels: Tensor, lower: float | Tensor, upper: float | Tensor) -> Tensor:
    """uint8 `pixels` (n, …) linearly from `lower` (0) to `upper` (255), as float32; the ends broadcast.

    0 and 1 divide by 255; 0 and 255 leave the values as they are.
    """
    return (pixels.to(torch.float32) / 255).mul_(upper - lower).add_(lower)


def colours_last(shape: Sequence[int]) -> bool:
    """Whether a sample of this shape is an image (height, width, colours), as Keras and TensorFlow have it.

    That is where the last axis has at most four numbers, and the first one more.
    """
    return len(shape) == 3 and shape[2] <= _COLOURS < shape[0]


def laid_out(x: Tensor, shape: tuple[int, ...] | None) -> Tensor:
    """`x` (n, …) with its axes as in `shape`, that of one sample, where one of two changes makes it fit.

    (n, h, w) becomes (n, 1, h, w), and (n, h, w, c) becomes (n, c, h, w). Otherwise, and without a shape, `x`
    as it is.
    """
    if shape is None or tuple(x.shape[1:]) == shape:
        return x
    if (1, *x.shape[1:]) == shape:
        return x[:, None]
    if x.ndim == 4 and (x.shape[3], *x.shape[1:3]) == shape:
        return x.permute(0, 3, 1, 2).contiguous()
    return x
