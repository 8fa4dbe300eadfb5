"""What is measured at each stage: bytes, time of one sample, agreement, accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.decisions import Decision, same
from secateur.evaluate.cost import latency_ms
from secateur.evaluate.runtime import session_pass
from secateur.formats.onnx.check import inference_session
from secateur.formats.onnx.run import outputs_of
from secateur.report.quantization import Stage

Proto = Any
_REPEATS, _SECONDS = 50, 3.0  # turns of all models, but no more once they have taken so long


@dataclass(frozen=True, eq=False)
class Labelled:
    """Inputs (n, …) as the model takes them, and labels in the shape of its decisions."""

    inputs: Sequence[Tensor]
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Judge:
    """Compares models with the original on inputs that calibration has not seen."""

    decision: Decision | None
    inputs: Sequence[Tensor]
    original: Tensor | None  # its decisions on `inputs`
    labelled: Labelled | None = None

    def agreement(self, proto: Proto) -> float | None:
        """Share of decisions that are those of the original; None for models that decide nothing."""
        if self.decision is None or self.original is None:
            return None
        return float(same(self._decisions(proto, self.inputs), self.original).double().mean())

    def accuracy(self, proto: Proto) -> float | None:
        if self.decision is None or self.labelled is None:
            return None
        found = self._decisions(proto, self.labelled.inputs)
        return float(same(found, self.labelled.labels).double().mean())

    def _decisions(self, proto: Proto, inputs: Sequence[Tensor]) -> Tensor:
        assert self.decision is not None
        return self.decision.classes(outputs_of(proto, inputs)[self.decision.output])


def judge(
    original: Proto, decision: Decision | None, inputs: Sequence[Tensor], labelled: Labelled | None
) -> Judge:
    decided = None
    if decision is not None:
        decided = decision.classes(outputs_of(original, inputs)[decision.output])
    return Judge(decision, inputs, decided, labelled)


def stages(
    models: Mapping[str, Proto], judge: Judge, sample: Sequence[Tensor], timed: bool
) -> tuple[Stage, ...]:
    """One `Stage` for each model, in order; `sample`: one input, on which they are timed in turns."""
    times: list[float | None] = [None] * len(models)
    if timed:
        passes = [session_pass(inference_session(proto, spin=False), sample) for proto in models.values()]
        times = [*latency_ms(passes, torch.device("cpu"), repeats=_REPEATS, warm_up=3, limit_s=_SECONDS)]
    return tuple(
        Stage(
            name=name,
            bytes=proto.ByteSize(),
            ms=ms,
            agreement=judge.agreement(proto) if i else None,
            accuracy=judge.accuracy(proto),
        )
        for i, ((name, proto), ms) in enumerate(zip(models.items(), times, strict=True))
    )
