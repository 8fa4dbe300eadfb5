"""Infer from a model alone which normalisation of its input images it was trained with.

A model that expects (x − mean) / std but is given x predicts badly, without any error. Batch norms show the
mistake: their running statistics are those of normalised images. Without batch norm, activations show it: if
inputs are too small or their mean is wrong, units are always active or always inactive, and few classes are
predicted; if inputs are too large, the scores of one image differ by hundreds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.bounds.box import input_box
from secateur.data.pixels import colours_last
from secateur.errors import InputError
from secateur.graph.graph import Graph
from secateur.graph.interpret import sizes_of_values
from secateur.presets import PRESETS, Preset
from secateur.surrogates.fit import Fit, fit
from secateur.surrogates.forward import classes
from secateur.surrogates.shapes import DRAWINGS
from secateur.surrogates.source import Source

GIVEN = "as given"

_EACH, _FEWEST = 14, 2  # drawings of each kind: as many as memory allows, between these two
_OWN = 126  # of the user's images, at most
_NUMBERS = 2**28  # values of all nodes in one pass, at most

# The margin by which another candidate must fit better to be reported, in nats. Chosen on small networks of
# known normalisation (benchmarks/normalisation.py) so that no correct one is doubted.
_CLEAR_BY_BATCH_NORM = 0.2
_CLEAR = 0.6
_CLEAR_WITHOUT_CLASSES = 1.2  # larger, since nothing then shows that inputs are too large
# A candidate with inputs 20 times larger than as given pays 0.9 nats, since biases never count against it.
_LARGE, _HANDICAP = 20.0, 0.9
_WIDE = 25.0  # spread of scores; beyond it, each factor e costs a nat
# Information in nats below which each factor e costs half a nat, down to the last number.
_SILENT, _SILENCE, _LEAST = 0.2, 0.5, 0.01
# Candidates within this log ratio of std and this difference of means, in units of std, count as the same.
_CLOSE = (math.log(1.35), 0.35)

CANDIDATES: dict[int, dict[str, Preset]] = {
    3: {
        "none": PRESETS["none"],
        "imagenet": PRESETS["imagenet"],  # covers cifar10, too, which is too close to be told apart
        "minus1to1": PRESETS["minus1to1"],
        "0 to 255": Preset((0.0, 255.0)),
    },
    1: {
        "none": PRESETS["none"],
        "minus1to1": PRESETS["minus1to1"],
        "0 to 255": Preset((0.0, 255.0)),
        "standardised, dark": Preset((0.0, 1.0), (0.13,), (0.31,)),
        "standardised": Preset((0.0, 1.0), (0.29,), (0.35,)),
        "standardised, bright": Preset((0.0, 1.0), (0.45,), (0.225,)),
    },
}


@dataclass(frozen=True)
class Finding:
    """How well the assumed normalisation fits the model, compared with others.

    Attributes:
        likeliest: A key of `scores`; empty where nothing can be inferred.
        scores: Name of a candidate → how badly it fits, in nats. `GIVEN` is the assumed normalisation.
        clear: Whether another candidate than the assumed one fits clearly better.
        evidence: One sentence with figures; where nothing can be inferred, why.
        preset: The likeliest candidate, if it is not the assumed one.
    """

    likeliest: str
    scores: Mapping[str, float]
    clear: bool
    evidence: str
    preset: Preset | None = None


def likely_normalisation(
    graph: Graph,
    bounds: Any,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    *,
    seed: int = 0,
    images: Tensor | None = None,
) -> Finding:
    """Compare the assumed normalisation, (x − mean) / std of images x between `bounds`, with common ones.

    Applies to models with one floating-point input of shape (n, 1 or 3, h, w) or (n, h, w, 1 or 3) and
    finite bounds; for others, `evidence` says why not. Cost: at most 7 forward passes of 126 images; of
    fewer, at least 18, where a pass has more than 2**28 values.

    Args:
        graph: The captured model.
        bounds: The legal range of the images, (low, high).
        mean: One value for each channel, one for all, or empty.
        std: The same.
        seed: Seed of the drawings.
        images: The user's own, shape (n, c, h, w), in units of `bounds`; at most 126 are used. Default:
            drawings.

    Raises:
        InputError: `mean` or `std` has another number of channels than the images.
    """
    why = _does_not_apply(graph, bounds)
    if why:
        return Finding("", {}, False, why)
    low, high = map(float, bounds)
    shape = graph.example[0].shape[1:]
    given = _of_units(Preset((low, high), tuple(mean), tuple(std)), shape)
    found = {name: _of_units(preset, shape) for name, preset in CANDIDATES[_channels(shape)].items()}
    units = {GIVEN: given, **{name: other for name, other in found.items() if not _alike(given, other)}}
    generator = torch.Generator().manual_seed(seed)
    source = Source(graph, input_box(graph, (0.0, 1.0), dtype=torch.float32), generator)
    parts = _drawn(source) if images is None else _own(graph, (images - low) / (high - low))
    return _compared(source, units, parts)


def _does_not_apply(graph: Graph, bounds: Any) -> str:
    example = graph.example[0]
    if len(graph.inputs) != 1 or not example.is_floating_point() or example.ndim != 4:
        return "the model does not take one batch of images (n, channels, height, width)"
    if _channels(example.shape[1:]) not in CANDIDATES:
        return f"the input has {_channels(example.shape[1:])} channels; normalisations are known for 1 and 3"
    ends = bounds if isinstance(bounds, tuple | list) else ()
    if len(ends) != 2 or not all(isinstance(end, int | float) and math.isfinite(end) for end in ends):
        return "input_bounds are not two finite numbers"
    if not ends[0] < ends[1]:
        return "input_bounds have no width"
    return ""


# --- candidates ---------------------------------------------------------------------------------------------


# Mean and std of images in [0, 1], shape: (channels, 1, 1), or (colours,) where these are last; float64.
Affine = tuple[Tensor, Tensor]


def _channels(shape: Sequence[int]) -> int:
    return shape[-1] if colours_last(shape) else shape[0]


def _of_units(preset: Preset, shape: Sequence[int]) -> Affine:
    (low, high), channels = preset.bounds, _channels(shape)
    for name, values in (("mean", preset.mean), ("std", preset.std)):
        if len(values) not in (0, 1, channels):
            raise InputError(
                f"{name} has {len(values)} values for images of {channels} channels; give one for each"
            )
    axes = (-1,) if colours_last(shape) else (-1, 1, 1)
    mean, std = (
        torch.tensor(values, dtype=torch.float64).expand(channels).reshape(axes)
        for values in (preset.mean or (0.0,), preset.std or (1.0,))
    )
    return (mean - low) / (high - low), std / (high - low)


def _alike(first: Affine, second: Affine) -> bool:
    """Whether two are too close to be told apart, as imagenet's statistics and those of CIFAR-10."""
    (mean, std), (other, width) = first, second
    ratio, difference = _CLOSE
    return bool(((std / width).log().abs() < ratio).all() and ((mean - other).abs() < difference * std).all())


