"""ONNX models: every op against onnxruntime, and files that come back smaller and otherwise as they were.

Graphs are written as nodes in ONNX's own text form. What they read is declared by its name: `x_N_3_8_8` is an
input of that shape with a free batch, `w_20_12` a random weight (see `_kind_of`), and `@[1, -1]` a constant.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import re
import warnings
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

import secateur  # noqa: E402
from architectures import ARCHITECTURES  # noqa: E402
from helpers import cut  # noqa: E402
from secateur.errors import InputError, UnsupportedOpError, VerificationError  # noqa: E402
from secateur.formats.onnx import host as host_rules  # noqa: E402
from secateur.formats.onnx import ops as op_rules  # noqa: E402
from secateur.formats.onnx.check import check_import, distance, run_onnx  # noqa: E402
from secateur.formats.onnx.files import load_onnx, save_onnx  # noqa: E402
from secateur.formats.onnx.imported import OnnxModel  # noqa: E402
from secateur.formats.onnx.table import OPS  # noqa: E402
from secateur.graph.capture import capture  # noqa: E402
from secateur.graph.coupling import couple  # noqa: E402
from secateur.graph.interpret import run  # noqa: E402
from secateur.surgery import shrink  # noqa: E402

Proto = Any

# --- graphs from text ---------------------------------------------------------------------------------------

_DECLARED = re.compile(r"\b([a-z])[a-z0-9]*((?:_(?:\d+|N))+)\b")
_CONSTANT = re.compile(r"@(\[\[.*?\]\]|\[[^\]]*\]|-?[\d.]+)")
_INPUTS = {
    "x": 1,
    "u": 1,
    "h": 10,
    "b": 9,
    "t": 7,
}  # floats, floats from 0.5 to 1.5, halves, booleans, ids from 0 to 3


def _kind_of(letter: str) -> str:
    """What the first letter of a name declares: an input, or a weight (`w`, or `v` from 0.5 to 1.5, `k` in
    float16).
    """
    return "input" if letter in _INPUTS else "weight" if letter in "wvk" else ""


def graph(
    text: str, opset: int = 17, *, ir: int = 8, constant_nodes: bool = False, listed: bool = False
) -> Proto:
    """A model of these nodes. Weights are initializers, which may be listed as inputs, or come from Constant
    nodes.
    """
    values: dict[str, Any] = {}

    def constant(match: re.Match[str]) -> str:
        value = np.array(json.loads(match[1]))
        name = f"constant{len(values)}"
        values[name] = value.astype(np.float32) if value.dtype == np.float64 or not value.size else value
        return name

    text = _CONSTANT.sub(constant, text)
    nodes = list(onnx.parser.parse_graph(f"net () => () {{ {text} }}").node)
    made = {o for n in nodes for o in n.output}
    inputs, read = [], list(dict.fromkeys(i for n in nodes for i in n.input))
    for name in read:
        found = _DECLARED.fullmatch(name)
        if name in made or not found:
            continue
        sizes = [s if s == "N" else int(s) for s in found[2][1:].split("_")]
        if _kind_of(found[1]) == "input":
            inputs.append(onnx.helper.make_tensor_value_info(name, _INPUTS[found[1]], sizes))
        else:
            values[name] = _random(found[1], name, sizes)
    tensors = [onnx.numpy_helper.from_array(v, name) for name, v in values.items()]
    if listed:
        inputs += [onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
    if constant_nodes:
        nodes[:0] = [onnx.helper.make_node("Constant", [], [t.name], value=t) for t in tensors]
        tensors = []
    for index, node in enumerate(nodes):
        node.name, node.doc_string = f"{index}/{node.op_type}", f"node {index}"
    unread = [o for n in nodes for o in n.output if o and o not in read]
    outputs = [onnx.ValueInfoProto(name=name) for name in unread]
    made_graph = onnx.helper.make_graph(nodes, "net", inputs, outputs, tensors, doc_string="a graph")
    domains = sorted({n.domain for n in nodes} - {""})
    opsets = [onnx.helper.make_opsetid("", opset), *(onnx.helper.make_opsetid(name, 1) for name in domains)]
    model = onnx.helper.make_model(made_graph, ir_version=ir, opset_imports=opsets)
    model.producer_name, model.doc_string = "tests", "a model"
    onnx.helper.set_model_props(model, {"author": "nobody", "labels": "a,b"})
    twin = onnx.ModelProto.FromString(model.SerializeToString())
    for node in twin.graph.node:  # of which ONNX infers nothing
        node.op_type = node.op_type.replace("GroupNormalization", "InstanceNormalization")
    inferred = onnx.shape_inference.infer_shapes(twin)
    del model.graph.output[:]
    model.graph.output.extend(inferred.graph.output)
    return model


def _random(letter: str, name: str, shape: Sequence[Any]) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if letter == "v":
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    scale = 1.5 / np.sqrt(max(1, np.prod(shape) / max(shape))) if len(shape) > 1 else 0.5
    return (scale * rng.standard_normal(shape)).astype(np.float16 if letter == "k" else np.float32)


def inputs_for(proto: Proto, batch: int = 2, seed: int = 0) -> list[Tensor]:
    """Random inputs by the first letters of their names (a float for other names); a batch that is free is
    `batch`.
    """
    given, generator = {t.name for t in proto.graph.initializer}, torch.Generator().manual_seed(seed)
    found = []
    for value in proto.graph.input:
        if value.name in given:
            continue
        kind = value.type.tensor_type
        shape = [d.dim_value or batch for d in kind.shape.dim]
        if kind.elem_type == 7:
            found.append(torch.randint(0, 4, shape, generator=generator))
        elif kind.elem_type == 9:
            found.append(torch.rand(shape, generator=generator) < 0.5)
        else:
            x = torch.randn(shape, generator=generator)
            x = 0.5 + x.abs().clamp(max=1) if value.name.startswith("u_") else x
            found.append(
                x.to(
                    {1: torch.float32, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16}[
                        kind.elem_type
                    ]
                )
            )
    return found


def run_session(proto: Proto, inputs: Sequence[Tensor]) -> list[np.ndarray[Any, Any]]:
    """The outputs in onnxruntime, with all of its optimisations, which take nothing from `check`."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    fed = {v.name: x.numpy() for v, x in zip(session.get_inputs(), inputs, strict=True)}
    return list(session.run(None, fed))


# --- every op -----------------------------------------------------------------------------------------------

