"""Rows of linear bounds that see a window of an image, as those of one place of a convolution do.

Coefficients are held for the window alone, (rows, 1, channels, height, width), with its corner for each row.
Places outside the image are zero padding, whose coefficients do not count. `window_rules` takes windows
through the ops of convolutional networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Everywhere:
    """Rows that see all of a value; `box`: (rows,), the box that each is about."""

    box: Tensor

    def at(self, value: Tensor) -> Tensor:
        """What is known for each row's box: (boxes, …) → (rows, …)."""
        return value[self.box] if len(value) > 1 else value

    def of_box(self, value: Tensor) -> Tensor:
        """One number for each box: (boxes,) → (rows,)."""
        return self.at(value)

    def flat(self, c: Tensor) -> Tensor:
        """The numbers of all rows, one row after the other, as they lie in memory."""
        return c.reshape(-1)

    def unflat(self, c: Tensor, shape: Sequence[int]) -> Tensor:
        """The reverse, for rows of `shape`."""
        return c.reshape(len(self.box), *shape)


@dataclass(frozen=True, eq=False)
class Window:
    """Rows that see `height` × `width` places of an image, the corner at (top, left), (rows,) each.

    `steps`: how far apart the places are, down and across; only what a slice passes on has gaps.
    """

    box: Tensor
    top: Tensor
    left: Tensor
    height: int
    width: int
    steps: tuple[int, int] = (1, 1)

    @property
    def extent(self) -> tuple[int, int]:
        """From the first row and column to the last, both included."""
        return (self.height - 1) * self.steps[0] + 1, (self.width - 1) * self.steps[1] + 1

    def at(self, value: Tensor) -> Tensor:
        """(boxes, 1, channels, H, W) → (rows, 1, channels, height, width); beyond the edges, the edge."""
        image = value[:, 0].permute(0, 2, 3, 1)  # channels last: places are what is picked
        y, x = self._rows(image.shape[1]), self._columns(image.shape[2])
        box = self.box if len(value) > 1 else torch.zeros_like(self.box)
        return image[box[:, None, None], y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)[:, None]

    def of_box(self, value: Tensor) -> Tensor:
        """One number for each box: (boxes,) → (rows,)."""
        return value[self.box] if len(value) > 1 else value

    def flat(self, c: Tensor) -> Tensor:
        """The numbers of all rows, one row after the other, channels last, as they lie in memory."""
        return c.movedim(2, -1).reshape(-1)

    def unflat(self, c: Tensor, shape: Sequence[int]) -> Tensor:
        """The reverse, for rows of `shape`."""
        return c.reshape(len(self.box), 1, *shape[2:], shape[1]).movedim(-1, 2)

    def leaves(self, shape: Sequence[int]) -> bool:
        """Whether a place of some window is outside of an image of `shape`."""
        down, across = self.extent
        bottom, right = shape[-2] - down, shape[-1] - across
        return bool(((self.top < 0) | (self.left < 0) | (self.top > bottom) | (self.left > right)).any())

    def inside(self, shape: Sequence[int]) -> Tensor:
        """Which places of the window are in an image of `shape`, (rows, 1, 1, height, width)."""
        y = self.top[:, None] + self.steps[0] * torch.arange(self.height, device=self.top.device)
        x = self.left[:, None] + self.steps[1] * torch.arange(self.width, device=self.top.device)
        y_in, x_in = (y >= 0) & (y < shape[-2]), (x >= 0) & (x < shape[-1])
        return (y_in[:, :, None] & x_in[:, None, :])[:, None, None]

    def _rows(self, size: int) -> Tensor:
        return (self.top[:, None] + torch.arange(self.height, device=self.top.device)).clamp(0, size - 1)

    def _columns(self, size: int) -> Tensor:
        return (self.left[:, None] + torch.arange(self.width, device=self.top.device)).clamp(0, size - 1)


Where = Everywhere | Window


def fitted(coefficients: Tensor | None, where: Window, shape: Sequence[int]) -> Tensor | None:
    """The coefficients with zeros outside the image."""
    if coefficients is None or not where.leaves(shape):
        return coefficients
    return torch.where(where.inside(shape), coefficients, 0.0)


def whole(coefficients: Tensor, where: Window, shape: Sequence[int]) -> Tensor:
    """The coefficients of the whole image."""
    own = Window(torch.arange(len(where.top)), -where.top, -where.left, shape[-2], shape[-1])
    return torch.where(own.inside((where.height, where.width)), own.at(coefficients), 0.0)


def of_image(where: Window, shape: Sequence[int]) -> Window:
    """The window that is the whole image."""
    corner = torch.zeros_like(where.top)
    return replace(where, top=corner, left=corner, height=shape[-2], width=shape[-1])


def move_apart(a: Window, b: Window) -> bool:
    """Whether the offset between the windows is not the same for all rows."""
    return not bool(
        (b.top - a.top == b.top[0] - a.top[0]).all() and (b.left - a.left == b.left[0] - a.left[0]).all()
    )


def joined(windows: Sequence[Window]) -> Window:
    """The least window without gaps that holds all; of those that move with the first."""
    first = windows[0]
    down = [int(w.top[0] - first.top[0]) for w in windows]
    right = [int(w.left[0] - first.left[0]) for w in windows]
    bottom = max(y + w.extent[0] for y, w in zip(down, windows, strict=True))
    end = max(x + w.extent[1] for x, w in zip(right, windows, strict=True))
    top, left = min(down), min(right)
    return Window(first.box, first.top + top, first.left + left, bottom - top, end - left)


def added(parts: Sequence[tuple[Tensor, Window]], union: Window) -> Tensor | None:
    """The sum of coefficients of windows within `union`, which move with it."""
    if not parts:
        return None
    c, window = parts[0]
    if len(parts) == 1 and (window.height, window.width) == (union.height, union.width):
        return c
    total = c.new_zeros((len(c), union.height, union.width, c.shape[2])).permute(0, 3, 1, 2)[:, None]
    for c, window in parts:
        y, x = int(window.top[0] - union.top[0]), int(window.left[0] - union.left[0])
        (down, across), (sy, sx) = window.extent, window.steps
        total[..., y : y + down : sy, x : x + across : sx] += c
    return total
