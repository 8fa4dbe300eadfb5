"""LSTM, GRU and RNN of ONNX files: what onnxruntime gives, and networks that are pruned around them."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import secateur  # noqa: E402
from architectures import ARCHITECTURES  # noqa: E402
from secateur.errors import UnsupportedOpError  # noqa: E402
from secateur.formats.onnx.check import check_import  # noqa: E402
from secateur.formats.onnx.files import load_onnx  # noqa: E402
from secateur.formats.onnx.imported import OnnxModel  # noqa: E402
from test_onnx import _kept, _kept_from_torch, assert_prunes, export, graph, inputs_for, run_session  # noqa: E402

Proto = Any
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_WIDTH, _HIDDEN, _STEPS = 5, 3, 4


def layer(
    kind: str, direction: str = "forward", *, inputs: str = "B", outputs: str = "YHC", settings: str = "",
    batch: str = "2", opset: int = 17,
) -> Proto:  # fmt: skip
    """One layer with a bias (B), initial states (h and c: inputs, H and C: weights), and the outputs Y, H and
    C.
    """
    d, gates = 2 if direction == "bidirectional" else 1, _GATES[kind]
    states = f"{d}_{batch}_{_HIDDEN}"
    given = [
        f"x_{_STEPS}_{batch}_{_WIDTH}",
        f"w_{d}_{gates * _HIDDEN}_{_WIDTH}",
        f"wr_{d}_{gates * _HIDDEN}_{_HIDDEN}",
        f"wb_{d}_{2 * gates * _HIDDEN}" if "B" in inputs else "",
        "",
        f"xh_{states}" if "h" in inputs else f"wh_{states}" if "H" in inputs else "",
        f"xc_{states}" if "c" in inputs else f"wc_{states}" if "C" in inputs else "",
    ]
    made = ", ".join(
        name if name in outputs else "" for name in ("Y", "H", "C")[: 3 if kind == "LSTM" else 2]
    )
    told = f'hidden_size={_HIDDEN}, direction="{direction}"' + (f", {settings}" if settings else "")
    text = ", ".join(given if kind == "LSTM" else given[:6])
    return graph(f"{made.rstrip(', ')} = {kind} <{told}> ({text.rstrip(', ')})", opset)


_SETTINGS = [
    (kind, direction, inputs, outputs, settings)
    for kind, direction in product(_GATES, ("forward", "reverse", "bidirectional"))
    for inputs, outputs, settings in [
        ("", "YHC", ""),
        ("B", "YHC", ""),
        ("Bh", "Y", ""),
        ("BhcHC", "HC", ""),
        ("BHC", "H", ""),
        *([("Bc", "C", ""), ("B", "YC", "")] if kind == "LSTM" else []),
        *(
            [("B", "YH", "linear_before_reset=1"), ("", "YH", "linear_before_reset=1")]
            if kind == "GRU"
            else []
        ),
    ]
]


@pytest.mark.parametrize(("kind", "direction", "inputs", "outputs", "settings"), _SETTINGS)
def test_layer_gives_what_onnxruntime_gives(
    kind: str, direction: str, inputs: str, outputs: str, settings: str
) -> None:
    proto = layer(kind, direction, inputs=inputs, outputs=outputs, settings=settings)
    model, given = OnnxModel(proto), inputs_for(proto)
    with torch.no_grad():
        found = model.values(given)
    for name, theirs in zip(model.outputs, run_session(proto, given), strict=True):
        torch.testing.assert_close(found[name], torch.from_numpy(theirs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", _GATES)
def test_batch_may_come_first(kind: str, direction: str) -> None:
    """The same layer with batch and steps (for states: directions) swapped; onnxruntime has no kernel for
    it.
    """
    plain = layer(kind, direction, inputs="Bhc")
    first = onnx.ModelProto.FromString(plain.SerializeToString())
    first.graph.node[0].attribute.append(onnx.helper.make_attribute("layout", 1))
    given = inputs_for(plain)
    with torch.no_grad():
        expected = OnnxModel(plain)(*given)
        found = OnnxModel(first)(*(x.transpose(0, 1) for x in given))
    torch.testing.assert_close(found[0], expected[0].permute(2, 0, 1, 3))
    for a, b in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(a, b.transpose(0, 1))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('Y = LSTM <hidden_size=3, activations=["Relu","Tanh","Tanh"]> (x_4_N_5, w_1_12_5, wr_1_12_3)', "Relu"),
        ('Y = GRU <hidden_size=3, activations=["HardSigmoid","Tanh"]> (x_4_N_5, w_1_9_5, wr_1_9_3)', "HardSigmoid"),
        ('Y = RNN <hidden_size=3, activations=["Affine"]> (x_4_N_5, w_1_3_5, wr_1_3_3)', "Affine"),
        ("Y = LSTM <hidden_size=3> (x_4_N_5, w_1_12_5, wr_1_12_3, , , , , wp_1_9)", "peepholes"),
        ("Y = LSTM <hidden_size=3, input_forget=1> (x_4_N_5, w_1_12_5, wr_1_12_3)", "input_forget"),
        ("Y = GRU <hidden_size=3, clip=0.5> (x_4_N_5, w_1_9_5, wr_1_9_3)", "clips its gates at 0.5"),
        ("v = Tanh(x_1_12_5) Y = LSTM <hidden_size=3> (u_4_N_5, v, wr_1_12_3)", "computed from the input"),
        ("i = Cast <to=6> (t_2) Y = LSTM <hidden_size=3> (x_4_2_5, w_1_12_5, wr_1_12_3, , i)", "length of each"),
        ("i = Cast <to=6> (@[4,3]) Y = LSTM <hidden_size=3> (x_4_2_5, w_1_12_5, wr_1_12_3, , i)", "length of each"),
    ],
)  # fmt: skip
def test_form_that_torch_lacks_is_refused_by_the_node_s_name(text: str, said: str) -> None:
    proto = graph(text)
    with pytest.raises(UnsupportedOpError, match=f"{proto.graph.node[-1].name}.*{said}"):
        OnnxModel(proto)(*inputs_for(proto))


# What stands before an LSTM of six units over twelve channels, its inputs from W on, whether an initial state
# stays.
_MADE: dict[str, tuple[str, str, bool]] = {
    "states by ConstantOfShape": ("""
        s = Shape(t) n = Gather(s, @1) m = Unsqueeze(n, @[0]) k = Concat <axis=0> (@[1], m, @[6])
        z = ConstantOfShape(k)
    """, "w_1_24_12, wr_1_24_6, wb_1_48, , z, z", False),
    "states by Expand and Slice": ("""
        s = Shape <start=1, end=2> (t) k = Concat <axis=0> (@[2], s, @[6]) g = Expand(@0.0, k)
        z = Slice(g, @[1], @[2], @[0])
    """, "w_1_24_12, wr_1_24_6, , , z, z", False),
    "learned states": ("""
        s = Shape <start=1, end=2> (t) k = Concat <axis=0> (@[1], s, @[6]) z = Expand(wh_1_1_6, k)
    """, "w_1_24_12, wr_1_24_6, wb_1_48, , z, z", True),
    "lengths of all steps": ("""
        s = Shape(t) l = Gather(s, @0) i = Cast <to=6> (l) n = Gather(s, @[1]) q = Expand(i, n)
    """, "w_1_24_12, wr_1_24_6, wb_1_48, q", False),
    "lengths by ConstantOfShape": ("""
        s = Shape(t) n = Gather(s, @[1]) q = ConstantOfShape <value=int32[1] {10}> (n)
    """, "w_1_24_12, wr_1_24_6, wb_1_48, q", False),
    "weights put together": ("""
        w1 = Slice(w_24_12, @[0], @[12], @[0]) j = Mul(@[6], @[2]) k = Add(j, @[12])
        w2 = Slice(w_24_12, j, k, @[0]) w3 = Concat <axis=0> (w1, w2) v = Unsqueeze(w3, @[0])
        r0, r1 = Split <axis=0> (wr_24_6) r2 = Concat <axis=0> (r1, r0) r = Unsqueeze(r2, @[0])
    """, "v, r", False),
}  # fmt: skip


def speech(lstm: str = "w_1_24_12, wr_1_24_6, wb_1_48", before: str = "", batch: str = "N") -> Proto:
    """Two convolutions, an LSTM on the second, two linear layers on its last step."""
    return graph(
        f"""
        a = Conv <pads=[1,1]> (x_{batch}_8_10, w_14_8_3, w_14) b = Relu(a) c = Conv <pads=[1,1]> (b, w_12_14_3, w_12)
        d = Relu(c) t = Transpose <perm=[2,0,1]> (d) {before} , H = LSTM <hidden_size=6> (t, {lstm})
        h = Squeeze(H, @[0]) e = Gemm(h, w_6_9, w_9) f = Relu(e) y = Gemm(f, w_9_5, w_5)
        """
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", _MADE)
def test_states_lengths_and_weights_may_be_made_in_the_graph(case: str) -> None:
    before, lstm, kept = _MADE[case]
    model = OnnxModel(speech(lstm, before))
    node = next(n for n in model.nodes if n.kind == "LSTM")
    assert bool(node.inputs[2]) == kept
    assert not {n.kind for n in model.nodes} & (
        {"ConstantOfShape"} if kept else {"ConstantOfShape", "Expand"}
    )
    for batch in (2, 3):
        inputs = inputs_for(model.proto, batch)
        check_import(model, inputs)
        smaller = secateur.prune(model, inputs, remove=0.4, method="scale", input_bounds=(-1, 1)).model
        with torch.no_grad():
            ours = smaller(*inputs)
        torch.testing.assert_close(
            ours, torch.from_numpy(run_session(smaller.proto, inputs)[0]), rtol=1e-4, atol=1e-5
        )


@pytest.mark.slow
@pytest.mark.parametrize("made", ["", "z = Reshape(@[0.0,0.0,0.0,0.0,0.0,0.0], @[1,1,6])"])
def test_states_of_a_model_of_one_sample_are_those_of_every_sample(made: str) -> None:
    state = "z" if made else "wh_1_1_6"
    model = OnnxModel(speech(f"w_1_24_12, wr_1_24_6, wb_1_48, , {state}, {state}", made, batch="1"))
    inputs = torch.rand(3, 8, 10)
    check_import(model, [inputs])
    smaller = secateur.prune(model, inputs, remove=0.4, method="scale").model
    expected = [torch.from_numpy(run_session(smaller.proto, [x])[0]) for x in inputs.split(1)]
    with torch.no_grad():
        torch.testing.assert_close(smaller(inputs), torch.cat(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_layer_stays_whole_and_the_rest_is_pruned(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(speech(), path)
    assert_prunes(path, 0.4)
    before, after = load_onnx(path), load_onnx(tmp_path / "smaller.onnx")
    (layer_before,), (layer_after,) = (
        [n for n in m.proto.graph.node if n.op_type == "LSTM"] for m in (before, after)
    )
    assert layer_before == layer_after
    for name in ("w_1_24_12", "wr_1_24_6", "wb_1_48"):
        assert torch.equal(before.constants[name], after.constants[name])
    assert after.constants["w_14_8_3"].shape[0] < 14 and after.constants["w_6_9"].shape[1] < 9
    assert after.constants["w_12_14_3"].shape[0] == 12

    groups = {group.name: group.pinned for group in secateur.inspect(before, inputs_for(before.proto)).groups}
    assert groups["w_12_14_3"] == f"recurrent layers stay whole ({layer_before.name})"
    assert groups["w_14_8_3"] == groups["w_6_9"] == ""


def test_layer_that_two_networks_share_stands_once() -> None:
    """The same weights read by two nodes are parameters once."""
    nodes = " ".join(f"Y{i} = GRU <hidden_size=3> (x{i}_4_N_5, w_1_9_5, wr_1_9_3)" for i in "ab")
    model = OnnxModel(graph(f"{nodes} y = Add(Ya, Yb)"))
    assert sum(p.numel() for p in model.parameters()) == 9 * 5 + 9 * 3


class Speech(nn.Module):
    def __init__(self, layer: type[nn.RNNBase], last: str = "output", **settings: Any) -> None:
        super().__init__()
        width = 6 * (2 if settings.get("bidirectional") else 1)
        self.conv, self.layer = nn.Conv1d(5, 9, 3, padding=1), layer(9, 6, batch_first=True, **settings)
        self.hidden, self.last, self.how = nn.Linear(width, 8), nn.Linear(8, 3), last
        self.first = nn.Conv1d(4, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(torch.relu(self.first(x)))).transpose(1, 2)
        output, state = self.layer(x)
        state = state if isinstance(state, torch.Tensor) else state[1]
        return self.last(torch.relu(self.hidden(output[:, -1] if self.how == "output" else state[-1])))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("exporter", "opset", "free", "layer", "settings"),
    [
        ("script", 17, True, nn.LSTM, {"num_layers": 2, "bidirectional": True}),
        ("script", 11, False, nn.GRU, {"bidirectional": True}),
        ("script", 14, True, nn.RNN, {"nonlinearity": "relu", "last": "state"}),
        ("script", 17, True, nn.LSTM, {"last": "state", "bias": False}),
        ("dynamo", 20, True, nn.GRU, {"num_layers": 2}),
        ("dynamo", 18, False, nn.LSTM, {"bidirectional": True}),
    ],
)
def test_export_is_pruned(
    exporter: str, opset: int, free: bool, layer: type[nn.RNNBase], settings: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(export(Speech(layer, **settings).eval(), (torch.rand(2, 4, 7),), exporter, opset, free), path)
    assert {"LSTM", "GRU", "RNN"} & {n.op_type for n in onnx.load(path).graph.node}
    assert_prunes(path, 0.4)


@pytest.mark.long
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_choices_are_those_made_on_the_network_from_torch(name: str) -> None:
    architecture = ARCHITECTURES[name]
    model = OnnxModel(export(architecture.build(), architecture.example(), "script", 17))
    assert _kept(model, architecture.example(), "reconstruct") == _kept_from_torch(name, "reconstruct")


@pytest.mark.slow
def test_keras_layout_is_pruned(tmp_path: Path) -> None:
    """Batch first in and out of the graph, GRU that resets before the product, as tf2onnx writes them."""
    path = tmp_path / "model.onnx"
    text = """
        t = Transpose <perm=[1,0,2]> (x_N_10_8) a = MatMul(t, w_8_14) b = Add(a, w_14) c = Relu(b)
        d = MatMul(c, w_14_12)
        Y = GRU <direction="bidirectional", hidden_size=6, linear_before_reset=0> (d, w_2_18_12, wr_2_18_6, wb_2_36)
        u = Transpose <perm=[2,0,1,3]> (Y) v = Reshape(u, @[0,0,12]) e = MatMul(v, w_12_9) f = Relu(e)
        g = ReduceMean <axes=[1], keepdims=0> (f) y = MatMul(g, w_9_5)
    """
    onnx.save(graph(text, 13), path)
    assert_prunes(path, 0.4)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_bounds_hold_what_torch_has_bounds_for(kind: str) -> None:
    gates = _GATES[kind]
    proto = graph(f"""
        a = MatMul(x_4_N_5, w_5_8) b = Relu(a) , H = {kind} <hidden_size=3> (b, w_1_{3 * gates}_8, wr_1_{3 * gates}_3)
        h = Squeeze(H, @[0]) c = MatMul(h, w_3_7) d = Relu(c) y = MatMul(d, w_7_2)
    """)
    model = OnnxModel(proto)
    result = secateur.prune(model, inputs_for(proto), remove=0.4, method="impact", input_bounds=(-1, 1))
    assert result.model.constants["w_3_7"].shape == (3, 5)


def test_bounds_that_torch_lacks_are_refused_by_name() -> None:
    proto = graph("""
        , H = RNN <hidden_size=3> (x_4_N_5, w_1_3_5, wr_1_3_3) h = Squeeze(H, @[0]) a = MatMul(h, w_3_7) b = Relu(a)
        y = MatMul(b, w_7_2)
    """)
    with pytest.raises(UnsupportedOpError, match="rnn_tanh"):
        secateur.prune(OnnxModel(proto), inputs_for(proto), remove=0.4, method="impact", input_bounds=(-1, 1))
