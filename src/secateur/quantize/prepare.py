"""Float models as the quantisers want them: batch norm folded, shapes known, every node with a name."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from secateur.errors import InputError
from secateur.formats.onnx.check import serialized
from secateur.formats.onnx.edit import drop_unread
from secateur.formats.onnx.read import opset_of
from secateur.graph.export import first_line

Proto = Any
OPSET = 13  # the first in which weights have a scale for each channel
_OTHER_FLOATS = {10: "float16", 11: "float64", 16: "bfloat16"}


def named(proto: Proto) -> Proto:
    """A copy in which every node has a name of its own; `InputError` where the model is not float32."""
    check_float32(proto)
    copy = type(proto)()
    copy.CopyFrom(proto)
    taken = set[str]()
    for i, node in enumerate(copy.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{i}"
        while node.name in taken:
            node.name += "_"
        taken.add(node.name)
    return copy


def check_float32(proto: Proto) -> None:
    """Raise `InputError` for a model with weights or inputs of another floating-point type."""
    for value in proto.graph.initializer:
        _refuse(value.data_type, "weight", value.name)
    for value in (*proto.graph.input, *proto.graph.output):
        _refuse(value.type.tensor_type.elem_type, "input or output", value.name)


def _refuse(kind: int, what: str, name: str) -> None:
    if kind in _OTHER_FLOATS:
        raise InputError(
            f"quantize: the {what} {name!r} is of type {_OTHER_FLOATS[kind]}; give a model in float32"
        )


def optimised(proto: Proto) -> Proto:
    """The model after onnxruntime's basic optimisations, which do not depend on the processor.

    Constants are folded and batch norm becomes part of convolutions. Shapes are inferred.
    """
    import onnx
    import onnxruntime

    check_float32(proto)
    proto = _newer(proto)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
        path = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(serialized(proto), options, providers=["CPUExecutionProvider"])
            made = onnx.ModelProto.FromString(path.read_bytes())
        except Exception as error:  # onnxruntime has several families of its own
            raise InputError(f"onnxruntime refuses the model: {first_line(error)}") from error
    _drop_unused_domains(made)
    return with_shapes(named(made))


def _newer(proto: Proto) -> Proto:
    """Converted to the oldest opset that int8 needs, where it is older."""
    import onnx.version_converter

    opset = opset_of(proto)
    if opset >= OPSET:
        return proto
    try:
        return onnx.version_converter.convert_version(proto, OPSET)
    except Exception as error:
        raise InputError(
            f"quantize: the model has opset {opset}, int8 needs {OPSET}, and onnx cannot convert it: "
            f"{first_line(error)}. Export the model with a newer opset"
        ) from error


def _drop_unused_domains(proto: Proto) -> None:
    """onnxruntime adds all the domains that it knows."""
    used = {node.domain for node in proto.graph.node} | {"", "ai.onnx"}
    kept = [opset for opset in proto.opset_import if opset.domain in used]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)


def with_shapes(proto: Proto) -> Proto:
    import onnx

    return onnx.shape_inference.infer_shapes(proto)


def products(proto: Proto) -> Proto:
    """A copy in which a dense layer (Gemm with a constant matrix) is a MatMul and an Add, which weight-only
    quantisers know.
    """
    made = named(proto)
    matrices = {t.name: t for t in made.graph.initializer if len(t.dims) == 2}
    nodes = list(made.graph.node)
    del made.graph.node[:]
    for node in nodes:
        if node.op_type == "Gemm" and node.input[1] in matrices and _is_plain(node):
            matrix, parts = _as_product(node, matrices[node.input[1]])
            made.graph.initializer.append(matrix)
            made.graph.node.extend(parts)
        else:
            made.graph.node.append(node)
    drop_unread(made)
    return made


def _settings(node: Proto) -> dict[str, float]:
    return {a.name: a.f if a.name in ("alpha", "beta") else a.i for a in node.attribute}


def _is_plain(node: Proto) -> bool:
    settings = _settings(node)
    factors = settings.get("alpha", 1.0), settings.get("beta", 1.0)
    return factors == (1.0, 1.0) and not settings.get("transA")


def _as_product(node: Proto, weight: Proto) -> tuple[Proto, list[Proto]]:
    """The matrix, as MatMul reads it, and the nodes."""
    from onnx import helper, numpy_helper

    matrix = numpy_helper.to_array(weight)
    if _settings(node).get("transB"):
        matrix = matrix.T.copy()
    stored = numpy_helper.from_array(matrix, f"{node.input[1]}_{node.name}_matrix")
    given, bias, output = node.input[0], [*node.input[2:], ""][0], node.output[0]
    product = f"{output}_product" if bias else output
    parts = [helper.make_node("MatMul", [given, stored.name], [product], name=node.name)]
    if bias:
        parts.append(helper.make_node("Add", [product, bias], [output], name=f"{node.name}_bias"))
    return stored, parts
