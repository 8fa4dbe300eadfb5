"""Float models as the quantisers want them: batch norm folded, shapes known, every node with a name."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from secateur.errors import InputError
from secateur.formats.onnx.check import serialized
from secateur.formats.onnx.read import opset_of
from secateur.graph.export import first_line

Proto = Any
OPSET = 13  # the first in which weights have a scale for each channel
_FLOAT, _OTHER_FLOATS = 1, {10: "float16", 11: "float64", 16: "bfloat16"}
_DOMAINS = ("", "ai.onnx", "com.microsoft", "ai.onnx.ml")


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
    import onnx
    from onnx import numpy_helper

    made = named(proto)
    weights = {t.name: t for t in made.graph.initializer}
    nodes = list(made.graph.node)
    del made.graph.node[:]
    for node in nodes:
        settings = {a.name: a for a in node.attribute}
        plain = all(settings[k].f == 1.0 for k in ("alpha", "beta") if k in settings)
        turned = "transA" in settings and settings["transA"].i
        if node.op_type != "Gemm" or node.input[1] not in weights or not plain or turned:
            made.graph.node.append(node)
            continue
        matrix = numpy_helper.to_array(weights[node.input[1]])
        if "transB" in settings and settings["transB"].i:
            matrix = matrix.T.copy()
        name = f"{node.input[1]}_{node.name}_matrix"
        made.graph.initializer.append(numpy_helper.from_array(matrix, name))
        biased = len(node.input) > 2 and bool(node.input[2])
        product = f"{node.output[0]}_product" if biased else node.output[0]
        made.graph.node.append(
            onnx.helper.make_node("MatMul", [node.input[0], name], [product], name=node.name)
        )
        if biased:
            made.graph.node.append(
                onnx.helper.make_node(
                    "Add", [product, node.input[2]], [node.output[0]], name=f"{node.name}_bias"
                )
            )
    drop_unread(made)
    return made


def drop_unread(proto: Proto) -> None:
    """Remove weights that no node reads."""
    read = {name for node in proto.graph.node for name in node.input} | {v.name for v in proto.graph.output}
    kept = [t for t in proto.graph.initializer if t.name in read]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