# Op → graphs with it; `18:` before one is the opset (17 where there is none).
_OPS: dict[str, list[str]] = {
    op_rules.LINEAR: [
        "y = MatMul(x_2_6, w_6_5)",
        "a = MatMul(x_2_3_6, w_6_5) y = Add(a, w_5)",
        "a = MatMul(x_2_6, w_6_5) y = Add(w_5, a)",
        "a = MatMul(x_2_6, w_6_5) y = Add(a, w_2_5)",
        "a = MatMul(x_2_6, w_6_1) y = Add(a, w_1)",
    ],
    "Abs": ["y = Abs(x_2_3)"],
    "Add": ["y = Add(x_2_3, xb_2_3)", "y = Add(x_2_3, w_3)", "y = Add(@0.5, x_2_3)", "7: y = Add(x_2_3, w_1_3)"],
    "And": ["y = And(b_2_3, bb_2_3)"],
    "Attention": [
        "23: y = Attention(x_2_3_4_5, xb_2_3_4_5, xc_2_3_4_5)",
        "23: y = Attention <is_causal=1, scale=0.3> (x_2_4_4_6, xb_2_2_4_6, xc_2_2_4_5)",
        "23: y = Attention(x_2_3_4_5, xb_2_3_4_5, xc_2_3_4_5, xm_4_4)",
    ],
    "AveragePool": [
        "y = AveragePool <kernel_shape=[2,2]> (x_2_3_7_7)",
        "y = AveragePool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (x_2_3_7_7)",
        "y = AveragePool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], count_include_pad=1> "
        "(x_2_3_7_7)",
        "y = AveragePool <kernel_shape=[3,3], strides=[2,2], ceil_mode=1> (x_2_3_8_8)",
        "19: y = AveragePool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], ceil_mode=1, "
        "count_include_pad=1> "
        "(x_2_3_8_8)",
        "y = AveragePool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], ceil_mode=1> (x_2_3_8_8)",
        "y = AveragePool <kernel_shape=[3,3], pads=[0,1,2,1]> (x_2_3_7_7)",
        "y = AveragePool <kernel_shape=[3,3], pads=[0,1,2,1], count_include_pad=1> (x_2_3_7_7)",
        'y = AveragePool <kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER"> (x_2_3_8_8)',
        'y = AveragePool <kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_LOWER"> (x_2_3_8_8)',
        'y = AveragePool <kernel_shape=[3,3], auto_pad="VALID"> (x_2_3_8_8)',
        "y = AveragePool <kernel_shape=[3], strides=[2]> (x_2_3_8)",
        "y = AveragePool <kernel_shape=[2,2,2]> (x_2_3_4_4_4)",
    ],
    "BatchNormalization": [
        "y = BatchNormalization <epsilon=0.01> (x_2_3_4_4, w_3, wb_3, wm_3, v_3)",
        "9: y = BatchNormalization <momentum=0.8> (x_2_3, w_3, wb_3, wm_3, v_3)",
    ],
    "Cast": [
        "y = Cast <to=11> (x_2_3)", "y = Cast <to=7> (x_2_3)", "y = Cast <to=1> (b_2_3)", "y = Cast <to=1> (x_2_3)",
    ],
    "Ceil": ["y = Ceil(x_2_3)"],
    "Celu": ["y = Celu(x_2_3)", "y = Celu <alpha=0.4> (x_2_3)"],
    "Clip": [
        "y = Clip(x_2_9, @-0.5, @0.5)", "y = Clip(x_2_9, , @0.5)", "y = Clip(x_2_9, @0.0)", "y = Clip(x_2_9, @0.1)",
        "y = Clip(x_2_9)", "10: y = Clip <min=-0.5, max=0.2> (x_2_9)", "6: y = Clip <max=0.2> (x_2_9)",
        "y = Clip(x_2_9, @[-0.5], @0.5)",
    ],
    "Concat": [
        "y = Concat <axis=1> (x_2_3, xb_2_4)", "y = Concat <axis=-1> (x_2_3, w_2_4)",
        "y = Concat <axis=0> (x_2_3, xb_2_3)",
    ],
    "ConstantOfShape": [],  # of a free batch: in test_onnx_foreign.py
    "ConstantOfShape (Shape)": [
        "s = Shape(x_2_3) y = ConstantOfShape(s)",
        "s = Shape(x_2_3) c = Cast <to=7> (s) y = ConstantOfShape <value=int64[1] {-1}> (c)",
        "s = Shape(x_2_3_4) t = Slice(s, @[1], @[3]) y = ConstantOfShape <value=int64[1] {2}> (t)",
    ],
    "Expand (Shape)": [
        *(f"s = Shape(x_2_3) y = Expand({value}, s)" for value in ("@0.5", "@7", "w_2_1", "w_1_3")),
        "s = Shape(x_2_3) i = Identity(s) a = Greater(xa_2_1, @0.1) y = Expand(a, i)",
        "s = Shape(x_2_3_4) t = Gather(s, @[2,1]) y = Expand(xa_4_1, t)",
    ],
    "Conv": [
        "y = Conv(x_2_4_6_6, w_8_4_3_3)",
        "y = Conv <pads=[1,1,1,1], strides=[2,1]> (x_2_4_6_6, w_8_4_3_3, w_8)",
        "y = Conv <pads=[0,1,2,0], dilations=[2,1]> (x_2_4_6_6, w_8_4_3_3, w_8)",
        "y = Conv <group=2> (x_2_4_6_6, w_8_2_3_3, w_8)",
        'y = Conv <group=4, auto_pad="SAME_UPPER", strides=[2,2]> (x_2_4_6_6, w_8_1_3_3)',
        'y = Conv <auto_pad="SAME_LOWER", strides=[2,2]> (x_2_4_7_6, w_8_4_2_2)',
        'y = Conv <auto_pad="VALID"> (x_2_4_7_6, w_8_4_3_3)',
        "y = Conv <pads=[2,1]> (x_2_4_9, w_8_4_3, w_8)",
        "y = Conv <pads=[1,1,1,1,1,1]> (x_2_2_4_4_4, w_3_2_3_3_3)",
        "y = Conv <kernel_shape=[3,3]> (x_2_4_6_6, xw_8_4_3_3)",
    ],
    "ConvTranspose": [
        "y = ConvTranspose(x_2_4_5_5, w_4_6_3_3)",
        "y = ConvTranspose <strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]> (x_2_4_5_5, w_4_6_3_3, w_6)",
        "y = ConvTranspose <strides=[2,2], pads=[0,1,1,0], output_padding=[1,1]> (x_2_4_5_5, w_4_6_3_3, w_6)",
        "y = ConvTranspose <group=2, dilations=[2,1]> (x_2_4_5_5, w_4_3_3_3, w_6)",
        "y = ConvTranspose <strides=[2]> (x_2_4_5, w_4_6_3)",
        "y = ConvTranspose(x_2_2_3_3_3, w_2_3_2_2_2)",
        'y = ConvTranspose <strides=[2,2], auto_pad="SAME_UPPER"> (x_2_4_5_5, w_4_6_3_3)',
        'y = ConvTranspose <strides=[2,2], auto_pad="SAME_LOWER"> (x_2_4_5_5, w_4_6_3_3)',
        'y = ConvTranspose <strides=[2,2], auto_pad="VALID"> (x_2_4_5_5, w_4_6_3_3)',
        "y = ConvTranspose <strides=[2,2], output_shape=[10,10]> (x_2_4_5_5, w_4_6_3_3)",
        'y = ConvTranspose <strides=[3,3], auto_pad="SAME_UPPER"> (x_2_4_5_5, w_4_6_2_2)',
    ],
    "Cos": ["y = Cos(x_2_3)"],
    "DepthToSpace": [
        "y = DepthToSpace <blocksize=2> (x_2_8_3_4)",
        'y = DepthToSpace <blocksize=2, mode="CRD"> (x_2_8_3_4)',
        "9: y = DepthToSpace <blocksize=3> (x_2_9_2_2)",
    ],
    "Div": [
        "y = Div(x_2_3, u_2_3)", "y = Div(x_2_3, @2.0)", "y = Div(@1.0, u_2_3)", "a = Sub(t_2_3, @2) y = Div(a, @2)",
    ],
    "Dropout": ["y = Dropout(x_2_3)", "y = Dropout(x_2_3, @0.3)", "11: y = Dropout <ratio=0.3> (x_2_3)"],
    "Einsum": [
        'y = Einsum <equation="bij, bjk -> bik"> (x_2_3_4, xb_2_4_5)',
        'y = Einsum <equation="bi,oi->bo"> (x_2_6, w_5_6)',
    ],
    "Elu": ["y = Elu(x_2_3)", "y = Elu <alpha=0.3> (x_2_3)"],
    "Equal": ["y = Equal(t_2_9, tb_2_9)", "y = Equal(t_2_9, @2)"],
    "Erf": ["y = Erf(x_2_3)"],
    "Exp": ["y = Exp(x_2_3)"],
    "Expand": [
        "y = Expand(x_2_1_3, @[2,4,3])", "y = Expand(x_2_1_3, @[4,1])", "y = Expand(x_3, @[2,3])",
        "y = Expand(x_2_3, @[1,3])",
    ],
    "Flatten": [
        "y = Flatten(x_2_3_4)", "y = Flatten <axis=2> (x_2_3_4)", "y = Flatten <axis=-1> (x_2_3_4)",
        "y = Flatten <axis=0> (x_2_3_4)", "y = Flatten(x_2)",
    ],
    "Floor": ["y = Floor(x_2_3)"],
    "Gather": [
        "y = Gather <axis=1> (x_2_5, @[3,0,-1])", "y = Gather <axis=1> (x_2_5_3, @2)",
        "y = Gather <axis=1> (x_2_5_3, @-1)",
        "y = Gather <axis=-1> (x_2_5, @[[0,1],[2,-2]])", "y = Gather(w_4_3, t_2_6)", "y = Gather(w_4_3, t_2)",
        "y = Gather <axis=1> (w_2_4_3, t_5)",
    ],
    "GatherElements": [
        "y = GatherElements <axis=1> (x_2_4, t_2_3)", "y = GatherElements <axis=-1> (x_2_4, @[[0,2],[3,1]])",
    ],
    "Gelu": ["20: y = Gelu(x_2_3)", '20: y = Gelu <approximate="tanh"> (x_2_3)'],
    "Gemm": [
        "y = Gemm(x_2_6, w_6_5)", "y = Gemm(x_2_6, w_6_5, w_5)", "y = Gemm <transB=1> (x_2_6, w_5_6, w_5)",
        "y = Gemm <transB=1, alpha=0.5, beta=2.0> (x_2_6, w_5_6, w_5)", "y = Gemm <alpha=0.5> (x_2_6, w_6_5)",
        "y = Gemm <transA=1> (x_6_2, w_6_5, w_5)", "y = Gemm(x_2_6, w_6_5, w_2_5)", "y = Gemm(x_2_6, w_6_5, w_1)",
        "y = Gemm(x_2_6, w_6_5, w_2_1)", "9: y = Gemm <beta=0.5> (x_2_6, w_6_5, w_1_5)", "y = Gemm(x_2_6, x_6_5, w_5)",
        "y = Gemm(x_2_6, w_6_5, @0.5)",
    ],
    "GlobalAveragePool": [f"y = GlobalAveragePool(x_2_3_{s})" for s in ("5", "5_4", "3_4_2")],
    "GlobalMaxPool": [f"y = GlobalMaxPool(x_2_3_{s})" for s in ("5", "5_4", "3_4_2")],
    "Greater": ["y = Greater(x_2_3, xb_2_3)", "y = Greater(x_2_3, @0.2)"],
    "GreaterOrEqual": ["y = GreaterOrEqual(x_2_3, xb_2_3)"],
    "GroupNormalization": [
        "18: y = GroupNormalization <num_groups=2> (x_2_4_3_3, w_2, wb_2)",
        "21: y = GroupNormalization <num_groups=2, epsilon=0.01> (x_2_4_3_3, w_4, wb_4)",
        "18: y = GroupNormalization <num_groups=4> (x_2_4_3_3, w_4, wb_4)",
    ],
    "HardSigmoid": [
        "y = HardSigmoid(x_2_9)", "y = HardSigmoid <alpha=0.16666667> (x_2_9)", "y = HardSigmoid <beta=0.3> (x_2_9)",
    ],
    "HardSwish": ["y = HardSwish(x_2_9)"],
    "Identity": ["y = Identity(x_2_3)"],
    "InstanceNormalization": ["y = InstanceNormalization <epsilon=0.01> (x_2_3_4_4, w_3, wb_3)"],
    "LRN": [
        "y = LRN <size=3> (x_2_6_4_4)", "y = LRN <size=5, alpha=0.1, beta=0.6, bias=2.0> (x_2_6_4_4)",
    ],
    "LayerNormalization": [
        "y = LayerNormalization(x_2_4_6, w_6, wb_6)", "y = LayerNormalization <epsilon=0.01> (x_2_4_6, w_6)",
        "y = LayerNormalization <axis=1> (x_2_4_6, w_4_6, wb_4_6)",
        "y = LayerNormalization <axis=1> (x_2_4_6, w_6, wb_6)",
    ],
    "LeakyRelu": ["y = LeakyRelu(x_2_3)", "y = LeakyRelu <alpha=0.3> (x_2_3)"],
    "Less": ["y = Less(x_2_3, xb_2_3)"],
    "LessOrEqual": ["y = LessOrEqual(x_2_3, xb_2_3)"],
    "Log": ["y = Log(u_2_3)"],
    "LogSoftmax": ["y = LogSoftmax(x_2_3_4)", "11: y = LogSoftmax(x_2_3_4)"],
    "MatMul": [
        "y = MatMul(x_2_3_4, xb_2_4_5)", "y = MatMul(w_5_3, x_2_3_4)", "y = MatMul(x_2_3_4, w_2_4_5)",
        "y = MatMul(x_2_4, w_4)",
    ],
    "Max": ["y = Max(x_2_3, xb_2_3)", "y = Max(x_2_3)", "y = Max(x_2_3, xb_2_3, w_3)", "y = Max(x_2_3, @0.1)"],
    "MaxPool": [
        "y = MaxPool <kernel_shape=[2,2]> (x_2_3_7_7)",
        "y = MaxPool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]> (x_2_3_7_7)",
        "y = MaxPool <kernel_shape=[3,3], strides=[2,2], ceil_mode=1> (x_2_3_8_8)",
        "y = MaxPool <kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], ceil_mode=1> (x_2_3_8_8)",
        "y = MaxPool <kernel_shape=[3,3], pads=[0,0,1,1]> (x_2_3_7_7)",
        "y = MaxPool <kernel_shape=[3,3], strides=[2,2], pads=[0,0,1,1], ceil_mode=1> (x_2_3_8_8)",
        "y = MaxPool <kernel_shape=[3,3], pads=[2,2,2,2]> (x_2_3_7_7)",
        "y = MaxPool <kernel_shape=[3,3], dilations=[2,2]> (x_2_3_7_7)",
        'y = MaxPool <kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER"> (x_2_3_8_8)',
        "y = MaxPool <kernel_shape=[2]> (x_2_3_7)",
        "y = MaxPool <kernel_shape=[2,2,2]> (x_2_3_4_4_4)",
    ],
    "Mean": ["y = Mean(x_2_3, xb_2_3, w_3)", "y = Mean(x_2_3)"],
    "Min": ["y = Min(x_2_3, xb_2_3, w_3)"],
    "Mish": ["18: y = Mish(x_2_3)"],
    "Mul": ["y = Mul(x_2_3, xb_2_3)", "y = Mul(x_2_3, w_3)", "y = Mul(@[0.5], x_2_3)", "y = Mul(x_2_3, x_2_3)"],
    "Neg": ["y = Neg(x_2_3)"],
    "Not": ["y = Not(b_2_3)"],
    "Or": ["y = Or(b_2_3, bb_2_3)"],
    "PRelu": [
        "y = PRelu(x_2_3_4_4, w_3_1_1)", "y = PRelu(x_2_3, w_3)", "y = PRelu(x_2_3_4_4, w_1)",
        "y = PRelu(x_2_4_3, w_3)",
        "y = PRelu(x_2_3_4_4, w_1_3_1_1)", "y = PRelu(x_2_3_4, w_3_4)",
        "a = PRelu(x_2_3_4_4, w_3_1_1) y = PRelu(a, w_3_1_1)",
    ],
    "Pad": [
        "y = Pad(x_2_3_4_4, @[0,0,1,2,0,0,3,0])", "y = Pad(x_2_3_4_4, @[0,1,0,0,0,2,0,0], @0.5)",
        'y = Pad <mode="reflect"> (x_2_3_4_4, @[0,0,1,2,0,0,2,1])',
        'y = Pad <mode="edge"> (x_2_3_4_4, @[0,0,1,2,0,0,2,1])',
        "10: y = Pad <pads=[0,0,1,2,0,0,3,0], value=0.3> (x_2_3_4_4)", "y = Pad(x_2_3_4_4, @[0,0,0,0,0,0,0,0])",
        "18: y = Pad(x_2_3_4_4, @[1,2], , @[-1])", '19: y = Pad <mode="wrap"> (x_2_3_4_4, @[0,0,1,0,0,0,1,2])',
        "y = Pad(x_2_3_4_4, @[0,0,-1,0,0,0,0,-1])",
    ],
    "Pow": [
        "y = Pow(u_2_3, x_2_3)", "y = Pow(x_2_3, @2.0)", "y = Pow(@2.0, x_2_3)", "y = Pow(u_2_3, @0.5)",
        "y = Pow(x_2_3, @2)",
    ],
    "RMSNormalization": [
        "23: y = RMSNormalization(x_2_4_6, w_6)", "23: y = RMSNormalization <axis=1, epsilon=0.1> (x_2_4_6, w_4_6)",
    ],
    "Reciprocal": ["y = Reciprocal(u_2_3)"],
    "ReduceL2": ["y = ReduceL2 <axes=[1]> (x_2_3_4)", "18: y = ReduceL2 <keepdims=0> (x_2_3_4, @[-1])"],
    "ReduceMax": [
        "y = ReduceMax <axes=[1,-1]> (x_2_3_4)", "18: y = ReduceMax(x_2_3_4, @[1])", "y = ReduceMax(x_2_3_4)",
    ],
    "ReduceMean": [
        "y = ReduceMean <axes=[2,3], keepdims=0> (x_2_3_4_4)", "18: y = ReduceMean(x_2_3_4, @[-1])",
        "18: y = ReduceMean <noop_with_empty_axes=1> (x_2_3_4)", "18: y = ReduceMean <keepdims=0> (x_2_3_4)",
    ],
    "ReduceMin": ["y = ReduceMin <axes=[1], keepdims=0> (x_2_3_4)"],
    "ReduceSum": ["y = ReduceSum(x_2_3_4, @[1])", "11: y = ReduceSum <axes=[-1], keepdims=0> (x_2_3_4)"],
    "Relu": ["y = Relu(x_2_3)"],
    "Reshape": [
        "y = Reshape(x_2_3_4, @[0,-1])", "y = Reshape(x_2_3_4, @[2,12])", "y = Reshape(x_2_3_4, @[-1,4])",
        "y = Reshape(x_2_3_4, @[6,4])",
        "y = Reshape <allowzero=1> (x_2_3_4, @[2,4,3])", "y = Reshape(x_2_3_4, @[0,4,3])",
        "y = Reshape(x_2_3_4, @[-1])",
    ],
    "Resize": [
        "y = Resize(x_2_3_4_4, , @[1.0,1.0,2.0,2.0])",
        'y = Resize <coordinate_transformation_mode="asymmetric", nearest_mode="floor"> '
        '(x_2_3_4_4, , @[1.0,1.0,1.5,2.0])',
        'y = Resize <mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"> '
        '(x_2_3_4_4, , , @[2,3,6,9])',
        'y = Resize <mode="linear"> (x_2_3_4_4, , @[1.0,1.0,2.0,2.5])',
        'y = Resize <mode="linear"> (x_2_3_4_4, , @[1.0,1.0,1.3,1.7])',
        'y = Resize <mode="linear", coordinate_transformation_mode="pytorch_half_pixel"> '
        '(x_2_3_4_4, , @[1.0,1.0,2.0,2.0])',
        'y = Resize <mode="linear", coordinate_transformation_mode="align_corners"> (x_2_3_4_4, , , '
        '@[2,3,7,9])',
        'y = Resize <mode="cubic"> (x_2_3_4_4, , @[1.0,1.0,2.0,2.0])',
        'y = Resize <mode="linear"> (x_2_3_4, , @[1.0,1.0,2.0])',
        "10: y = Resize(x_2_3_4_4, @[1.0,1.0,2.0,2.0])",
        '18: y = Resize <axes=[2,3], mode="linear"> (x_2_3_4_4, , @[2.0,3.0])',
        "18: y = Resize <axes=[3,2]> (x_2_3_4_4, , , @[8,12])",
        "11: y = Resize(x_2_3_4_4, @[], @[1.0,1.0,2.0,2.0])",
        "11: y = Resize(x_2_3_4_4, @[], @[], @[2,3,8,8])",
        'y = Resize <nearest_mode="floor"> (x_2_3_4_4, , @[1.0,1.0,2.0,2.0])',
        'y = Resize <nearest_mode="ceil", coordinate_transformation_mode="asymmetric"> '
        '(x_2_3_4_4, , @[1.0,1.0,2.0,2.0])',
        'y = Resize <nearest_mode="round_prefer_ceil"> (x_2_3_4_4, , @[1.0,1.0,2.0,2.0])',
        'y = Resize <coordinate_transformation_mode="asymmetric"> (x_2_3_4_4, , @[1.0,1.0,2.0,2.0])',
        'y = Resize <coordinate_transformation_mode="asymmetric"> (x_2_3_4_4, , @[1.0,1.0,3.0,3.0])',
        'y = Resize <coordinate_transformation_mode="align_corners"> (x_2_3_4_4, , @[1.0,1.0,2.0,2.0])',
        'y = Resize <coordinate_transformation_mode="half_pixel"> (x_2_3_4_4, , @[1.0,1.0,1.5,0.5])',
        'y = Resize <mode="linear", coordinate_transformation_mode="asymmetric"> (x_2_3_4_4, , '
        '@[1.0,1.0,2.0,2.0])',
        'y = Resize <mode="linear", coordinate_transformation_mode="half_pixel"> (x_2_3_4_4, , '
        '@[1.0,1.0,0.5,0.5])',
    ],
    "Round": ["y = Round(x_2_9)"],
    "Selu": ["y = Selu(x_2_3)", "y = Selu <alpha=1.5, gamma=1.1> (x_2_3)"],
    "Shape": ["y = Shape(x_2_3_4)", "y = Shape <start=1, end=-1> (x_2_3_4_5)"],
    "Sigmoid": ["y = Sigmoid(x_2_3)"],
    "Sign": ["y = Sign(x_2_3)"],
    "Sin": ["y = Sin(x_2_3)"],
    "Size": ["y = Size(x_2_3_4)"],
    "Slice": [
        "y = Slice(x_2_6, @[1], @[4], @[1])", "y = Slice(x_2_6, @[0,1], @[2,9], @[0,-1], @[1,2])",
        "y = Slice(x_2_6, @[0,-3], @[9,-1])",
        "9: y = Slice <starts=[1,-3], ends=[2,5], axes=[0,1]> (x_2_6)", "y = Slice(x_2_6, @[-1], @[-99], @[1], @[-1])",
        "y = Slice(x_2_6, @[4], @[1], @[1], @[-1])", "y = Slice(x_2_6, @[99], @[-99], @[1], @[-2])",
        "y = Slice(x_2_6, @[-1], @[-9223372036854775807], @[1], @[-1])",
        "y = Slice(x_2_6, @[0], @[9223372036854775807], @[1])",
    ],
    "Softmax": [
        "y = Softmax(x_2_3_4)", "y = Softmax <axis=1> (x_2_3_4)", "11: y = Softmax(x_2_3_4)",
        "11: y = Softmax <axis=2> (x_2_3_4)",
        "9: y = Softmax(x_2_5)", "11: y = Softmax <axis=-1> (x_2_3_4)",
    ],
    "Softplus": ["y = Softplus(x_2_3)"],
    "Softsign": ["y = Softsign(x_2_3)"],
    "SpaceToDepth": ["y = SpaceToDepth <blocksize=2> (x_2_3_4_6)"],
    "Split": [
        "y, z = Split <axis=1> (x_2_6)", "y, z = Split <axis=-1> (x_2_6, @[2,4])",
        "11: y, z = Split <axis=1, split=[1,5]> (x_2_6)",
        "18: y, z = Split <axis=1, num_outputs=2> (x_2_7)", "y, z = Split(x_4_6)",
    ],
    "Sqrt": ["y = Sqrt(u_2_3)"],
    "Squeeze": ["y = Squeeze(x_2_1_3_1)", "y = Squeeze(x_2_1_3_1, @[1,-1])", "11: y = Squeeze <axes=[1]> (x_2_1_3_1)"],
    "Sub": ["y = Sub(x_2_3, xb_2_3)", "y = Sub(@1.0, x_2_3)", "y = Sub(w_3, x_2_3)"],
    "Sum": ["y = Sum(x_2_3, xb_2_3, w_3)", "y = Sum(x_2_3)"],
    "Tanh": ["y = Tanh(x_2_3)"],
    "Tile": ["y = Tile(x_2_3, @[1,2])"],
    "Transpose": ["y = Transpose <perm=[0,2,1]> (x_2_3_4)", "y = Transpose(x_2_3_4)"],
    "Trilu": [
        "y = Trilu(x_2_4_4)", "y = Trilu <upper=0> (x_2_4_4)", "y = Trilu(x_2_4_5, @1)",
        "y = Trilu <upper=0> (x_2_4_5, @-1)",
    ],
    "Unsqueeze": [
        "y = Unsqueeze(x_2_3, @[1,-1])", "11: y = Unsqueeze <axes=[1]> (x_2_3)", "y = Unsqueeze(x_2_3, @[3,0])",
    ],
    "Upsample": [
        '9: y = Upsample <mode="nearest"> (x_2_3_4_4, @[1.0,1.0,2.0,2.0])',
        "9: y = Upsample(x_2_3_4_4, @[1.0,1.0,1.5,1.5])",
    ],
    "Where": [
        "y = Where(b_2_3, x_2_3, xb_2_3)", "y = Where(b_2_3, x_2_3, @0.5)", "y = Where(b_2_3, @0.5, @-1.0)",
        "y = Where(b_2_3, w_3, x_2_3)",
    ],
}  # fmt: skip

