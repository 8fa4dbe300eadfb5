"""An ONNX file that onnxruntime runs as it is, to be measured: quantised, or in half precision."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from math import prod
from typing import Any, NoReturn

import torch
from torch import Tensor, fx

from secateur.errors import InputError, SecateurError, UnsupportedOpError
from secateur.formats.onnx.budget import VALUE_BYTES
from secateur.formats.onnx.check import inference_session
from secateur.formats.onnx.dequantise import dequantised
from secateur.formats.onnx.imported import OnnxModel
from secateur.formats.onnx.model import batch_of, shape_of
from secateur.formats.onnx.read import QDQ, check_ops, check_proto, inputs_of, read_proto
from secateur.formats.onnx.run import session_outputs
from secateur.graph.imported import Imported

Proto = Any
_INT64 = 7
_PACKED = {"MatMulNBits": ("K", "N")}  # the weight's sizes, where several numbers are stored in a byte


class OnnxFile(Imported):
    """The model of a file, in onnxruntime: without weights in torch, gradients, or a graph to prune."""

    def __init__(self, path: str, proto: Proto) -> None:
        super().__init__()
        self.path = path
        self.proto = proto
        self.batch = batch_of(inputs_of(proto))  # the only batch size that the file allows
        self.training = False

    @cached_property
    def session(self) -> Any:
        return inference_session(self.proto)

    @cached_property
    def float_form(self) -> OnnxModel | None:
        """The model without rounding, whose ops tell what is decided and what is computed; None where there
        is none.
        """
        try:
            floating = dequantised(self.path, self.proto) if _has_qdq(self.proto) else self.proto
            check_ops(self.path, floating)
            check_proto(self.path, floating)
            return OnnxModel(floating)
        except SecateurError:
            return None

    @property
    def example_inputs(self) -> tuple[Tensor, ...]:
        """Two samples of zeros; `InputError` where an axis other than the batch has no size."""
        shapes = map(shape_of, inputs_of(self.proto))
        return tuple(torch.zeros((2, *shape), dtype=dtype) for shape, dtype in shapes)

    def forward(self, *inputs: Tensor) -> Any:
        """The output, or all of them by name."""
        wanted = inputs_of(self.proto)
        if len(inputs) != len(wanted):
            names = ", ".join(value.name for value in wanted)
            raise InputError(f"the model takes {len(wanted)} inputs ({names}), not {len(inputs)}")
        found = session_outputs(self.session, self.proto, [x.detach() for x in inputs])
        rows = [y.to(inputs[0].device) for y in found]
        return rows[0] if len(rows) == 1 else dict(zip(self.outputs, rows, strict=True))

    @property
    def outputs(self) -> list[str]:
        return [value.name for value in self.proto.graph.output]

    def check(self, inputs: Sequence[Tensor]) -> NoReturn:
        raise UnsupportedOpError(
            f"{self.path} is run by onnxruntime as it is: it can be measured, but neither pruned nor "
            "certified; load the floating-point model that it was made of"
        )

    def traced(self, export: Callable[[], fx.GraphModule]) -> fx.GraphModule:
        self.check(())

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxFile:
        """Itself: nothing of it changes, or moves to another device."""
        return self


def load_as_is(path: str | os.PathLike[str]) -> OnnxFile:
    """The model in the `.onnx` file at `path`, whatever its numbers are stored as.

    Raises `InputError` for a file that is no sound model, that makes values beyond all reason, or that
    onnxruntime refuses.
    """
    model = OnnxFile(os.fspath(path), read_proto(path, quantized="any"))
    _check_sizes(path, model.proto)
    try:
        model.session  # noqa: B018 (made now, so that what is wrong is said of the file)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return model


def _check_sizes(path: str | os.PathLike[str], proto: Proto) -> None:
    """Refuse values that are larger than what ordinary networks have, as far as shapes are known."""
    import onnx

    bare = type(proto)()
    bare.CopyFrom(proto)
    del bare.graph.value_info[:]  # what the file says of them is not believed
    try:
        found = onnx.shape_inference.infer_shapes(bare, data_prop=True)
    except Exception:  # onnxruntime infers them, too, and says what it refuses
        return
    for value in (*found.graph.value_info, *found.graph.output):
        sizes = [d.dim_value for d in value.type.tensor_type.shape.dim if d.dim_value > 0]
        if prod(sizes) > VALUE_BYTES // 4:
            raise InputError(
                f"{path}: the value {value.name!r} has the shape {sizes}, more than {VALUE_BYTES:,} bytes "
                "for one sample; export a model that can be run"
            )


def stored_numbers(proto: Proto) -> int:
    """How many weights a model holds; scales, zero points, sizes, places and single numbers do not count."""
    aside = {t.name for t in proto.graph.initializer if t.data_type == _INT64 or not t.dims}
    packed = dict[str, int]()
    for node in proto.graph.node:
        if node.op_type in QDQ:
            aside.update(node.input[1:])
        elif node.op_type in _PACKED:
            sizes = {a.name: a.i for a in node.attribute}
            packed[node.input[1]] = prod(sizes[name] for name in _PACKED[node.op_type])
            aside.update(node.input[2:5])
    return sum(packed.get(t.name, prod(t.dims)) for t in proto.graph.initializer if t.name not in aside)


def stored_bytes(proto: Proto) -> int:
    """Of its weights, with scales and zero points."""
    return sum(len(t.raw_data) or t.ByteSize() for t in proto.graph.initializer)


def _has_qdq(proto: Proto) -> bool:
    return any(node.op_type in QDQ for node in proto.graph.node)
