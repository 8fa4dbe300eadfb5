"""Files of other formats: recognised by content before name, and told the command that converts them."""

from __future__ import annotations

import io
import tarfile
import textwrap
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.errors import InputError
from secateur.formats.factory import load_factory
from secateur.formats.foreign import FOREIGN
from secateur.formats.kinds import kind_by_content, kind_of
from secateur.formats.models import load_model
from secateur.formats.onnx.imported import OnnxModel


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.onnx"))
    return file.getvalue()


def scripted(model: nn.Module | None = None) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's, on TorchScript
        torch.jit.save(torch.jit.script(model or nn.Linear(2, 2)), file)
    return file.getvalue()


def saved(value: Any, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


TFLITE = b"\x1c\0\0\0TFL3\0\0"
COREML = b"\x08\x04\x12\x02\x0a\x00\xa2\x1f\x00"  # version 4, a description, a neural network (field 500)

# name of the file → its bytes (None: no such file), its format, words in the message
FILES: dict[str, tuple[bytes | None, str, tuple[str, ...]]] = {
    "net.pt": (scripted(), "torchscript", ("TorchScript", "torch.jit.load('net.pt'", "dynamo=False")),
    "lie.pt2": (scripted(), "torchscript", ("TorchScript", "'lie.onnx'")),
    "absent.torchscript": (None, "torchscript", ("TorchScript", "load_state_dict(scripted.state_dict())")),
    "weights.pth": (saved({"a": torch.ones(2)}), "pickle", ("weights_only=True", "'weights.safetensors'")),
    "legacy": (saved({"a": torch.ones(2)}, legacy=True), "pickle", ("unpickling can run any code",)),
    "lie.onnx": (saved({}), "pickle", ("is a pickle",)),
    "absent.ckpt": (None, "pickle", ("is a pickle",)),
    "net.tflite": (TFLITE, "tflite", ("python -m tf2onnx.convert --tflite net.tflite --output net.onnx",)),
    "tflite.onnx": (TFLITE, "tflite", ("--tflite tflite.onnx --output tflite_converted.onnx",)),
    "folder/saved_model.pb": (
        b"\x08\x01\x12\0",
        "savedmodel",
        ("tf2onnx.convert --saved-model folder --output",),
    ),
    "frozen.pb": (None, "graphdef", ("--graphdef frozen.pb --inputs",)),
    "net.meta": (None, "checkpoint", ("--checkpoint net.meta",)),
    "net.mlmodel": (COREML, "coreml", ("onnxmltools", "load_spec('net.mlmodel')")),
    "coreml": (COREML, "coreml", ("Core ML",)),
    "net.mlpackage": (None, "mlpackage", ("coremltools.convert(",)),
    "model-q4.gguf": (b"GGUF\3\0\0\0", "gguf", ("from_pretrained('.', gguf_file='model-q4.gguf')",)),
    "gguf.bin": (b"GGUF\3\0\0\0", "gguf", ("GGUF",)),
    "hf/config.json": (b"{}", "", ()),
    "net.engine": (None, "tensorrt", ("trtexec --onnx=small.onnx --saveEngine=net.engine",)),
    "net.xml": (b"<?xml version='1.0'?><net name='a'/>", "openvino", ("openvino2onnx net.xml",)),
    "net.bin": (b"\1\2\3\4", "openvino", ("openvino2onnx net.xml",)),  # beside net.xml
    "p.pdmodel": (None, "paddle", ("paddle2onnx --model_dir .",)),
    "c.caffemodel": (None, "caffe", ("caffe2onnx.convert --prototxt c.prototxt --caffemodel c.caffemodel",)),
    "net.pte": (None, "built", ("built for one runtime",)),
    "net.ort": (b"\x1c\0\0\0ORTM", "built", ("built for one runtime",)),
    "net.zip": (zipped("a.onnx"), "archive", ("unzip net.zip",)),
    "net.tar": (tarred(), "archive", ("tar -xf net.tar",)),
    "net.tar.gz": (b"\x1f\x8b\x08\0", "archive", ("tar -xf net.tar.gz",)),
    "pointer.onnx": (
        b"version https://git-lfs.github.com/spec/v1\n",
        "lfs",
        ("git lfs pull --include pointer.onnx",),
    ),
    "page.pt2": (b"<!doctype html><html>", "web", ("a web page",)),
    "data.npz": (zipped("images.npy"), "arrays", ("--data",)),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, (content, _, _) in FILES.items():
        if content is not None:
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_bytes(content)
    Path("empty").mkdir()
    return tmp_path


def test_each_is_told_what_it_is_and_how_it_is_converted(here: Path) -> None:
    for name, (_, kind, words) in FILES.items():
        assert kind_of(name) == kind, name
        if words:
            with pytest.raises(InputError) as caught:
                load_model(name)
            assert all(word in str(caught.value) for word in (name, *words)), str(caught.value)


@pytest.mark.parametrize(
    ("folder", "kind", "text"),
    [
        ("hf", "huggingface", r"hf: has a config\.json and no weights; model\.safetensors is missing"),
        ("folder", "savedmodel", r"--saved-model folder --output folder\.onnx"),
        ("empty", "folder", r"empty is a folder\. Give the path of the model in it"),
    ],
)
def test_folders(folder: str, kind: str, text: str, here: Path) -> None:
    assert kind_of(folder) == kind
    with pytest.raises(InputError, match=text):
        load_model(folder)


def test_every_row_of_the_table_has_a_case() -> None:
    assert {kind for _, kind, _ in FILES.values() if kind} | {"folder"} == FOREIGN.keys()


@pytest.mark.slow
def test_what_is_read_is_recognised_under_any_name(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    model, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval(), torch.rand(2, 4)
    for suffix, kind in ((".pt2", torch.export.ExportedProgram), (".onnx", OnnxModel)):
        secateur.save_model(tmp_path / f"net{suffix}", model, x)
        for name in ("net", "net.pt", "net.pb", "net.model"):
            (tmp_path / name).write_bytes((tmp_path / f"net{suffix}").read_bytes())
            assert isinstance(load_model(tmp_path / name), kind)


def test_weights_under_another_name(tmp_path: Path) -> None:
    model = nn.Linear(4, 3)
    secateur.save_model(tmp_path / "w.safetensors", model)
    (tmp_path / "w.bin").write_bytes((tmp_path / "w.safetensors").read_bytes())
    assert kind_by_content(tmp_path / "w.bin") == "safetensors"
    with pytest.raises(InputError, match=r"together with a \.safetensors file"):
        load_model(tmp_path / "w.bin")


@pytest.mark.parametrize(
    "content", [b"", b"\x08", b"\x08\x07" + b"\xff" * 40, b"PK\x03\x04garbage", bytes(600)]
)
def test_damaged_files_are_nothing_known(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    assert kind_by_content(tmp_path / "x") == ""
    with pytest.raises(InputError, match=r"give a \.pt2, \.onnx, \.keras, \.h5 or \.hdf5 file"):
        load_model(tmp_path / "x")


def test_an_absent_file_is_said_to_be_absent(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        load_model(tmp_path / "net.xyz")


# --- the lines that are told, run ---------------------------------------------------------------------------


class Net(nn.Module):
    """Tied weights, a transposed one, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(4)
        self.b.weight = self.a.weight
        self.c.weight = nn.Parameter(torch.rand(4, 2).T)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.norm(self.b(self.a(x).relu())))  # type: ignore[no-any-return]


def checkpoint(state: dict[str, Tensor]) -> dict[str, Any]:
    adam = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}},
        "param_groups": [{"lr": 0.1}],
    }
    return {"epoch": 3, "best": torch.tensor(0.9), "optimizer": adam, "state_dict": state, "ema": dict(state)}


CHECKPOINTS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda state: state,
    "nested": checkpoint,
    "model": lambda state: {"model": state, "args": {"lr": 0.1}},
    "deeper": lambda state: {"model": {"state_dict": state, "version": 2}, "steps": [1, 2]},
}


def told(path: str) -> str:
    """The indented lines of the message."""
    with pytest.raises(InputError) as caught:
        load_model(path)
    lines = [line for line in str(caught.value).splitlines() if line.startswith("    ")]
    return textwrap.dedent("\n".join(lines))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_lines_for_a_pickle_work(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net = Net().eval()
    torch.save(CHECKPOINTS[name](net.state_dict()), "net.pth")
    exec(told("net.pth"), {})
    loaded = load_factory("test_foreign:Net", "net.safetensors")
    x = torch.rand(3, 4)
    torch.testing.assert_close(loaded(x), net(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch's, on TorchScript
def test_the_lines_for_torchscript_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    Path("net.pt").write_bytes(scripted(net))
    exec(told("net.pt"), {"example": torch.rand(2, 4)})
    loaded = load_model("net.onnx")
    x = torch.rand(3, 4)
    torch.testing.assert_close(loaded(x), net(x), rtol=1e-4, atol=1e-5)  # type: ignore[operator]
    assert secateur.prune(loaded, remove=0.5, method="scale").before.units == 6


def test_weights_are_refused_alike(here: Path) -> None:
    for name, text in {
        "weights.pth": "unpickling",
        "net.tflite": "TensorFlow Lite",
        "net.pt": "TorchScript",
    }.items():
        with pytest.raises(InputError, match=text):
            load_factory("torch.nn:Identity", name)
        with pytest.raises(InputError, match=text):
            load_model(name)


def test_a_prefix_that_all_names_share_is_named(tmp_path: Path) -> None:
    secateur.save_model(tmp_path / "w.safetensors", nn.DataParallel(Net()))
    with pytest.raises(InputError, match=r"Take 'module\.' off the beginning of its names"):
        load_factory("test_foreign:Net", tmp_path / "w.safetensors")
