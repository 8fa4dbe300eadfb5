"""Independent draws from a declared distribution: balls round inputs, surrogates, or a user's data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.bounds.box import input_box
from secateur.errors import InputError
from secateur.graph.graph import Graph
from secateur.surrogates import Source
from secateur.surrogates.choice import drawing_families
from secateur.surrogates.forward import join
from secateur.surrogates.noise import pink, uniform
from secateur.surrogates.source import Inputs
from secateur.types import Interval

INDEPENDENT = ("shapes", "uniform", "pink")  # surrogates whose draws do not depend on each other


@dataclass(frozen=True, eq=False)
class Draws:
    """How to draw inputs, one for each number of a ball (n,), of a row of the data, or of nothing."""

    draw: Callable[[Tensor], Inputs]
    sets: int = 1  # balls; 1 for any other distribution
    given: int | None = None  # inputs, where no more can be drawn

    def rows(self, each: int) -> Tensor:
        """The numbers to draw for, with `each` draws of every set."""
        if self.given is not None:
            return torch.arange(self.given)
        return torch.arange(self.sets).repeat_interleave(each)


def in_balls(
    points: Sequence[Tensor], boxes: Sequence[Interval], eps: float, norm: str, generator: torch.Generator
) -> Draws:
    """Uniform in the ball of each point; `boxes` are the L∞ balls cut with the input box, (N, …) each.

    L2: uniform in the whole ball; what falls outside of the box is moved to its nearest point.
    """

    def draw(rows: Tensor) -> Inputs:
        return tuple(one(x[rows], _at(box, rows)) for x, box in zip(points, boxes, strict=True))

    def one(centre: Tensor, box: Interval) -> Tensor:
        if not centre.is_floating_point():
            return centre
        if norm == "linf":
            share = torch.rand(centre.shape, generator=generator, dtype=torch.float64)
            return box.lower + share * (box.upper - box.lower)
        away = torch.randn(centre.shape, generator=generator, dtype=torch.float64).flatten(1)
        radius = torch.rand(len(centre), 1, generator=generator, dtype=torch.float64) ** (1 / away.shape[1])
        moved = (eps * radius * away / away.norm(dim=1, keepdim=True)).reshape(centre.shape)
        return torch.minimum(torch.maximum(centre + moved, box.lower), box.upper)

    return Draws(draw, len(points[0]))


def _at(box: Interval, rows: Tensor) -> Interval:
    whole = len(box.lower) == 1
    return Interval(*(end if whole else end[rows] for end in (box.lower, box.upper)))


def of_surrogate(graph: Graph, input_bounds: object, surrogate: str, generator: torch.Generator) -> Draws:
    """Fresh draws of a surrogate; of `shapes`, each is of a kind drawn at random."""
    if surrogate not in INDEPENDENT:
        raise InputError(
            f"surrogate={surrogate!r}: its samples are selected or moved together, so that they are no "
            f"independent draws; give {', '.join(INDEPENDENT[:-1])} or {INDEPENDENT[-1]}"
        )
    source = Source(graph, input_box(graph, input_bounds, dtype=torch.float32), generator)
    if surrogate != "shapes":
        function = pink if surrogate == "pink" else uniform
        return Draws(lambda rows: function(source, len(rows)))
    if source.text is not None and source.text.kind != "other":
        raise InputError(
            "surrogate='shapes': of language models, these are a few sequences that the model writes; give "
            "uniform, or texts of your own as tokens (distribution='data')"
        )
    families = drawing_families(source)

    def draw(rows: Tensor) -> Inputs:
        kinds = torch.randint(len(families), (len(rows),), generator=generator)
        counts = torch.bincount(kinds, minlength=len(families)).tolist()
        parts = (f.draw(source, count) for f, count in zip(families, counts, strict=True) if count)
        return join(parts, len(rows))

    return Draws(draw)


def of_data(points: Sequence[Tensor]) -> Draws:
    """The user's inputs, each once."""
    return Draws(lambda rows: tuple(x[rows] for x in points), given=len(points[0]))
