"""int8: weights and values in 8 bits, by onnxruntime's static quantiser, in the QDQ form."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from secateur.errors import InputError
from secateur.formats.onnx.check import serialized
from secateur.formats.onnx.edit import in_order
from secateur.formats.onnx.run import feeds
from secateur.graph.export import first_line
from secateur.quantize.packages import quantizers

Proto = Any
Ranges = Mapping[str, tuple[float, float]]

# Ops that compute, and those that only move data and follow where their input is quantised. Softmax, sigmoid
# and norms stay in float: they lose most, and take little time.
COMPUTING = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul",
    "AveragePool", "GlobalAveragePool", "LeakyRelu", "Concat", "Resize", "Gather",
)  # fmt: skip
FOLLOWING = (
    "Relu", "Clip", "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Pad", "Slice",
    "Split",
)  # fmt: skip
# Weights have 7 bits: with 8, processors without VNNI add up to more than 16 bits hold, and the model would
# give other answers there than here.
_SEVEN_BITS = True


def int8_nodes(proto: Proto) -> list[str]:
    """Names of the nodes that can be quantised."""
    return [n.name for n in proto.graph.node if n.op_type in COMPUTING and not n.domain]


def ranges_of(proto: Proto, inputs: Sequence[Tensor]) -> dict[str, tuple[float, float]]:
    """The smallest and the largest value of every tensor of the graph, over all inputs (n, …).

    Cost: one forward pass of the inputs, in batches.
    """
    with quantizers():
        from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

        with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(serialized(proto))
            try:
                calibrator = create_calibrator(
                    path,
                    [*COMPUTING, *FOLLOWING],
                    augmented_model_path=str(Path(folder) / "augmented.onnx"),
                    calibrate_method=CalibrationMethod.MinMax,
                    extra_options={},
                )
                calibrator.collect_data(_Reader(feed for feed, _ in feeds(proto, inputs)))
                found = calibrator.compute_data()
            except Exception as error:  # of onnxruntime, in several families
                raise InputError(
                    f"onnxruntime cannot calibrate the model: {first_line(error)}; take another scheme"
                ) from error
    return {name: _ends(value.range_value) for name, value in found.items()}


def _ends(value: Any) -> tuple[float, float]:
    """Exact as Python's floats, so that they can be written and read again."""
    low, high = (float(np.asarray(end).reshape(-1)[0]) for end in value)
    return low, high


class _Reader:
    """What onnxruntime's calibrators take."""

    def __init__(self, rows: Iterator[dict[str, Any]]) -> None:
        self._rows = rows

    def get_next(self) -> dict[str, Any] | None:
        return next(self._rows, None)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._rows


def int8(proto: Proto, kept_float: Collection[str], found: Ranges) -> Proto:
    """The model with the nodes in 8 bits, but for those in `kept_float`.

    Weights are signed and have a scale for each output channel; values are unsigned.
    """
    with quantizers():
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        copy = type(proto)()
        copy.CopyFrom(proto)
        pairs = {name: tuple(np.float32(end) for end in ends) for name, ends in found.items()}
        quantizer = QDQQuantizer(
            copy,
            per_channel=True,
            reduce_range=_SEVEN_BITS,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, pairs),
            nodes_to_quantize=[],
            nodes_to_exclude=sorted(kept_float),
            op_types_to_quantize=[*COMPUTING, *FOLLOWING],
            extra_options={"QDQOpTypePerChannelSupportToAxis": {"MatMul": 1}},
        )
        quantizer.quantize_model()
    return in_order(quantizer.model.model)
