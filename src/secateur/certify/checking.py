"""Whether a certificate belongs to models and inputs, and whether its claims can be proved again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.certify import Model, certify
from secateur.certify.certificate import Certificate
from secateur.certify.input_set import example_of, points_of
from secateur.errors import VerificationError
from secateur.graph.capture import capture
from secateur.graph.example import ExampleInputs
from secateur.graph.graph import Graph
from secateur.inputs import Normalisation
from secateur.report.recipe import fingerprint
from secateur.samples import digest
from secateur.torch_state import reproducible
from secateur.types import Samples

_ROUNDING = 1e-9  # relative, by which bounds may differ on another machine


def check_certificate(
    certificate: Certificate,
    original: Model,
    pruned: Model,
    example_inputs: ExampleInputs | None = None,
    *,
    inputs: Any = None,
    labels: Tensor | None = None,
    prove: bool = False,
    progress: bool = False,
) -> None:
    """Check that a certificate belongs to these models and inputs, and with `prove`, that it holds.

    Args:
        certificate: what `certify` gave, or `Certificate.load`.
        original, pruned, example_inputs: as for `certify`, without the normalisation that the certificate
            holds.
        inputs: the inputs of a certificate about balls round inputs, in the order of `input_set.indices`.
        labels: their labels, where the certificate was made with labels and is to be proved again; else none.
        prove: bound both models again as the certificate says, and compare. The claims hold again where no
            new bound is wider than the recorded one by more than rounding. Without it, no bound is looked at.
            What a search found (`found`, `empirical`), `versions`, `date` and `seconds` are never checked.
        progress: whether to show progress on stderr.

    Raises:
        VerificationError: the certificate does not belong or does not hold; the message names all that
            differs.

    Examples:
        >>> import torch, secateur
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()).eval()
        >>> certificate = secateur.certify(net, net, torch.zeros(1, 4))
        >>> secateur.check_certificate(certificate, net, net, torch.zeros(1, 4), prove=True)
        >>> other = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()).eval()
        >>> secateur.check_certificate(certificate, net, other, torch.zeros(1, 4))
        Traceback (most recent call last):
        secateur.errors.VerificationError: the certificate does not hold here: ...
    """
    about = certificate.input_set
    if example_inputs is None and inputs is not None:
        example_inputs = example_of(inputs)
    problems, graph = _other_models(certificate, original, pruned, example_inputs)
    bounds = _bounds(about.input_bounds, len(graph.inputs))
    points = () if inputs is None else tuple(points_of(graph, bounds, inputs))
    problems += _other_inputs(certificate, points)
    if prove:
        problems += _other_labels(certificate, labels)
    if prove and not problems:
        found = certify(
            original,
            pruned,
            example_inputs,
            input_bounds=bounds,
            mean=about.mean or None,
            std=about.std or None,
            inputs=points or None,
            eps=about.eps,
            labels=labels,
            head=certificate.head or "auto",
            method=certificate.method,
            arithmetic="real" if certificate.arithmetic == "real" else "float",
            attack_steps=0,
            parts=certificate.boxes,
            progress=progress,
        )
        problems = [*_wider_bounds(certificate, found), *_smaller_shares(certificate, found)]
        problems += _other_settings(certificate, found)
    if problems:
        raise VerificationError(f"the certificate does not hold here: {'; '.join(problems)}")


def _other_models(
    certificate: Certificate, original: Model, pruned: Model, example: ExampleInputs | None
) -> tuple[list[str], Graph]:
    """What is wrong with the models; and the graph of the original."""
    normalisation = Normalisation(certificate.input_set.mean, certificate.input_set.std)
    problems = []
    for role, model in (("pruned", pruned), ("original", original)):
        with reproducible(model, threads=None):
            graph = capture(normalisation.wrapped(model), example)
        if fingerprint(graph) != getattr(certificate, role):
            problems.append(f"the {role} model is not the one that was certified")
    return problems, graph


def _bounds(recorded: Any, inputs: int) -> Any:
    """Bounds that a certificate holds as numbers and lists, in the form that `certify` takes."""
    if inputs > 1:
        return [_bounds(pair, 1) for pair in recorded]
    return tuple(torch.tensor(end, dtype=torch.float64) if isinstance(end, list) else end for end in recorded)


def _other_inputs(certificate: Certificate, points: Sequence[Tensor]) -> list[str]:
    about = certificate.input_set
    if about.inputs is None:
        return []
    if not points:
        return ["it is about balls round inputs; give them (inputs=, --data)"]
    return [] if digest(Samples(tuple(points))) == about.digest else ["the inputs are not those it is about"]


def _other_labels(certificate: Certificate, labels: Tensor | None) -> list[str]:
    known = certificate.input_set.labels
    if known == ("" if labels is None else digest(Samples((labels,)))):
        return []
    return [f"its shares are about {'other' if known else 'no'} labels"]


def _wider_bounds(recorded: Certificate, found: Certificate) -> list[str]:
    low, high = (torch.tensor(end, dtype=torch.float64) for end in (recorded.lower, recorded.upper))
    new_low, new_high = (torch.tensor(end, dtype=torch.float64) for end in (found.lower, found.upper))
    if low.shape != new_low.shape:
        return [f"it bounds {tuple(low.shape)} numbers, these models give {tuple(new_low.shape)}"]
    holds = (new_low >= low - _ROUNDING * new_low.abs()) & (new_high <= high + _ROUNDING * new_high.abs())
    wider = int((~holds).sum())
    return [f"{wider} of {low.numel()} bounds cannot be proved"] if wider else []


def _smaller_shares(recorded: Certificate, found: Certificate) -> list[str]:
    problems = []
    for name in ("agreement", "stable_original", "stable_pruned"):
        before, after = getattr(recorded, name), getattr(found, name)
        if before is not None and (after is None or after.certified < before.certified):
            proved = "nothing" if after is None else f"{after.certified:.2%}"
            problems.append(f"{name}: {before.certified:.2%} is claimed, {proved} can be proved")
    return problems + _wider_margin(recorded, found)


def _wider_margin(recorded: Certificate, found: Certificate) -> list[str]:
    before, after = recorded.agreement_margin, found.agreement_margin
    if before is None:
        return []
    if after is None or any(
        new > old + _ROUNDING * abs(new) for old, new in zip(before.proved, after.proved, strict=True)
    ):
        return ["agreement_margin: smaller margins are claimed than can be proved"]
    if before.above is not None and (after.above is None or after.above < before.above):
        return [f"agreement_margin: {before.above:.2%} of the inputs are claimed to be above it"]
    return []


def _other_settings(recorded: Certificate, found: Certificate) -> list[str]:
    names = ("assumptions", "dtype", "rounding", "head", "arithmetic")
    other = [name for name in names if getattr(recorded, name) not in (None, getattr(found, name))]
    # The reason why nothing is decided depends on whether the head was given or found.
    if bool(recorded.undecided) != bool(found.undecided):
        other.append("undecided")
    return [f"{name} is not what this version of secateur writes" for name in other]
