"""Files that onnxruntime has optimised, ops that it runs alone, and branches: pruned as the networks they
stand for.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

import secateur  # noqa: E402
from secateur.errors import SecateurError, UnsupportedOpError  # noqa: E402
from secateur.formats.onnx import elementwise  # noqa: E402
from secateur.formats.onnx.files import load_onnx  # noqa: E402
from secateur.formats.onnx.imported import OnnxModel  # noqa: E402
from secateur.graph.capture import capture  # noqa: E402
from secateur.graph.coupling import couple  # noqa: E402
from secateur.graph.widths import not_widths  # noqa: E402
from secateur.quantize.packages import quantizers  # noqa: E402
from secateur.reconstruct.layers import find_consumers  # noqa: E402
from secateur.reconstruct.sensitivity import sensitivities  # noqa: E402
from test_onnx import _kept, assert_prunes, export, graph, inputs_for  # noqa: E402

Proto = Any


def saved(folder: Path, proto: Proto) -> Path:
    """The model in a file. An output behind an op that ONNX does not know is a matrix of floats."""
    for value in proto.graph.output:
        if not value.type.HasField("tensor_type"):
            value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, 1, [None, None]))
    onnx.save(proto, folder / "model.onnx")
    return folder / "model.onnx"


def optimised(path: Path) -> Path:
    """The file that onnxruntime writes of it, at the level that holds on all machines."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path.with_name("optimised.onnx"))
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return path.with_name("optimised.onnx")


def kinds(path: Path) -> set[str]:
    return {n.op_type for n in onnx.load(path).graph.node}


def attributes(path: Path, kind: str) -> list[dict[str, Any]]:
    nodes = [n for n in onnx.load(path).graph.node if n.op_type == kind]
    return [{a.name: onnx.helper.get_attribute_value(a) for a in n.attribute} for n in nodes]


# --- convolutions -------------------------------------------------------------------------------------------

_CNN = """
    a = Conv <pads=[1,1,1,1]> (x_N_3_8_8, w_12_3_3_3, w_12) b = Relu(a)
    c = Conv <pads=[1,1,1,1], group=12> (b, w_12_1_3_3, wc_12) d = Clip(c, @0.0, @6.0)
    e = Conv <pads=[1,1,1,1]> (d, w_12_12_3_3, we_12) f = Add(e, d) g = Relu(f)
    h = Conv(g, w_10_12_3_3, w_10) i = LeakyRelu <alpha=0.2> (h) j = Conv(i, w_9_10_1_1, w_9) k = HardSigmoid(j)
    p = ReduceMean <axes=[2,3], keepdims=0> (k) q = Gemm(p, w_9_8, w_8) r = Tanh(q) y = Gemm(r, w_8_5, w_5)
"""


@pytest.mark.slow
def test_optimised_cnn_is_pruned(tmp_path: Path) -> None:
    plain = saved(tmp_path, graph(_CNN))
    path = optimised(plain)
    assert {"FusedConv", "FusedGemm"} <= kinds(path)
    assert_prunes(path, 0.4)
    assert [a["group"] for a in attributes(tmp_path / "smaller.onnx", "FusedConv")][
        1
    ] < 12  # the depthwise one


@pytest.mark.slow
def test_choices_on_the_optimised_cnn_are_those_on_the_plain_one(tmp_path: Path) -> None:
    path = saved(tmp_path, graph(_CNN))
    models = [load_onnx(path), load_onnx(optimised(path))]
    first, second = (_kept(m, inputs_for(m.proto), "reconstruct") for m in models)
    assert first == second


