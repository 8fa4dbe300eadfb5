"""Certificates: sound bounds on how far a pruned model's outputs can be from the original's, over a set of
inputs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from secateur import arguments as may
from secateur.arguments import checked
from secateur.bounds.box import input_box, warn_without_width
from secateur.bounds.certified import Certified, ball, blocks
from secateur.bounds.joint import Networks
from secateur.bounds.maxima import without_max_pools
from secateur.certify.certificate import Certificate, InputSet, Share
from secateur.certify.embed import embedded
from secateur.certify.estimate import warn_if_long
from secateur.certify.search import Found, Passed, search
from secateur.data import as_tensors, check_within
from secateur.data.plain import is_array, tensor_of
from secateur.decisions import HEADS, Decision, Head, NoDecision, before_head, decision_of, same
from secateur.errors import InputError
from secateur.graph.capture import capture
from secateur.graph.coupling import Coupling, couple
from secateur.graph.example import ExampleInputs
from secateur.graph.graph import Graph
from secateur.inputs import Normalisation
from secateur.presets import PRESETS
from secateur.progress import phase, track
from secateur.report.recipe import fingerprint, versions
from secateur.samples import digest
from secateur.torch_state import reproducible
from secateur.types import Interval, Samples

__all__ = ["Certificate", "certify"]

Model = nn.Module | ExportedProgram
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
    method: str = "linear",
    attack_steps: int = 40,
    seed: int = 0,
    progress: bool = False,
) -> Certificate:
    """Bounds on g(x) − f(x) for every x of the input box, or of the ε-balls round given inputs; f original, g
    pruned.

    Args:
        original, pruned: an `nn.Module` in eval mode or an exported program; the pruned form of the original.
        example_inputs: as for `prune`; default: `inputs`, where these are arrays as the model takes them.
        input_bounds: the input box, as for `prune`.
        mean, std, normalize: of images, as for `prune`; `input_bounds`, `inputs` and `eps` are then in units
            of the images.
        inputs, eps: inputs in any form that `calibration` of `prune` may have (but a list has one array for
            each input of the model), inside of the box, and the radius of the L∞ balls round them, in input
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
        attack_steps: of the search for the empirical partner; 0: none.

    Cost: N balls of a network with n activations of unknown sign and m multiplications take about 6·N·n·m.
    Raises `InputError` for models or inputs that do not fit, `UnsupportedOpError` naming all ops that cannot
    be bounded.
    """
    begin = time.perf_counter()
    given = checked(
        _RULES,
        {
            "original": original,
            "pruned": pruned,
            "input_bounds": input_bounds,
            "mean": mean,
            "std": std,
            "normalize": normalize,
            "inputs": inputs,
            "eps": eps,
            "indices": indices,
            "labels": labels,
            "head": head,
            "method": method,
            "attack_steps": attack_steps,
            "seed": seed,
            "progress": progress,
        },
    )
    with reproducible(original, threads=None):
        if (inputs is None) != (eps is None):
            raise InputError("inputs and eps belong together: the balls' centres and their radius")
        inputs, labels = given["inputs"], given["labels"]
        input_bounds, seed = given["input_bounds"], given["seed"]
        normalisation = Normalisation.named(normalize, input_bounds, given["mean"] or (), given["std"] or ())
        original, pruned = (normalisation.around(model) for model in (original, pruned))
        example = example_inputs if example_inputs is not None or inputs is None else example_of(inputs)
        like = torch.empty(0, dtype=torch.float64)
        with phase("capturing both models", progress):
            graph, other = capture(original, example), capture(pruned, example)
            points = [] if inputs is None else points_of(graph, input_bounds, inputs)
            if indices is not None and len(given["indices"]) != (len(points[0]) if points else 0):
                raise InputError(f"indices: {len(given['indices'])} of them; give one for each of the inputs")
            _check_labels(labels, points)
            coupling = couple(graph)
            networks = _networks(graph, coupling, other, input_bounds, like, seed)
        found_head = _decision(networks.graph, head, labels)
        decision = before_head(networks.graph, found_head) if isinstance(found_head, Decision) else None
        boxes, centres = _input_set(graph, input_bounds, points, eps)
        if method == "linear":
            warn_if_long(graph, coupling, networks, boxes)
        generator = torch.Generator().manual_seed(seed)

        drift, decided, found = list[Interval](), list[_Decided](), list[Found]()
        for start, block in track(list(blocks(networks, boxes)), "certifying", progress):
            here = Certified.of(networks, block, method == "linear")
            drift.append(here.drift())
            flat = [Interval(x.lower[:, 0], x.upper[:, 0]) for x in block]
            middle = [c[start : start + here.boxes] for c in centres] or [_middle(x) for x in flat]
            if centres and decision is not None:
                decided.append(_decided(networks, here, middle, decision))
            if attack_steps:
                found.append(
                    search(networks, flat, middle, decision, steps=attack_steps, generator=generator)
                )
        right = decision.labelled(labels) if decision is not None and labels is not None else None
        agreement, stable_original, stable_pruned = (
            _shares(decided, found, right) if decided else (None, None, None)
        )
        return Certificate(
            input_set=InputSet(
                input_bounds=may.plain_bounds(bounds_of_each(input_bounds, len(graph.inputs))),
                mean=normalisation.mean,
                std=normalisation.std,
                eps=eps,
                inputs=len(points[0]) if points else None,
                indices=given["indices"],
                digest=digest(Samples(tuple(points))) if points else "",
                labels="" if labels is None else digest(Samples((labels,))),
            ),
            method=method,
            head=found_head.head,
            undecided=found_head.why if isinstance(found_head, NoDecision) else "",
            lower=tuple(tuple(row) for row in torch.cat([d.lower for d in drift]).tolist()),
            upper=tuple(tuple(row) for row in torch.cat([d.upper for d in drift]).tolist()),
            found=tuple(torch.cat([f.drift for f in found]).tolist()) if found else None,
            agreement=agreement,
            stable_original=stable_original,
            stable_pruned=stable_pruned,
            original=fingerprint(graph),
            pruned=fingerprint(other),
            versions=versions(),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=time.perf_counter() - begin,
        )


def _as_inputs(value: Any) -> Any:
    """As `as_tensors` takes it; a list has one array for each input, as a tuple has."""
    found = tuple(value) if isinstance(value, list) and not is_array(value) else value
    if not isinstance(found, str | Iterable) and not hasattr(found, "__fspath__") and not is_array(found):
        raise ValueError
    if isinstance(found, tuple) and not (found and all(map(is_array, found))):
        raise ValueError
    return found


_RULES = {
    "original": may.MODEL,
    "pruned": may.MODEL,
    "input_bounds": may.BOUNDS,
    "mean": may.MEAN,
    "std": may.STD,
    "normalize": may.optional(may.one_of(*PRESETS)),
    "inputs": may.optional(
        may.Rule("a tensor, an array, a list with one for each input, batches, or a path", _as_inputs)
    ),
    "eps": may.optional(may.number("a radius of at least 0, in input units", low=0)),
    "indices": may.optional(
        may.list_of(may.whole(0, ""), "a list of whole numbers from 0, one for each input")
    ),
    "labels": may.optional(may.Rule("a tensor, an array, or a list of class numbers", tensor_of)),
    "head": may.one_of(*HEADS),
    "method": may.one_of("linear", "interval"),
    "attack_steps": may.whole(0, "a whole number of steps, at least 0"),
    "seed": may.SEED,
    "progress": may.flag(),
}


def example_of(inputs: Any) -> ExampleInputs:
    """The first two of the inputs, where these are at hand as arrays."""
    if is_array(inputs):
        return tensor_of(inputs)[:2]
    if isinstance(inputs, tuple) and all(map(is_array, inputs)):
        return tuple(tensor_of(x)[:2] for x in inputs)
    raise InputError(
        "inputs in batches, by name or from a path do not tell the model's arguments; give example_inputs"
    )


def bounds_of_each(bounds: Any, inputs: int) -> Any:
    """One pair for the only input, or a list with a pair for each of several: said in one way alone."""
    single = not isinstance(bounds[0], list | tuple)
    if inputs == 1:
        return bounds if single else bounds[0]
    return [bounds] * inputs if single else list(bounds)


def points_of(graph: Graph, input_bounds: Any, inputs: Any) -> list[Tensor]:
    """The centres of the balls, one tensor (n, …) for each input, inside of the box."""
    points = as_tensors(inputs, graph, input_bounds, name="inputs")
    if any(len(x) != len(points[0]) for x in points):
        raise InputError(f"inputs: give as many samples for each of the model's {len(graph.inputs)} inputs")
    found = []
    for node, x, box in zip(graph.inputs, points, input_box(graph, input_bounds), strict=True):
        if x.shape[1:] != box.lower.shape[1:]:
            raise InputError(
                f"inputs of shape {tuple(x.shape)}: {node.name} takes {tuple(box.lower.shape[1:])} each"
            )
        if x.is_floating_point():
            if not bool(torch.isfinite(x).all()):
                raise InputError(f"inputs: the input {node.name} holds NaN or infinite values")
            check_within(x, (box.lower, box.upper), f"inputs: the values for {node.name}")
            x = x.double().clamp(box.lower, box.upper)  # what was rounding
        found.append(x)
    return found


def _check_labels(labels: Tensor | None, points: Sequence[Tensor]) -> None:
    count = len(points[0]) if points else 0
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
    graph: Graph, coupling: Coupling, other: Graph, input_bounds: Any, like: Tensor, seed: int
) -> Networks:
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for box in input_box(graph, input_bounds):
        share = torch.rand((_CHECKED, *box.lower.shape[1:]), generator=generator, dtype=torch.float64)
        floating = box.lower.is_floating_point()
        samples.append(
            box.lower + share * (box.upper - box.lower)
            if floating
            else box.lower.expand(_CHECKED, *box.lower.shape[1:])
        )
    full = embedded(graph, coupling, other, samples)
    return Networks.of(without_max_pools(graph), graph.tensors, full, like)


def _input_set(
    graph: Graph, input_bounds: Any, points: Sequence[Tensor], eps: float | None
) -> tuple[list[Interval], list[Tensor]]:
    """The boxes, (N, …) for each input, and the centres of balls."""
    whole = input_box(graph, input_bounds)
    warn_without_width(graph, whole)
    if eps is None:
        return list(whole), []
    return [ball(centre, eps, box) for centre, box in zip(points, whole, strict=True)], list(points)


@dataclass(frozen=True, eq=False)
class _Decided:
    """For each of N balls: the decisions at its centre, and whether f, and g, certainly keep theirs (N,
    positions).
    """

    first: Tensor
    second: Tensor
    first_stays: Tensor
    second_stays: Tensor


def _decided(networks: Networks, here: Certified, centres: Sequence[Tensor], decision: Decision) -> _Decided:
    with torch.no_grad():
        f, g = (
            decision.classes(Passed.of(networks, t, centres, decision).value)
            for t in (networks.first, networks.second)
        )
    return _Decided(f, g, here.stands(decision, f, False), here.stands(decision, g, True))


def _shares(
    decided: Sequence[_Decided], found: Sequence[Found], labels: Tensor | None
) -> tuple[Share, Share, Share]:
    """Agreement, and the stable shares of f and of g, of all decisions; `labels` in the shape of these."""

    def all_of(parts: Sequence[Any], name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    f, g = all_of(decided, "first"), all_of(decided, "second")
    kept, kept_too = all_of(decided, "first_stays"), all_of(decided, "second_stays")
    right, right_too = (
        torch.ones_like(kept) if labels is None else (x == labels.to(x.device)).all(-1) for x in (f, g)
    )
    certain = (kept & kept_too & same(f, g), kept & right, kept_too & right_too)
    if not found:
        return tuple(Share(certified=_share(c)) for c in certain)  # type: ignore[return-value]
    standing = (
        ~all_of(found, "disagree"),
        ~all_of(found, "flips_first") & right,
        ~all_of(found, "flips_second") & right_too,
    )
    return tuple(
        Share(certified=_share(c), empirical=_share(s)) for c, s in zip(certain, standing, strict=True)
    )  # type: ignore[return-value]


def _middle(x: Interval) -> Tensor:
    return (x.lower + x.upper) / 2 if x.lower.is_floating_point() else x.lower


def _share(mask: Tensor) -> float:
    return float(mask.double().mean())
