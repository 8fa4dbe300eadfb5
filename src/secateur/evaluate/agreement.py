"""How near two models are on the same images, which needs no labels: decisions, outputs, classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.decisions import MULTI_LABEL, Head
from secateur.errors import InputError
from secateur.evaluate.accuracy import equal
from secateur.evaluate.intervals import clopper_pearson
from secateur.evaluate.predictions import Predictions
from secateur.evaluate.report import ClassShareRow, Drift


def agreement(first: Predictions, second: Predictions) -> Tensor:
    """Whether two models decide the same, shape (n,)."""
    return equal(first.decisions, second.decisions)


def compared(subject: Predictions, original: Predictions) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields of `Evaluation` that tell how near the model is to its original, and what to warn of."""
    agreed = agreement(subject, original)
    classes = class_shares(subject, original)
    moved, doubt = drift(subject, original)
    worst = min(
        ((row.agreement, row.label) for row in classes if row.agreement is not None), default=(None, None)
    )
    fields = {
        "agreement": float(agreed.double().mean()),
        "agreement_interval": clopper_pearson(int(agreed.sum()), len(agreed)),
        "drift": moved,
        "class_shares": classes,
        "vanished_classes": tuple(row.label for row in classes if row.original_share and not row.share),
        "worst_class": worst[1],
        "worst_class_agreement": worst[0],
    }
    return fields, (doubt,) if doubt else ()


def check_comparable(subject: Predictions, original: Predictions) -> None:
    """Raise `InputError` for models whose decisions cannot be compared."""
    if original.classes != subject.classes:
        raise InputError(f"the model tells {subject.classes} classes apart, the original {original.classes}")
    if (subject.head in MULTI_LABEL) != (original.head in MULTI_LABEL):
        raise InputError(
            f"the model's outputs were taken for {subject.head}, the original's for {original.head}: say "
            "what both are with head (--head)"
        )


def drift(subject: Predictions, original: Predictions) -> tuple[Drift | None, str]:
    """Of the largest absolute difference of an output of each image; or None, and why it is not known.

    Equal infinite values do not differ.
    """
    if _scale(subject.head) != _scale(original.head) or subject.outputs.shape != original.outputs.shape:
        return (
            None,
            f"no drift is given: the model's outputs are {subject.head}, the original's {original.head}",
        )
    largest = differences(subject, original).amax(dim=1)
    infinite = int((~torch.isfinite(largest)).sum())
    if infinite:
        return None, f"no drift is given: it is infinite for {infinite} of {len(largest)} images"
    return Drift(largest=float(largest.max()), median=float(np.median(largest.numpy()))), ""


def differences(subject: Predictions, original: Predictions) -> Tensor:
    """The absolute difference of each output, (n, outputs); zero for equal infinite values."""
    apart = (subject.outputs - original.outputs).abs()
    return apart.masked_fill(subject.outputs == original.outputs, 0.0)


def _scale(head: Head) -> str:
    return "probability" if head in ("probabilities", "binary_probability", "multi_label") else "score"


def class_shares(subject: Predictions, original: Predictions) -> tuple[ClassShareRow, ...]:
    """A row for each class, or of many labels for each label, that one of the models gives."""
    given, given_before = (_given(predictions) for predictions in (subject, original))
    counts = [hits.sum(dim=0).tolist() for hits in (given, given_before, given & given_before)]
    return tuple(
        ClassShareRow(
            label=label,
            share=now / len(given),
            original_share=before / len(given),
            agreement=both / before if before else None,
        )
        for label, (now, before, both) in enumerate(zip(*counts, strict=True))
        if now or before
    )


def _given(predictions: Predictions) -> Tensor:
    """Which classes each image is given, (n, classes)."""
    if predictions.decisions.ndim == 2:
        return predictions.decisions.bool()
    return predictions.decisions[:, None] == torch.arange(predictions.classes)
