"""What attacks and corruptions leave, as rows of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.decisions import decide
from secateur.evaluate.accuracy import equal, placed, predict
from secateur.evaluate.agreement import agreement
from secateur.evaluate.attacks.base import Attack
from secateur.evaluate.attacks.pair import pair_of
from secateur.evaluate.attacks.run import Outcome, run_attack
from secateur.evaluate.attacks.target import Target, target_of
from secateur.evaluate.box import Box
from secateur.evaluate.corruptions import Corruption
from secateur.evaluate.masking import signs_of_masking
from secateur.evaluate.predictions import Predictions, Streaming
from secateur.evaluate.report import AgreementAttackRow, AttackRow, CorruptionRow
from secateur.progress import track


def attacked(
    subject: Predictions,
    images: Tensor,
    labels: Tensor,
    attacks: Sequence[Attack],
    box: Box,
    streaming: Streaming,
) -> tuple[tuple[AttackRow, ...], tuple[str, ...]]:
    """What each attack leaves of the accuracy, and what makes that doubtful."""
    target = target_of(subject.module, subject.head, box, streaming["device"])
    outcomes, doubts = _outcomes(target, images, labels, attacks, subject.right(labels), streaming)
    return tuple(AttackRow(robust_accuracy=o.robust_share, **_row_fields(a, o)) for a, o in outcomes), doubts


def agreement_attacked(
    subject: Predictions,
    original: Predictions,
    images: Tensor,
    attacks: Sequence[Attack],
    box: Box,
    streaming: Streaming,
) -> tuple[tuple[AgreementAttackRow, ...], tuple[str, ...]]:
    """What each attack leaves of the agreement with the original, and what makes that doubtful."""
    models = (subject.module, subject.head), (original.module, original.head)
    target = pair_of(*models, box, streaming["device"])
    outcomes, doubts = _outcomes(
        target, images, original.decisions, attacks, agreement(subject, original), streaming
    )
    return tuple(
        AgreementAttackRow(robust_agreement=o.robust_share, **_row_fields(a, o)) for a, o in outcomes
    ), doubts


def _outcomes(
    target: Target,
    images: Tensor,
    labels: Tensor,
    attacks: Sequence[Attack],
    correct: Tensor,
    streaming: Streaming,
) -> tuple[list[tuple[Attack, Outcome]], tuple[str, ...]]:
    """Every attack with its outcome; signs of masked gradients, and what the attacks themselves noted."""
    size, progress = streaming["batch_size"], streaming["progress"]
    outcomes = [
        (a, run_attack(target, images, labels, a, correct=correct, batch_size=size, progress=progress))
        for a in attacks
    ]
    signs = signs_of_masking(target, images, labels, outcomes, size)
    return outcomes, (*signs, *(note for _, outcome in outcomes for note in outcome.notes))


def _row_fields(attack: Attack, outcome: Outcome) -> dict[str, Any]:
    return {
        "name": attack.name,
        "norm": attack.norm,
        "eps": attack.eps,
        "steps": attack.steps,
        "robust_instances_per_1000": outcome.robust_instances_per_1000,
        "samples": len(outcome.robust),
    }


def corrupted(
    measured: Sequence[Predictions],
    images: Tensor,
    labels: Tensor | None,
    corruption: Corruption,
    box: Box,
    streaming: Streaming,
) -> CorruptionRow:
    """What the one or two models in `measured` decide on the same corrupted images, batch by batch."""
    placements = [placed(predictions.module, streaming["device"])[0] for predictions in measured]
    parts: list[list[Tensor]] = [[] for _ in measured]
    batches = torch.arange(len(images)).split(streaming["batch_size"])
    for rows in track(batches, corruption.name, streaming["progress"]):
        worse = corruption.apply(images[rows], box, rows)
        for predictions, module, found in zip(measured, placements, parts, strict=True):
            found.append(decide(predict(module, worse, batch_size=len(rows)), predictions.head))
    decided = [torch.cat(found) for found in parts]
    right = [] if labels is None else [_share(d, labels) for d in decided]
    return CorruptionRow(
        kind=corruption.kind,
        strength=corruption.strength,
        accuracy=right[0] if right else None,
        original_accuracy=right[1] if len(right) > 1 else None,
        agreement=_share(*decided) if len(decided) > 1 else None,
    )


def _share(first: Tensor, second: Tensor) -> float:
    """Of decisions that are the same."""
    return float(equal(first, second).double().mean())