# Op on sizes → graphs with it that end in numbers.
_S = "s = Shape(x_2_3_4) "
_F = _S + "f = Cast <to=1> (s) "
_HOST: dict[str, list[str]] = {
    "Add": [_S + "y = Add(s, @[1,2,3])", _S + "y = Add(s, @1)"],
    "And": [_S + "a = Less(s, @3) b = Greater(s, @2) y = And(a, b)"],
    "Cast": [
        _F + "g = Mul(f, @1.5) y = Cast <to=7> (g)", _S + "a = Less(s, @3) y = Cast <to=7> (a)",
        _S + "y = Cast <to=9> (s)",
    ],
    "Ceil": [_F + "g = Div(f, @2.0) y = Ceil(g)"],
    "Concat": [_S + "y = Concat <axis=0> (s, @[7])", _S + "y = Concat <axis=-1> (s, s)"],
    "ConstantOfShape": [
        _S + "t = Mul(s, @[1,1,2]) y = ConstantOfShape(t)",
        _S + "t = Mul(s, @[1,1,2]) y = ConstantOfShape <value=int64[1] {-1}> (t)",
    ],
    "Cos": [_F + "y = Cos(f)"],
    "Div": [_S + "y = Div(s, @2)", _F + "y = Div(f, @2.0)", _S + "n = Neg(s) y = Div(n, @2)"],
    "Equal": [_S + "y = Equal(s, @3)"],
    "Expand": ["s = Shape <end=1> (x_2_3) y = Expand(s, @[3])", "s = Shape <end=1> (x_2_3) y = Expand(s, @[2,1])"],
    "Floor": [_F + "g = Div(f, @2.0) y = Floor(g)", _F + "y = Floor(f)"],
    "Gather": [_S + "y = Gather(s, @1)", _S + "y = Gather(s, @[2,-1])", _S + "y = Gather <axis=0> (s, @[[2,0]])"],
    "Greater": [_S + "y = Greater(s, @3)"],
    "GreaterOrEqual": [_S + "y = GreaterOrEqual(s, @3)"],
    "Identity": [_S + "y = Identity(s)"],
    "Less": [_S + "y = Less(s, @3)"],
    "LessOrEqual": [_S + "y = LessOrEqual(s, @3)"],
    "Max": [_S + "y = Max(s, @[3,3,3])", _S + "y = Max(s, @3, @[4,1,1])", _S + "y = Max(s)"],
    "Min": [_S + "y = Min(s, @[3,3,3])"],
    "Mod": [_S + "y = Mod(s, @2)", _S + "n = Neg(s) y = Mod(n, @3)", _S + "n = Neg(s) y = Mod <fmod=1> (n, @3)"],
    "Mul": [_S + "y = Mul(s, @2)", _F + "y = Mul(f, @0.5)"],
    "Neg": [_S + "y = Neg(s)"],
    "Not": [_S + "a = Less(s, @3) y = Not(a)"],
    "Or": [_S + "a = Less(s, @3) b = Greater(s, @3) y = Or(a, b)"],
    "Range": [
        "s = Shape(x_2_3_4) n = Gather(s, @2) y = Range(@0, n, @1)", "s = Size(x_2_3_4) y = Range(s, @3, @-4)",
        "s = Shape(x_2_3_4) n = Gather(s, @2) f = Cast <to=1> (n) y = Range(@0.0, f, @0.5)",
    ],
    "ReduceMax": [_S + "y = ReduceMax <keepdims=0> (s)"],
    "ReduceMin": [_S + "y = ReduceMin(s)"],
    "ReduceProd": [_S + "y = ReduceProd <keepdims=0> (s)", _S + "y = ReduceProd <axes=[0]> (s)"],
    "ReduceSum": [_S + "y = ReduceSum(s)", _S + "y = ReduceSum <keepdims=0> (s, @[0])"],
    "Reshape": [_S + "y = Reshape(s, @[3,1])", _S + "y = Reshape(s, @[-1,1])", _S + "y = Reshape(s, @[0,1])"],
    "Sin": [_F + "y = Sin(f)"],
    "Slice": [
        _S + "y = Slice(s, @[1], @[3])", _S + "y = Slice(s, @[0], @[99], @[0], @[2])",
        _S + "y = Slice(s, @[-1], @[-99], @[0], @[-1])",
        "9: s = Shape(x_2_3_4) y = Slice <starts=[-2], ends=[99]> (s)",
    ],
    "Split": [
        _S + "y, z = Split(s, @[1,2])", "s = Shape(x_2_3_4_5) y, z = Split(s)",
        "18: s = Shape(x_2_3_4) y, z = Split <num_outputs=2> (s)",
        "11: s = Shape(x_2_3_4) y, z = Split <split=[2,1]> (s)",
    ],
    "Sqrt": [_F + "y = Sqrt(f)"],
    "Squeeze": ["s = Shape <end=1> (x_2_3) y = Squeeze(s)", "s = Shape <end=1> (x_2_3) y = Squeeze(s, @[0])"],
    "Sub": [_S + "y = Sub(s, @1)"],
    "Tile": [_S + "y = Tile(s, @[2])"],
    "Transpose": [
        _S + "a = Unsqueeze(s, @[0]) y = Transpose <perm=[1,0]> (a)", _S + "a = Unsqueeze(s, @[0]) y = Transpose(a)",
    ],
    "Trilu": [
        "s = Shape(x_2_3) t = Add(s, @[1,0]) a = ConstantOfShape <value=float[1] {-5.0}> (t) y = Trilu(a, "
        "@1)",
        "s = Shape(x_2_3) t = Add(s, @[1,0]) a = ConstantOfShape <value=int64[1] {2}> (t) y = Trilu "
        "<upper=0> (a)",
    ],
    "Unsqueeze": [_S + "y = Unsqueeze(s, @[0,2])", "11: s = Shape(x_2_3) y = Unsqueeze <axes=[1]> (s)"],
    "Where": [_S + "a = Less(s, @3) y = Where(a, s, @[9,9,9])", _S + "a = Less(s, @3) y = Where(a, @-1, s)"],
}  # fmt: skip


