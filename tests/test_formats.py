"""Files in and out: what is loaded, what is refused, and that nothing in a hostile file is ever executed."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

import secateur
from secateur.errors import CaptureError, InputError
from secateur.files import write_atomically
from secateur.formats.arrays import load_arrays
from secateur.formats.factory import load_factory
from secateur.formats.kinds import kind_of
from secateur.formats.models import load_model
from secateur.formats.pt2.expressions import expression
from secateur.formats.pt2.program import load_program, save_program
from secateur.formats.pt2.strings import operator
from secateur.formats.registry import FORMATS, format_of, listed, suffixes_written

MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
INPUTS = "data/sample_inputs/model.pt"


class Convolutional(nn.Module):
    """Convolution, batch norm, pooling, a reshape by the batch size, a constant, and a dict output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(36, 3)
        self.scale = torch.tensor([1.0, 2.0, 3.0])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = nn.functional.max_pool2d(self.norm(self.conv(x)).relu(), 2)
        return {"logits": self.out(h.view(x.shape[0], -1)) * self.scale}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(9, 4), nn.LSTM(4, 6, batch_first=True, bidirectional=True)

    def forward(self, tokens: Tensor) -> Tensor:
        states: Tensor = self.lstm(self.embedding(tokens))[0]
        return torch.cat([states[:, -1], states.mean(1)], dim=1)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.second(self.first(x).relu()))  # type: ignore[no-any-return]


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.rand(2, 4)),
    "convolutional": (Convolutional, torch.rand(1, 1, 8, 8)),
    "transformer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.rand(2, 5, 8)),
    "recurrent": (Recurrent, torch.randint(9, (3, 7))),
    "tied": (Tied, torch.rand(2, 4)),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small `.pt2` file to copy and tamper with."""
    path = tmp_path_factory.mktemp("saved") / "model.pt2"
    save_program(path, nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval(), torch.rand(2, 4))
    return path


# --- .pt2, round trip ---------------------------------------------------------------------------------------


@pytest.mark.sweep
@pytest.mark.parametrize("name", MODELS)
def test_saved_program_gives_the_same_answers_for_any_batch(name: str, tmp_path: Path) -> None:
    factory, example = MODELS[name]
    model = factory().eval()
    save_program(tmp_path / "m.pt2", model, example)
    program = load_program(tmp_path / "m.pt2")
    assert program.example_inputs is not None
    batch = torch.cat([example, example, example[:1]])
    expected, found = model(batch), program.module()(batch)
    torch.testing.assert_close(found, expected)


def test_exported_program_and_its_module_are_saved_too(saved: Path, tmp_path: Path) -> None:
    program, x = load_program(saved), torch.rand(5, 4)
    save_program(tmp_path / "a.pt2", program)
    save_program(tmp_path / "b.pt2", program.module(), x)
    for name in ("a.pt2", "b.pt2"):
        torch.testing.assert_close(load_program(tmp_path / name).module()(x), program.module()(x))


def test_program_from_a_gpu_is_put_on_the_cpu(saved: Path, tmp_path: Path) -> None:
    def to_gpu(text: bytes) -> bytes:
        return text.replace(b'{"type": "cpu", "index": null}', b'{"type": "cuda", "index": 0}')

    program = load_program(tampered(saved, tmp_path, {MODEL: to_gpu, WEIGHTS: to_gpu}))
    assert program.module()(torch.rand(3, 4)).device.type == "cpu"


@pytest.mark.parametrize(
    ("module", "example", "path", "error", "said"),
    [
        (nn.Linear(2, 2).eval(), torch.rand(2, 2), "m.onnx", InputError, "must end in .pt2"),
        (nn.Linear(2, 2).eval(), None, "m.pt2", InputError, "example_inputs is needed"),
        (nn.Linear(2, 2), torch.rand(2, 2), "m.pt2", CaptureError, "training mode"),
        (nn.Linear(2, 2).eval(), torch.rand(2, 3), "m.pt2", CaptureError, "refuses the example inputs"),
        (nn.Linear(2, 2).eval(), torch.rand(2, 2), "absent/m.pt2", InputError, "does not exist"),
    ],
)
def test_save_program_names_what_is_wrong(
    module: nn.Module, example: Tensor | None, path: str, error: type[Exception], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        save_program(tmp_path / path, module, example)
    assert not list(tmp_path.iterdir())


# --- .pt2, hostile files ------------------------------------------------------------------------------------


class Payload:
    """Unpickling an instance creates the file `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


Edit = Callable[[bytes], bytes] | bytes | None


def tampered(
    source: Path, folder: Path, edits: dict[str, Edit], *, compression: int = zipfile.ZIP_STORED
) -> Path:
    """A copy of the archive with records changed (function), replaced or added (bytes), or left out
    (None).
    """
    path = folder / "hostile.pt2"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", compression) as new:
        root = old.namelist()[0].split("/")[0]
        contents: dict[str, bytes] = {name: old.read(name) for name in old.namelist()}
        for name, edit in edits.items():
            name = name if name.startswith(("/", "..")) else f"{root}/{name}"
            if edit is None:
                del contents[name]
            else:
                contents[name] = edit if isinstance(edit, bytes) else edit(contents[name])
        for name, content in contents.items():
            new.writestr(name, content)
    return path


def json_edit(change: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        value = json.loads(content)
        change(value)
        return json.dumps(value).encode()

    return edit


def entry(config: Any) -> Any:
    return config["config"]["0.weight"]


def torch_pickle(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def with_size(text: str) -> Callable[[bytes], bytes]:
    def change(model: Any) -> None:
        sizes = model["graph_module"]["graph"]["tensor_values"]["relu"]["sizes"]
        sizes[0] = {"as_expr": {"expr_str": text, "hint": {"as_int": 2}}}

    return json_edit(change)


def with_node(**changes: Any) -> Callable[[bytes], bytes]:
    return json_edit(lambda model: model["graph_module"]["graph"]["nodes"][1].update(changes))


def with_signature(**changes: Any) -> Callable[[bytes], bytes]:
    return json_edit(lambda model: model["graph_module"]["module_call_graph"][0]["signature"].update(changes))


def executable_parts(marker: Path) -> dict[str, dict[str, Edit]]:
    """Edits of an archive that make torch's own loader run code (here: touch `marker`)."""
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    mark_pickled = json_edit(lambda config: entry(config).update(use_pickle=True))
    constant = {
        "c": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    }
    return {
        "weight marked as pickled": {
            WEIGHTS: mark_pickled,
            "data/weights/weight_0": torch_pickle(Payload(marker)),
        },
        "pickled constant": {
            CONSTANTS: json.dumps({"config": constant}).encode(),
            "data/constants/opaque_obj_0": pickle.dumps(Payload(marker)),
        },
        "older weights file": {"data/weights/model.pt": torch_pickle({"0.weight": Payload(marker)})},
        "sample inputs": {INPUTS: torch_pickle(((Payload(marker),), {}))},
        "expression": {MODEL: with_size(f"Integer(2 + 0*int({code} is None))")},
    }


def load_as_torch_does(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.export.load(path).module()(torch.rand(2, 4))
        except Exception:
            return  # it may well fail, once the code has run


@pytest.mark.parametrize("part", executable_parts(Path("marker")))
def test_code_in_a_file_is_refused_and_not_run(part: str, saved: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    path = tampered(saved, tmp_path, executable_parts(marker)[part])
    load_as_torch_does(path)
    assert marker.exists(), "the file is harmless, so that this test proves nothing"
    marker.unlink()
    with pytest.raises(InputError, match=r"export it again: torch\.export\.save"):
        load_program(path)
    assert not marker.exists()


def test_guards_in_a_file_are_left_out_and_not_run(saved: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    guard = f"__import__('pathlib').Path({str(marker)!r}).touch() is None"
    path = tampered(saved, tmp_path, {MODEL: json_edit(lambda model: model.update(guards_code=[guard]))})
    load_as_torch_does(path)
    assert marker.exists(), "the file is harmless, so that this test proves nothing"
    marker.unlink()
    assert load_program(path).module()(torch.rand(3, 4)).shape == (3, 2)
    assert not marker.exists()


INJECTION = "x\n    raise SystemExit\n    y"

REFUSED: dict[str, tuple[dict[str, Edit], str]] = {
    "compiled code": ({"data/aotinductor/model/a.so": b"\x7fELF"}, "compiled code"),
    "custom object": ({"data/constants/custom_obj_0": b""}, "pickled Python object"),
    "record of a script": ({"code/a.py": b""}, "TorchScript"),
    "second model": ({"models/other.json": b"{}"}, "second model"),
    "unknown record": ({"data/surprise": b"1"}, "not a record that a plain export writes"),
    "parent folder": ({"../outside": b"1"}, "steps out of the archive"),
    "absolute name": ({"/outside": b"1"}, "absolute name"),
    "parent folder below the root": ({"data/../outside": b"1"}, "steps out of the archive"),
    "no weights": ({WEIGHTS: None}, "is missing"),
    "missing tensor": ({"data/weights/weight_0": None}, "no tensor record"),
    "tensor elsewhere": (
        {WEIGHTS: json_edit(lambda c: entry(c).update(path_name="../../models/model.json"))},
        "no tensor record",
    ),
    "huge size": (
        {WEIGHTS: json_edit(lambda c: entry(c)["tensor_meta"]["sizes"].append({"as_int": 1 << 40}))},
        "strides",
    ),
    "huge stride": (
        {WEIGHTS: json_edit(lambda c: entry(c)["tensor_meta"].update(strides=[{"as_int": 1 << 40}] * 2))},
        "declares .* bytes but its record holds 48",
    ),
    "huge expanded size": (
        {
            WEIGHTS: json_edit(
                lambda c: entry(c)["tensor_meta"].update(sizes=[{"as_int": 1 << 40}], strides=[{"as_int": 0}])
            )
        },
        "declares .* bytes but its record holds 48",
    ),
    "huge empty record": ({"data/weights/weight_0": b""}, "declares 48 bytes but its record holds 0"),
    "negative size": (
        {WEIGHTS: json_edit(lambda c: entry(c)["tensor_meta"]["sizes"][0].update(as_int=-3))},
        "not a size",
    ),
    "no JSON": ({MODEL: b"{"}, "not the JSON"),
    "deep JSON": ({MODEL: b"[" * 100_000}, "not the JSON"),
    "other format": ({"archive_format": b"zip"}, "does not say pt2"),
    "any function": ({MODEL: with_node(target="torch.os.system")}, "could be any function"),
    "op of a library": ({MODEL: with_node(target="torch.ops.load_library")}, "could be any function"),
    "op on files": ({MODEL: with_node(target="torch.ops.aten.from_file.default")}, "could be any function"),
    "name of a node": ({MODEL: with_node(name=INJECTION)}, "would become source code"),
    "name of an argument": (
        {MODEL: with_signature(forward_arg_names=[INJECTION])},
        "would become source code",
    ),
    "string constant": (
        {MODEL: with_node(inputs=[{"name": "self", "arg": {"as_string": "'+exit()+'"}, "kind": 1}])},
        "could become source code",
    ),
    "tree spec": (
        {
            MODEL: with_signature(
                in_spec='[1, {"type": "collections.defaultdict", "children_spec": [], "context": '
                '{"default_factory_module": "antigravity", "default_factory_name": "a", "dict_context": []}}]'
            )
        },
        "could import code",
    ),
    "keyword of the input": (
        {
            MODEL: with_signature(
                in_spec='[1, {"type": "builtins.dict", "context": "[\\"a=exit()\\"]", "children_spec": []}]'
            )
        },
        "could import code",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_part_that_is_not_plain_data_is_refused(case: str, saved: Path, tmp_path: Path) -> None:
    edits, said = REFUSED[case]
    with pytest.raises(InputError, match=said) as caught:
        load_program(tampered(saved, tmp_path, edits))
    assert "hostile.pt2" in str(caught.value)


def test_compressed_and_doubled_records_are_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="compressed"):
        load_program(tampered(saved, tmp_path, {}, compression=zipfile.ZIP_DEFLATED))
    path = tampered(saved, tmp_path, {})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(archive.namelist()[0].split("/")[0] + "/ARCHIVE_FORMAT", b"pt2")
    with pytest.raises(InputError, match="the same name twice"):
        load_program(path)


def test_large_json_is_refused_before_it_is_read(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secateur.formats.pt2.archive.JSON_LIMIT", 100)
    with pytest.raises(InputError, match="is larger than 100 bytes"):
        load_program(saved)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_cut_file_is_refused(share: float, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.pt2"
    path.write_bytes(saved.read_bytes()[: int(share * saved.stat().st_size)])
    with pytest.raises(InputError, match="cut short or damaged"):
        load_program(path)


def test_damaged_weights_are_refused(saved: Path, tmp_path: Path) -> None:
    content = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as archive:
        info = next(i for i in archive.infolist() if i.filename.endswith("weight_0"))
    name_length, extra_length = struct.unpack_from("<HH", content, info.header_offset + 26)
    content[info.header_offset + 30 + name_length + extra_length] ^= 0xFF
    path = tmp_path / "damaged.pt2"
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        load_program(path)


def test_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.pt2: No such file"):
        load_program(tmp_path / "absent.pt2")


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s31', positive=True, integer=True)",
        "Mul(Integer(32), Symbol('s28', positive=True, integer=True))",
        "Min(Integer(10), Add(Integer(-1), Mul(Integer(2), Symbol('s0', integer=True))))",
        "FloorDiv(Symbol('s0', positive=True, integer=True), Integer(2))",
        "Pow(Symbol('s0', integer=True), Integer(2))",
        "Float('2.5', precision=53)",
        "Rational(1, 2)",
        "s0*(s1 + 2) - u0/4",
        "Max(1, s0)",
        "s0**2",
    ],
)
def test_expressions_that_torch_writes_are_accepted(text: str) -> None:
    assert expression(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "Symbol('s0').__class__",
        "Symbol(Symbol)",
        "Symbol('s0; x')",
        "Symbol('s0', positive='exec(1)')",
        "eval('1')",
        "Integer('2')",
        "(lambda: 1)()",
        "[s0 for s0 in s1]",
        "s0 if s1 else s2",
        "s0\n+ s1",
        "9**9**9",
        "2**s0",
        "((((9**8)**8)**8)**8)**8",
        "Float('1.0', precision=999999999)",
        "print",
        "-" * 5000 + "1",
        "s0 +",
        "\U0001d4fc0",
    ],
)
def test_other_expressions_are_refused(text: str) -> None:
    assert expression(text) != ""


def test_operators_are_aten_ops_or_plain_arithmetic() -> None:
    for target in (
        "torch.ops.aten.conv2d.default",
        "torch.ops.aten.__and__.Tensor",
        "_operator.mul",
        "torch.sym_max",
    ):
        assert operator(target) == ""
    for target in (
        "torch.load",
        "torch.ops.aten.__class__.mro",
        "torch.ops.aten.add.__init__",
        "torch.ops.aten.save.default",
        "torch.ops.higher_order.cond",
        "_operator.attrgetter",
        "#extension:op",
        "os.system",
    ):
        assert operator(target) != ""


# --- the registry -------------------------------------------------------------------------------------------


OWN_ALONE = ("keras", "keras_hdf5", "huggingface")  # formats that hold only models which came from them


@pytest.mark.sweep
@pytest.mark.parametrize("name", FORMATS)
def test_each_format_keeps_the_contract(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="one of the formats is ONNX")
    found = FORMATS[name]
    assert found.load is not None or found.save is not None
    assert found.name == name and all(s.startswith(".") and s == s.lower() for s in found.suffixes)
    if found.save is None:
        return
    net, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval(), torch.rand(5, 4)
    path = tmp_path / f"net{found.suffixes[0].upper() if found.suffixes else ''}"
    if name in OWN_ALONE:
        said = "only a model that was read from" if found.suffixes else "must end in"
        with pytest.raises(InputError, match=said):
            secateur.save_model(path, net, x)
        return
    secateur.save_model(path, net, x)
    lies = path.rename(tmp_path / "net.whatever")
    assert kind_of(lies) == name and found.can_be(lies.read_bytes()[:64])
    assert all(other.parent == tmp_path for other in found.companions(path))
    if found.load is not None:
        model: Any = load_model(lies)
        module = model.module() if isinstance(model, ExportedProgram) else model
        torch.testing.assert_close(module(x), net(x))
        assert format_of(model) in (None, found)


def test_suffixes_of_other_formats_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"must end in {re.escape(listed(suffixes_written()))}"):
        secateur.save_model(tmp_path / "net.tflite", nn.Linear(2, 2).eval(), torch.rand(2, 2))
    program = torch.export.export(nn.Linear(2, 2).eval(), (torch.rand(2, 2),))
    with pytest.raises(InputError, match="a program is written with its graph"):
        secateur.save_model(tmp_path / "net.safetensors", program)


def test_a_header_that_begins_like_a_pickle_is_still_safetensors(tmp_path: Path) -> None:
    """The length of the header, 0x0280, is that of a pickle's first two bytes."""
    path = tmp_path / "w.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).ljust(0x0280)
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(4))
    assert path.read_bytes()[:2] == b"\x80\x02" and kind_of(path) == "safetensors"


# --- other model files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".pkl", ".ckpt"])
def test_pickles_are_refused_with_a_way_out(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(torch_pickle(Payload(tmp_path / "executed")))
    for load in (load_model, lambda p: load_factory("torch.nn:Identity", p)):
        with pytest.raises(InputError, match="unpickling can run any code") as caught:
            load(path)
        assert "weights_only=True" in str(caught.value) and "save_file" in str(caught.value)
    assert not (tmp_path / "executed").exists()


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "factories_of_a_test.py").write_text(
        "from torch import nn\n"
        "def small(): return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))\n"
        "def number(): return 3\n"
        "def needy(x): return nn.Linear(x, x)\n"
        "def tied():\n"
        "    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))\n"
        "    model[1].weight = model[0].weight\n"
        "    return model\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path


def test_factory_gives_the_weights_of_the_file_in_eval_mode(factories: Path) -> None:
    source = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    safetensors.torch.save_file(source.state_dict(), factories / "w.safetensors")
    model = load_model("factories_of_a_test:small", factories / "w.safetensors")
    assert isinstance(model, nn.Module) and not model.training
    x = torch.rand(3, 4)
    torch.testing.assert_close(model(x), source(x))


def test_tied_weights_need_one_name(factories: Path) -> None:
    source = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    source[1].weight = source[0].weight
    safetensors.torch.save_model(source, str(factories / "w.safetensors"))
    model = load_factory("factories_of_a_test:tied", factories / "w.safetensors")
    assert model[1].weight is model[0].weight  # type: ignore[index]
    torch.testing.assert_close(model.state_dict(), source.state_dict())


def test_weights_that_do_not_fit_are_told_apart(factories: Path) -> None:
    state = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(5, 2)).state_dict()
    del state["0.bias"]
    state |= {f"extra.{i}": torch.zeros(1) for i in range(8)}
    safetensors.torch.save_file(state, factories / "w.safetensors")
    with pytest.raises(InputError) as caught:
        load_factory("factories_of_a_test:small", factories / "w.safetensors")
    said = str(caught.value)
    assert "0.bias (missing)" in said
    assert "and 3 more (not in the model)" in said
    assert "2.weight is (2, 5), the model has (2, 3) (of another shape)" in said


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("nothing", "write package.module:function"),
        ("absent_module_of_a_test:f", "cannot import absent_module_of_a_test"),
        ("factories_of_a_test:absent", "has no absent"),
        ("factories_of_a_test:number", "gave a int, not a torch.nn.Module"),
        ("factories_of_a_test:needy", "must work without arguments"),
    ],
)
def test_factory_that_cannot_be_used_is_named(factory: str, said: str, factories: Path) -> None:
    with pytest.raises(InputError, match=said):
        load_factory(factory)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 64])
def test_damaged_safetensors_are_refused(content: bytes, factories: Path) -> None:
    (factories / "w.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="not a safetensors file"):
        load_factory("factories_of_a_test:small", factories / "w.safetensors")


def test_sources_of_a_model(saved: Path) -> None:
    assert isinstance(load_model(saved), torch.export.ExportedProgram)
    with pytest.raises(InputError, match="holds its own weights"):
        load_model(saved, "w.safetensors")
    with pytest.raises(InputError, match="or package"):
        load_model("weights.safetensors")
    with pytest.raises(InputError, match="weights must be a"):
        load_factory("torch.nn:Identity", "w.json")


# --- arrays -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((2, 5, 6), (2, 1, 5, 6)), ((2, 5, 6, 3), (2, 3, 5, 6)), ((2, 3, 5, 6), (2, 3, 5, 6)), ((2, 7), (2, 7))],
)
def test_bytes_become_images_in_the_unit_box(
    shape: tuple[int, ...], expected: tuple[int, ...], tmp_path: Path
) -> None:
    pixels = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    np.savez(tmp_path / "a.npz", test_images=pixels, test_labels=np.array([[1], [0]], dtype=np.uint8))
    arrays = load_arrays(tmp_path / "a.npz")
    assert arrays["images"].shape == expected and arrays["images"].dtype == torch.float32
    assert arrays["labels"].tolist() == [1, 0] and arrays["labels"].dtype == torch.int64
    values = torch.from_numpy(pixels).float() / 255
    torch.testing.assert_close(
        arrays["images"], values.permute(0, 3, 1, 2) if shape[-1] == 3 else values.view(expected)
    )


def test_floats_are_taken_as_they_are(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 3))
    np.savez(tmp_path / "a.npz", x=x, y=np.array([0.0, 1.0, 2.0]))
    arrays = load_arrays(tmp_path / "a.npz")
    torch.testing.assert_close(arrays["images"], torch.from_numpy(x).float())
    assert arrays["labels"].tolist() == [0, 1, 2]


PIXELS = np.zeros((2, 4, 4), dtype=np.uint8)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"pictures": PIXELS, "masks": PIXELS}, "holds no images"),
        ({"images": PIXELS.astype(np.uint16)}, "type uint16"),
        ({"images": PIXELS[:0]}, "axis 0 must be the samples"),
        ({"images": np.zeros((2, 8, 8, 2), np.uint8)}, "expected"),
        ({"images": PIXELS, "labels": np.zeros(3, int)}, "2 images but 3 labels"),
        ({"images": PIXELS, "labels": np.zeros((2, 10), int)}, "argmax"),
        ({"images": PIXELS, "labels": np.array([0.5, 1])}, "not whole numbers"),
        ({"images": np.array([{}, {}], dtype=object)}, "pickles and are refused"),
    ],
)
def test_arrays_that_cannot_be_used_are_named(arrays: dict[str, Any], said: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=said):
        load_arrays(tmp_path / "a.npz")


def test_file_that_is_no_npz_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    with pytest.raises(InputError, match="is not an"):
        load_arrays(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", images=PIXELS)
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cut short"):
        load_arrays(tmp_path / "a.npz")
    with pytest.raises(InputError, match="No such file"):
        load_arrays(tmp_path / "absent.npz")


# --- atomic files -------------------------------------------------------------------------------------------


def test_written_file_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for content in (b"old", b"new"):
        write_atomically(path, lambda file, content=content: file.write(content))  # type: ignore[misc]
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["a.json"]


def test_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", lambda file: file.write(b"new"))
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, b"old"])
def test_interrupted_writer_leaves_nothing_behind(
    stop: type[BaseException], old: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.bin"
    if old is not None:
        path.write_bytes(old)

    def writer(file: Any) -> None:
        file.write(b"half")
        file.flush()
        raise stop

    with pytest.raises(stop):
        write_atomically(path, writer)
    assert os.listdir(tmp_path) == ([] if old is None else ["a.bin"])
    assert old is None or path.read_bytes() == old


def test_full_disk_and_wrong_paths_are_input_errors(tmp_path: Path) -> None:
    def writer(file: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left"):
        write_atomically(tmp_path / "a", writer)
    with pytest.raises(InputError, match="is a folder"):
        write_atomically(tmp_path, writer)
    with pytest.raises(InputError, match="does not exist"):
        write_atomically(tmp_path / "absent" / "a", writer)
    assert not list(tmp_path.iterdir())


def test_failed_export_keeps_the_saved_program(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.pt2"
    shutil.copy(saved, path)

    def interrupted(program: object, file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.export, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_program(path, nn.Linear(2, 2).eval(), torch.rand(2, 2))
    assert path.read_bytes() == saved.read_bytes() and os.listdir(tmp_path) == ["m.pt2"]
