"""Random numbers that belong to one input, whatever the batch size and the other inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def draws(
    like: Tensor, rows: Tensor, seed: int, stream: int, draw: Callable[[Tensor, torch.Generator], object]
) -> Tensor:
    """A tensor of the shape and type of `like` (b, …), on the CPU.

    `draw(part, generator)` fills one input's part.

    Each input's generator follows from `seed`, `stream` (a number that tells several draws for it apart) and
    its place in the data, `rows` (b,).
    """
    generator = torch.Generator()
    found = torch.empty(like.shape, dtype=like.dtype)
    for part, row in zip(found, rows.tolist(), strict=True):
        generator.manual_seed(((seed * 1_000_003 + stream) * 1_000_003 + row) % 2**63)
        draw(part, generator)
    return found


def uniform(like: Tensor, rows: Tensor, seed: int, stream: int = 0) -> Tensor:
    """Uniform in [−1, 1]."""
    return draws(like, rows, seed, stream, lambda part, generator: part.uniform_(-1, 1, generator=generator))


def normal(like: Tensor, rows: Tensor, seed: int, stream: int = 0) -> Tensor:
    """Standard normal."""
    return draws(like, rows, seed, stream, lambda part, generator: part.normal_(generator=generator))