def _rows(table: dict[str, list[str]]) -> list[Any]:
    return [
        pytest.param(kind, text, id=f"{kind}-{i}")
        for kind, texts in table.items()
        for i, text in enumerate(texts)
    ]


def _loaded(text: str) -> tuple[OnnxModel, list[Any], list[np.ndarray[Any, Any]]]:
    """The model, and its outputs in torch and in onnxruntime."""
    opset, nodes = re.fullmatch(r"(?:(\d+): )?(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    proto = graph(nodes, int(opset or 17))
    model, inputs = OnnxModel(proto), inputs_for(proto)
    with torch.no_grad():
        found = model.values(inputs)
    return model, [found[name] for name in model.outputs], run_session(proto, inputs)


@pytest.mark.parametrize(("kind", "text"), _rows(_OPS))
def test_op_gives_what_onnxruntime_gives(kind: str, text: str) -> None:
    model, found, expected = _loaded(text)
    assert kind in {node.kind for node in model.nodes}
    for ours, theirs in zip(found, expected, strict=True):
        ours = torch.tensor(ours.tolist()) if isinstance(ours, np.ndarray) else ours
        torch.testing.assert_close(ours, torch.from_numpy(np.array(theirs)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "text"), _rows(_HOST))
def test_op_on_sizes_gives_what_onnxruntime_gives(kind: str, text: str) -> None:
    model, found, expected = _loaded(text)
    assert kind in {node.kind for node in model.nodes}
    for ours, theirs in zip(found, expected, strict=True):
        assert isinstance(ours, np.ndarray) and ours.shape == theirs.shape
        np.testing.assert_allclose(ours.astype(theirs.dtype), theirs, rtol=1e-6)


def test_every_row_is_tested() -> None:
    assert set(_OPS) == set(op_rules.OPS)
    assert set(_HOST) == set(host_rules.RULES)


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("y = ConstantOfShape(t_2)", "sizes that depend on the input"),
        ("y = BatchNormalization <training_mode=1> (x_2_3, w_3, wb_3, wm_3, v_3)", "training mode"),
        ("19: y = AveragePool <kernel_shape=[2], dilations=[2]> (x_2_3_8)", "dilated averages"),
        ("y = Gather(w_4, t_2_6)", "indices of 2 axes into axis 0 of 1"),
        ("y = Resize <mode=\"cubic\", cubic_coeff_a=-0.5> (x_2_3_4_4, , @[1.0,1.0,2.0,2.0])", "this form of cubic"),
        ('y = Resize <coordinate_transformation_mode="tf_crop_and_resize"> (x_2_3_4_4, , , @[2,3,8,8])', "no rule"),
        ("18: y = Resize <antialias=1, mode=\"linear\"> (x_2_3_4_4, , @[1.0,1.0,0.5,0.5])", "antialiasing"),
        ("y = Resize(x_2_3_4_4, , @[1.0,2.0,2.0,2.0])", "resizes the batch or the channels"),
        ("23: y = Attention <q_num_heads=2, kv_num_heads=2> (x_2_4_6, xb_2_4_6, xc_2_4_6)", "this form of attention"),
        ("s = Shape(x_2_3) u = Unsqueeze(s, @[0]) y = ReduceSum(u)", "sizes of 2 axes"),
    ],
)  # fmt: skip
def test_form_without_a_rule_is_refused_by_the_node_s_name(text: str, said: str) -> None:
    opset, nodes = re.fullmatch(r"(?:(\d+): )?(.*)", text).groups()  # type: ignore[union-attr]
    proto = graph(nodes, int(opset or 17))
    name = proto.graph.node[-1].name
    with pytest.raises((UnsupportedOpError, InputError), match=f"{name}.*{said}"):
        OnnxModel(proto).values(inputs_for(proto))


