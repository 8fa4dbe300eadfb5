"""Certificates: sound bounds on how far a pruned model's outputs can be from the original's.

The bounds hold for every input of a set: the input box, or balls round inputs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from secateur import arguments as may
from secateur import pace
from secateur.arguments import checked
from secateur.bounds.attention import with_attention_in_steps
from secateur.bounds.box import input_box
from secateur.bounds.certified import Certified, blocks
from secateur.bounds.joint import Networks
from secateur.bounds.maxima import without_max_pools
from secateur.certify.as_run import InTorch, as_taken, measured_rounding
from secateur.certify.certificate import Certificate, InputSet, MeasuredRounding, Method, assumptions_for
from secateur.certify.decided import Decided, decided_at, shares, threshold
from secateur.certify.embed import embedded
from secateur.certify.estimate import warn_if_long
from secateur.certify.inference import Arithmetic, Roundings
from secateur.certify.input_set import RULES, bounds_of_each, boxes_of, example_of, points_of
from secateur.certify.search import Found, random_point, search
from secateur.certify.split import split, until
from secateur.data.plain import tensor_of
from secateur.decisions import Decision, Head, NoDecision, before_head, decision_of
from secateur.errors import InputError
from secateur.graph.capture import capture
from secateur.graph.coupling import Coupling, couple
from secateur.graph.example import ExampleInputs
from secateur.graph.footprint import batch_size, footprint
from secateur.graph.graph import Graph
from secateur.inputs import Normalisation, Normalised
from secateur.progress import logger, phase, track
from secateur.report.recipe import fingerprint, versions
from secateur.samples import digest
from secateur.torch_state import reproducible
from secateur.types import Interval, Samples

__all__ = ["Certificate", "certify"]

Model = nn.Module | ExportedProgram
_ROUNDED = 64  # random inputs, at most, on which rounding is measured
_CHECKED = 16  # samples on which the pruned model is compared with its embedding


def certify(
    original: Model,
    pruned: Model,
    example_inputs: ExampleInputs | None = None,
    *,
    input_bounds: Any = (0.0, 1.0),
    mean: float | Sequence[float] | Tensor | None = None,
    std: float | Sequence[float] | Tensor | None = None,
    normalize: str | None = None,
    inputs: Any = None,
    eps: float | None = None,
    indices: Sequence[int] | None = None,
    labels: Any = None,
    head: Head = "auto",
    method: Method = "linear",
    arithmetic: Arithmetic = "auto",
    attack_steps: int = 40,
    budget: float | str | None = None,
    parts: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Certificate:
    """Bound how far the outputs of a pruned model can be from those of its original.

    The bounds on g(x) − f(x), f the original and g the pruned model, hold for every x of the input box, or of
    L∞ balls round given inputs. Bounds are rounded outward; `arithmetic` says whether the rounding of the
    models themselves is included.

    Args:
        original, pruned: an `nn.Module` in eval mode or an exported program; the pruned form of the original.
        example_inputs: as for `prune`. Default: `inputs`, where these are arrays as the model takes them.
        input_bounds: the input box, as for `prune`.
        mean, std, normalize: of images, as for `prune`; `input_bounds`, `inputs` and `eps` are then in units
            of the images.
        inputs, eps: inputs inside of the box, in any form that `calibration` of `prune` may have (but a list
            has one array for each input of the model), and the radius of the L∞ balls round them, in input
            units. The balls are cut with the box. Whole-number inputs stay as they are.
        indices: which inputs these are in the data that they are from, for the record.
        labels: classes of the inputs, an array or a list; then only inputs that are rightly classified count
            as stable. For several labels of each input (and for dense outputs), in the shape of the
            decisions.
        head: what the outputs are, see `secateur.decisions`; `none` for a regression, whose outputs decide
            nothing. `auto` goes by the last ops; what it found is `Certificate.head`. Without decisions, the
            certificate is about the drift alone, and `Certificate.undecided` says why.
        method: `linear` (backward linear bounds on both networks together, and intervals; the tighter counts)
            or `interval` (fast and wide).
        arithmetic: `float`: the claims hold for both models as they are run in their own float32 (or
            float64), on any runtime that `Certificate.assumptions` describes, summed in any order; `real`:
            in real arithmetic on the stored weights. `auto` includes rounding where its bound is at most a
            tenth of the largest drift, and else says in `Certificate.why_real` why not; what rounding
            comes to on some inputs is measured beside it.
        attack_steps: steps of a gradient search for real inputs with a large drift, to compare the bounds
            with; 0: no search.
        budget: seconds (or "60s", "5min") for splitting the input box, the widest part first, in place of
            one bound over all of it; without `inputs`. The bounds are sound whenever it stops. It narrows
            them for inputs of few numbers.
        parts: the same by the number of boxes that are bounded, on which the time has no influence; with
            both, what is reached first counts.
        seed: of the search's starting points.
        progress: whether to show progress on stderr.

    Returns:
        The certificate, which prints as a table and can be saved as JSON.

    Raises:
        InputError: models or inputs that do not fit, or `arithmetic="float"` where rounding has no bound.
        UnsupportedOpError: ops that cannot be bounded; the message names all of them.

    Cost: N balls of a network with n activations of unknown sign and m multiplications take about 6·N·n·m.

    Examples:
        >>> import torch, secateur
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2)).eval()
        >>> small = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2)).eval()
        >>> _ = small[0].load_state_dict({k: v[:5] for k, v in net[0].state_dict().items()})
        >>> _ = small[2].load_state_dict({"weight": net[2].weight[:, :5], "bias": net[2].bias})
        >>> certificate = secateur.certify(net, small, inputs=torch.rand(3, 4), eps=0.01)
        >>> all(found <= bound for found, bound in zip(certificate.found, certificate.drift))
        True
    """
    begin = time.perf_counter()
    given = checked(_RULES, {name: value for name, value in locals().items() if name in _RULES})
    with reproducible(original, threads=None):
        problem = _problem(given, example_inputs)
        if method == "linear":
            warn_if_long(problem.graph, problem.coupling, problem.networks, problem.boxes)
        proved = _proved(problem, given)
        return _certificate(problem, proved, given, begin)


_RULES = {
    **RULES,
    "labels": may.optional(may.Rule("a tensor, an array, or a list of class numbers", tensor_of)),
    "method": may.one_of("linear", "interval"),
    "arithmetic": may.one_of("auto", "real", "float"),
    "attack_steps": may.whole(0, "a whole number of steps, at least 0"),
    "budget": may.optional(may.Rule(pace.MAY_BE, pace.as_seconds)),
    "parts": may.optional(may.whole(1, "a whole number of boxes, at least 1")),
    "seed": may.SEED,
    "progress": may.flag(),
}


@dataclass(frozen=True, eq=False)
class _Problem:
    """Both models in one graph, and the boxes over which they are compared."""

    normalisation: Normalisation
    graph: Graph
    pruned: Graph
    coupling: Coupling
    networks: Networks
    points: Sequence[Tensor]  # the centres of the balls, (N, …) for each input; none for the whole box
    boxes: Sequence[Interval]  # (N, …) for each input
    head: Decision | NoDecision
    decision: Decision | None  # as it is read from the value before the head
    rounding: Roundings


@dataclass
class _Proved:
    """What was found, block by block of the boxes."""

    drift: list[Interval] = field(default_factory=list)
    decided: list[Decided] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    apart: list[Tensor] = field(default_factory=list)  # bounds on how far g moves what f decides by
    boxes: int | None = None  # that were bounded to split the input box

    def add(self, rounding: Roundings) -> None:
        """Make the claims those of the models as they are run, where rounding is to be included."""
        rounding.settle(self.drift)
        blocks = rounding.blocks
        if not blocks:
            return
        self.drift = [block.moved(x) for block, x in zip(blocks, self.drift, strict=True)]
        self.apart = [block.apart(x) for block, x in zip(blocks, self.apart, strict=False)]
        self.decided = [block.decided(x) for block, x in zip(blocks, self.decided, strict=False)]


def _problem(given: Mapping[str, Any], example: ExampleInputs | None) -> _Problem:
    inputs, eps, bounds, labels = (given[name] for name in ("inputs", "eps", "input_bounds", "labels"))
    if (inputs is None) != (eps is None):
        raise InputError("inputs and eps belong together: the balls' centres and their radius")
    if inputs is not None and (given["budget"] is not None or given["parts"] is not None):
        raise InputError("budget and parts split the input box; leave them out, or inputs and eps")
    mean, std = given["mean"] or (), given["std"] or ()
    normalisation = Normalisation.named(given["normalize"], bounds, mean, std)
    original, pruned = (normalisation.wrapped(given[name]) for name in ("original", "pruned"))
    if isinstance(original, Normalised):
        normalisation = original.normalisation  # what is stated is what is bounded
    if example is None and inputs is not None:
        example = example_of(inputs)
    with phase("capturing both models", given["progress"]):
        graph, other = capture(original, example), capture(pruned, example)
        points = [] if inputs is None else points_of(graph, bounds, inputs)
        _check_fits(given["indices"], labels, points)
        coupling = couple(graph)
        linear = given["method"] == "linear"
        networks = _networks(graph, coupling, other, bounds, given["seed"], linear)
    head = _decision(networks.graph, given["head"], labels)
    decision = before_head(networks.graph, head) if isinstance(head, Decision) else None
    boxes = boxes_of(graph, bounds, points, eps)
    rounding = Roundings(given["arithmetic"], graph)
    return _Problem(normalisation, graph, other, coupling, networks, points, boxes, head, decision, rounding)


def _check_fits(indices: Sequence[int] | None, labels: Tensor | None, points: Sequence[Tensor]) -> None:
    """One index and one label for each of the inputs."""
    count = len(points[0]) if points else 0
    if indices is not None and len(indices) != count:
        raise InputError(f"indices: {len(indices)} of them; give one for each of the inputs")
    if labels is not None and (labels.ndim < 1 or len(labels) != count or labels.is_floating_point()):
        raise InputError(
            f"labels of shape {tuple(labels.shape)}: give one class number for each of {count} inputs"
        )


def _decision(graph: Graph, head: Head, labels: Tensor | None) -> Decision | NoDecision:
    """Labels of one class number each tell that each input has one class."""
    found = decision_of(graph, head, one_of_k=labels is not None and labels.ndim == 1)
    if labels is not None and isinstance(found, NoDecision):
        raise InputError(
            f"labels: the model decides nothing to compare them with ({found.why}); give head, or no labels"
        )
    return found


def _networks(
    graph: Graph, coupling: Coupling, other: Graph, input_bounds: Any, seed: int, linear: bool
) -> Networks:
    """Both models in the original's graph; the embedding is checked on random samples of the box."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for box in input_box(graph, input_bounds):
        share = torch.rand((_CHECKED, *box.lower.shape[1:]), generator=generator, dtype=torch.float64)
        if box.lower.is_floating_point():
            samples.append(box.lower + share * (box.upper - box.lower))
        else:
            samples.append(box.lower.expand(_CHECKED, *box.lower.shape[1:]))
    full = embedded(graph, coupling, other, samples)
    like = torch.empty(0, dtype=torch.float64)
    graph = without_max_pools(graph)
    # steps help lines alone: intervals know more of attention as a whole
    steps = with_attention_in_steps(graph) if linear else graph
    return Networks.of(steps, graph.tensors, full, like)


