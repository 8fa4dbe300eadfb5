"""Families of inputs to choose from: pictures where there is space, tables of numbers where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from secateur.surrogates.box import from_units
from secateur.surrogates.frequency import priors
from secateur.surrogates.layout import Layout, layouts
from secateur.surrogates.noise import sensitive_directions
from secateur.surrogates.photographs import photographs
from secateur.surrogates.shapes import DRAWINGS, Drawing
from secateur.surrogates.source import Inputs, Source

DRAWN = 2**26  # numbers in inputs that are drawn at once
_PICTURE = 16  # points along each side, from which an input may show a photograph
_LEVELS = (0.1, 0.3, 0.5, 0.7)
_CONTRASTS = (0.08, 0.2)


@dataclass(frozen=True, eq=False)
class Family:
    """One way to draw inputs, and where its space is (for the smoothing of steps)."""

    name: str
    layout: tuple[Layout, ...]  # one for each input
    unit: Callable[[int, int], Tensor]  # (input, count) → numbers of the unit cube, shape (count, *shape)
    ids: Tensor | None = None  # probabilities of the tokens, (vocabulary,), where an input is text

    def draw(self, source: Source, count: int) -> Inputs:
        return from_units(source, count, lambda index: self.unit(index, count), self.ids)

    def parts(self, source: Source, count: int) -> Iterator[Inputs]:
        """`count` inputs, of large ones some at a time."""
        most = max(1, DRAWN // sum(x[0].numel() for x in source.graph.example))
        for start in range(0, count, most):
            yield self.draw(source, min(most, count - start))


def families(source: Source) -> list[Family]:
    """Every drawing in every layout that has space, and tables of numbers where one input has none.

    Tables are of independent numbers and of combinations of sensitive directions. Of text, every guess of how
    frequent the tokens are is a family. Other integers are all drawn alike: a model that takes nothing else
    has one family.
    """
    found = [layouts(source, i) for i in range(len(source.graph.inputs))]
    spatial = [
        drawn(source, name, chosen, drawing)
        for chosen in _combinations(found)
        if any(layout.space for layout in chosen)
        for name, drawing in _drawings(chosen).items()
    ]
    if all(layouts_of_one[-1].space for layouts_of_one in found):
        return spatial
    tables = tuple(layouts_of_one[-1] for layouts_of_one in found)
    flat = Family("flat", tables, _numbers(source, lambda u, z: u))
    if not any(x.is_floating_point() for x in source.graph.example):
        if source.text is None:
            return [flat]
        return [Family(f"tokens by {name}", tables, flat.unit, p) for name, p in priors(source).items()]
    return [*spatial, *_tables(source, tables), flat, _sparse(source, tables)]


def _drawings(chosen: Sequence[Layout]) -> dict[str, Drawing]:
    """Photographs too, where all space is that of pictures."""
    pictures = all(len(layout.space) == 2 and min(layout.space) >= _PICTURE for layout in chosen)
    return {**DRAWINGS, "photographs": photographs} if pictures else DRAWINGS


def _combinations(found: Sequence[Sequence[Layout]]) -> Iterator[tuple[Layout, ...]]:
    """The first layout of every input, the second of every input, and so on; the last where one has fewer."""
    for number in range(max(map(len, found))):
        yield tuple(layouts_of_one[min(number, len(layouts_of_one) - 1)] for layouts_of_one in found)


def _tables(source: Source, layout: tuple[Layout, ...]) -> list[Family]:
    """Independent numbers, then combinations of sensitive directions, at every level and contrast."""
    directions = cache(lambda index: sensitive_directions(source, index))
    pairs = [(level, contrast) for level in _LEVELS for contrast in _CONTRASTS]
    return [
        *(_independent(source, layout, level, contrast) for level, contrast in pairs),
        *(_along_directions(source, layout, directions, level, contrast) for level, contrast in pairs),
    ]


def drawn(source: Source, name: str, layout: Sequence[Layout], drawing: Drawing) -> Family:
    """The family of a drawing; independent uniform numbers for inputs without space."""

    def unit(index: int, count: int) -> Tensor:
        place = layout[index]
        if not place.space:
            return torch.rand(count, *place.shape, generator=source.generator)
        return place.place(drawing(count, place.channels, place.space, source.generator))

    return Family(name, tuple(layout), unit)


def _numbers(source: Source, make: Callable[[Tensor, Tensor], Tensor]) -> Callable[[int, int], Tensor]:
    """Independent numbers made from a uniform and a Gaussian one."""

    def unit(index: int, count: int) -> Tensor:
        shape = (count, *source.graph.example[index].shape[1:])
        flat = torch.rand(shape, generator=source.generator)
        return make(flat, torch.randn(shape, generator=source.generator))

    return unit


def _independent(source: Source, layout: tuple[Layout, ...], level: float, contrast: float) -> Family:
    name = f"numbers at {level} ± {contrast}"
    return Family(name, layout, _numbers(source, lambda u, z: level + contrast * z))


def _along_directions(
    source: Source,
    layout: tuple[Layout, ...],
    directions: Callable[[int], Tensor],
    level: float,
    contrast: float,
) -> Family:
    def unit(index: int, count: int) -> Tensor:
        span = directions(index)
        z = torch.randn(count, len(span), generator=source.generator)
        return level + contrast * (z @ span).reshape(count, *source.graph.example[index].shape[1:])

    return Family(f"sensitive directions at {level} ± {contrast}", layout, unit)


def _sparse(source: Source, layout: tuple[Layout, ...]) -> Family:
    """Uniform numbers, most of them set to 0."""
    return Family("sparse", layout, _numbers(source, lambda u, z: u * (z > 0.5)))
