"""The result of `quantize`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from secateur.formats.onnx.run import outputs_of
from secateur.formats.onnx.save import save_proto
from secateur.report.quantization import Quantization


@dataclass(frozen=True, eq=False, repr=False)
class Quantized:
    """The result of `quantize`: a quantised model for onnxruntime, and its record.

    Attributes:
        proto: The model, an `onnx.ModelProto`.
        record: Its scheme, the nodes kept in float, and what was measured.

    Examples:
        >>> import torch, secateur
        >>> _ = torch.manual_seed(1)
        >>> net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4)).eval()
        >>> made = secateur.quantize(net, torch.zeros(1, 64), samples=64, latency=False)
        >>> made.record.scheme, made.run(torch.zeros(2, 64))[0].shape
        ('int8', torch.Size([2, 4]))
    """

    proto: Any
    record: Quantization

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the `.onnx` file, whole or not at all. Raises `InputError` for another name."""
        save_proto(path, self.proto)

    def run(self, inputs: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """The outputs for inputs (n, …) as the model takes them, from onnxruntime."""
        return outputs_of(self.proto, [inputs] if isinstance(inputs, Tensor) else inputs)

    def __repr__(self) -> str:
        rows = [f"  {stage.told()}" for stage in self.record.stages]
        return "\n".join(["Quantized: " + self.record.lines()[0], *rows, *self.record.lines()[1:]])