def test_all_nodes_without_a_rule_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(
        graph(
            "a = Relu(x_2_3) b = SequenceConstruct(a, a) c = SplitToSequence(x_2_3_3) y = "
            "SequenceConstruct(c)"
        ),
        path,
    )
    with pytest.raises(UnsupportedOpError) as told:
        load_onnx(path)
    assert all(
        name in str(told.value) for name in ("'1/SequenceConstruct'", "SplitToSequence '2", "'3/Sequence")
    )
    assert "Relu" not in str(told.value)


MLP = """
    a = Gemm <transB=1> (x_N_12, w_16_12, w_16) b = Relu(a) c = Gemm <transB=1> (b, w_9_16, w_9) d = Relu(c)
    y = Gemm <transB=1> (d, w_5_9, w_5)
"""


def test_wrong_import_is_refused_by_the_first_node_that_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = graph(MLP)
    check_import(OnnxModel(proto), inputs_for(proto))
    monkeypatch.setitem(OPS, "Relu", lambda node, x: torch.nn.functional.leaky_relu(x, 0.1))
    with pytest.raises(
        VerificationError, match=r"^Relu '1/Relu' gives another value in torch \(shape \(2, 16\)\)"
    ):
        check_import(OnnxModel(proto), inputs_for(proto))
    with pytest.raises(VerificationError, match="Relu '1/Relu'"):
        secateur.prune(OnnxModel(proto), inputs_for(proto), remove=0.3, method="scale")


def test_op_that_differs_below_zero_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = graph("a = Relu(x_N_30) y = Tanh(a)")
    monkeypatch.setitem(OPS, "Relu", lambda node, x: x)
    with pytest.raises(VerificationError, match="'0/Relu'"):
        check_import(OnnxModel(proto), inputs_for(proto))


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_missing_package_is_named(missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    proto, find = graph(MLP), importlib.util.find_spec
    model = OnnxModel(proto)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == missing else find(name, *rest)
    )
    with pytest.raises(InputError, match=f"pip install {missing}"):
        check_import(model, inputs_for(proto))
    if missing == "onnx":
        with pytest.raises(InputError, match="pip install onnx"):
            load_onnx(tmp_path / "model.onnx")


def test_axes_other_than_the_batch_must_have_sizes() -> None:
    proto = graph("y = Relu(x_N_3_N)")
    with pytest.raises(InputError, match="leaves the axes N open"):
        _ = OnnxModel(proto).example_inputs


# --- graphs that are pruned ---------------------------------------------------------------------------------

_HEAD = "p = GlobalAveragePool({}) f = Flatten(p) y = Gemm <transB=1> (f, w_5_{}, wy_5)"


def _cnn(middle: str, width: int = 12) -> str:
    """A convolution of eight channels, `a` → `m` by `middle`, a convolution, and a head."""
    return (
        "c0 = Conv <pads=[1,1,1,1]> (x_N_3_8_8, w_8_3_3_3, w_8) a = Relu(c0) "
        + middle
        + f" c1 = Conv(m, w_10_{width}_3_3, w_10) z = Relu(c1) "
        + _HEAD.format("z", 10)
    )


