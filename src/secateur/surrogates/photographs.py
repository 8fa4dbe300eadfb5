"""Crops of a few photographs that secateur ships: generic pictures, not the data of any model.

One picture that is cut and changed enough teaches much of what natural images are like (Asano & Saeed 2023,
arXiv 2112.00725). The photographs are in the public domain; `benchmarks/photographs.py` lists them.
"""

from __future__ import annotations

import math
from functools import cache
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_SMALLEST = 0.15  # crop, in shares of the photograph's shorter side
_TURN = 0.35  # radians, at most
_STRETCH = 0.15  # logarithm of the ratio of sides, at most
_SWAPPED, _GREY, _BLENDED = (
    0.3,
    0.1,
    0.15,
)  # shares of crops: colours in another order, no colours, two in one
_TOGETHER = 64  # crops that are sampled at once


def photographs(n: int, channels: int, space: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Turned, mirrored and stretched crops in changed colours, some of them blends of two."""
    crops, others = (_coloured(_crops(n, space, generator), generator) for _ in range(2))
    weight = torch.rand(n, 1, 1, 1, generator=generator)
    blended = torch.rand(n, 1, 1, 1, generator=generator) < _BLENDED
    x = torch.where(blended, torch.lerp(crops, others, weight), crops)
    return x.mean(1, keepdim=True) if channels == 1 else x[:, torch.arange(channels) % 3]


@cache
def _photographs() -> tuple[Tensor, ...]:
    """All photographs, each (1, 3, height, width), in [0, 1]."""
    with files("secateur.surrogates").joinpath("photographs.npz").open("rb") as file:
        pixels = [
            torch.from_numpy(array).float() / 252 for array in np.load(file, allow_pickle=False).values()
        ]
    colours = [x.movedim(2, 0) if x.ndim == 3 else x.expand(3, *x.shape) for x in pixels]
    return tuple(x[None] for x in colours)


@cache
def _halved(number: int, halvings: int) -> Tensor:
    """One photograph, each side halved so often."""
    if not halvings:
        return _photographs()[number]
    return functional.avg_pool2d(_halved(number, halvings - 1), 2)


def _crops(n: int, space: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Of a photograph each; shape: (n, 3, *space)."""
    which = torch.randint(len(_photographs()), (n,), generator=generator)
    side = _SMALLEST ** torch.rand(n, generator=generator)
    stretch = (_STRETCH * _signed(n, generator)).exp()
    mirror = _signed(n, generator).sign()
    turn, place = _TURN * _signed(n, generator), _signed(2 * n, generator).reshape(n, 2)
    out = torch.empty(n, 3, *space)
    for number in which.unique().tolist():
        height, width = _photographs()[number].shape[2:]
        half = torch.stack([side * stretch / width, side / stretch / height], 1) * min(height, width)
        centre = place * (1 - half).clamp_min(0.0)
        x, y = (half * torch.stack([mirror, torch.ones(n)], 1)).T
        theta = torch.stack([
            torch.stack([x * turn.cos(), -half[:, 0] * turn.sin(), centre[:, 0]], 1),
            torch.stack([half[:, 1] * mirror * turn.sin(), y * turn.cos(), centre[:, 1]], 1),
        ], 1)  # fmt: skip
        for rows in (which == number).nonzero().flatten().split(_TOGETHER):
            # so many times as fine as what is drawn, at most: averages first, then interpolates
            finer = float(side[rows].max()) * min(height, width) / max(space)
            source = _halved(number, max(0, int(math.log2(max(1.0, finer)))))
            grid = functional.affine_grid(theta[rows], [len(rows), 3, *space], align_corners=False)
            out[rows] = functional.grid_sample(
                source.expand(len(rows), -1, -1, -1), grid, padding_mode="reflection", align_corners=False
            )
    return out


def _coloured(x: Tensor, generator: torch.Generator) -> Tensor:
    """Other contrast, brightness and balance of colours."""
    n = len(x)
    order = torch.rand(n, 3, generator=generator).argsort(1)
    order = torch.where(torch.rand(n, 1, generator=generator) < _SWAPPED, order, torch.arange(3))
    x = x.gather(1, order[:, :, None, None].expand_as(x))
    grey = torch.rand(n, 1, 1, 1, generator=generator) < _GREY
    x = torch.where(grey, x.mean(1, keepdim=True), x)
    mean = x.mean((1, 2, 3), keepdim=True)
    contrast = (0.3 * torch.randn(n, 1, 1, 1, generator=generator)).exp()
    balance = (0.15 * torch.randn(n, 3, 1, 1, generator=generator)).exp()
    level = 0.1 * torch.randn(n, 1, 1, 1, generator=generator)
    return (((x - mean) * contrast + mean + level) * balance).clamp(0, 1)


def _signed(n: int, generator: torch.Generator) -> Tensor:
    """Uniform between −1 and 1."""
    return 2 * torch.rand(n, generator=generator) - 1