def _proved(problem: _Problem, given: Mapping[str, Any]) -> _Proved:
    """Bounds, decisions that hold, and what a search finds, for all boxes."""
    networks, decision = problem.networks, problem.decision
    generator = torch.Generator().manual_seed(given["seed"])
    if given["budget"] is not None or given["parts"] is not None:
        return _split(problem, given, generator)
    proved, rounding = _Proved(), problem.rounding
    for start, block in track(list(blocks(networks, problem.boxes)), "certifying", given["progress"]):
        here = Certified.of(networks, block, given["method"] == "linear")
        proved.drift.append(here.drift())
        rounding.note(here, decision)
        flat = [Interval(x.lower[:, 0], x.upper[:, 0]) for x in block]
        centres = [c[start : start + here.boxes] for c in problem.points] or [_middle(x) for x in flat]
        if decision is not None:
            proved.apart.append(here.margin_drift(decision))
        if problem.points and decision is not None:
            proved.decided.append(decided_at(networks, here, centres, decision))
        if given["attack_steps"]:
            steps = given["attack_steps"]
            proved.found.append(search(networks, flat, centres, decision, steps=steps, generator=generator))
    proved.add(rounding)
    return proved


def _split(problem: _Problem, given: Mapping[str, Any], generator: torch.Generator) -> _Proved:
    """Bounds over the input box from its parts, and what a search finds in it."""
    networks, decision, linear = problem.networks, problem.decision, given["method"] == "linear"
    go_on, steps = until(given["budget"], given["parts"]), given["attack_steps"]
    with phase("splitting the input box", given["progress"]):
        for number, parts in split(networks, problem.boxes, decision, linear=linear, go_on=go_on):
            logger.debug("%d boxes: drift of at most %g", number, float(parts.worst.max()))
    drift, apart = parts.hull()
    proved = _Proved([drift], apart=[] if apart is None else [apart], boxes=number)
    if problem.rounding.wanted:
        whole = [Interval(x.lower[:, None], x.upper[:, None]) for x in problem.boxes]
        problem.rounding.note(Certified.of(networks, whole, linear), decision)
    proved.add(problem.rounding)
    if steps:
        centres = [_middle(x) for x in problem.boxes]
        found = search(networks, problem.boxes, centres, decision, steps=steps, generator=generator)
        proved.found.append(found)
    return proved


