"""Noise: uniform over the box, smooth in space, or along the directions that move the outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.surrogates.box import from_units, noise
from secateur.surrogates.layout import input_gradients, layouts
from secateur.surrogates.shapes import clouds
from secateur.surrogates.source import Inputs, Source

_LEVELS = (0.1, 0.25, 0.5, 0.75)
_PROBES = 512


def uniform(source: Source, count: int) -> Inputs:
    """Independent numbers, uniform over the box. Cost: none."""
    return noise(source, count)


def pink(source: Source, count: int) -> Inputs:
    """Noise with spectrum 1/f^p along the axes of space, p from 0.5 to 2, of any level and contrast.

    Uniform where there is no space. Cost: a Fourier transform.
    """

    def draw(index: int) -> Tensor:
        layout = layouts(source, index)[0]
        if not layout.space:
            return torch.rand(count, *layout.shape, generator=source.generator)
        return layout.place(clouds(count, layout.channels, layout.space, source.generator))

    return from_units(source, count, draw)


def spectrum(source: Source, count: int) -> Inputs:
    """Gaussian noise along the input directions that move the outputs, of several levels and contrasts.

    The directions are the right singular vectors of gradients at random inputs (for a linear first layer: of
    its row space) above the Marchenko–Pastur edge. Cost: 512 backward passes and one singular value
    decomposition.
    """

    def draw(index: int) -> Tensor:
        shape = source.graph.example[index].shape[1:]
        directions = sensitive_directions(source, index)
        return along(directions, count, source.generator).reshape(count, *shape)

    return from_units(source, count, draw)


def sensitive_directions(source: Source, index: int) -> Tensor:
    """Directions of the input that move the outputs, scaled to mean square 1 over numbers; shape: (k, size).

    The length of each is in proportion to the root of its singular value.
    """
    _, value, vector = torch.linalg.svd(input_gradients(source, index, _PROBES), full_matrices=False)
    size = vector.shape[1]
    if not bool(value[:1] > 0):
        every: Tensor = torch.eye(size)[: min(size, _PROBES)] * size**0.5
        return every
    # noise of deviation σ has singular values up to σ(√m + √n); the smaller half tells σ
    edge = value[len(value) // 2 :].square().mean().sqrt() / _PROBES**0.5 * (_PROBES**0.5 + size**0.5)
    keep = value > torch.minimum(edge, value[0] * 0.3)
    scaled: Tensor = value[keep].sqrt()[:, None] * vector[keep]
    even: Tensor = scaled * (size / scaled.square().sum()).sqrt()
    return even


def along(directions: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Unit numbers: level + contrast · Gaussian noise in the span of `directions` (k, size).

    Shape: (count, size).
    """
    level = torch.tensor(_LEVELS)[torch.randint(len(_LEVELS), (count, 1), generator=generator)]
    contrast = 0.1 + 0.3 * torch.rand(count, 1, generator=generator)
    return level + contrast * (torch.randn(count, len(directions), generator=generator) @ directions)
