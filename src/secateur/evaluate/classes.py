"""Accuracy class by class: an average can hide a class that is lost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from secateur.evaluate.report import ClassRow


def per_class(correct: Tensor, original_correct: Tensor | None, labels: Tensor) -> tuple[ClassRow, ...]:
    """A row for each class among the `labels` (n,); `correct` (n,) tells which the model gets right."""
    present, own = labels.unique(return_inverse=True)
    counts = own.bincount(minlength=len(present))

    def shares(right: Tensor) -> list[float]:
        hits: list[float] = (own.bincount(right.double(), minlength=len(present)) / counts).tolist()
        return hits

    after = shares(correct)
    before: Sequence[float | None] = (
        [None] * len(after) if original_correct is None else shares(original_correct)
    )
    return tuple(
        ClassRow(
            label=label,
            samples=count,
            accuracy=new,
            original_accuracy=old,
            change=None if old is None else new - old,
        )
        for label, count, new, old in zip(present.tolist(), counts.tolist(), after, before, strict=True)
    )


def worst(accuracies: Iterable[float | None]) -> float | None:
    """The lowest of them; None where none was measured."""
    return min((share for share in accuracies if share is not None), default=None)
