"""Certificates from independent draws: how often decisions change, and how far outputs move.

Nothing is proved; with a stated confidence, shares of a declared distribution of inputs are bounded.
"""

from __future__ import annotations

import hashlib
import secrets
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from secateur import arguments as may
from secateur.arguments import checked
from secateur.certify import Model
from secateur.certify.as_run import InTorch, Running, as_taken, file_as_run, largest_change, measured_rounding
from secateur.certify.certificate import MeasuredRounding
from secateur.certify.draws import INDEPENDENT, Draws, in_balls, of_data, of_surrogate
from secateur.certify.input_set import RULES, bounds_of_each, boxes_of, example_of, points_of
from secateur.certify.sampled import (
    ASSUMPTIONS,
    OWN_DATA,
    SEED_WAS_DRAWN,
    SEED_WAS_GIVEN,
    BallNorm,
    Counted,
    Distribution,
    DistributionName,
    StatisticalCertificate,
)
from secateur.decisions import Decision, Head, NoDecision, decision_of, same
from secateur.errors import InputError, SecateurWarning
from secateur.evaluate.intervals import trials_for
from secateur.graph.capture import capture
from secateur.graph.example import ExampleInputs
from secateur.graph.footprint import batch_size
from secateur.graph.graph import Graph
from secateur.inputs import Normalisation
from secateur.progress import phase, track
from secateur.report.recipe import versions
from secateur.samples import digest
from secateur.torch_state import reproducible
from secateur.types import Samples

_MOST = 10**8  # draws
_SEED_BITS = 53  # whole numbers that every reader of JSON reads exactly


def certify_by_sampling(
    original: Model,
    pruned: Model,
    example_inputs: ExampleInputs | None = None,
    *,
    distribution: DistributionName = "ball",
    confidence: float = 0.999,
    rate: float = 0.001,
    margin: float | None = None,
    quantiles: Sequence[float] | None = None,
    inputs: Any = None,
    eps: float | None = None,
    norm: BallNorm = "linf",
    each: bool = False,
    surrogate: str = "shapes",
    input_bounds: Any = (0.0, 1.0),
    mean: float | Sequence[float] | Tensor | None = None,
    std: float | Sequence[float] | Tensor | None = None,
    normalize: str | None = None,
    indices: Sequence[int] | None = None,
    head: Head = "auto",
    draw_seed: int | None = None,
    progress: bool = False,
) -> StatisticalCertificate:
    """Bound, with a stated confidence, how often decisions change and how far outputs move.

    The claims hold of inputs from a declared distribution. They come from independent draws on which both
    models are run as they are given: upper bounds of Clopper and Pearson (1934) on the share of changed
    decisions and of drifts above a margin, and distribution-free bounds on quantiles of the drift (ordered
    draws). Nothing is proved about any single input; see `certify` for proofs. Any two models of the same
    inputs and outputs can be compared, of whatever architecture.

    Args:
        original, pruned: an `nn.Module` in eval mode or an exported program; the pruned model may also be a
            quantised ONNX file (`secateur.formats.onnx.as_is.load_as_is`), which onnxruntime runs as it is.
        example_inputs: as for `prune`. Default: `inputs`, where these are arrays as the model takes them.
        distribution: where inputs come from. `ball`: uniform in the ball round one of `inputs`, each of them
            as often. `surrogates`: drawings that are made from the shapes of the inputs and the input box
            alone, as for the verdict of `prune`. `data`: your own `inputs`, taken for independent draws from
            the source that you want to know about; each is used once.
        confidence: the probability, over the draws, with which all claims hold together. What is left of it
            is shared evenly by all claims (Bonferroni).
        rate: the share to be shown: there are as many draws as show it if no decision changes. It is also
            a quantile of the drift. Of `data` there are as many draws as `inputs`, with a warning where
            these are too few.
        margin: a drift, declared beforehand; how often it is exceeded is another claim.
        quantiles: shares of inputs for which the drift is bounded. Default: ½ and 1 − rate.
        inputs, eps, norm: centres, radius and norm (`linf` or `l2`) of the balls, as for `certify`; the
            radius is in input units. Points of L2 balls outside of the input box are moved into it.
        each: whether to make the claims for each ball as well; that takes about as many draws for each.
        surrogate: of `surrogates`: `shapes`, `uniform` or `pink`.
        input_bounds, mean, std, normalize: as for `certify`.
        indices: which inputs these are in the data that they are from, for the record.
        head: what the outputs are, as for `certify`. A NaN among the values that decide is a change. Where
            an input has many decisions (dense outputs), each draw looks at one of them, drawn at random.
        draw_seed: of the draws. Default: the system draws one after both models are fixed. One that is given
            allows to make the same draws again, and the certificate says so.
        progress: whether to show progress on stderr.

    Returns:
        The certificate, which prints as a table and can be saved as JSON.

    Raises:
        InputError: arguments, models or inputs that do not fit.

    Cost: two forward passes of log(claims / (1 − confidence)) / rate draws.

    Examples:
        >>> import torch, secateur
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2)).eval()
        >>> found = secateur.certify_by_sampling(net, net, inputs=torch.rand(3, 4), eps=0.01, rate=0.01)
        >>> found.overall.changed, found.overall.changed_at_most <= 0.01
        (0, True)
    """
    begin = time.perf_counter()
    given = checked(_RULES, {name: value for name, value in locals().items() if name in _RULES})
    _check_given(given)
    with reproducible(original, threads=None), torch.no_grad():
        problem = _problem(given, example_inputs)
        plan = _planned(problem, given)
        found = _measured(problem, plan, given)
        return _certificate(problem, plan, found, given, begin)


