"""The inputs and outputs that move most between two networks, on the inputs that the verdict was made on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from secateur.decisions import Decision, Head, decision_of
from secateur.evaluate.moved import INPUTS, decided, furthest, output_rows
from secateur.graph.capture import capture
from secateur.graph.example import ExampleInputs
from secateur.graph.footprint import batch_size, footprint
from secateur.graph.graph import Graph
from secateur.graph.interpret import batches, run
from secateur.inputs import Normalisation
from secateur.memory import default_memory
from secateur.page.facts import Facts, InputFact, OutputFact
from secateur.page.thumbnails import thumbnails
from secateur.report.recipe import Recipe
from secateur.samples import Calibration, digest, draw_samples
from secateur.torch_state import reproducible
from secateur.types import Samples
from secateur.validation import SURROGATES, split

Model = nn.Module | ExportedProgram
_MOST_OUTPUTS = 1000  # of a sample, that are told apart


def with_moved(
    facts: Facts,
    original: Model,
    pruned: Model,
    recipe: Recipe,
    example: ExampleInputs | None,
    calibration: Calibration | None = None,
) -> Facts:
    """The facts with what moves most on the validation samples of the run, drawn again.

    Two captures and a forward pass of each network; the facts as they are where the run has no verdict.

    Args:
        facts: Of the run.
        original: The model that was pruned.
        pruned: The result.
        recipe: Of the run.
        example: As `prune` took it.
        calibration: The user's own inputs, where the run used any.
    """
    if recipe.verdict is None:
        return facts
    with reproducible(original):
        graph, smaller = capture(original, example), capture(pruned, example)
        samples = _validation(graph, recipe, calibration)
        if samples is None:
            return facts
        shown_as = Normalisation(mean=recipe.request.mean, std=recipe.request.std).denormalised
        outputs, moved = compare(graph, smaller, samples, cast(Head, recipe.request.head), shown_as)
    on = facts.verdict.on if facts.verdict else ""
    return replace(facts, outputs=outputs, outputs_on=on, moved=moved, moved_on=on)


def _validation(graph: Graph, recipe: Recipe, calibration: Calibration | None) -> Samples | None:
    """The validation samples of the run; None where they cannot be drawn again as they were."""
    request, used, verdict = recipe.request, recipe.used, recipe.verdict
    assert verdict is not None
    draw = partial(draw_samples, graph, request.input_bounds, device=None, memory=default_memory())
    if verdict.basis == SURROGATES:
        found = draw(verdict.surrogate, None, used.judged_on, seed=request.seed + 1)
        return found if len(found.inputs[0]) == used.judged_on else None
    if calibration is None:
        return None
    normalised = Normalisation(mean=request.mean, std=request.std).normalised
    most = request.samples + (request.samples + 1) // 2 if used.samples else request.samples
    own = draw(request.surrogate, calibration, most, seed=request.seed, normalise=normalised)
    if digest(own) != used.calibration:  # a time budget took fewer
        return None
    return split(own, request.seed)[1] if used.samples and len(own.inputs[0]) > 1 else own


def compare(
    graph: Graph,
    smaller: Graph,
    samples: Samples,
    head: Head,
    shown_as: Callable[[Tensor], Tensor] = lambda inputs: inputs,
) -> tuple[tuple[OutputFact, ...], tuple[InputFact, ...]]:
    """Which outputs and inputs move most between two graphs with the same inputs and outputs.

    Outputs are told apart where there are at most 1,000 for a sample. `shown_as` turns inputs into images.
    """
    found = decision_of(graph, head)
    decision = found if isinstance(found, Decision) else None
    size = batch_size(2 * footprint(graph).peak, samples.inputs)
    parts = [_compared(graph, smaller, batch, decision) for batch in batches(samples.inputs, size)]
    each = torch.cat([part.each for part in parts])
    rows = furthest(each, INPUTS)
    pictures = (
        thumbnails(shown_as(samples.inputs[0][rows]), range(len(rows))) if len(samples.inputs) == 1 else []
    )
    before, after = (_texts([part.decided[side] for part in parts], decision) for side in (0, 1))
    apart = [part.apart for part in parts if part.apart is not None]
    outputs = tuple(OutputFact(**row) for row in output_rows(torch.cat(apart))) if apart else ()
    return outputs, tuple(
        InputFact(i, float(each[i]), before(i), after(i), thumbnail=picture)
        for i, picture in zip(rows, pictures or [""] * len(rows), strict=True)
    )


@dataclass(frozen=True, eq=False)
class _Part:
    """What comes of one batch of n samples."""

    each: Tensor  # the largest absolute difference of an output, (n,)
    apart: Tensor | None  # of each output, (n, outputs); None where there are too many
    decided: tuple[Tensor | None, Tensor | None]  # (n, positions, k), as `Decision.classes`


def _compared(graph: Graph, smaller: Graph, batch: Sequence[Tensor], decision: Decision | None) -> _Part:
    before, after, count = run(graph, batch), run(smaller, batch), len(batch[0])
    flat = [
        (g.double() - f.double()).abs().reshape(count, -1)
        for f, g in zip(before, after, strict=True)
        if f.is_floating_point() and f.ndim and len(f) == count
    ]
    apart = torch.cat(flat, dim=1)
    few = apart.shape[1] <= _MOST_OUTPUTS
    if decision is None:
        return _Part(apart.amax(dim=1), apart if few else None, (None, None))
    first, second = (decision.classes(side[decision.output]) for side in (before, after))
    return _Part(apart.amax(dim=1), apart if few else None, (first, second))


def _texts(parts: Sequence[Tensor | None], decision: Decision | None) -> Callable[[int], str]:
    """From the number of a sample to what was decided for it; empty for dense outputs, or no decision."""
    known = [part for part in parts if part is not None]
    if decision is None or not known or known[0].shape[1] != 1:
        return lambda i: ""
    classes = torch.cat(known)[:, 0]
    return decided(classes[:, 0] if classes.shape[1] == 1 else classes)
