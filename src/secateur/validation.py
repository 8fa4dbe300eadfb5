"""Samples for scoring and refitting, and validation samples for the guard and the verdict alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from secateur.blending import blended, enough_own
from secateur.cost import macs_after
from secateur.decisions import Decision, Head, decision_of
from secateur.errors import SecateurError, SecateurWarning
from secateur.fidelity import fidelity
from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.graph.interpret import run
from secateur.normalisation import likely_normalisation
from secateur.pixel_range import pixel_evidence
from secateur.presets import PRESETS
from secateur.report.recipe import UsedInputs
from secateur.report.verdict import Basis, Verdict
from secateur.request import NO_SURROGATE, Request
from secateur.samples import affordable, digest, draw_samples, name_of
from secateur.types import Samples
from secateur.verdict import judge

OWN: Basis = "inputs kept apart"
SURROGATES: Basis = "surrogates"
MOST, FEWEST = 512, 64  # validation samples that are drawn
_MACS = 10**12  # multiply-accumulates of one pass of all of them
_SURROGATES = ("shapes", "mixture")  # for validation; the second where the first is used for refitting


@dataclass(frozen=True, eq=False)
class Validation:
    """Validation samples, and their origin."""

    samples: Samples
    basis: Basis
    surrogate: str = ""  # from which they were drawn
    doubts: Sequence[str] = ()  # reasons to doubt that the inputs are as the model expects them


def samples_for(
    request: Request, graph: Graph, coupling: Coupling, bounds: Any, refitted_on: int
) -> tuple[Samples | None, Validation | None, UsedInputs]:
    """Draw the samples of a run, `refitted_on` for scoring and refitting (fewer than asked for under a time
    budget).

    If scoring needs samples, a third of a user's own inputs is held out for validation, else all of them are.
    A budget leaves a third of as many as `validation_count` says. A few own inputs are refitted on together
    with surrogates. Without own inputs, validation samples come from a surrogate other than that for scoring.

    Returns:
        Samples for scoring and refitting, None if the method needs none; validation samples, None (with a
        warning) if they cannot be drawn and no guard needs them; and what the recipe records of both.
    """
    needed, surrogate = request.needs_samples, name_of(request.surrogate)
    draw = partial(
        draw_samples,
        graph,
        bounds,
        device=request.device,
        normalise=request.normalisation.normalised,
        memory=request.memory,
        tokenizer=request.tokenizer,
    )
    used = UsedInputs(surrogate=surrogate if needed and request.calibration is None else "")
    samples = None
    if request.calibration is not None:
        most = _with_a_third(request.samples) if needed else request.samples
        cut = refitted_on if refitted_on < request.samples else None
        if cut is not None:
            enough = max(_with_a_third(cut), 3 * validation_count(graph, coupling))
            most = min(most, enough)
        own = draw(request.surrogate, request.calibration, most, seed=request.seed)
        used = used.model_copy(update={"calibration": digest(own)})
        if not needed:
            return None, Validation(own, OWN), _counted(used, None, own)
        apart = _count(own) > 1
        samples, kept_apart = split(own, request.seed, cut) if apart else (own, own)
        if request.surrogate != NO_SURROGATE and _count(samples) < (wanted := enough_own(graph, coupling)):
            surrogates = partial(draw, request.surrogate, None, refitted_on, seed=request.seed)
            samples, used = _with_surrogates(request, graph, wanted, samples, used, surrogates)
        if apart:
            return samples, Validation(kept_apart, OWN), _counted(used, samples, kept_apart)
    elif needed:
        samples = draw(request.surrogate, None, refitted_on, seed=request.seed)
    try:
        fresh = fresh_surrogates(request, graph, coupling, bounds, request.seed + 1)
    except SecateurError as error:
        if request.guard is not None:
            raise
        warnings.warn(f"there is no verdict: {error}", SecateurWarning, stacklevel=2)
        return samples, None, _counted(used, samples, None)
    return samples, fresh, _counted(used, samples, fresh.samples)


def fresh_surrogates(
    request: Request, graph: Graph, coupling: Coupling, bounds: Any, seed: int
) -> Validation:
    """Validation samples of another kind than those that the request scores and refits on."""
    other = validation_surrogate(name_of(request.surrogate) if request.needs_samples else "")
    count = affordable(graph, validation_count(graph, coupling), request.memory // 2)
    normalise = request.normalisation.normalised
    drawn = draw_samples(
        graph, bounds, other, None, count, request.device, seed, normalise, request.memory, request.tokenizer
    )
    return Validation(drawn, SURROGATES, other)


def _with_surrogates(
    request: Request,
    graph: Graph,
    wanted: int,
    own: Samples,
    used: UsedInputs,
    draw: Callable[[], Samples],
) -> tuple[Samples, UsedInputs]:
    """A user's inputs for refitting, fewer than `wanted`, together with surrogates."""
    try:
        drawn = draw()
    except SecateurError as error:
        warnings.warn(
            f"calibration: {_count(own)} inputs are used without surrogates beside them: {error}",
            SecateurWarning,
            stacklevel=3,
        )
        return own, used
    used = used.model_copy(update={"surrogate": name_of(request.surrogate), "own": _count(own)})
    return blended(own, drawn, wanted, graph, request.memory // 2), used


def _counted(used: UsedInputs, samples: Samples | None, kept_apart: Samples | None) -> UsedInputs:
    drawn = samples.drawn if samples is not None else ""
    counts = {"samples": _count(samples), "judged_on": _count(kept_apart)}
    return used.model_copy(update={**counts, "drawn": drawn})


def _count(samples: Samples | None) -> int:
    return 0 if samples is None else len(samples.inputs[0])


def _with_a_third(count: int) -> int:
    """As many inputs as leave `count` when a third is held out."""
    return count + (count + 1) // 2


def split(own: Samples, seed: int, most: int | None = None) -> tuple[Samples, Samples]:
    """Split a user's inputs at random: two thirds, and at most `most`, for refitting; a third, and at least
    one, for validation.
    """
    count = len(own.inputs[0])
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    apart = max(1, count // 3)
    refitted_on = order[apart:][:most]
    return _taken(own, refitted_on.sort().values), _taken(own, order[:apart].sort().values)


def _taken(samples: Samples, rows: Tensor) -> Samples:
    return replace(samples, inputs=tuple(x[rows.to(x.device)] for x in samples.inputs))


def validation_surrogate(refitted_on: str) -> str:
    """A surrogate of another kind than the one used for refitting.

    Pictures that were not selected by the model's responses are harder than others, and agreement on them is
    closer to that on real inputs.
    """
    return next(name for name in _SURROGATES if name != refitted_on)


def validation_count(graph: Graph, coupling: Coupling) -> int:
    """How many validation samples to draw: 512, or what 10¹² multiply-accumulates allow; at least 64."""
    return max(FEWEST, min(MOST, _MACS // max(1, macs_after(graph, coupling, {}))))


def with_doubts(validation: Validation | None, request: Request, graph: Graph) -> Validation | None:
    """Warn if another normalisation fits the model clearly better than the declared one, or if the model
    scales its inputs as pixels are scaled.

    The doubt is added to `validation`, so that the verdict mentions it.
    """
    if doubt := warned_of_pixels(request, graph):
        return None if validation is None else replace(validation, doubts=(doubt,))
    normalisation, images = request.normalisation, None
    if validation is not None and validation.basis == OWN:
        images = normalisation.denormalised(validation.samples.inputs[0])
    found = likely_normalisation(
        graph, request.input_bounds, normalisation.mean, normalisation.std, seed=request.seed, images=images
    )
    if not found.clear:
        return validation
    taken = "normalised as was said" if normalisation else "as they are"
    warnings.warn(
        f"the inputs were taken {taken}, but {found.evidence}. If that is so, accuracy collapses: give "
        f"normalize ({', '.join(PRESETS)}), or mean and std (--normalize, --mean, --std)",
        SecateurWarning,
        stacklevel=2,
    )
    doubt = "another normalisation of the inputs fits the model better, see the warning (--normalize)"
    return None if validation is None else replace(validation, doubts=(doubt,))


def warned_of_pixels(request: Request, graph: Graph) -> str:
    """Warn if the model scales its inputs as pixels are scaled, and they were said to be small; the doubt."""
    scaled = pixel_evidence(graph, request.input_bounds, request.normalisation)
    if not scaled:
        return ""
    low, high = request.input_bounds
    warnings.warn(
        f"the input was taken to lie between {low:g} and {high:g}, but the first layer of the model "
        f"{scaled}, as is done with pixels from 0 to 255: if it takes such, accuracy collapses; say "
        "input_bounds=(0, 255) (--input-bounds 0,255)",
        SecateurWarning,
        stacklevel=3,
    )
    return "the model scales its inputs as pixels from 0 to 255, see the warning (--input-bounds)"


def verdict_of(
    graph: Graph, weights: Mapping[str, Tensor], validation: Validation, head: Head
) -> Verdict | None:
    """The verdict on the network with these weights.

    None, with a warning, if no output of the model is a floating-point number.
    """
    if not any(y.is_floating_point() for y in run(graph, graph.example)):
        said = "there is no verdict: the model gives no floating-point output that could be compared"
        warnings.warn(said, SecateurWarning, stacklevel=2)
        return None
    decision = decision_of(graph, head)
    read = decision if isinstance(decision, Decision) else None
    found = fidelity(graph, weights, validation.samples, read)
    return judge(found, validation.basis, validation.surrogate, validation.doubts)