_SHARE = "a share between 0 and 1, both excluded"
_RULES = {
    **RULES,
    "distribution": may.one_of("ball", "surrogates", "data"),
    "confidence": may.number(_SHARE, above=0),
    "rate": may.number(_SHARE, above=0),
    "margin": may.optional(may.number("a drift of at least 0", low=0)),
    "quantiles": may.optional(may.list_of(may.number("", above=0), f"a list, of {_SHARE} each")),
    "norm": may.one_of("linf", "l2"),
    "each": may.flag(),
    "surrogate": may.one_of(*INDEPENDENT),
    "draw_seed": may.optional(may.SEED),
    "progress": may.flag(),
}


@dataclass(frozen=True, eq=False)
class _Problem:
    """Both models, and the inputs that were given."""

    normalisation: Normalisation
    graph: Graph
    models: tuple[Running, Running]  # the original and the pruned one
    points: Sequence[Tensor]
    head: Decision | NoDecision
    commitment: str  # that the models were fixed before the seed was drawn

    @property
    def decision(self) -> Decision | None:
        return self.head if isinstance(self.head, Decision) else None


@dataclass(frozen=True, eq=False)
class _Plan:
    """Which claims are made, from which draws."""

    draws: Draws
    rows: Tensor  # for which ball each draw is
    quantiles: tuple[float, ...]
    claims: int
    tail: float  # by which each of the claims may be wrong
    seed: int
    generator: torch.Generator


@dataclass(frozen=True, eq=False)
class _Found:
    """Of each draw: its drift, and whether the decision changed (None where nothing is decided)."""

    drift: Tensor
    changed: Tensor | None
    rounding: MeasuredRounding


def _check_given(given: Mapping[str, Any]) -> None:
    name, inputs, eps = given["distribution"], given["inputs"], given["eps"]
    for key in ("confidence", "rate", "quantiles"):
        if any(x >= 1 for x in _listed(given[key])):
            raise InputError(f"{key}={given[key]}: give {_SHARE}")
    if (inputs is None) != (name == "surrogates"):
        wanted = "takes no inputs" if name == "surrogates" else "needs inputs"
        raise InputError(f"distribution={name!r} {wanted}")
    if (eps is None) != (name != "ball"):
        wanted = "needs eps, the radius of the balls" if name == "ball" else "takes no eps, which is of balls"
        raise InputError(f"distribution={name!r} {wanted}")
    if given["each"] and name != "ball":
        raise InputError(f"each=True makes claims on each ball; distribution={name!r} has none")


def _listed(value: Any) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else () if value is None else (value,)


