"""What files hold is printed without what a terminal would obey."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from command import run
from secateur.printable import printable

EVIL = "\x1b]0;owned\x07\x1b[2J\r\nsecateur: all is well\u202e\x9b31m\x7f"


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = printable(text)
    assert not any(
        unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for c in shown if c not in "\n\t"
    )
    assert all(line.startswith("  ") for line in shown.split("\n")[1:])
    assert printable("ordinary text, “quoted” – Größe 3×3") == "ordinary text, “quoted” – Größe 3×3"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models whose names of nodes and weights, and a path that, would clear the screen."""
    path = tmp_path_factory.mktemp("evil")
    for name, op in (("net.onnx", "Gemm"), ("unknown.onnx", f"Made{EVIL}Up"), ("\x1b[2Jnet.onnx", "Gemm")):
        generator = torch.Generator().manual_seed(0)
        weights = [
            numpy_helper.from_array(torch.randn(8, 8, generator=generator).numpy(), f"{side}{EVIL}")
            for side in "ab"
        ]
        nodes = [
            helper.make_node(op, ["x", f"a{EVIL}"], [f"h{EVIL}"], name=f"first{EVIL}"),
            helper.make_node("Relu", [f"h{EVIL}"], ["r"]),
            helper.make_node("Gemm", ["r", f"b{EVIL}"], ["y"], name=f"second{EVIL}"),
        ]
        ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["N", 8]) for end in "xy"]
        graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path / name
        )
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "net.onnx"),
        ("inspect", "net.onnx", "--json"),
        ("inspect", "unknown.onnx"),
        ("inspect", "unknown.onnx", "--debug"),
        ("prune", "net.onnx", "--method", "scale", "--remove", "50%", "-o", "small.onnx"),
        ("prune", "net.onnx", "--method", "scale", "--ignore", f"a{EVIL}*", "-o", "small.onnx"),
        ("prune", "\x1b[2Jnet.onnx", "--method", "scale", "--remove", "50%", "-o", "\x1b[2Jsmall.onnx"),
        ("prune", "\x1b[2Jmissing.onnx", "-o", "small.onnx"),
        ("certify", "net.onnx", "\x1b[2Jnet.onnx", "--json"),
    ],
)
def test_commands_print_no_control_characters(folder: Path, arguments: tuple[str, ...]) -> None:
    done = run(folder, *arguments)
    said = done.stdout + done.stderr
    assert said and not any(unicodedata.category(c) in {"Cc", "Cf"} for c in said if c != "\n"), said
    assert not any(line.startswith("secateur: all is well") for line in said.splitlines())
    if "--json" in arguments:
        json.loads(done.stdout)
