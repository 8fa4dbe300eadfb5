"""LSTM, GRU and RNN of ONNX files: what onnxruntime gives, and networks that are pruned around them."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from secateur.formats.onnx import OnnxModel  # noqa: E402
from test_onnx import graph, inputs_for, run_session  # noqa: E402

Proto = Any
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_WIDTH, _HIDDEN, _STEPS = 5, 3, 4


def layer(
    kind: str, direction: str = "forward", *, inputs: str = "B", outputs: str = "YHC", settings: str = "",
    batch: str = "2", opset: int = 17,
) -> Proto:  # fmt: skip
    """One layer with a bias (B), initial states (h and c: inputs, H and C: weights), and the outputs Y, H and C."""
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
    made = ", ".join(name if name in outputs else "" for name in ("Y", "H", "C")[: 3 if kind == "LSTM" else 2])
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
        *([("B", "YH", "linear_before_reset=1"), ("", "YH", "linear_before_reset=1")] if kind == "GRU" else []),
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