# Name → (opset, nodes, settings of `graph`).
_GRAPHS: dict[str, tuple[int, str, dict[str, Any]]] = {
    "gemm": (17, MLP, {}),
    "tf2onnx_dense": (13, """
        a = MatMul(x_N_12, w_12_20) b = Add(a, w_20) c = Relu(b) d = MatMul(c, w_20_14) e = Add(w_14, d) f = Tanh(e)
        g = MatMul(f, w_14_5) y = Add(g, w_5)
    """, {}),
    "tf2onnx_nhwc": (13, """
        t = Transpose <perm=[0,3,1,2]> (x_N_9_9_3)
        a = Conv <auto_pad="SAME_UPPER", strides=[2,2]> (t, w_8_3_3_3, w_8)
        b = BatchNormalization(a, v_8, w_8, wm_8, vv_8) c = Relu(b)
        d = Conv <auto_pad="SAME_UPPER"> (c, w_12_8_3_3, w_12) e = Relu(d)
        p = MaxPool <kernel_shape=[2,2], strides=[2,2], auto_pad="SAME_UPPER"> (e)
        h = Transpose <perm=[0,2,3,1]> (p) f = Reshape(h, @[-1,108]) g = MatMul(f, w_108_16) i = Add(g, w_16)
        j = Relu(i) k = MatMul(j, w_16_5) y = Add(k, w_5)
    """, {}),
    "sklearn_mlp": (11, """
        n = Cast <to=1> (x_N_12) a = MatMul(n, w_12_16) b = Add(a, w_1_16) c = Relu(b) d = MatMul(c, w_16_9)
        e = Add(d, w_1_9) f = Relu(e) g = MatMul(f, w_9_4) h = Add(g, w_1_4) y = Softmax <axis=1> (h)
    """, {}),
    "gemm_alpha_beta": (13, """
        a = Gemm <alpha=0.5, beta=2.0> (x_N_12, w_12_16, w_16) b = Relu(a)
        c = Gemm <transB=1, alpha=2.0> (b, w_10_16, w_10) d = Sigmoid(c) y = Gemm <beta=0.5> (d, w_10_5, w_1_5)
    """, {}),
    "constant_nodes": (17, MLP, {"constant_nodes": True}),
    "initializers_as_inputs": (9, MLP, {"ir": 3, "listed": True}),
    "shared_weight": (13, """
        a = MatMul(x_N_12, w_12_16) b = Relu(a) c = MatMul(b, w_16_16) d = Relu(c) e = MatMul(d, w_16_16)
        f = Relu(e) y = MatMul(f, w_16_5)
    """, {}),
    "shared_kernel": (13, """
        a = Conv(x_N_3_8_8, w_6_3_3_3, w_6) b = Conv(u_N_3_8_8, w_6_3_3_3, w_6) c = Concat <axis=1> (a, b)
        d = Relu(c) e = Conv(d, w_9_12_3_3, w_9) z = Relu(e)
    """ + _HEAD.format("z", 9), {}),
    "constant_of_shape": (13, """
        w = ConstantOfShape <value=float[1] {0.1}> (@[8,3,3,3]) a = Conv(x_N_3_8_8, w, w_8) b = Relu(a)
        v = ConstantOfShape <value=float[1] {0.05}> (@[9,8,3,3]) c = Conv(b, v, w_9) z = Relu(c)
    """ + _HEAD.format("z", 9), {}),
    "attributes_9": (9, _cnn("""
        b = Pad <pads=[0,0,1,1,0,0,0,0]> (a) c = Clip <min=0.0, max=6.0> (b) d, e = Split <axis=1, split=[3,5]> (c)
        g = Slice <starts=[1], ends=[5], axes=[1]> (e) i = ReduceMean <axes=[2,3], keepdims=0> (d)
        j = Unsqueeze <axes=[2]> (i) k = Unsqueeze <axes=[3]> (j) l = Squeeze <axes=[3]> (k)
        n = Unsqueeze <axes=[3]> (l) o = Sigmoid(n) q = Mul(d, o) m = Concat <axis=1> (q, g, q)
    """, 10), {}),
    "attributes_11": (11, _cnn("""
        b = Pad(a, @[0,0,1,1,0,0,0,0]) c = Clip(b, @0.0, @6.0) d, e = Split <axis=1> (c)
        g = Slice(e, @[1], @[4], @[1]) i = ReduceMean <axes=[2,3]> (d) j = Squeeze <axes=[2,3]> (i)
        k = Unsqueeze <axes=[2,3]> (j) o = Sigmoid(k) q = Mul(d, o) m = Concat <axis=1> (q, g, e)
    """, 11), {}),
    "inputs_13": (13, _cnn("""
        b = Pad(a, @[0,0,1,1,0,0,0,0]) c = Clip(b, @0.0, @6.0) d, e = Split <axis=1> (c, @[3,5])
        g = Slice(e, @[1], @[9223372036854775807], @[1]) i = ReduceMean <axes=[2,3]> (d) j = Squeeze(i, @[2,3])
        k = Unsqueeze(j, @[2,3]) o = Sigmoid(k) q = Mul(d, o) m = Concat <axis=1> (q, g, e)
    """, 12), {}),
    "inputs_18": (18, _cnn("""
        b = Pad(a, @[1,0], , @[2]) d, e = Split <axis=1, num_outputs=2> (b) i = ReduceMean(d, @[2,3])
        j = ReduceSum <keepdims=0> (i, @[-1]) k = Unsqueeze(j, @[-1]) o = Sigmoid(k) q = Mul(d, o)
        g = Slice(e, @[-3], @[-1], @[1]) m = Concat <axis=1> (q, g, e)
    """, 10), {}),
    "strided_slice": (13, _cnn("b = Slice(a, @[0], @[99], @[1], @[2]) m = Concat <axis=1> (b, a)"), {}),
    "reversed_channels": (13, _cnn("b = Slice(a, @[-1], @[-99], @[1], @[-1]) m = Tanh(b)", 8), {}),
    "gathered_channels": (13, _cnn("b = Gather <axis=1> (a, @[7,6,5,4,3,2,1,0]) m = Concat <axis=1> (b, a)", 16), {}),
    "upsample_9": (9, _cnn("m = Upsample(a, @[1.0,1.0,2.0,2.0])", 8), {}),
    "resize_10": (10, _cnn('m = Resize <mode="linear"> (a, @[1.0,1.0,2.0,2.0])', 8), {}),
    "resize_sizes": (13, _cnn("""
        s = Shape(a) n = Slice(s, @[0], @[2]) t = Concat <axis=0> (n, @[16,16])
        m = Resize <mode="linear"> (a, , , t)
    """, 8), {}),
    "resize_fixed_sizes": (13, """
        a = Conv(x_1_3_8_8, w_8_3_3_3) b = Resize(a, , , @[1,8,12,12]) c = Conv(b, w_6_8_3_3) z = Relu(c)
    """ + _HEAD.format("z", 6), {}),
    "dropout_identity_cast": (13, """
        a = Gemm(x_N_12, w_12_16, w_16) b = Relu(a) c = Dropout(b) d = Identity(c) e = Cast <to=1> (d)
        g = Gemm(e, w_16_9, w_9) h = Elu(g) i = Dropout(h, @0.5) y = Gemm(i, w_9_5, w_5)
    """, {}),
    "shape_chain": (13, """
        a = Conv(x_N_3_8_8, w_8_3_3_3, w_8) b = Relu(a) s = Shape(b) n = Gather(s, @0) c = Gather(s, @1)
        h = Gather(s, @2) g = Gather(s, @3) k = Mul(h, g) i = Mul(c, k) j = Unsqueeze(n, @[0])
        l = Unsqueeze(i, @[0]) o = Concat <axis=0> (j, l) f = Reshape(b, o) e = Gemm(f, w_288_12, w_12) z = Relu(e)
        y = Gemm(z, w_12_5, w_5)
    """, {}),
    "shape_chain_constant": (13, """
        a = Conv(x_N_3_8_8, w_8_3_3_3, w_8) b = Relu(a) s = Shape(b) n = Gather(s, @[0])
        o = Concat <axis=0> (n, @[8,36]) f = Reshape(b, o) t = Transpose <perm=[0,2,1]> (f) g = MatMul(t, w_8_10)
        h = Relu(g) i = MatMul(h, w_10_4) r = Reshape(i, @[0,144]) y = Gemm(r, w_144_5, w_5)
    """, {}),
    "fixed_batch_reshapes": (13, """
        a = Conv(x_1_3_8_8, w_8_3_3_3, w_8) b = Relu(a) f = Reshape(b, @[1,288]) e = Gemm(f, w_288_12, w_12)
        z = Relu(e) g = Reshape(z, @[1,3,4]) h = Reshape(g, @[1,12]) y = Gemm(h, w_12_5, w_5)
    """, {}),
    "fixed_batch_of_four": (13, """
        a = Conv(x_4_3_8_8, w_8_3_3_3, w_8) b = Relu(a) f = Reshape(b, @[4,-1]) e = Gemm(f, w_288_12, w_12)
        z = Relu(e) y = Gemm(z, w_12_5, w_5)
    """, {}),
    "flatten_last": (13, """
        a = MatMul(x_N_1_12, w_12_16) b = Relu(a) f = Flatten <axis=-2> (b) c = Gemm(f, w_16_9, w_9) d = Relu(c)
        y = Gemm(d, w_9_5)
    """, {}),
    "hard_activations": (14, _cnn("""
        b = HardSwish(a) c = HardSigmoid <alpha=0.16666667> (b) d = HardSigmoid(c) m = Mul(b, d)
    """, 8), {}),
    "sum_mean_max": (13, _cnn("""
        c = Conv(a, w_8_8_1_1) d = Sum(a, c, a) e = Mean(d, a) g = Max(e, c) h = Min(g, d) m = Sub(h, c)
    """, 8), {}),
    "prelu": (13, _cnn("m = PRelu(a, w_8_1_1)", 8), {}),
    "shared_prelu": (13, _cnn("b = PRelu(c0, w_8_1_1) m = PRelu(b, w_8_1_1)", 8), {}),
    "depth_to_space": (13, _cnn("b = DepthToSpace <blocksize=2> (a) c = Conv(b, w_12_2_3_3) m = Relu(c)"), {}),
    "pixel_shuffle": (13, _cnn("""
        b = DepthToSpace <blocksize=2, mode="CRD"> (a) c = Conv(b, w_12_2_3_3) m = Relu(c)
    """), {}),
    "space_to_depth": (13, _cnn("""
        b = SpaceToDepth <blocksize=2> (a) c = Conv(b, w_12_32_1_1) d = Relu(c) m = DepthToSpace <blocksize=2> (d)
    """, 3), {}),
    "asymmetric_pads": (13, _cnn("""
        b = Conv <pads=[0,1,1,2]> (a, w_12_8_3_3)
        c = MaxPool <kernel_shape=[3,3], pads=[0,0,1,1], strides=[2,2]> (b)
        m = AveragePool <kernel_shape=[2,2], pads=[1,0,0,1]> (c)
    """), {}),
    "depthwise": (13, _cnn("""
        b = Conv <group=8, pads=[1,1,1,1]> (a, w_8_1_3_3, w_8) c = Clip(b, @0.0, @6.0) m = Conv(c, w_12_8_1_1)
    """), {}),
    "grouped": (13, _cnn("b = Conv <group=4, pads=[1,1,1,1]> (a, w_12_2_3_3, w_12) m = Relu(b)"), {}),
    "depth_multiplier": (13, _cnn("b = Conv <group=8, pads=[1,1,1,1]> (a, w_16_1_3_3, w_16) m = Relu(b)", 16), {}),
    "transposed_convolution": (13, _cnn("""
        b = ConvTranspose <strides=[2,2], pads=[0,1,1,0]> (a, w_8_12_3_3, w_12) c = Relu(b)
        m = ConvTranspose <strides=[2,2], auto_pad="SAME_UPPER", group=2> (c, w_12_4_3_3)
    """, 8), {}),
    "group_norm": (21, _cnn("b = GroupNormalization <num_groups=4> (c0, v_8, wb_8) m = Relu(b)", 8), {"ir": 10}),
    "instance_norm": (13, _cnn("b = InstanceNormalization(c0, v_8, wb_8) m = Relu(b)", 8), {}),
    "lrn": (13, _cnn("m = LRN <size=3, alpha=0.1> (a)", 8), {}),
    "layer_norm": (17, """
        a = MatMul(x_N_6_12, w_12_16) b = LayerNormalization(a, v_16, w_16) c = MatMul(b, w_16_20) r = Erf(c)
        d = Mul(r, c) e = MatMul(d, w_20_16) g = Add(a, e) h = ReduceMean <axes=[1], keepdims=0> (g)
        y = Gemm(h, w_16_5, w_5)
    """, {}),
    "layer_norm_by_hand": (13, """
        a = MatMul(x_N_6_12, w_12_16) n = ReduceMean <axes=[-1]> (a) d = Sub(a, n) q = Pow(d, @2.0)
        e = ReduceMean <axes=[-1]> (q) g = Add(e, @0.00001) h = Sqrt(g) i = Div(d, h) j = Mul(i, v_16)
        k = Add(j, w_16) c = MatMul(k, w_16_20) l = Add(c, w_20) m = Relu(l) o = MatMul(m, w_20_5)
        y = ReduceMean <axes=[1], keepdims=0> (o)
    """, {}),
    "softmax_9": (9, """
        a = Gemm(x_N_12, w_12_16, w_16) b = Softmax(a) c = Gemm(b, w_16_9, w_9) d = Relu(c) e = Gemm(d, w_9_5, w_5)
        y = Softmax(e)
    """, {}),
    "attention_by_hand": (13, """
        q = MatMul(x_N_6_12, wq_12_12) k = MatMul(x_N_6_12, wk_12_12) v = MatMul(x_N_6_12, wv_12_12)
        qa = Reshape(q, @[0,6,3,4]) ka = Reshape(k, @[0,6,3,4]) va = Reshape(v, @[0,6,3,4])
        qh = Transpose <perm=[0,2,1,3]> (qa) kh = Transpose <perm=[0,2,3,1]> (ka)
        vh = Transpose <perm=[0,2,1,3]> (va) s = MatMul(qh, kh) t = Div(s, @2.0) p = Softmax <axis=-1> (t)
        o = MatMul(p, vh) oa = Transpose <perm=[0,2,1,3]> (o) ob = Reshape(oa, @[0,0,12]) z = MatMul(ob, w_12_12)
        r = Add(z, x_N_6_12) h = MatMul(r, w_12_15) i = Relu(h) y = MatMul(i, w_15_4)
    """, {}),
    "embedding": (13, """
        e = Gather(w_4_12, t_N_6) a = MatMul(e, w_12_16) b = Relu(a) c = ReduceMean <axes=[1], keepdims=0> (b)
        y = Gemm(c, w_16_5, w_5)
    """, {}),
    "two_heads": (13, """
        a = Gemm(x_N_12, w_12_16, w_16) b = Relu(a) c = Gemm(u_N_7, w_7_10, w_10) d = Tanh(c)
        f = Concat <axis=-1> (b, d) g = Gemm(f, w_26_14, w_14) h = Relu(g) y = Gemm(h, w_14_5, w_5)
        z = Gemm(h, wz_14_3)
    """, {}),
    "where_and_masks": (13, """
        a = Gemm(x_N_12, w_12_16, w_16) c = Greater(a, @0.0) b = Where(c, a, @0.0) d = Gemm(b, w_16_9, w_9)
        e = Abs(d) y = Gemm(e, w_9_5, w_5)
    """, {}),
    "float16": (13, """
        a = Gemm(h_N_12, k_12_16, k_16) b = Relu(a) c = Gemm(b, k_16_9, k_9) d = Relu(c) y = Gemm(d, k_9_5, k_5)
    """, {}),
    "conv1d": (13, """
        a = Conv <pads=[2,0]> (x_N_4_16, w_10_4_3, w_10) b = Relu(a) p = MaxPool <kernel_shape=[2], strides=[2]> (b)
        c = Conv(p, w_9_10_3, w_9) d = Relu(c) e = Flatten(d) y = Gemm(e, w_54_5, w_5)
    """, {}),
    "conv3d": (13, """
        a = Conv <pads=[0,1,1,0,1,1]> (x_N_2_4_6_6, w_7_2_3_3_3, w_7) b = Relu(a) c = Conv(b, w_9_7_1_3_3, w_9)
        z = Relu(c)
    """ + _HEAD.format("z", 9), {}),
}  # fmt: skip

