"""ONNX ops that are rare in classifiers, and those of onnxruntime's own domains, against onnxruntime.

Graphs are written as in `test_onnx`; `18:` before one is the opset (17 where there is none).
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import test_onnx  # noqa: E402
from secateur.errors import SecateurError  # noqa: E402
from secateur.formats.onnx import elementwise, indexing, microsoft, ops, recurrent, reductions, rotary  # noqa: E402
from secateur.formats.onnx.host import RULES as HOST_RULES  # noqa: E402
from secateur.formats.onnx.imported import OnnxModel  # noqa: E402
from secateur.formats.onnx.table import OPS  # noqa: E402
from secateur.graph.capture import capture  # noqa: E402
from secateur.graph.node import kind  # noqa: E402
from secateur.graph.ops import OPS as FACTS  # noqa: E402
from test_onnx import _rows, graph, inputs_for, run_session  # noqa: E402

_ELEMENTWISE: dict[str, list[str]] = {
    "Acos": ["a = Tanh(x_2_3) y = Acos(a)"],
    "Acosh": ["a = Add(u_2_3, @1.0) y = Acosh(a)"],
    "Asin": ["a = Tanh(x_2_3) y = Asin(a)"],
    "Asinh": ["y = Asinh(x_2_3)"],
    "Atan": ["y = Atan(x_2_3)"],
    "Atanh": ["a = Tanh(x_2_3) y = Atanh(a)"],
    "BitShift": [
        "a = Cast <to=2> (t_2_3) b = Cast <to=2> (tb_2_3) y = BitShift <direction=\"LEFT\"> (a, b)",
        "a = Cast <to=2> (t_2_3) b = Cast <to=2> (tb_2_3) y = BitShift <direction=\"RIGHT\"> (a, b)",
    ],
    "BitwiseAnd": ["18: y = BitwiseAnd(t_2_3, tb_2_3)"],
    "BitwiseNot": ["18: y = BitwiseNot(t_2_3)"],
    "BitwiseOr": ["18: y = BitwiseOr(t_2_3, tb_2_3)"],
    "BitwiseXor": ["18: y = BitwiseXor(t_2_3, tb_2_3)"],
    "CastLike": ["y = CastLike(t_2_3, x_2_3)", "y = CastLike(x_2_3, x_2_3)"],
    "Cosh": ["y = Cosh(x_2_3)"],
    "Det": ["y = Det(x_2_3_3)"],
    "Hardmax": ["y = Hardmax(x_2_3_4)", "y = Hardmax <axis=1> (x_2_3_4)", "11: y = Hardmax(x_2_3_4)"],
    "IsInf": [
        "a = Div(x_2_3, @0.0) y = IsInf(a)", "a = Div(x_2_3, @0.0) y = IsInf <detect_negative=0> (a)",
        "a = Div(x_2_3, @0.0) y = IsInf <detect_positive=0> (a)",
        "a = Div(x_2_3, @0.0) y = IsInf <detect_positive=0, detect_negative=0> (a)",
    ],
    "IsNaN": ["a = Sqrt(x_2_9) y = IsNaN(a)"],
    "Mod": ["y = Mod(t_2_3, @3)", "a = Sub(t_2_9, @2) y = Mod(a, @3)", "y = Mod <fmod=1> (x_2_9, @0.3)"],
    "Shrink": [
        "y = Shrink(x_2_9)",
        "y = Shrink <lambd=0.3, bias=0.3> (x_2_9)",
        "y = Shrink <lambd=0.3, bias=0.1> (x_2_9)",
    ],
    "Sinh": ["y = Sinh(x_2_3)"],
    "Swish": ["24: y = Swish(x_2_3)", "24: y = Swish <alpha=0.5> (x_2_3)"],
    "Tan": ["y = Tan(x_2_3)"],
    "ThresholdedRelu": ["y = ThresholdedRelu(x_2_9)", "y = ThresholdedRelu <alpha=0.2> (x_2_9)"],
    "Xor": ["y = Xor(b_2_3, bb_2_3)"],
}  # fmt: skip

_REDUCTIONS: dict[str, list[str]] = {
    "ArgMax": [
        "y = ArgMax(x_4_3)", "y = ArgMax <axis=-1, keepdims=0> (x_2_5)",
        "a = Round(x_2_9) y = ArgMax <axis=1> (a)",
        "a = Round(x_2_9) y = ArgMax <axis=1, select_last_index=1> (a)",
    ],
    "ArgMin": ["y = ArgMin <axis=1> (x_2_5)",
    "a = Round(x_2_9) y = ArgMin <axis=1, select_last_index=1> (a)"],
    "CumSum": [
        "y = CumSum(x_2_5, @1)",
        "y = CumSum <exclusive=1> (x_2_5, @[1])",
        "y = CumSum <reverse=1> (x_2_5, @-1)",
        "y = CumSum <reverse=1, exclusive=1> (x_2_5, @1)",
    ],
    "GlobalLpPool": ["y = GlobalLpPool(x_2_3_4_5)", "y = GlobalLpPool <p=1> (x_2_3_4)"],
    "LpNormalization": [
        "y = LpNormalization(x_2_3)", "y = LpNormalization <p=1, axis=1> (x_2_3_4)",
        "a = Relu(x_2_3) b = Mul(a, @0.0) y = LpNormalization(b)",
    ],
    "LpPool": [
        "y = LpPool <kernel_shape=[2,2]> (x_2_3_5_5)",
        "y = LpPool <kernel_shape=[3,2], strides=[2,1], pads=[1,0,1,1], p=1> (x_2_3_6_5)",
    ],
    "MeanVarianceNormalization": [
        "y = MeanVarianceNormalization(x_2_3_4_4)", "y = MeanVarianceNormalization <axes=[2,3]> (x_2_3_4_4)",
    ],
    "ReduceL1": ["y = ReduceL1 <axes=[1]> (x_2_3_4)", "18: y = ReduceL1 <keepdims=0> (x_2_3_4, @[-1])"],
    "ReduceLogSum": ["y = ReduceLogSum <axes=[1]> (u_2_3_4)",
    "18: y = ReduceLogSum <keepdims=0> (u_2_3_4, @[-1])"],
    "ReduceLogSumExp": ["y = ReduceLogSumExp <axes=[1,2]> (x_2_3_4)",
    "18: y = ReduceLogSumExp(x_2_3_4, @[-1])"],
    "ReduceProd": ["y = ReduceProd <axes=[1,-1], keepdims=0> (x_2_3_4)", "18: y = ReduceProd(x_2_3_4, @[1])"],
    "ReduceSumSquare": ["y = ReduceSumSquare <axes=[1]> (x_2_3_4)",
    "18: y = ReduceSumSquare(x_2_3_4, @[-1])"],
    "TopK": [
        "y, z = TopK(x_2_6, @[3])", "y, z = TopK <largest=0, axis=1> (x_2_6, @[2])",
        "a = Round(x_2_9) y, z = TopK(a, @[4])", "y, z = TopK <axis=1> (x_2_6_3, @[2])",
    ],
}  # fmt: skip

_INDEXING: dict[str, list[str]] = {
    "AffineGrid": [
        "20: y = AffineGrid(x_2_2_3, @[2,3,4,5])",
        "20: y = AffineGrid <align_corners=1> (x_2_2_3, @[2,3,4,5])",
    ],
    "CenterCropPad": [
        "18: y = CenterCropPad <axes=[2,3]> (x_2_3_5_6, @[3,9])", "18: y = CenterCropPad(x_2_3_5, @[2,4,4])",
        "18: y = CenterCropPad <axes=[-1]> (x_2_3_5, @[2])",
    ],
    "Col2Im": [
        "18: y = Col2Im(x_2_12_9, @[4,4], @[2,2])",
        "18: y = Col2Im <strides=[2,2], pads=[1,1,1,1]> (x_2_8_9, @[4,4], @[2,2])",
        "18: y = Col2Im <dilations=[2,1]> (x_2_8_6, @[4,4], @[2,2])",
    ],
    "Compress": ["c = Less(@[3,1,4,1], @2) y = Compress <axis=1> (x_2_4, c)"],
    "EyeLike": ["y = EyeLike(x_3_4)", "y = EyeLike <k=1, dtype=7> (x_3_4)", "y = EyeLike <k=-1> (x_4_4)"],
    "GatherND": [
        "y = GatherND(x_2_3_4, @[[0,1],[1,-1]])", "y = GatherND <batch_dims=1> (x_2_4_3, t_2_5_1)",
        "y = GatherND(x_4_3_4, t_5_1)", "y = GatherND <batch_dims=1> (x_2_4_3, @[[1],[-2]])",
        "y = GatherND <batch_dims=2> (x_2_3_4, t_2_3_1)",
    ],
    "GridSample": [
        "y = GridSample(x_2_3_4_5, xg_2_3_4_2)",
        'y = GridSample <mode="nearest", padding_mode="border"> (x_2_3_4_5, xg_2_3_4_2)',
        'y = GridSample <mode="bicubic", padding_mode="reflection", align_corners=1> (x_2_3_4_5, xg_2_3_4_2)',
        '20: y = GridSample <mode="linear"> (x_2_3_4_5, xg_2_3_4_2)',
        '20: y = GridSample <mode="cubic"> (x_2_3_4_5, xg_2_3_4_2)',
        '20: y = GridSample(x_2_3_4_5_3, xg_2_3_4_2_3)',
    ],
    "OneHot": [
        "y = OneHot(t_2_3, @4, @[0.0,1.0])", "y = OneHot <axis=1> (t_2_3, @[5], @[-0.5,2.5])",
        "a = Sub(t_2_3, @4) y = OneHot(a, @4, @[0,3])",
    ],
    "ReverseSequence": [
        "y = ReverseSequence <time_axis=1, batch_axis=0> (x_2_5_3, @[3,5])",
        "a = Add(t_4, @1) y = ReverseSequence(x_5_4, a)",
    ],
    "Scatter": ["10: y = Scatter <axis=1> (x_2_4, t_2_1, xv_2_1)"],
    "ScatterElements": [
        "y = ScatterElements <axis=1> (x_2_4, t_2_1, xv_2_1)",
        "y = ScatterElements <axis=-1> (x_2_4, @[[0],[-2]], xv_2_1)",
        "18: y = ScatterElements <axis=1, reduction=\"add\"> (x_2_4, t_2_3, xv_2_3)",
        "18: y = ScatterElements <axis=1, reduction=\"max\"> (x_2_4, t_2_3, xv_2_3)",
    ],
    "ScatterND": [
        "y = ScatterND(x_2_4_3, @[[0,1],[1,-1]], xv_2_3)",
        "18: y = ScatterND <reduction=\"add\"> (x_4_3, @[[1],[1]], xv_2_3)",
    ],
}  # fmt: skip

_M = "com.microsoft."
_MICROSOFT: dict[str, list[str]] = {
    "SimplifiedLayerNormalization": ["y = SimplifiedLayerNormalization <axis=-1, epsilon=0.01> (x_2_4_6, w_6)"],
    _M + "Attention": [
        f"y = {_M}Attention <num_heads=2> (x_2_5_6, w_6_24, w_24)",
        f"y = {_M}Attention <num_heads=2, unidirectional=1> (x_2_5_6, w_6_24, w_24)",
        f"y = {_M}Attention <num_heads=2, scale=0.3> (x_2_5_6, w_6_24, w_24)",
        f"y = {_M}Attention <num_heads=2, qkv_hidden_sizes=[8,8,4]> (x_2_5_6, w_6_20, w_20)",
        f"m = Cast <to=6> (t_2) y = {_M}Attention <num_heads=2> (x_2_5_6, w_6_24, w_24, m)",
        f"m = Cast <to=6> (b_2_5) y = {_M}Attention <num_heads=2> (x_2_5_6, w_6_24, w_24, m)",
        f"m = Cast <to=6> (b_2_5_5) "
        f"y = {_M}Attention <num_heads=2, mask_filter_value=-50.0> (x_2_5_6, w_6_24, w_24, m)",
        f"y = {_M}Attention <num_heads=2> (x_2_5_6, w_6_24, w_24, , , xb_2_2_5_5)",
        f"m = Cast <to=6> (b_2_5) y = {_M}Attention <num_heads=2, unidirectional=1> (x_2_5_6, w_6_24, w_24, "
        "m)",
    ],
    _M + "BiasGelu": [f"y = {_M}BiasGelu(x_2_6, w_6)", f"a = MatMul(x_2_3, w_3_6) y = {_M}BiasGelu(a, w_6)"],
    _M + "EmbedLayerNormalization": [
        f"i = Cast <to=6> (t_2_5) s = Cast <to=6> (ts_2_5) "
        f"y, m = {_M}EmbedLayerNormalization(i, s, w_4_6, wp_7_6, ws_4_6, v_6, w_6)",
        f"i = Cast <to=6> (t_2_5) y, m = {_M}EmbedLayerNormalization <epsilon=0.01> (i, , w_4_6, wp_7_6, , "
        "v_6, w_6)",
        f"i = Cast <to=6> (t_2_5) s = Cast <to=6> (b_2_5) p = Cast <to=6> (tp_2_5) "
        f"y, m, e = {_M}EmbedLayerNormalization(i, s, w_4_6, wp_7_6, ws_2_6, v_6, w_6, i, p)",
    ],
    _M + "FastGelu": [
        f"y = {_M}FastGelu(x_2_6)",
        f"y = {_M}FastGelu(x_2_6, w_6)",
        f"a = MatMul(x_2_3, w_3_6) y = {_M}FastGelu(a, w_6)",
    ],
    _M + "FusedConv": [
        f"y = {_M}FusedConv(x_2_4_6_6, w_8_4_3_3)",
        f'y = {_M}FusedConv <activation="Relu", pads=[1,1,1,1], strides=[2,1]> (x_2_4_6_6, w_8_4_3_3, w_8)',
        f'y = {_M}FusedConv <activation="LeakyRelu", activation_params=[0.2]> (x_2_4_6_6, w_8_4_3_3, w_8)',
        f'y = {_M}FusedConv <activation="Clip", activation_params=[0.1, 0.4], group=2> (x_2_4_6_6, '
        'w_8_2_3_3, w_8)',
        f'y = {_M}FusedConv <activation="HardSigmoid", activation_params=[0.3, 0.4]> (x_2_4_6_6, w_8_4_3_3)',
        f'y = {_M}FusedConv <activation="Sigmoid"> (x_2_4_6_6, w_8_4_3_3)',
        f'y = {_M}FusedConv <activation="Tanh"> (x_2_4_6_6, w_8_4_3_3)',
        f'y = {_M}FusedConv <activation="Relu"> (x_2_4_6_6, w_8_4_3_3, w_8, xz_2_8_4_4)',
    ],
    _M + "FusedGemm": [
        f'y = {_M}FusedGemm <activation="Relu"> (x_2_6, w_6_5, w_5)',
        f'y = {_M}FusedGemm <activation="LeakyRelu", activation_alpha=0.3, alpha=0.5, transB=1> (x_2_6, '
        'w_5_6, w_5)',
        f'y = {_M}FusedGemm <activation="Elu", activation_alpha=0.3, beta=2.0> (x_2_6, w_6_5, w_5)',
        f'y = {_M}FusedGemm <activation="HardSigmoid", activation_alpha=0.3, activation_beta=0.4> (x_2_6, '
        'w_6_5)',
        *(f'y = {_M}FusedGemm <activation="{name}"> (x_2_6, w_6_5, w_5)' for name in ("Sigmoid",
        "Tanh",
        "Softplus",
        "Softsign")),
    ],
    _M + "FusedMatMul": [
        f"y = {_M}FusedMatMul <alpha=0.5> (x_2_3_4, xb_2_4_5)",
        f"y = {_M}FusedMatMul <transB=1> (x_2_3_4, xb_2_5_4)",
        f"y = {_M}FusedMatMul <transA=1, alpha=2.0> (x_2_4_3, xb_2_4_5)",
        f"y = {_M}FusedMatMul <alpha=0.5> (x_2_3_4, w_4_5)",
        f"y = {_M}FusedMatMul <transB=1> (x_2_3_4, w_5_4)",
        f"y = {_M}FusedMatMul <transBatchA=1> (x_3_2_4, xb_2_4_5)",
        f"y = {_M}FusedMatMul <transBatchB=1> (x_2_3_4, xb_4_2_5)",
        f"y = {_M}FusedMatMul <transBatchB=1, transB=1> (x_2_3_4, xb_5_2_4)",
        f"y = {_M}FusedMatMul <transBatchA=1, transA=1> (x_4_2_3, xb_2_4_5)",
        f"y = {_M}FusedMatMul(w_5_3, x_2_3_4)",
    ],
    _M + "GatherND": [f"y = {_M}GatherND(x_4_3_4, t_5_1)"],
    _M + "Gelu": [f"y = {_M}Gelu(x_2_6)"],
    _M + "GridSample": [f'y = {_M}GridSample <mode="bilinear"> (x_2_3_4_5, xg_2_3_4_2)'],
    _M + "Inverse": [f"a = Add(x_2_3_3, @[[3.0,0.0,0.0],[0.0,3.0,0.0],[0.0,0.0,3.0]]) y = {_M}Inverse(a)"],
    _M + "MultiHeadAttention": [
        f"y = {_M}MultiHeadAttention <num_heads=2> (x_2_5_6, xk_2_4_6, xv_2_4_6)",
        f"y = {_M}MultiHeadAttention <num_heads=2, scale=0.3> (x_2_5_6, xk_2_4_6, xv_2_4_8)",
        f"y = {_M}MultiHeadAttention <num_heads=2> (x_2_5_6, xk_2_5_6, xv_2_5_6, w_18)",
        f"m = Cast <to=6> (t_2) y = {_M}MultiHeadAttention <num_heads=2> (x_2_5_6, xk_2_5_6, xv_2_5_6, , m)",
        f"m = Cast <to=6> (b_2_5) y = {_M}MultiHeadAttention <num_heads=2> (x_2_5_6, xk_2_5_6, xv_2_5_6, , "
        "m)",
        f"y = {_M}MultiHeadAttention <num_heads=2> (x_2_5_6, xk_2_4_6, xv_2_4_6, , , xs_1_2_5_4)",
        f"y = {_M}MultiHeadAttention <num_heads=2, unidirectional=1> (x_2_5_6, xk_2_5_6, xv_2_5_6)",
    ],
    _M + "Pad": [f"y = {_M}Pad(x_2_3_4, @[0,0,1,0,0,2], @0.5)"],
    _M + "QuickGelu": [f"y = {_M}QuickGelu(x_2_6)", f"y = {_M}QuickGelu <alpha=1.0> (x_2_6)"],
    _M + "RotaryEmbedding": [
        f"y = {_M}RotaryEmbedding(x_2_3_8, @[0], w_9_2, wb_9_2)",
        f"y = {_M}RotaryEmbedding(x_2_3_8, @[2], w_9_2, wb_9_2)",
        f"y = {_M}RotaryEmbedding(x_2_2_3_4, t_2_3, w_9_2, wb_9_2)",
        f"y = {_M}RotaryEmbedding <interleaved=1> (x_2_3_8, t_2_3, w_9_2, wb_9_2)",
        f"y = {_M}RotaryEmbedding <num_heads=2, rotary_embedding_dim=2> (x_2_3_8, t_2_3, w_9_1, wb_9_1)",
    ],
    _M + "SkipLayerNormalization": [
        f"y = {_M}SkipLayerNormalization(x_2_4_6, xb_2_4_6, v_6, w_6, wb_6)",
        f"y = {_M}SkipLayerNormalization <epsilon=0.1> (x_2_4_6, xb_2_4_6, v_6)",
        f"y, , , s = {_M}SkipLayerNormalization(x_2_4_6, xb_2_4_6, v_6, w_6)",
        f"a = MatMul(x_2_4_3, w_3_6) y, , , s = {_M}SkipLayerNormalization(a, xb_2_4_6, v_6, w_6, wb_6)",
        f"a = MatMul(x_2_4_3, w_3_6) y = {_M}SkipLayerNormalization(xb_2_4_6, a, v_6, w_6, wb_6)",
    ],
    _M + "SkipSimplifiedLayerNormalization": [
        f"y = {_M}SkipSimplifiedLayerNormalization(x_2_4_6, xb_2_4_6, v_6, wb_6)",
        f"y, , , s = {_M}SkipSimplifiedLayerNormalization(x_2_4_6, xb_2_4_6, v_6)",
        f"a = MatMul(x_2_4_3, w_3_6) y = {_M}SkipSimplifiedLayerNormalization(a, xb_2_4_6, v_6, wb_6)",
    ],
    _M + "TransposeMatMul": [f"y = {_M}TransposeMatMul <transB=1, alpha=0.5> (x_2_3_4, xb_2_5_4)"],
    _M + "Trilu": [f"y = {_M}Trilu(x_2_4_4)", f"y = {_M}Trilu <upper=0> (x_2_4_4, @1)"],
}  # fmt: skip

_ROTARY: dict[str, list[str]] = {
    "RotaryEmbedding": [
        "23: y = RotaryEmbedding(x_2_2_3_4, w_9_2, wb_9_2, t_2_3)",
        "23: y = RotaryEmbedding <interleaved=1> (x_2_2_3_4, w_9_2, wb_9_2, t_2_3)",
        "23: y = RotaryEmbedding <num_heads=2> (x_2_3_8, w_9_2, wb_9_2, t_2_3)",
        "23: y = RotaryEmbedding <num_heads=2, rotary_embedding_dim=2> (x_2_3_8, w_9_1, wb_9_1, t_2_3)",
        "23: y = RotaryEmbedding(x_2_2_3_4, xc_2_3_2, xs_2_3_2)",
    ],
}  # fmt: skip

_REFUSED = {
    *("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
    *("NonMaxSuppression", "NonZero", "Unique"),
}


@pytest.mark.parametrize(
    ("kind", "text"), _rows(_ELEMENTWISE | _REDUCTIONS | _INDEXING | _ROTARY | _MICROSOFT)
)
def test_op_gives_what_onnxruntime_gives(kind: str, text: str) -> None:
    opset, nodes = re.fullmatch(r"(?:(\d+): )?(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    proto = graph(nodes, int(opset or 17), ir=10)
    model, inputs = OnnxModel(proto), inputs_for(proto)
    assert kind in {node.kind for node in model.nodes}
    with torch.no_grad():
        found = model.values(inputs)
    for name, theirs in zip(model.outputs, run_session(proto, inputs), strict=True):
        ours = found[name]
        ours = torch.tensor(ours.tolist()) if isinstance(ours, np.ndarray) else ours
        torch.testing.assert_close(
            ours, torch.from_numpy(np.array(theirs)), rtol=1e-4, atol=1e-5, equal_nan=True
        )


def test_every_row_is_tested() -> None:
    assert set(_ELEMENTWISE) == set(elementwise.OPS) - _REFUSED
    assert set(_REDUCTIONS) == set(reductions.OPS)
    assert set(_INDEXING) == set(indexing.OPS) - _REFUSED
    assert set(_ROTARY) | {_M + "RotaryEmbedding"} == set(rotary.OPS)
    assert set(_MICROSOFT) - {_M + "RotaryEmbedding"} == set(microsoft.OPS)
    every = ops, elementwise, reductions, indexing, rotary, microsoft, recurrent
    assert sum(len(part.OPS) for part in every) == len(OPS)  # no row stands in two tables


# --- the facts of ops ---------------------------------------------------------------------------------------


def test_facts_name_onnx_ops_that_are_read() -> None:
    named = {name for row in FACTS.values() for name in row.onnx.split()}
    assert named <= {name.split(" ")[0] for name in (*OPS, *HOST_RULES)}


@pytest.mark.long
def test_onnx_ops_are_read_as_the_facts_say() -> None:
    """Of an op with cases here, some graph holds one of the ATen ops that name it."""
    claims: dict[str, set[str]] = {}
    for name, row in FACTS.items():
        for onnx_op in row.onnx.split():
            claims.setdefault(onnx_op, set()).add(name)
    cases: dict[str, list[str]] = {}
    for name, texts in {**test_onnx._OPS, **_ELEMENTWISE, **_REDUCTIONS}.items():
        cases.setdefault(name.split(" ")[0], []).extend(texts)  # "Expand (Shape)" is a form of Expand
    sizes = {"Shape", "Size"}  # no values of a graph
    wrong = [name for name in claims.keys() & cases.keys() - sizes if not _reaches(cases[name], claims[name])]
    assert wrong == []


def _reaches(texts: list[str], wanted: set[str]) -> bool:
    for text in texts:
        opset, nodes = re.fullmatch(r"(?:(\d+): )?(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
        try:
            captured = capture(OnnxModel(graph(nodes, int(opset or 17))).eval())
        except SecateurError:  # one node on sizes or constants is no model
            continue
        if wanted & {kind(node) for node in captured.nodes if node.op == "call_function"}:
            return True
    return False