def _found(proved: _Proved) -> tuple[float, ...] | None:
    """The largest drift that a search finds in each box; `InputError` where an output is no number."""
    if not proved.found:
        return None
    drift = torch.cat([f.drift for f in proved.found])
    if drift.isnan().any():
        box = int(drift.isnan().nonzero()[0])
        raise InputError(
            f"an output of a model is NaN at some points of box {box} of {len(drift)}, where nothing can be "
            "claimed; narrow input_bounds, or eps, to where both models are defined"
        )
    return tuple(drift.tolist())


def _certificate(problem: _Problem, proved: _Proved, given: Mapping[str, Any], begin: float) -> Certificate:
    labels, points, decision = given["labels"], problem.points, problem.decision
    right = decision.labelled(labels) if decision is not None and labels is not None else None
    agreement, stable_original, stable_pruned = (
        shares(proved.decided, proved.found, right) if proved.decided else (None, None, None)
    )
    bounds = bounds_of_each(given["input_bounds"], len(problem.graph.inputs))
    return Certificate(
        input_set=InputSet(
            input_bounds=may.plain_bounds(bounds),
            mean=problem.normalisation.mean,
            std=problem.normalisation.std,
            eps=given["eps"],
            inputs=len(points[0]) if points else None,
            indices=given["indices"],
            digest=digest(Samples(tuple(points))) if points else "",
            labels="" if labels is None else digest(Samples((labels,))),
        ),
        method=given["method"],
        boxes=proved.boxes,
        head=problem.head.head,
        undecided=problem.head.why if isinstance(problem.head, NoDecision) else "",
        lower=_rows([drift.lower for drift in proved.drift]),
        upper=_rows([drift.upper for drift in proved.drift]),
        found=_found(proved),
        agreement=agreement,
        stable_original=stable_original,
        stable_pruned=stable_pruned,
        arithmetic=problem.rounding.named,
        inference_rounding=_largest(problem.rounding),
        why_real=problem.rounding.why_real,
        assumptions=assumptions_for(problem.rounding.named),
        measured_rounding=_rounding(problem, given["seed"]),
        agreement_margin=threshold(proved.apart, proved.decided, proved.found),
        original=fingerprint(problem.graph),
        pruned=fingerprint(problem.pruned),
        versions=versions(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.perf_counter() - begin,
    )


def _rounding(problem: _Problem, seed: int) -> MeasuredRounding:
    """Of both models as they are run, on random inputs of all boxes."""
    generator = torch.Generator().manual_seed(seed)
    most = batch_size(2 * footprint(problem.graph).peak, [x.lower for x in problem.boxes])
    boxes = torch.arange(min(_ROUNDED, most)) % len(problem.boxes[0].lower)
    inputs = [random_point(Interval(x.lower[boxes], x.upper[boxes]), generator) for x in problem.boxes]
    decision = problem.head if isinstance(problem.head, Decision) else None
    with torch.no_grad():
        taken = as_taken(problem.graph, inputs)
        return measured_rounding(InTorch(problem.graph), InTorch(problem.pruned), decision, taken)


def _largest(rounding: Roundings) -> tuple[float, ...] | None:
    """Of an output, for each row."""
    if not rounding.blocks:
        return None
    return tuple(torch.cat([block.largest for block in rounding.blocks]).tolist())


def _middle(x: Interval) -> Tensor:
    return (x.lower + x.upper) / 2 if x.lower.is_floating_point() else x.lower


def _rows(ends: Sequence[Tensor]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in torch.cat(list(ends)).tolist())
