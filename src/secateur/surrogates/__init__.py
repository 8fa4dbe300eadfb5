"""Surrogates: inputs made from the model alone. One function (source, count) → inputs, one row here."""

from __future__ import annotations

from collections.abc import Callable

from secateur.surrogates.bn_moments import bn_moments
from secateur.surrogates.choice import auto, bn_inversion, inversion, mixture, ranks, shapes
from secateur.surrogates.noise import pink, spectrum, uniform
from secateur.surrogates.source import Inputs, Source
from secateur.surrogates.writing import written
from secateur.types import Samples

__all__ = ["SURROGATES", "Inputs", "Source"]

SURROGATES: dict[str, Callable[[Source, int], Inputs | Samples]] = {
    "uniform": uniform,
    "pink": pink,
    "spectrum": spectrum,
    "shapes": shapes,
    "inversion": inversion,
    "bn_inversion": bn_inversion,
    "bn_moments": bn_moments,
    "mixture": mixture,
    "ranks": ranks,
    "written": written,
    "auto": auto,
}
