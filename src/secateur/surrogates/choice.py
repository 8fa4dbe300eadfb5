"""Surrogates that combine: all families alike, or those for which the model itself speaks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from secateur.errors import InputError
from secateur.graph.finite import first_not_finite
from secateur.surrogates.batch_norm import (
    has_batch_norm,
    match_batch_norm,
    mismatch,
    require_batch_norm,
)
from secateur.surrogates.bn_moments import standardised
from secateur.surrogates.confidence import surest, toward_classes
from secateur.surrogates.effort import Effort, effort_for
from secateur.surrogates.evidence import agreement, draw_probes
from secateur.surrogates.families import DRAWN, Family, drawn, families
from secateur.surrogates.forward import all_log_probabilities, classes, join, require_classes, take
from secateur.surrogates.shapes import DRAWINGS, clouds
from secateur.surrogates.source import Inputs, Source
from secateur.surrogates.writing import written
from secateur.types import Samples

_FEWEST = 32  # samples by which a family is judged
_NUMBERS = 2**27  # in the values that are there at a time, for the samples of one family
_TEMPERATURE = 0.004  # of agreement: a family so much behind the best has 1/e of its share
_BN_TEMPERATURE = 0.1  # the same, of the mismatch of statistics
CORRECTED = 0.75  # of the way from the running statistics to those of the samples
_MOST = 1024  # samples, at most, where some of them are moved to match batch norm
_LEAST = 0.1  # share of the best below which a family is left out
_PRIOR = 0.1  # weight of what weights tell of their inputs, without batch norm to tell more
_LENGTH = 0.011  # of a step, root of the mean square in units of the box
_SOFTNESS = 1.0  # points
_JUDGED = 16  # sequences, at most, of `shapes` for language models: there is a decision at each token


def shapes(source: Source, count: int) -> Inputs:
    """All drawings in equal shares: strokes, leaves, blobs, clouds, dark on bright too.

    Tables of numbers where there is no space, for language models a few sequences of their own (see
    `written`). Only the model's shapes are used. Cost: about 1 ms for a small picture.
    """
    if source.text is not None and source.text.kind != "other":
        return written(source, min(count, _JUDGED)).inputs
    drawings = drawing_families(source)
    return _pooled(source, drawings, [1.0] * len(drawings), count)


def drawing_families(source: Source) -> list[Family]:
    """The families of `shapes`."""
    found = families(source)
    return [family for family in found if family.name in DRAWINGS] or found


def ranks(source: Source, count: int) -> Samples:
    """Independent tokens, frequent ones as often as in a text: by the best founded guess of their ranks.

    A language model tells the shares of the tokens itself. For other models, guesses are compared as `auto`
    compares families. Raises `InputError` where no input takes sequences of tokens.
    """
    if source.text is None:
        raise InputError(
            "ranks needs a model that takes sequences of tokens; use another surrogate, such as auto"
        )
    found = families(source)
    best = found[0]
    if source.text.kind == "other":
        best = _judged(source, found, effort_for(source, count, len(found)))[0][1]
    return Samples(best.draw(source, count), drawn=best.name)


def mixture(source: Source, count: int) -> Inputs:
    """Equal shares of all families, of each the samples that the model classifies most confidently.

    Cost: 12 forward passes a sample of a small network, see `effort`.
    """
    found = families(source)
    shares = _shares([1.0] * len(found), count)
    candidates = effort_for(source, count, len(found)).candidates
    pairs = zip(found, shares, strict=True)
    parts = (part for family, share in pairs for part in _surest(source, family, share, candidates))
    return join(parts, count)


def inversion(source: Source, count: int) -> Inputs:
    """Clouds (numbers, where there is no space) moved toward the classes by smoothed steps.

    Cost: 20 forward and backward passes a sample. Raises `InputError` where the model has no classes.
    """
    require_classes(source, "inversion")
    family = drawn(source, "clouds", next(iter(families(source))).layout, clouds)
    start = family.draw(source, count)
    return toward_classes(source, start, family.layout, steps=20, length=_LENGTH, softness=_SOFTNESS)


def bn_inversion(source: Source, count: int) -> Samples:
    """Drawings, some of them moved until batch norm finds its running statistics; then norms are corrected.

    Not all the way: what the samples lack is made up for, and what they have is bent less.

    At most 1,024 samples, since moving them takes the time. Cost: 80 forward and 40 backward passes of half
    of them; of fewer in large networks, see `effort`. Raises `InputError` where the model has no batch norm.
    """
    require_batch_norm(source, "bn_inversion")
    found, count = families(source), min(count, _MOST)
    effort = effort_for(source, count, len(found))
    start = _kept(source, _judged(source, found, effort), count, effort.candidates, steps=0)
    count = len(start[0])
    order = torch.randperm(count, generator=source.generator)[: min(effort.moved, count - count // 2)]
    for x, moved in zip(start, match_batch_norm(source, take(start, order), steps=effort.steps), strict=True):
        x[order] = moved  # in place: the samples may be large
    return standardised(source.graph, start, source.memory, CORRECTED)


def auto(source: Source, count: int) -> Samples:
    """What the model itself speaks for: see `written` for language models; for all others:

    Every family is judged by how well it explains the weights (or, with batch norm, the running statistics);
    the best are drawn in shares by their scores, of each the samples that the model is surest of, evenly over
    its classes. Without batch norm these are moved a little toward their classes; with it, see
    `bn_inversion`. Cost: about 20 forward and backward passes a sample.
    """
    if source.text is not None and source.text.kind != "other":
        return written(source, count)
    if has_batch_norm(source):
        return bn_inversion(source, count)
    found = families(source)
    effort = effort_for(source, count, len(found))
    ranked = _judged(source, found, effort)
    kept = _kept(source, ranked, count, effort.candidates, steps=effort.class_steps)
    drawn = "" if source.text is None else f"best: {ranked[0][1].name}"
    return Samples(kept, prior=_PRIOR, drawn=drawn)


def chosen(source: Source, family: Family, count: int, candidates: int) -> Inputs:
    """The surest of `candidates` times as many draws; without classes, the draws themselves."""
    return join(_surest(source, family, count, candidates), count)


def _surest(source: Source, family: Family, count: int, candidates: int) -> Iterator[Inputs]:
    """The same in parts: of large inputs, some are drawn and chosen at a time."""
    if not classes(source) or candidates < 2:
        yield from family.parts(source, count)
        return
    numbers = sum(x[0].numel() for x in source.graph.example)
    most = max(1, DRAWN // (candidates * numbers))
    for start in range(0, count, most):
        wanted = min(most, count - start)
        drawn = family.draw(source, candidates * wanted)
        yield take(drawn, surest(all_log_probabilities(source, drawn), wanted))


def _judged(source: Source, found: Sequence[Family], effort: Effort) -> list[tuple[float, Family]]:
    """Families with their scores, the best first; those on which the model is not finite are left out."""
    if len(found) == 1:
        return [(0.0, found[0])]
    probes = max(_FEWEST, min(effort.probes, _NUMBERS // source.sizes.peak))
    draws = (chosen(source, family, probes, effort.candidates) for family in found)
    if has_batch_norm(source):
        scores = [-mismatch(source, x) for x in draws]
    else:
        kept = list(draws)  # directions come after all draws
        directions = draw_probes(source, kept[0])
        scores = [agreement(source, x, directions) for x in kept]
    finite = [(score, family) for score, family in zip(scores, found, strict=True) if math.isfinite(score)]
    if not finite:
        culprit = first_not_finite(source.graph, found[0].draw(source, 1))
        raise InputError(
            f"the model gives NaN or infinite values on every kind of drawing; it goes wrong at {culprit}. "
            "Give narrower input_bounds, another surrogate (uniform), or inputs of your own (calibration=)"
        )
    return sorted(finite, key=lambda pair: -pair[0])


def _kept(
    source: Source, ranked: Sequence[tuple[float, Family]], count: int, candidates: int, *, steps: int
) -> Inputs:
    """Samples of the best families, in shares by their scores, moved `steps` times toward their classes."""
    best = ranked[0][0]
    scale = _BN_TEMPERATURE if has_batch_norm(source) else _TEMPERATURE
    weights = [float(torch.tensor((score - best) / scale).exp()) for score, _ in ranked]
    pairs = [(w, family) for w, (_, family) in zip(weights, ranked, strict=True) if w >= _LEAST]

    def parts() -> Iterator[Inputs]:
        for share, (_, family) in zip(_shares([w for w, _ in pairs], count), pairs, strict=True):
            for start in _surest(source, family, share, candidates):
                if steps and classes(source):
                    yield toward_classes(
                        source, start, family.layout, steps=steps, length=_LENGTH, softness=_SOFTNESS
                    )
                else:
                    yield start

    return join(parts(), count)


def _pooled(source: Source, found: Sequence[Family], weights: Sequence[float], count: int) -> Inputs:
    shares = _shares(weights, count)
    pairs = zip(found, shares, strict=True)
    return join((part for family, share in pairs for part in family.parts(source, share)), count)


def _shares(weights: Sequence[float], count: int) -> list[int]:
    """Whole numbers in proportion to `weights` that add up to `count`."""
    total, reached, shares = sum(weights), 0.0, []
    for weight in weights:
        shares.append(round((reached + weight) / total * count) - round(reached / total * count))
        reached += weight
    return shares