# Architecture, exporter ("dynamo" or "script"), opset, whether the batch is free.
_EXPORTS: list[tuple[str, str, int, bool]] = [
    ("mlp_relu", "script", 11, True),
    ("bare_parameters", "script", 17, True),
    ("cnn_baked_sizes", "script", 17, False),
    ("cnn_batch_norm", "script", 9, True),
    ("cnn_group_norm", "script", 13, True),
    ("cnn_prelu", "script", 17, True),
    ("cnn_float16", "script", 17, True),
    ("vgg_batch_norm", "script", 12, False),
    ("resnext", "script", 17, False),
    ("mobilenet", "script", 11, True),
    ("densenet", "script", 17, True),
    ("shufflenet", "script", 13, False),
    ("unet_nearest", "script", 11, True),
    ("super_resolution", "script", 13, False),
    ("channel_slice", "script", 17, True),
    ("attention_fused", "script", 17, True),
    ("encoder_layer_post_norm", "script", 17, True),
    ("vision_transformer", "script", 17, False),
    ("two_inputs", "script", 17, True),
    ("resnet_inplace", "dynamo", 18, False),
    ("squeeze_excite_conv", "dynamo", 20, True),
    ("attention_attributes", "dynamo", 18, True),
    ("cnn_group_norm", "dynamo", 21, False),
    ("encoder_layer_pre_norm", "dynamo", 23, True),
    ("swiglu_fused", "dynamo", 23, False),
    ("mlp_bfloat16", "dynamo", 18, True),
]


def export(
    model: nn.Module,
    example: Sequence[Tensor],
    exporter: str,
    opset: int = 17,
    free: bool = True,
    **options: Any,
) -> Proto:
    """The model as ONNX. A batch that is not free is one."""
    names, options = [f"in{i}" for i in range(len(example))], options | {"opset_version": opset}
    example = tuple(example) if free else tuple(x[:1] for x in example)
    silenced = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if exporter == "script":
                file, axes = io.BytesIO(), {name: {0: "batch"} for name in names} if free else {}
                torch.onnx.export(
                    model, example, file, dynamo=False, input_names=names, dynamic_axes=axes, **options
                )  # fmt: skip
                return onnx.ModelProto.FromString(file.getvalue())
            shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in names) if free else None
            program = torch.onnx.export(
                model, example, dynamo=True, input_names=names, dynamic_shapes=shapes, verbose=False, **options
            )  # fmt: skip
            assert program is not None
            return program.model_proto
    finally:
        logging.disable(silenced)