# --- images in [0, 1] ---------------------------------------------------------------------------------------


def _each(graph: Graph) -> int:
    """The number of images of each kind of drawing."""
    return max(_FEWEST, min(_EACH, _NUMBERS // (len(DRAWINGS) * max(1, sum(sizes_of_values(graph))))))


def _drawn(source: Source) -> list[Tensor]:
    shape, count = tuple(source.graph.example[0].shape[1:]), _each(source.graph)
    last, channels = colours_last(shape), _channels(shape)
    space = shape[:-1] if last else shape[1:]
    drawn = (drawing(count, channels, space, source.generator) for drawing in DRAWINGS.values())
    return [x.movedim(1, -1) if last else x for x in drawn]


def _own(graph: Graph, images: Tensor) -> list[Tensor]:
    """The user's images: in one batch where memory allows, else in small ones."""
    count = _each(graph)
    return list(images[: min(_OWN, count * len(DRAWINGS))].split(_OWN if count == _EACH else count))


# --- comparison ---------------------------------------------------------------------------------------------


def _compared(source: Source, units: Mapping[str, Affine], parts: Sequence[Tensor]) -> Finding:
    like, total = source.graph.example[0], classes(source)
    fits = {
        name: fit(source, [((x.double() - mean) / std).to(like.dtype) for x in parts], classes=total > 0)
        for name, (mean, std) in units.items()
    }
    marked = {
        name: _score(found) + _handicap(found, units[GIVEN], units[name]) for name, found in fits.items()
    }
    scores = {name: score for name, score in marked.items() if math.isfinite(score)}
    if GIVEN not in scores or len(scores) < 2:
        return Finding(
            "", scores, False, "the model has no layers to ask, or gives values that are not finite"
        )
    best = min(scores, key=scores.__getitem__)
    clear = scores[GIVEN] - scores[best] > _clear(fits[GIVEN])
    said = _said(fits[GIVEN], fits[best], total, sum(map(len, parts)))
    if best == GIVEN:
        return Finding(best, scores, False, "no other normalisation fits better")
    preset = CANDIDATES[_channels(like.shape[1:])][best]
    return Finding(
        best, scores, clear, f"the model seems to take images {_described(best, preset)} ({said})", preset
    )


def _clear(found: Fit) -> float:
    """The margin beyond which another candidate fits clearly better; it depends on the available evidence."""
    if not math.isnan(found.batch_norm):
        return _CLEAR_BY_BATCH_NORM
    return _CLEAR_WITHOUT_CLASSES if math.isnan(found.information) else _CLEAR


def _score(found: Fit) -> float:
    if not math.isnan(found.batch_norm):
        return found.batch_norm
    if math.isnan(found.information):
        return found.bias
    wide = max(0.0, math.log(max(found.spread, _LEAST) / _WIDE))
    return found.bias + wide + _SILENCE * max(0.0, math.log(_SILENT / max(found.information, _LEAST)))


def _handicap(found: Fit, given: Affine, other: Affine) -> float:
    """What a candidate with much larger inputs than as given pays, without batch norm."""
    larger = bool((given[1] > _LARGE * other[1]).all())
    return _HANDICAP if larger and math.isnan(found.batch_norm) else 0.0


def _described(name: str, preset: Preset) -> str:
    if not preset.std:
        return f"from {preset.bounds[0]:g} to {preset.bounds[1]:g} as they are"
    mean, std = (",".join(f"{value:g}" for value in values) for values in (preset.mean, preset.std))
    return f"normalised as {name}, mean {mean} and std {std}"


def _said(given: Fit, best: Fit, total: int, count: int) -> str:
    """The figures in favour of the best candidate."""
    found = []
    if given.batch_norm > best.batch_norm:
        times = math.expm1(given.batch_norm) / max(math.expm1(best.batch_norm), 1e-3)
        found.append(f"the statistics of batch norm are {times:.1f} times nearer than as given")
    if total and given.classes < best.classes:
        classes_said = f"predictions on {count} images fall into {given.classes} of {total} classes as given"
        found.append(f"{classes_said}, {best.classes} so")
    if given.information < min(best.information, _SILENT):
        found.append(
            f"outputs tell {given.information:.2f} nats of the class as given, {best.information:.2f} so"
        )
    if given.spread > max(best.spread, _WIDE):
        found.append(
            f"the scores of an image spread over ±{given.spread:.3g} as given, ±{best.spread:.2g} so"
        )
    if given.bias > best.bias:
        offsets = [math.sqrt(math.expm1(bias)) for bias in (given.bias, best.bias)]
        found.append(
            f"units are off zero by {offsets[0]:.1f} of their deviations as given, {offsets[1]:.1f} so"
        )
    return "; ".join(found)