def _problem(given: Mapping[str, Any], example: ExampleInputs | None) -> _Problem:
    inputs, bounds = given["inputs"], given["input_bounds"]
    normalisation = Normalisation.named(given["normalize"], bounds, given["mean"] or (), given["std"] or ())
    original, pruned = (normalisation.wrapped(given[name]) for name in ("original", "pruned"))
    if example is None and inputs is not None:
        example = example_of(inputs)
    with phase("capturing both models", given["progress"]):
        graph = capture(original, example)
        models = InTorch(graph), file_as_run(pruned) or InTorch(capture(pruned, example))
    _check_alike(graph, *models)
    points = [] if inputs is None else points_of(graph, bounds, inputs)
    if given["indices"] is not None and len(given["indices"]) != (len(points[0]) if points else 0):
        raise InputError(f"indices: {len(given['indices'])} of them; give one for each of the inputs")
    both = "\n".join(str(model.fingerprint.model_dump()) for model in models)
    commitment = hashlib.sha256(both.encode()).hexdigest()
    return _Problem(normalisation, graph, models, points, decision_of(graph, given["head"]), commitment)


def _check_alike(graph: Graph, original: Running, pruned: Running) -> None:
    """Raise `InputError` for models whose outputs cannot be compared."""
    shapes = [
        [(tuple(y.shape), y.is_floating_point()) for y in model.outputs(graph.example)]
        for model in (original, pruned)
    ]
    if shapes[0] != shapes[1]:
        ours, theirs = (", ".join(str(shape) for shape, _ in outs) for outs in shapes)
        raise InputError(
            f"the models differ in their outputs: the original gives {ours}, the pruned model "
            f"{theirs}; give a model and its pruned form"
        )
    if not any(floating for _, floating in shapes[0]):
        raise InputError("the models give no floating-point output, so that their drift cannot be measured")


