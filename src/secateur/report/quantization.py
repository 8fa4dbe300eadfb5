"""The record of a quantised file: its scheme, what stayed in float, and what was measured at each stage."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from secateur.report.record import Record

_SHA256 = r"^[0-9a-f]{64}$"
Range = tuple[float, float]  # smallest and largest value


class Stage(Record):
    """One model on the way: the original, the pruned one, the quantised one.

    Attributes:
        name: `original`, `pruned` or `quantised`; `float` where nothing was pruned.
        bytes: Size of its ONNX file.
        ms: Median milliseconds of one sample in onnxruntime; None if not measured.
        agreement: Share of equal decisions with the first stage, on inputs that calibration did not use; None
            for the first stage, and for models that decide nothing.
        accuracy: On labelled data; None if none were given.
    """

    name: str
    bytes: Annotated[int, Field(ge=0)]
    ms: float | None = None
    agreement: float | None = None
    accuracy: float | None = None

    def told(self) -> str:
        """In one line."""
        parts = [f"{self.name}: {self.bytes / 1000:,.0f} kB"]
        parts += [] if self.ms is None else [f"{self.ms:.3g} ms"]
        parts += [] if self.agreement is None else [f"agreement {self.agreement:.2%}"]
        parts += [] if self.accuracy is None else [f"accuracy {self.accuracy:.2%}"]
        return ", ".join(parts)


class Quantization(Record):
    """How a model was quantised, and what became of it.

    Attributes:
        scheme: A key of `secateur.quantize.schemes.SCHEMES`.
        runtime: onnxruntime and its version, which made the file.
        calibrated_on: Number of inputs from which the ranges of values were taken; 0 if none are needed.
        surrogate: From which they were drawn; empty for inputs of the user's own.
        judged_on: Number of inputs on which agreement was measured.
        min_agreement: The budget, or None.
        nodes: How many nodes of the graph the scheme can quantise.
        kept_float: Those that stay in float, because the budget did not hold with them.
        ranges: Range of each value of the graph, from which the same file can be made again.
        stages: What was measured, in order.
        digest: SHA-256 of the quantised model's content.
    """

    scheme: str
    runtime: str
    calibrated_on: int = 0
    surrogate: str = ""
    judged_on: int = 0
    min_agreement: float | None = None
    nodes: int
    kept_float: tuple[str, ...] = ()
    ranges: dict[str, Range] = Field(default_factory=dict)
    stages: tuple[Stage, ...]
    digest: str = Field(pattern=_SHA256)

    @property
    def slower(self) -> bool:
        """Whether one sample takes no less time than before quantising; False if it was not measured."""
        before, after = (stage.ms for stage in self.stages[-2:])
        return before is not None and after is not None and after >= before

    @property
    def larger(self) -> bool:
        """Whether the file is no smaller than before quantising."""
        before, after = (stage.bytes for stage in self.stages[-2:])
        return after >= before

    def doubts(self) -> list[str]:
        """What speaks against the quantised model."""
        told = [self.larger_told()] if self.larger else []
        return [*told, self.slower_told()] if self.slower else told

    def lines(self) -> list[str]:
        """In a few lines: what was quantised, and what one must know."""
        done = self.nodes - len(self.kept_float)
        found = [f"{self.scheme}: {done} of {self.nodes} nodes quantised"]
        if self.kept_float:
            found[0] += f"; in float: {', '.join(self.kept_float)}"
        return [*found, *self.doubts()]

    def larger_told(self) -> str:
        """What to say of a quantised file that is not smaller."""
        before, after = (stage.bytes for stage in self.stages[-2:])
        return (
            f"{self.scheme} did not make the file smaller: {before:,} bytes before and {after:,} after, "
            "since scales and further nodes weigh more than is saved; keep the float model"
        )

    def slower_told(self) -> str:
        """What to say of a quantised model that is not faster."""
        before, after = (stage.ms or 0.0 for stage in self.stages[-2:])
        return (
            f"{self.scheme} did not make the model faster on this processor: one sample takes {before:.3g} "
            f"ms before and {after:.3g} ms after"
        )
