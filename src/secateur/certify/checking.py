"""Whether a certificate belongs to these models and inputs, and whether what it claims can be proved
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.certify import Model, certify, example_of, points_of
from secateur.certify.certificate import Certificate
from secateur.errors import VerificationError
from secateur.graph.capture import capture
from secateur.graph.example import ExampleInputs
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
    """Raise `VerificationError`, naming all that differs, unless the certificate belongs to these models and
    inputs.

    Args:
        certificate: what `certify` gave, or `Certificate.load`.
        original, pruned, example_inputs: as for `certify`, without the normalisation that the certificate
            holds.
        inputs: the inputs of a certificate about balls round inputs, in the order of `input_set.indices`.
        labels: their labels, where the certificate was made with labels and is to be proved again; else none.
        prove: bound both models again as the certificate says, and compare. The claims hold again where no
            new bound is wider than the recorded one by more than rounding. Without it, no bound is looked at.
            What a search found (`found`, `empirical`), `versions`, `date` and `seconds` are never checked.
    """
    about = certificate.input_set
    normalisation = Normalisation(about.mean, about.std)
    if example_inputs is None and inputs is not None:
        example_inputs = example_of(inputs)
    problems = []
    for role, model in (("pruned", pruned), ("original", original)):
        with reproducible(model, threads=None):
            graph = capture(normalisation.around(model), example_inputs)
        if fingerprint(graph) != getattr(certificate, role):
            problems.append(f"the {role} model is not the one that was certified")
    bounds = _bounds(about.input_bounds, len(graph.inputs))
    points = () if inputs is None else tuple(points_of(graph, bounds, inputs))
    problems += _of_inputs(certificate, points)
    if prove and about.labels != ("" if labels is None else digest(Samples((labels,)))):
        problems.append(f"its shares are about {'other' if about.labels else 'no'} labels")
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
            attack_steps=0,
            progress=progress,
        )
        problems = _of_bounds(certificate, found)
    if problems:
        raise VerificationError(f"the certificate does not hold here: {'; '.join(problems)}")


def _bounds(recorded: Any, inputs: int) -> Any:
    """What `plain_bounds` has made plain, as `certify` takes it."""
    if inputs > 1:
        return [_bounds(pair, 1) for pair in recorded]
    return tuple(torch.tensor(end, dtype=torch.float64) if isinstance(end, list) else end for end in recorded)


def _of_inputs(certificate: Certificate, points: Sequence[Tensor]) -> list[str]:
    about = certificate.input_set
    if about.inputs is None:
        return []
    if not points:
        return ["it is about balls round inputs; give them (inputs=, --data)"]
    return [] if digest(Samples(tuple(points))) == about.digest else ["the inputs are not those it is about"]


def _of_bounds(recorded: Certificate, found: Certificate) -> list[str]:
    low, high = (torch.tensor(end, dtype=torch.float64) for end in (recorded.lower, recorded.upper))
    new_low, new_high = (torch.tensor(end, dtype=torch.float64) for end in (found.lower, found.upper))
    if low.shape != new_low.shape:
        return [f"it bounds {tuple(low.shape)} numbers, these models give {tuple(new_low.shape)}"]
    holds = (new_low >= low - _ROUNDING * new_low.abs()) & (new_high <= high + _ROUNDING * new_high.abs())
    wider = int((~holds).sum())
    problems = [f"{wider} of {low.numel()} bounds cannot be proved"] if wider else []
    for name in ("agreement", "stable_original", "stable_pruned"):
        before, after = getattr(recorded, name), getattr(found, name)
        if before is not None and (after is None or after.certified < before.certified):
            proved = "nothing" if after is None else f"{after.certified:.2%}"
            problems.append(f"{name}: {before.certified:.2%} is claimed, {proved} can be proved")
    for name in ("assumptions", "dtype", "rounding", "head", "undecided"):
        known = getattr(recorded, name)
        if known is not None and known != getattr(found, name):
            problems.append(f"{name} is not what this version of secateur writes")
    return problems