def _planned(problem: _Problem, given: Mapping[str, Any]) -> _Plan:
    """The number of draws is settled before the seed is drawn."""
    rate = given["rate"]
    quantiles = given["quantiles"] or tuple(sorted({0.5, 1 - rate}))
    claims = (problem.decision is not None) + (given["margin"] is not None) + len(quantiles)
    balls = len(problem.points[0]) if given["distribution"] == "ball" else 1
    claims *= balls + 1 if given["each"] else 1
    tail = (1 - given["confidence"]) / claims
    needed = max(trials_for(share, tail) for share in (rate, *(1 - q for q in quantiles)))
    each = needed if given["each"] else -(-needed // balls)
    if each * balls > _MOST:
        raise InputError(
            f"rate={rate:g} at confidence={given['confidence']:g} takes {each * balls:,} draws, over "
            f"{_MOST:,}; give a larger rate, or fewer inputs"
        )
    seed = given["draw_seed"]
    seed = secrets.randbits(_SEED_BITS) if seed is None else seed
    bits = hashlib.sha256(f"{problem.commitment} {seed}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(bits[:8], "big"))
    draws = _draws(problem, given, generator)
    rows = draws.rows(each)
    if len(rows) < needed:
        warnings.warn(
            f"inputs: {len(rows):,} of them are too few to show a rate of {rate:g}, whatever comes out; that "
            f"takes {needed:,} at a confidence of {given['confidence']:g}",
            SecateurWarning,
            stacklevel=3,
        )
    return _Plan(draws, rows, quantiles, claims, tail, seed, generator)


def _draws(problem: _Problem, given: Mapping[str, Any], generator: torch.Generator) -> Draws:
    bounds = given["input_bounds"]
    if given["distribution"] == "surrogates":
        return of_surrogate(problem.graph, bounds, given["surrogate"], generator)
    if given["distribution"] == "data":
        return of_data(problem.points)
    radius = given["eps"] if given["norm"] == "linf" else None
    boxes = boxes_of(problem.graph, bounds, problem.points, radius)
    return in_balls(problem.points, boxes, given["eps"], given["norm"], generator)


# --- both models on the draws -------------------------------------------------------------------------------


def _measured(problem: _Problem, plan: _Plan, given: Mapping[str, Any]) -> _Found:
    models, decision = problem.models, problem.decision
    size = batch_size(2 * max(model.peak for model in models), problem.graph.example)
    drift, changed, rounding = list[Tensor](), list[Tensor](), None
    for rows in track(list(plan.rows.split(size)), "running both models on draws", given["progress"]):
        inputs = as_taken(problem.graph, plan.draws.draw(rows))
        f, g = (model.outputs(inputs) for model in models)
        drift.append(largest_change(f, g, len(rows)))
        if decision is not None:
            changed.append(_changed(decision, f, g, plan.generator))
        rounding = rounding or measured_rounding(*models, decision, inputs)
    assert rounding is not None
    return _Found(torch.cat(drift), torch.cat(changed) if changed else None, rounding)


def _changed(
    decision: Decision, f: Sequence[Tensor], g: Sequence[Tensor], generator: torch.Generator
) -> Tensor:
    """Whether the decision, of many a random one, changed, (count,)."""
    agree = same(*(decision.classes(outputs[decision.output]) for outputs in (f, g))).cpu()
    position = torch.randint(agree.shape[1], (len(agree), 1), generator=generator)
    return ~agree.gather(1, position)[:, 0]


# --- what follows -------------------------------------------------------------------------------------------


def _certificate(
    problem: _Problem, plan: _Plan, found: _Found, given: Mapping[str, Any], begin: float
) -> StatisticalCertificate:
    margin = given["margin"]

    def counted(drift: Tensor, changed: Tensor | None) -> Counted:
        exceeded = None if margin is None else int((drift > margin).sum())
        largest_first = tuple(drift.sort(descending=True).values.tolist())
        flips = None if changed is None else int(changed.sum())
        return Counted.of(len(drift), flips, exceeded, largest_first, plan.quantiles, plan.tail)

    def of_each_ball() -> Iterator[Counted]:
        for ball in range(plan.draws.sets):
            here = plan.rows == ball
            yield counted(found.drift[here], None if found.changed is None else found.changed[here])

    own = given["distribution"] == "data"
    drawn = given["draw_seed"] is None
    return StatisticalCertificate(
        distribution=_distribution(problem, given),
        confidence=given["confidence"],
        claims=plan.claims,
        rate=given["rate"],
        margin=margin,
        head=problem.head.head,
        undecided=problem.head.why if isinstance(problem.head, NoDecision) else "",
        overall=counted(found.drift, found.changed),
        each=tuple(of_each_ball()) if given["each"] else (),
        original=problem.models[0].fingerprint,
        pruned=problem.models[1].fingerprint,
        commitment=problem.commitment,
        seed=plan.seed,
        seed_from="system" if drawn else "caller",
        measured_rounding=found.rounding,
        assumptions=(
            *ASSUMPTIONS,
            SEED_WAS_DRAWN if drawn else SEED_WAS_GIVEN,
            *((OWN_DATA,) if own else ()),
        ),
        versions=versions(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.perf_counter() - begin,
    )


def _distribution(problem: _Problem, given: Mapping[str, Any]) -> Distribution:
    name, points = given["distribution"], problem.points
    bounds = bounds_of_each(given["input_bounds"], len(problem.graph.inputs))
    return Distribution(
        name=name,
        described=_described(given, len(points[0]) if points else 0),
        input_bounds=may.plain_bounds(bounds),
        mean=problem.normalisation.mean,
        std=problem.normalisation.std,
        surrogate=given["surrogate"] if name == "surrogates" else "",
        norm=given["norm"] if name == "ball" else None,
        eps=given["eps"],
        inputs=len(points[0]) if points else None,
        indices=given["indices"],
        digest=digest(Samples(tuple(points))) if points else "",
    )


def _described(given: Mapping[str, Any], inputs: int) -> str:
    """The distribution in words."""
    if given["distribution"] == "data":
        return "the source of which the given inputs are independent draws"
    if given["distribution"] == "surrogates":
        return f"fresh draws of the surrogate {given['surrogate']}, which is made without data"
    ball, cut = (
        ("L∞", "cut with the input box")
        if given["norm"] == "linf"
        else ("L2", "what falls outside of the input box moved to its nearest point")
    )
    return (
        f"uniform in the {ball} ball of radius {given['eps']:g} round one of {inputs:,} given inputs, each "
        f"as likely, {cut}"
    )
