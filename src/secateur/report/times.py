"""Records of a run towards a latency: the times that were measured, and what came out."""

from __future__ import annotations

from typing import Literal

from secateur.report.record import Record

Numbers = tuple[float, ...]


class LayerTimes(Record):
    """Milliseconds of layers of one shape: `ms[i][j]` with `inputs[i]` and `outputs[j]` channels.

    Grouped convolutions have one column: their outputs change in proportion to their inputs.
    """

    layers: tuple[str, ...]  # names of the weights
    op: str
    inputs: tuple[int, ...]  # ascending
    outputs: tuple[int, ...]
    ms: tuple[Numbers, ...]


class Weights(Record):
    """Milliseconds of a whole network, fitted: the sum over its parts, each times its weight.

    The parts: times of the layers in ms, elements of all other values, MACs of products and attention, and
    the call.
    """

    layers: float
    elements: float
    products: float
    call: float


class TimeTable(Record):
    """Times from which the latency of smaller networks is predicted."""

    runtime: Literal["torch", "onnxruntime"]
    threads: int | None  # None: the runtime's own choice
    batch: int = 1  # of whole networks; layers are timed on one sample
    rows: tuple[LayerTimes, ...]
    weights: Weights
    # (sum of the parts, measured) of whole networks of the planned shapes, ascending: what the sum is read as
    corrections: tuple[tuple[float, float], ...]

    @property
    def where(self) -> str:
        """The runtime and its threads, for people."""
        return self.runtime if self.threads is None else f"{self.runtime}, threads: {self.threads}"


class LatencyRecord(Record):
    """Milliseconds of one sample; the original and the result were measured in turns, in the end.

    `Recipe.achieved` is 1 − after / before.
    """

    before: float
    predicted: float  # when the network of this size had not been measured yet
    after: float
    # 95 % interval of the measured share that goes, from the ratios of single turns
    share: tuple[float, float]
    table: TimeTable

    def told(self) -> str:
        """In one line."""
        low, high = self.share
        return (
            f"{self.before:.3g} → {self.after:.3g} ms for one sample, {1 - self.after / self.before:.1%} "
            f"less ({low:.1%} to {high:.1%}; {self.table.where}); predicted {self.predicted:.3g} ms, "
            f"{1 - self.predicted / self.before:.1%} less"
        )
