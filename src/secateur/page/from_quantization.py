"""The facts of a quantised model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.page.facts import Facts, Figure
from secateur.page.words import number, share

if TYPE_CHECKING:
    from secateur.report.quantization import Quantization


def quantization_facts(record: Quantization, name: str) -> Facts:
    """What became of the sizes and of the agreement, from the first stage to the quantised model."""
    first, last = record.stages[0], record.stages[-1]
    figures = [Figure("bytes of the ONNX file", first.bytes, last.bytes, "bytes")]
    if first.ms is not None and last.ms is not None:
        figures.append(
            Figure("latency, quantised", first.ms, last.ms, "ms", basis=f"one sample, {record.runtime}")
        )
    if last.agreement is not None:
        basis = f"{record.judged_on:,} inputs that calibration did not use"
        figures.append(Figure("agreement, quantised", None, last.agreement, "share", basis=basis))
    if last.accuracy is not None:
        figures.append(Figure("accuracy, quantised", first.accuracy, last.accuracy, "share"))
    source = f"surrogates ({record.surrogate})" if record.surrogate else "of the user's inputs"
    ranges = [f"ranges of values from {record.calibrated_on:,} {source}"] if record.calibrated_on else []
    kept = (
        ""
        if last.agreement is None
        else f" It agrees with the {first.name} model on {share(last.agreement)}."
    )
    return Facts(
        name,
        asked=f"Quantise the model by {record.scheme}.",
        came=f"The file has {number(last.bytes, 'bytes')}; the {first.name} one has "
        f"{number(first.bytes, 'bytes')}.{kept}",
        figures=tuple(figures),
        quantisation=(record.lines()[0], *ranges, *(stage.told() for stage in record.stages)),
        warnings=tuple(record.doubts()),
        digests={"quantised model": record.digest},
        versions={"runtime of the quantised model": record.runtime},
    )
