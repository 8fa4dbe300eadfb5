"""Quantised and half-precision files are measured as onnxruntime runs them, and used for nothing else."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import secateur
from command import run
from secateur.errors import InputError, UnsupportedOpError
from secateur.formats.onnx.as_is import load_as_is
from secateur.formats.onnx.files import load_dequantised
from secateur.quantize.prepare import products
from secateur.quantize.schemes import SCHEMES
from trained import blobs

pytestmark = pytest.mark.filterwarnings("ignore:.*did not make the :secateur.errors.SecateurWarning")
# Scheme → bytes of a weight. Biases are as large (int8: four bytes), and scales come on top.
STORED = {"int8": 1, "fp16": 2, "fp16-weights": 2, "bf16-weights": 2, "int8-weights": 1, "int4-weights": 0.5}


@cache
def network() -> tuple[nn.Module, Tensor, Tensor]:
    """Trained on rows of numbers between 0 and 1."""
    return blobs()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files")
    model, x, labels = network()
    for scheme in SCHEMES:
        made = secateur.quantize(model, x[:1], scheme=scheme, calibration=x, latency=False)
        made.save(path / f"{scheme}.onnx")
    secateur.save_model(path / "net.onnx", model, x[:1])
    np.savez(path / "data.npz", images=x.numpy(), labels=labels.numpy())
    return path


def by_hand(path: Path, x: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@pytest.mark.long
@pytest.mark.parametrize("scheme", SCHEMES)
def test_figures_are_those_of_onnxruntime(folder: Path, scheme: str) -> None:
    model, x, labels = network()
    path = folder / f"{scheme}.onnx"
    report = secateur.evaluate(path, x, labels, original=model)
    found = by_hand(path, x)
    with torch.no_grad():
        exact = model(x)
    assert report.accuracy[1] == pytest.approx(float((found.argmax(1) == labels).double().mean()))
    assert report.agreement == pytest.approx(float((found.argmax(1) == exact.argmax(1)).double().mean()))
    assert report.drift is not None
    assert report.drift.largest == pytest.approx(float((found - exact).abs().max()), rel=1e-3)
    assert report.drift.largest > 0  # it rounds
    assert (report.computed_in, report.original_computed_in) == ("onnxruntime", "torch")
    assert "what is measured: the file, in onnxruntime" in repr(report)
    before = report.cost_before
    assert before is not None and report.cost.parameters == before.parameters
    assert STORED[scheme] * before.parameters <= report.cost.bytes < before.bytes
    if scheme in ("int8-weights", "int4-weights"):  # an op of onnxruntime's own computes them
        assert report.cost.macs is None and "MACs: unknown" in repr(report)
    else:
        assert report.cost.macs == before.macs


def test_it_is_not_the_dequantised_model_that_is_measured(folder: Path) -> None:
    _, x, _ = network()
    report = secateur.evaluate(folder / "int8.onnx", x, original=load_dequantised(folder / "int8.onnx"))
    assert report.drift is not None and report.drift.largest > 1e-4


def test_a_quantised_original_and_latency(folder: Path) -> None:
    _, x, labels = network()
    quantised, floating = folder / "int8.onnx", folder / "net.onnx"
    report = secateur.evaluate(floating, x, labels, original=quantised, latency=True, normalize="none")
    assert (report.computed_in, report.original_computed_in) == ("onnxruntime", "onnxruntime")
    assert report.latency_runtime == "onnxruntime" and report.cost.latency_ms is not None
    assert report.cost_before is not None and report.cost_before.bytes < report.cost.bytes
    with pytest.raises(
        InputError, match=r"runtime='torch': .*int8\.onnx is measured in onnxruntime as it is"
    ):
        secateur.evaluate(quantised, x, labels, latency=True, runtime="torch")


def test_files_of_other_quantisers_are_measured(folder: Path, tmp_path: Path) -> None:
    """Also where values are rounded while the model runs, so that there is no float form."""
    _, x, labels = network()
    from secateur.quantize.packages import quantizers

    with quantizers():
        from onnxruntime.quantization import quantize_dynamic

        floating = products(onnx.load(folder / "net.onnx"))
        del floating.graph.value_info[:]
        quantize_dynamic(floating, tmp_path / "dynamic.onnx")
    ops = {node.op_type for node in onnx.load(tmp_path / "dynamic.onnx").graph.node}
    assert "DynamicQuantizeLinear" in ops
    report = secateur.evaluate(tmp_path / "dynamic.onnx", x, labels)
    expected = (by_hand(tmp_path / "dynamic.onnx", x).argmax(1) == labels).double().mean()
    assert report.accuracy[1] == pytest.approx(float(expected)) and report.cost.macs is None


def test_what_cannot_be_measured_or_done_is_told(folder: Path, tmp_path: Path) -> None:
    _, x, labels = network()
    with pytest.raises(InputError, match=r"attacks: they follow gradients.*attack the floating-point model"):
        secateur.evaluate(folder / "int8.onnx", x, labels, attacks=[secateur.FGSM(0.1)], input_bounds=(-9, 9))
    with pytest.raises(UnsupportedOpError, match=r"it can be measured, but neither pruned nor certified"):
        secateur.prune(load_as_is(folder / "int8.onnx"), x[:1], remove=0.5)
    secateur.save_model(tmp_path / "net.pt2", network()[0], x[:2])
    with pytest.raises(InputError, match=r"takes paths of \.onnx files alone; give it load_model\("):
        secateur.evaluate(tmp_path / "net.pt2", x, labels)
    (tmp_path / "cut.onnx").write_bytes((folder / "int8.onnx").read_bytes()[:-40])
    with pytest.raises(InputError, match=r"cut\.onnx is not an? .*ONNX model"):
        secateur.evaluate(tmp_path / "cut.onnx", x, labels)


def test_values_beyond_reason_are_refused_before_they_are_made(folder: Path, tmp_path: Path) -> None:
    proto = onnx.load(folder / "int8.onnx")
    (output,) = proto.graph.output
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 2**31]), "times"))
    proto.graph.node.append(onnx.helper.make_node("Tile", [output.name, "times"], ["many"]))
    output.name = "many"
    output.type.tensor_type.shape.dim[1].dim_param = "n"
    onnx.save(proto, tmp_path / "many.onnx")
    with pytest.raises(InputError, match=r"the value 'many' has the shape .*, more than 4,294,967,296 bytes"):
        load_as_is(tmp_path / "many.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["int8", "fp16", "bf16-weights", "int4-weights"])
def test_the_command_says_what_it_measured(folder: Path, scheme: str) -> None:
    file = f"{scheme}.onnx"
    given = ("evaluate", file, "--original", "net.onnx", "--data", "data.npz", "--json")
    done = run(folder, *given)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["computed_in"], report["original_computed_in"]) == ("onnxruntime", "torch")
    _, x, labels = network()
    expected = float((by_hand(folder / file, x).argmax(1) == labels).double().mean())
    assert report["accuracy"]["1"] == pytest.approx(expected)
