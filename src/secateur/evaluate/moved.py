"""Which outputs and which inputs move most between two models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from secateur.evaluate.agreement import differences, drift
from secateur.evaluate.predictions import Predictions
from secateur.evaluate.report import MovedRow, OutputDriftRow

INPUTS, OUTPUTS = 12, 100  # at most so many are named
_LABELS = 8  # of a set of labels


def moved(subject: Predictions, original: Predictions, labels: Tensor | None) -> dict[str, Any]:
    """Two fields of `Evaluation`; none where the drift is not known."""
    found, _ = drift(subject, original)
    if found is None:
        return {}
    apart = differences(subject, original)
    first, second = decided(original.decisions), decided(subject.decisions)
    said = None if labels is None else decided(labels)
    each = apart.amax(dim=1)
    return {
        "output_drifts": tuple(OutputDriftRow(**row) for row in output_rows(apart)),
        "moved_most": tuple(
            MovedRow(
                number=i,
                moved=float(each[i]),
                before=first(i),
                after=second(i),
                label="" if said is None else said(i),
            )
            for i in furthest(each, INPUTS)
        ),
    }


def furthest(values: Tensor, count: int) -> list[int]:
    """The places of the greatest values (n,), the greatest first; of equal ones, the first."""
    order: list[int] = values.argsort(descending=True, stable=True)[:count].tolist()
    return order


def output_rows(apart: Tensor) -> list[dict[str, Any]]:
    """Of absolute differences (n, outputs): the outputs that move furthest, in their own order."""
    largest = apart.amax(dim=0)
    return [
        {"output": i, "largest": float(largest[i]), "median": float(np.median(apart[:, i].numpy()))}
        for i in sorted(furthest(largest, OUTPUTS))
    ]


def decided(decisions: Tensor) -> Callable[[int], str]:
    """A function from the number of an input to its decision, as text: a class, or a set of labels."""

    def text(i: int) -> str:
        if decisions.ndim == 1:
            return str(int(decisions[i]))
        chosen = decisions[i].nonzero().flatten().tolist()
        more = ", …" if len(chosen) > _LABELS else ""
        return "{" + ", ".join(map(str, chosen[:_LABELS])) + more + "}"

    return text