def assert_same_but_smaller(old: Proto, new: Proto) -> None:
    """All that a user sees of the file is as it was: names, order, opset, notes, inputs and outputs."""
    for part in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(old, part) == getattr(new, part)
    for parts in ("opset_import", "metadata_props"):
        assert [p.SerializeToString() for p in getattr(old, parts)] == [
            p.SerializeToString() for p in getattr(new, parts)
        ]
    assert (old.graph.name, old.graph.doc_string) == (new.graph.name, new.graph.doc_string)
    weights = {t.name for t in old.graph.initializer}
    assert [v.name for v in old.graph.input] == [v.name for v in new.graph.input]
    for a, b in zip(old.graph.input, new.graph.input, strict=True):
        assert a.name in weights or a == b
    assert list(old.graph.output) == list(new.graph.output)
    assert weights <= {t.name for t in new.graph.initializer}
    for a, b in zip(old.graph.node, new.graph.node, strict=True):
        assert (a.name, a.doc_string, a.domain, list(a.output)) == (
            b.name,
            b.doc_string,
            b.domain,
            list(b.output),
        )
        assert a.op_type == b.op_type or (a.op_type, b.op_type) == ("ConstantOfShape", "Constant")


def assert_prunes(path: Path, remove: float, method: str = "scale") -> None:
    """A model in a file is read, checked, pruned and written; the file itself stays as it was."""
    content = path.read_bytes()
    model = load_onnx(path)
    before = model.proto.SerializeToString(deterministic=True)
    example = inputs_for(model.proto)
    model.check(example)
    result = secateur.prune(model, example, remove=remove, method=method, input_bounds=(-1, 1))
    assert path.read_bytes() == content
    assert model.proto.SerializeToString(deterministic=True) == before

    save_onnx(path.with_name("smaller.onnx"), result.model)
    smaller = load_onnx(path.with_name("smaller.onnx"))
    assert_same_but_smaller(model.proto, smaller.proto)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
    assert result.history[-1].parameters < result.before.parameters
    half = any(p.dtype is torch.bfloat16 for p in model.parameters())
    if not half and _is_valid(model.proto):
        onnx.checker.check_model(smaller.proto, full_check=True)
    inputs = inputs_for(smaller.proto, batch=3, seed=1)
    with torch.no_grad():
        found = smaller.values(inputs)
    ours = [found[name] for name in smaller.outputs]
    expected = (
        list(run_onnx(smaller, inputs, smaller.outputs).values())
        if half
        else run_session(smaller.proto, inputs)
    )
    for a, b in zip(ours, expected, strict=True):
        assert a.shape == tuple(b.shape)
        assert distance(a, torch.as_tensor(b)) < (
            5e-2 if a.dtype in (torch.float16, torch.bfloat16) else 1e-4
        )


def _is_valid(proto: Proto) -> bool:
    """By ONNX's checker, which does not know the ops that onnxruntime puts into ONNX's own domain."""
    try:
        onnx.checker.check_model(proto, full_check=True)
    except onnx.checker.ValidationError:
        return False
    return True


@pytest.mark.sweep
@pytest.mark.parametrize("name", _GRAPHS)
def test_graph_is_pruned(name: str, tmp_path: Path) -> None:
    opset, text, options = _GRAPHS[name]
    path = tmp_path / "model.onnx"
    onnx.save(graph(text, opset, **options), path)
    assert_prunes(path, 0.4)


@pytest.mark.sweep
@pytest.mark.slow
@pytest.mark.parametrize(("name", "exporter", "opset", "free"), _EXPORTS)
def test_export_is_pruned(name: str, exporter: str, opset: int, free: bool, tmp_path: Path) -> None:
    architecture = ARCHITECTURES[name]
    path = tmp_path / "model.onnx"
    proto = export(architecture.build(), architecture.example(), exporter, opset, free)
    onnx.helper.set_model_props(proto, {"author": "nobody"})
    onnx.save(proto, path)
    assert_prunes(path, 0.5, "saliency")


@pytest.mark.long
@pytest.mark.parametrize(("name", "groups"), [("squeezenet", 25), ("resnet50", 37)])
def test_light_model_is_pruned(name: str, groups: int, tmp_path: Path) -> None:
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    path = tmp_path / "model.onnx"
    path.write_bytes((folder / f"light_{name}.onnx").read_bytes())
    model = load_onnx(path)
    assert len(secateur.inspect(model, model.example_inputs).prunable) == groups
    assert_prunes(path, 0.3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inputs_18", "shape_chain_constant", "attention_by_hand", "grouped"])
def test_pruned_model_is_pruned_again(name: str) -> None:
    opset, text, options = _GRAPHS[name]
    proto = graph(text, opset, **options)
    model, inputs = OnnxModel(proto), inputs_for(proto)
    for method in ("scale", "saliency"):
        larger = model
        model = secateur.prune(larger, inputs, remove=0.3, method=method, input_bounds=(-1, 1)).model  # type: ignore[assignment]
        assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in larger.parameters())
    assert_same_but_smaller(proto, model.proto)
    for a, b in zip(model(*inputs).unsqueeze(0), run_session(model.proto, inputs), strict=True):
        assert distance(a, torch.from_numpy(b)) < 1e-4


def test_functions_of_the_model_are_part_of_it(tmp_path: Path) -> None:
    proto = graph(
        "a = MatMul(x_N_12, w_12_16) b = Relu(a) c = MatMul(b, w_16_9) d = Relu(c) y = MatMul(d, w_9_5)"
    )
    body = list(onnx.parser.parse_graph("f () => () { t = Exp(u) v = Add(t, one) z = Log(v) }").node)
    one = onnx.helper.make_node("Constant", [], ["one"], value_float=1.0)
    opset = [onnx.helper.make_opsetid("", 17)]
    proto.functions.append(onnx.helper.make_function("own", "Softplus1", ["u"], ["z"], [one, *body], opset))
    proto.opset_import.append(onnx.helper.make_opsetid("own", 1))
    for node in proto.graph.node:
        if node.op_type == "Relu":
            node.op_type, node.domain = "Softplus1", "own"
    onnx.save(proto, tmp_path / "model.onnx")
    assert_prunes(tmp_path / "model.onnx", 0.4)


# --- the same network from torch and from ONNX --------------------------------------------------------------


@cache
def _kept_from_torch(name: str, method: str) -> list[tuple[int, ...]]:
    architecture = ARCHITECTURES[name]
    return _kept(architecture.build(), architecture.example(), method)


def _kept(model: nn.Module, example: Sequence[Tensor], method: str) -> list[tuple[int, ...]]:
    """The units that stay, group by group; groups are named differently. Widths cannot leave every file."""
    result = secateur.prune(
        model,
        tuple(example),
        remove=0.4,
        method=method,
        attention="heads",
        input_bounds=(-2, 2),
        samples=256,
        seed=3,
    )
    return sorted(group.kept for group in result.recipe.groups)


@pytest.mark.sweep
@pytest.mark.slow
@pytest.mark.parametrize("method", ["saliency", "reconstruct"])
@pytest.mark.parametrize("exporter", ["script", "dynamo"])
@pytest.mark.parametrize("name", ["mlp_relu", "cnn", "cnn_batch_norm"])
def test_choices_are_those_made_on_the_network_from_torch(name: str, exporter: str, method: str) -> None:
    model = OnnxModel(_unfolded(name, exporter))
    assert ("BatchNormalization" in {n.kind for n in model.nodes}) == (name == "cnn_batch_norm")
    assert _kept(model, ARCHITECTURES[name].example(), method) == _kept_from_torch(name, method)


@cache
def _unfolded(name: str, exporter: str) -> Proto:
    """With batch norms as they are."""
    options = {"training": torch.onnx.TrainingMode.PRESERVE} if exporter == "script" else {"optimize": False}
    architecture = ARCHITECTURES[name]
    return export(
        architecture.build(), architecture.example(), exporter, 18 if exporter == "dynamo" else 17, **options
    )


# --- any units ----------------------------------------------------------------------------------------------

_ANY = [
    "cnn_batch_norm",
    "resnext",
    "densenet",
    "shufflenet",
    "squeeze_excite_conv",
    "attention_fused",
    "unet_nearest",
]


@cache
def _coupled(name: str) -> tuple[OnnxModel, Any, Any]:
    architecture = ARCHITECTURES[name]
    model = OnnxModel(export(architecture.build(), architecture.example(), "script", 17))
    graph = capture(model, architecture.example())
    return model, graph, couple(graph)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", _ANY)
def test_file_without_units_is_the_masked_original(name: str, seed: int) -> None:
    model, graph, coupling = _coupled(name)
    pruned = cut(graph, coupling, share=(0.3, 0.7)[seed], seed=seed)
    smaller = shrink(model, graph, coupling, pruned.weights, pruned.alive)
    assert isinstance(smaller, OnnxModel)
    inputs = inputs_for(smaller.proto, batch=3, seed=seed)
    expected = run(graph, inputs, pruned.weights, dtype=torch.float64)
    for a, b in zip(expected, run_session(smaller.proto, inputs), strict=True):
        assert distance(torch.from_numpy(b), a) < 1e-4