# --- transformers -------------------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.heads, self.width = heads, width // heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).view(x.shape[0], x.shape[1], self.heads, self.width).permute(0, 2, 1, 3)
            for f in (self.q, self.k, self.v)
        )
        scores = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(self.width), -1)
        mixed = (scores @ v).permute(0, 2, 1, 3).contiguous()
        return self.out(mixed.view(x.shape[0], x.shape[1], self.heads * self.width))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """One layer, written as the optimizer of onnxruntime looks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention, self.norm1 = nn.Linear(6, 12), Attention(12, 4), nn.LayerNorm(12)
        self.up, self.down, self.norm2, self.head = (
            nn.Linear(12, 20),
            nn.Linear(20, 12),
            nn.LayerNorm(12),
            nn.Linear(12, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = self.norm1(self.attention(x) + x)
        h = self.up(x)
        h = h * 0.5 * (1.0 + torch.erf(h / math.sqrt(2.0)))
        return self.head(self.norm2(self.down(h) + x).mean(1))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The encoder as torch writes it, as onnxruntime optimises it, and as its optimizer of transformers
    does.
    """
    torch.manual_seed(0)
    model, folder = Encoder().eval(), tmp_path_factory.mktemp("encoder")
    for p in model.parameters():
        nn.init.normal_(p, 0.1, 0.4)
    path = saved(folder, export(model, (torch.rand(2, 5, 6),), "script", 14))
    with quantizers():  # its modules are found there, whatever was imported before
        from onnxruntime.transformers import optimizer

        fused = optimizer.optimize_model(str(path), "bert", num_heads=4, hidden_size=12, opt_level=0)
        fused.save_model_to_file(str(folder / "transformers.onnx"))
    return {"plain": path, "optimised": optimised(path), "transformers": folder / "transformers.onnx"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("optimised", {"FusedMatMul", "LayerNormalization", "BiasGelu"}),
        ("transformers", {"Attention", "SkipLayerNormalization", "BiasGelu"}),
    ],
)
def test_optimised_encoder_is_pruned_as_the_plain_one(
    name: str, expected: set[str], encoder: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(encoder[name].read_bytes())
    assert expected <= kinds(path)
    assert_prunes(path, 0.4)
    if name == "transformers":
        assert [a["num_heads"] for a in attributes(tmp_path / "smaller.onnx", "Attention")] == [3]
    first, second = (
        _kept(m, [torch.rand(2, 5, 6)], "saliency") for m in map(load_onnx, (encoder["plain"], path))
    )
    assert first == second


_M = "com.microsoft."
# name → opset, nodes from x to m, op, its attributes after
_HEADS: dict[str, tuple[int, str, str, dict[str, Any]]] = {
    "values of another width": (17, f"""
        m = {_M}Attention <num_heads=4, qkv_hidden_sizes=[16,16,12]> (x_N_5_6, w_6_44, w_44)
    """, "Attention", {"num_heads": 3, "qkv_hidden_sizes": [12, 12, 9]}),
    "without sizes": (17, f"""
        m = {_M}Attention <num_heads=4, unidirectional=1> (x_N_5_6, w_6_36, w_36)
    """, "Attention", {"num_heads": 3}),
    "separate products": (17, f"""
        q = MatMul(x_N_5_6, wq_6_12) k = MatMul(x_N_5_6, wk_6_12) v = MatMul(x_N_5_6, wv_6_12)
        m = {_M}MultiHeadAttention <num_heads=4> (q, k, v, w_36)
    """, "MultiHeadAttention", {"num_heads": 3}),
    "rotary": (17, f"""
        q0 = MatMul(x_N_5_6, wq_6_16) k0 = MatMul(x_N_5_6, wk_6_16) v = MatMul(x_N_5_6, wv_6_12)
        q = {_M}RotaryEmbedding <num_heads=4, rotary_embedding_dim=2> (q0, @[0], wc_9_1, ws_9_1)
        k = {_M}RotaryEmbedding <num_heads=4, rotary_embedding_dim=2> (k0, @[0], wc_9_1, ws_9_1)
        m = {_M}MultiHeadAttention <num_heads=4> (q, k, v)
    """, "RotaryEmbedding", {"num_heads": 3}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", _HEADS)
def test_heads_leave_and_the_op_is_told(name: str, tmp_path: Path) -> None:
    opset, nodes, kind, told = _HEADS[name]
    path = saved(tmp_path, graph(f"""
        {nodes} a = MatMul(m, w_12_10) b = {_M}QuickGelu(a) c = MatMul(b, w_10_8)
        s = {_M}SkipLayerNormalization(c, c, v_8, w_8) r = Reshape(s, @[-1,40]) y = MatMul(r, w_40_3)
    """, opset))  # fmt: skip
    model = load_onnx(path)
    inputs = [torch.rand(2, 5, 6)]
    prunable = not_widths(secateur.inspect(model, inputs).prunable)
    (heads,) = [g for g in prunable if g.units == 4]
    ignore = [g.name for g in prunable if g.name != heads.name]
    smaller = secateur.prune(model, inputs, remove=0.25, method="saliency", ignore=ignore).model
    found = [
        {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute}
        for n in smaller.proto.graph.node
        if n.op_type == kind
    ]
    for attribute, value in told.items():
        assert [a[attribute] for a in found] == [value] * len(found)


# --- ops that onnxruntime runs alone ------------------------------------------------------------------------

_TAIL = "g = Gemm({}, w_{}_9, w_9) h = Relu(g) y = Gemm(h, w_9_5, w_5)"
_WHOLE: dict[str, tuple[str, str]] = {  # name → nodes, the weight whose units the op pins
    "in the middle": ("""
        a = Gemm(x_N_12, w_12_16, w_16) b = Relu(a) c = ai.onnx.ml.Normalizer <norm="L2"> (b)
    """ + _TAIL.format("c", 16), "w_12_16"),
    "at the front": ("""
        u = Unsqueeze(x_N_32, @[2]) r = STFT(u, @4, , @8) q = Mul(r, r) s = ReduceSum <keepdims=0> (q, @[3])
        t = Transpose <perm=[0,2,1]> (s) a = Conv(t, w_12_5_3, w_12) b = Relu(a) c = Conv(b, w_10_12_3, w_10)
        d = Relu(c) e = ReduceMean <axes=[2], keepdims=0> (d)
    """ + _TAIL.format("e", 10), ""),
    "batch that the op makes": ("""
        a = Conv <pads=[1,1,1,1]> (x_N_3_8_8, w_8_3_3_3, w_8) z = Relu(a)
        b = MaxRoiPool <pooled_shape=[2,2]> (z, @[[0.0,0.0,0.0,5.0,5.0],[1.0,2.0,2.0,7.0,7.0]]) f = Flatten(b)
    """ + _TAIL.format("f", 32), "w_8_3_3_3"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["in the middle", "at the front"])
def test_op_without_a_rule_stays_whole(name: str, tmp_path: Path) -> None:
    nodes, pinned = _WHOLE[name]
    path = saved(tmp_path, graph(nodes))
    assert_prunes(path, 0.4)
    model = load_onnx(path)
    reasons = {g.name: g.pinned for g in secateur.inspect(model, inputs_for(model.proto)).groups}
    if pinned:
        assert reasons[pinned] == "ai.onnx.ml.Normalizer '2/Normalizer' has no rule and stays whole"
    assert reasons["w_16_9" if pinned else "w_12_5_3"] == ""


def test_what_enters_an_op_without_gradient_counts_as_an_output() -> None:
    proto = graph(
        "a = Gemm(x_N_6, w_6_8, w_8) b = Relu(a) c = Gemm(b, w_8_4, w_4) y = ai.onnx.ml.Normalizer(c)"
    )
    captured = capture(OnnxModel(proto), inputs_for(proto))
    consumers = [c for found in find_consumers(captured).values() for c in found]
    found = sensitivities(captured, consumers, captured.tensors, inputs_for(proto), 0)
    assert len(found) == 2
    assert all(bool((root.rows.square().sum(1) > 1e-12).any()) for root in found.values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"y, i, n = {_M}Unique(x_N)", "Unique '0/Unique' has no rule, and the shape of what it gives depends"),
        (f'y = {_M}CDist <metric="euclidean"> (x_N_3_4, x_N_3_4)', "'0/CDist' has no rule, and onnxruntime cannot run"),
        ("y = NonZero(x_N_3)", "'0/NonZero' gives as many numbers as the data make it"),
        ("y = RandomNormalLike(x_N_3)", "'0/RandomNormalLike' gives other numbers in each run"),
        ("c = Greater(x_6, @0.0) y = Compress(x_6, c)", "'1/Compress' gives as many numbers"),
    ],
)  # fmt: skip
def test_op_that_cannot_stay_is_refused_by_name(text: str, said: str) -> None:
    proto = graph(text)
    with pytest.raises(SecateurError, match=said):
        secateur.inspect(OnnxModel(proto), inputs_for(proto))


def test_bounds_name_the_op_that_has_none() -> None:
    proto = graph(_WHOLE["in the middle"][0])
    with pytest.raises(UnsupportedOpError, match=r"no rule to bound ai\.onnx\.ml\.Normalizer '2/Normalizer'"):
        secateur.prune(OnnxModel(proto), inputs_for(proto), remove=0.5, method="impact", input_bounds=(-1, 1))


# --- units pass ---------------------------------------------------------------------------------------------

_BESIDE = {  # ops that are not of one tensor: the nodes from a to b
    "BitShift": "", "BitwiseAnd": "", "BitwiseNot": "", "BitwiseOr": "", "BitwiseXor": "",
    "CastLike": "b = CastLike(a, @[1.0])",
    "Det": "", "Hardmax": "",
    "IsInf": "i = IsInf(a) b = Where(i, @0.0, a)",
    "IsNaN": "i = IsNaN(a) b = Where(i, @0.0, a)",
    "Mod": "b = Mod <fmod=1> (a, @2.0)",
    "Xor": "i = Greater(a, @0.0) j = Greater(a, @0.5) k = Xor(i, j) b = Where(k, a, @0.0)",
}  # fmt: skip
_PASSING = [
    k
    for k in elementwise.OPS
    if _BESIDE.get(k, "-") and k not in ("Bernoulli", "Multinomial") and "Random" not in k
]


@pytest.mark.parametrize("kind", _PASSING)
def test_units_pass_element_by_element(kind: str) -> None:
    proto = graph(
        f"a = Gemm(x_N_6, w_6_8, w_8) {_BESIDE.get(kind) or f'b = {kind}(a)'} y = Gemm(b, w_8_3, w_3)",
        24,
        ir=10,
    )
    (group,) = couple(capture(OnnxModel(proto), inputs_for(proto))).prunable
    assert group.units == 8


def test_channels_pass_where_values_between_pixels_are_read() -> None:
    proto = graph("""
        a = Conv <pads=[1,1,1,1]> (x_N_3_6_6, w_8_3_3_3) t = Conv(x_N_3_6_6, w_2_3_1_1)
        g = Transpose <perm=[0,2,3,1]> (t) b = GridSample(a, g) c = Conv(b, w_4_8_3_3) y = ReduceMean <axes=[2,3]> (c)
    """)
    groups = {g.name: g.pinned for g in couple(capture(OnnxModel(proto), inputs_for(proto))).groups}
    assert groups["w_8_3_3_3"] == "" and "places to sample at" in groups["w_2_3_1_1"]


# --- branches -----------------------------------------------------------------------------------------------


def branching(condition: str) -> Proto:
    """Relu or Tanh, each with a weight of its own, under names that both branches use."""
    return graph(f"""
        a = Gemm(x_N_12, w_12_16, w_16) {condition} b = If (k) <
            then_branch = one () => (float[N,16] t) {{ s = Mul(a, w_16) t = Relu(s) }},
            else_branch = two () => (float[N,16] t) {{ s = Neg(a) t = Tanh(s) }}
        > e = Gemm(b, w_16_9, w_9) h = Relu(e) y = Gemm(h, w_9_5, w_5)
    """)


@pytest.mark.parametrize(
    ("condition", "taken"),
    [
        ("k = Cast <to=9> (@1)", "Relu"),
        ("s0 = Shape(a) n = Gather(s0, @1) q = Equal(n, @16) k = Not(q)", "Tanh"),
        (
            "s0 = Shape(a) n = Slice(s0, @[1], @[2]) m = Mul(n, @[2]) q = Greater(m, @[30]) k = Squeeze(q)",
            "Relu",
        ),
    ],
)
def test_branch_that_is_known_is_taken(condition: str, taken: str, tmp_path: Path) -> None:
    path = saved(tmp_path, branching(condition))
    loaded = [n.op_type for n in load_onnx(path).proto.graph.node]
    assert "If" not in loaded and (loaded.count("Tanh") == 1) == (taken == "Tanh")
    if taken == "Relu":
        assert_prunes(path, 0.3)


@pytest.mark.parametrize(
    "condition",
    [
        "m = ReduceMax <keepdims=0> (a) k = Greater(m, @0.0)",
        "s0 = Shape(a) n = Gather(s0, @0) k = Equal(n, @2)",
    ],
    ids=["of data", "of the batch"],
)
def test_branch_that_is_not_known_is_refused_by_name(condition: str, tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedOpError, match=r"holds ops with graphs inside, which depend on data: If '.*/If'"
    ):
        load_onnx(saved(tmp_path, branching(condition)))
