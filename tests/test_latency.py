"""How long a model takes before and after: which runtime, on what, and what is said where it cannot be
measured.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.errors import InputError
from secateur.evaluate.cost import latency_ms

X = torch.rand(3, 400)


def dense(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(400, width), nn.ReLU(), nn.Linear(width, 4)).eval()


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x @ y.transpose(1, 2)


def test_a_smaller_model_takes_less_time() -> None:
    found = secateur.latency(dense(8000), dense(10), X)
    assert found.fell and 0 < 2 * found.after < found.before and found.runtime == "torch"
    assert not secateur.latency(dense(10), dense(8000), X).fell


def test_one_sample_is_timed() -> None:
    seen = set()

    class Looking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.add(tuple(x.shape))
            return x

    secateur.latency(Looking(), Looking(), X)
    assert seen == {(1, 400)}


@pytest.mark.slow
def test_keyword_inputs_and_programs() -> None:
    inputs = {"x": torch.rand(2, 3, 4), "y": torch.rand(2, 5, 4)}
    for runtime in ("torch", "onnxruntime"):
        assert secateur.latency(Two().eval(), Two().eval(), inputs, runtime=runtime).before > 0
    program = torch.export.export(dense(10), (X,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    assert secateur.latency(program, dense(10)).before > 0


def test_a_long_pass_is_not_repeated_for_ever() -> None:
    calls = [0, 0]

    def waits(index: int) -> Any:
        def run() -> None:
            calls[index] += 1
            time.sleep(0.01)

        return run

    found = latency_ms([waits(0), waits(1)], torch.device("cpu"), repeats=50, warm_up=1, limit_s=0.02)
    assert calls == [4, 4] and all(ms >= 10 for ms in found)


def onnx_file(path: Path, batch: int | str, width: int = 64, inputs: int = 1) -> Path:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    names = [f"x{i}" for i in range(inputs)]
    weight = onnx.numpy_helper.from_array(torch.rand(400, width).numpy(), "w")
    nodes = [helper.make_node("Sum", names, ["s"]), helper.make_node("Gemm", ["s", "w"], ["y"])]
    ends = [helper.make_tensor_value_info(name, float32, [batch, 400]) for name in names]
    graph = helper.make_graph(
        nodes, "net", ends, [helper.make_tensor_value_info("y", float32, [batch, width])], [weight]
    )
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["batch", 1, 4])
def test_onnx_files_are_timed_in_onnxruntime(batch: int | str, tmp_path: Path) -> None:
    before, after = onnx_file(tmp_path / "a.onnx", batch, 20000), onnx_file(tmp_path / "b.onnx", batch, 10)
    found = secateur.latency(before, str(after), X)
    assert found.runtime == "onnxruntime" and found.fell
    loaded = secateur.latency(secateur.load_model(before), after)
    assert loaded.runtime == "onnxruntime" and loaded.fell


@pytest.mark.slow
def test_a_model_of_torch_is_exported_for_onnxruntime(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    found = secateur.latency(dense(10), onnx_file(tmp_path / "a.onnx", "batch"), X)
    assert found.runtime == "onnxruntime" and found.before > 0


class Refusing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("not today\nsecond line")


@pytest.mark.parametrize(
    ("models", "inputs", "runtime", "said"),
    [
        ((dense(2), dense(2)), X, "tensorrt", "runtime='tensorrt'; there are torch and onnxruntime"),
        ((dense(2), dense(2)), None, None, "example_inputs is needed: give one tensor"),
        ((dense(2), Refusing()), X, None, "torch cannot run the model on one sample: ValueError: not today$"),
        (
            ("net.onnx", "net.onnx"),
            X,
            "torch",
            r"net\.onnx cannot be timed in torch; load it with load_model",
        ),
        (("gone.onnx", "gone.onnx"), X, None, "gone.onnx"),
    ],
)
def test_what_cannot_be_timed(models: Any, inputs: Any, runtime: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        secateur.latency(*models, inputs, runtime=runtime)


def test_inputs_must_be_those_of_the_file(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "two.onnx", "batch", inputs=2)
    assert secateur.latency(path, path, (X, X)).before > 0
    with pytest.raises(InputError, match=r"the ONNX model takes 2 inputs \(x0, x1\), and 1 are given"):
        secateur.latency(path, path, X)
