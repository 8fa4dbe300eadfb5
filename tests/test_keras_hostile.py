"""Keras files that are damaged, wrong or hostile: each is refused in words, at little cost, and nothing in it
is run.
"""

from __future__ import annotations

import base64
import json
import marshal
import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import secateur
from helpers import places
from secateur.errors import InputError, SecateurError, UnsupportedOpError

h5py = pytest.importorskip("h5py")

from keras_files import (  # noqa: E402 (needs h5py)
    Arrays,
    Json,
    functional,
    hdf5,
    inputs,
    layer,
    legacy_net,
    net,
    numbers,
    records,
    sequential,
    tensor,
    write_keras,
    write_legacy,
    zipped,
)
from secateur.formats.keras.files import load_keras  # noqa: E402
from secateur.graph.capture import capture  # noqa: E402

Case = tuple[Callable[[Json, Arrays], Any], str]


def test_the_model_that_is_damaged_below_is_sound(tmp_path: Path) -> None:
    model = load_keras(write_keras(tmp_path / "net.keras", *net()))
    assert model(torch.rand(2, 6, 6, 3)).shape == (2, 3)
    assert secateur.prune(model, method="saliency", remove=0.3).after.units < 13


def refused(path: Path, said: str, error: type[SecateurError] = SecateurError) -> str:
    """That the file is refused in these words, when it is read or when it is first run."""
    before = {p: p.read_bytes() for p in path.parent.iterdir()}
    with pytest.raises(error) as caught:
        capture(load_keras(path))
    assert said in str(caught.value), str(caught.value)
    assert len(str(caught.value)) < 2000
    assert {p: p.read_bytes() for p in path.parent.iterdir()} == before
    return str(caught.value)


def test_without_h5py_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_keras(tmp_path / "net.keras", *net())
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"Keras files need h5py: pip install 'secateur\[keras\]'"):
        secateur.load_model(path)


# --- the archive --------------------------------------------------------------------------------------------


def with_record(name: str, content: bytes = b"x") -> Callable[[dict[str, bytes]], bytes]:
    return lambda parts: zipped({**parts, name: content})


def doubled(parts: dict[str, bytes]) -> bytes:
    with pytest.warns(UserWarning, match="Duplicate"):
        import io
        import zipfile

        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as file:
            for name, data in parts.items():
                file.writestr(name, data)
            file.writestr("config.json", b"{}")
    return stream.getvalue()


def header_edit(offset: int, value: bytes) -> Callable[[dict[str, bytes]], bytes]:
    """The last entry of the central directory, that of the weights, with other bytes."""

    def edit(parts: dict[str, bytes]) -> bytes:
        content = bytearray(zipped(parts))
        at = content.rindex(b"PK\x01\x02") + offset
        content[at : at + len(value)] = value
        return bytes(content)

    return edit


def bomb(parts: dict[str, bytes]) -> bytes:
    return zipped({**parts, "model.weights.h5": bytes(64 << 20)}, compressed=True)


ARCHIVES: dict[str, tuple[Callable[[dict[str, bytes]], bytes], str]] = {
    "empty": (lambda parts: b"", "no"),
    "without weights": (
        lambda p: zipped({k: v for k, v in p.items() if "h5" not in k}),
        "model.weights.h5 is missing",
    ),
    "without configuration": (lambda p: zipped({**p, "config.json": b""}), "config.json"),
    "configuration is a list": (lambda p: zipped({**p, "config.json": b"[]"}), "does not describe a model"),
    "configuration is deep": (lambda p: zipped({**p, "config.json": b"[" * 200_000}), "config.json"),
    "configuration is no text": (lambda p: zipped({**p, "config.json": b"\xff\xfe{}"}), "config.json"),
    "metadata is a number": (lambda p: zipped({**p, "metadata.json": b"3"}), "does not describe a model"),
    "steps out": (with_record("../evil"), "steps out"),
    "absolute": (with_record("/etc/evil"), "steps out"),
    "drive": (with_record("C:/evil"), "steps out"),
    "backslash": (with_record("..\\evil"), "steps out"),
    "dot": (with_record("a/./b"), "steps out"),
    "assets": (with_record("assets/vocabulary.txt"), "no layer with a rule needs"),
    "pickle": (with_record("data.pkl", b"\x80\x02."), "no layer with a rule needs"),
    "code": (with_record("model.py", b"import os"), "no layer with a rule needs"),
    "npz": (with_record("model.weights.npz"), "no layer with a rule needs"),
    "twice": (doubled, "twice"),
    "twice in another case": (with_record("Config.json"), "twice"),
    "bomb": (bomb, "declares"),
    "larger than it is": (header_edit(24, struct.pack("<I", 2**31)), "declares"),
    "encrypted": (header_edit(8, b"\x01"), "encrypted"),
    "other compression": (header_edit(10, b"\x0e"), "deflate"),
    "wrong sum": (header_edit(16, b"\0\0\0\0"), "CRC"),
    "wrong place": (header_edit(42, struct.pack("<I", 3)), "archive"),
    "something before": (lambda p: b"#!/bin/sh\n" + zipped(p), "before the first record"),
    "weights are no HDF5": (lambda p: zipped({**p, "model.weights.h5": b"x" * 99}), "HDF5"),
    "weights are a pickle": (lambda p: zipped({**p, "model.weights.h5": b"\x80\x04." * 9}), "HDF5"),
    "weights are cut": (lambda p: zipped({**p, "model.weights.h5": p["model.weights.h5"][:3000]}), "HDF5"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", ARCHIVES)
def test_archives(case: str, tmp_path: Path) -> None:
    edit, said = ARCHIVES[case]
    path = tmp_path / "net.keras"
    path.write_bytes(edit(records(*net())))
    refused(path, said, InputError)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_cut_files(share: float, suffix: str, tmp_path: Path) -> None:
    config, arrays = net()
    path = tmp_path / f"net{suffix}"
    content = zipped(records(config, arrays)) if suffix == ".keras" else hdf5(arrays)
    path.write_bytes(content[: int(share * len(content))])
    refused(path, str(path), InputError)


def test_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        load_keras(tmp_path / "net.keras")


def test_a_compressed_archive_is_read(tmp_path: Path) -> None:
    path = tmp_path / "net.keras"
    path.write_bytes(zipped(records(*net()), compressed=True))
    load_keras(path)


# --- HDF5 ---------------------------------------------------------------------------------------------------

KERNEL = "layers/dense/vars/0"


def external(file: Any, path: str) -> None:
    file.create_dataset(path, (20, 8), "<f4", external=[("/etc/passwd", 0, 640)])


def virtual(file: Any, path: str) -> None:
    layout = h5py.VirtualLayout((20, 8), "<f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (20, 8))
    file.create_virtual_dataset(path, layout)


def soft(file: Any, path: str) -> None:
    file[path] = h5py.SoftLink("/layers/dense_1/vars/0")


def outside(file: Any, path: str) -> None:
    file[path] = h5py.ExternalLink("/etc/passwd", "/x")


def hard(file: Any, path: str) -> None:
    file[path] = file["layers/conv2d/vars/0"]


def loop(file: Any, path: str) -> None:
    file[path] = file["layers"]


def never_written(file: Any, path: str) -> None:
    file.create_dataset(path, (2**20, 2**14), "<f4")


def chunked_bomb(file: Any, path: str) -> None:
    file.create_dataset(path, (2**20, 2**14), "<f4", chunks=(1024, 1024), compression="gzip")


def few_chunks(file: Any, path: str) -> None:
    data = file.create_dataset(path, (2**18, 2**12), "<f4", chunks=(1024, 1024), compression="gzip")
    data[:1024, :1024] = 1


def named_type(file: Any, path: str) -> None:
    file[path] = np.dtype("<f4")


def objects(file: Any, path: str) -> None:
    file.create_dataset(path, data=["text"] * 160)


def references(file: Any, path: str) -> None:
    file.create_dataset(path, data=np.array([file.ref] * 4, dtype=h5py.ref_dtype))


def long_doubles(file: Any, path: str) -> None:
    file.create_dataset(path, data=np.zeros((20, 8), np.longdouble))


def structured(file: Any, path: str) -> None:
    file.create_dataset(path, data=np.zeros((20, 8), [("a", "<f4"), ("b", "<i8")]))


def arrays_in_arrays(file: Any, path: str) -> None:
    file.create_dataset(path, (20,), np.dtype(("<f4", (8,))))[:] = np.ones((20, 8), np.float32)


def deep_groups(file: Any, path: str) -> None:
    file.create_dataset("/".join(["g"] * 200), data=numbers(2))
    file.create_dataset(path, data=numbers(20, 8))


HDF5: dict[str, tuple[Any, str]] = {
    "external": (external, "another file"),
    "virtual": (virtual, "virtual"),
    "soft link": (soft, "SoftLink"),
    "external link": (outside, "ExternalLink"),
    "hard link": (hard, "second link"),
    "loop": (loop, "second link"),
    "never written": (never_written, "declares"),
    "chunked bomb": (chunked_bomb, "declares"),
    "few chunks": (few_chunks, "declares"),
    "named type": (named_type, "neither a group nor a dataset"),
    "texts": (objects, "no plain numbers"),
    "references": (references, "no plain numbers"),
    "long doubles": (long_doubles, "no plain numbers"),
    "structured": (structured, "no plain numbers"),
    "arrays in arrays": (arrays_in_arrays, "no plain numbers"),
    "deep groups": (deep_groups, "second link"),
    "empty": (h5py.Empty("<f4"), "has no numbers"),
    "complex": (np.zeros((20, 8), np.complex64), "no plain numbers"),
    "a group": (lambda file, path: file.create_group(path), "has no kernel in the file"),
    "missing": (lambda file, path: None, "has no kernel in the file"),
    "other shape": (numbers(20, 9), "units=8 and weights for 9"),
    "other inputs": (numbers(21, 8), "cannot be run on values of shapes"),
    "one axis": (numbers(160), "not of 2 axes"),
    "no rows": (np.zeros((0, 8), np.float32), "without numbers"),
    "not finite": (np.full((20, 8), np.nan, np.float32), "finite"),
}


@pytest.mark.parametrize("case", HDF5)
def test_datasets(case: str, tmp_path: Path) -> None:
    value, said = HDF5[case]
    config, arrays = net()
    refused(write_keras(tmp_path / "net.keras", config, {**without(arrays), KERNEL: value}), said)


def without(arrays: Arrays) -> Arrays:
    return {path: value for path, value in arrays.items() if path != KERNEL}


@pytest.mark.parametrize("name", ["soft link", "external link", "virtual", "external", "loop"])
def test_datasets_in_parts_that_no_layer_reads(name: str, tmp_path: Path) -> None:
    config, arrays = net()
    refused(
        write_keras(tmp_path / "net.keras", config, {**arrays, "elsewhere/x": HDF5[name][0]}), HDF5[name][1]
    )


# --- configuration: classes ---------------------------------------------------------------------------------

MARKER = "marker"
CODE = base64.b64encode(marshal.dumps(compile(f"open({MARKER!r}, 'w')", "x", "exec"))).decode()


def instead(**changes: Any) -> Callable[[Json, Arrays], None]:
    """The activation-free pooling layer with other entries."""

    def edit(config: Json, arrays: Arrays) -> None:
        entry(config, "pool").update(changes)

    return edit


def entry(config: Json, name: str) -> Json:
    return next(e for e in config["config"]["layers"] if e["name"] == name)


def setting(name: str, **changes: Any) -> Callable[[Json, Arrays], None]:
    def edit(config: Json, arrays: Arrays) -> None:
        entry(config, name)["config"].update(changes)

    return edit


def root(**changes: Any) -> Callable[[Json, Arrays], None]:
    return lambda config, arrays: config.update(changes)


def model(**changes: Any) -> Callable[[Json, Arrays], None]:
    return lambda config, arrays: config["config"].update(changes)


FUNCTION = {"class_name": "__lambda__", "config": {"code": CODE, "defaults": None, "closure": None}}
CLASSES: dict[str, Case] = {
    "Lambda": (instead(class_name="Lambda", config={"name": "pool", "function": FUNCTION}), "never run"),
    "Lambda of Keras 2": (
        instead(
            class_name="Lambda",
            config={"name": "pool", "function": [CODE, None, None], "function_type": "lambda"},
        ),
        "never run",
    ),
    "TFSMLayer": (instead(class_name="TFSMLayer", config={"filepath": "/etc", "name": "pool"}), "holds code"),
    "TorchModuleWrapper": (
        instead(class_name="TorchModuleWrapper", config={"module": CODE, "name": "pool"}),
        "pickled module",
    ),
    "JaxLayer": (instead(class_name="JaxLayer", config={"name": "pool"}), "JAX"),
    "os.system": (instead(module="os", class_name="system", registered_name=None), "'os>system'"),
    "builtins.eval": (instead(module="builtins", class_name="eval"), "'builtins>eval'"),
    "keras.utils.get_file": (instead(module="keras.utils", class_name="get_file"), "'get_file'"),
    "a function of Keras": (instead(module="keras.src.utils.io", class_name="run"), "has no rule"),
    "known name, other module": (instead(module="evil.layers", class_name="Dense"), "'evil.layers>Dense'"),
    "known name, registered": (instead(registered_name="evil>MaxPooling2D"), "'evil>MaxPooling2D'"),
    "dotted": (instead(class_name="__import__('os').system"), "has no rule"),
    "no class": (instead(class_name=None), "in place of a layer"),
    "a list as class": (instead(class_name=["Dense"]), "in place of a layer"),
    "no configuration": (instead(config=None), "has no configuration"),
    "configuration is a text": (instead(config="x"), "has no configuration"),
    "activation is code": (setting("hidden", activation=FUNCTION), "'__lambda__'"),
    "activation of a module": (
        setting("hidden", activation={"module": "os", "class_name": "function", "config": "system"}),
        "'system'",
    ),
    "activation is an import": (setting("hidden", activation="__import__('os')"), "which has no rule"),
    "activation is a layer of others": (
        setting("hidden", activation={"module": "evil", "class_name": "ReLU", "config": {}}),
        "'ReLU'",
    ),
    "activation is a list": (setting("hidden", activation=["relu"]), "which has no rule"),
    "root is a Lambda": (root(class_name="Lambda"), "never run"),
    "root is a layer": (root(class_name="Dense"), "no Sequential or functional model"),
    "root is a subclass": (root(module="evil", class_name="Net"), "no Sequential or functional model"),
    "root is registered": (root(registered_name="evil>Net"), "no Sequential or functional model"),
    "quantised": (setting("hidden", quantization_config={"bits": 8}), "quantised"),
    "quantised policy": (
        setting("hidden", dtype={"class_name": "QuantizedDTypePolicy", "config": {"mode": "int8"}}),
        "quantised",
    ),
    "LoRA": (setting("hidden", lora_rank=4), "LoRA"),
}


@pytest.mark.parametrize("case", CLASSES)
def test_classes(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    edit, said = CLASSES[case]
    config, arrays = net()
    edit(config, arrays)
    refused(write_keras(tmp_path / "net.keras", config, arrays), said)
    assert not (tmp_path / MARKER).exists()


def test_a_rule_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from secateur.formats.keras.layer import Layer
    from secateur.formats.keras.table import LAYERS
    from secateur.formats.keras.value import Value

    class Half(Layer):
        def forward(self, x: Value) -> Value:
            return x.like(x.tensor / 2)

    config = functional(inputs(4), layer("Half", "half", ["x"]))
    config["config"]["layers"][1] |= {"module": "mine", "registered_name": "mine>Half"}
    path = write_keras(tmp_path / "net.keras", config, {})
    with pytest.raises(
        UnsupportedOpError, match=r"layer 'half' \(mine>Half\) has no rule.*LAYERS\['mine>Half'\]"
    ):
        load_keras(path)
    monkeypatch.setitem(LAYERS, "mine>Half", Half)
    x = torch.rand(3, 4)
    assert torch.equal(load_keras(path)(x), x / 2)


# --- configuration: numbers and wiring ----------------------------------------------------------------------

SETTINGS: dict[str, Case] = {
    "units are more": (setting("hidden", units=9), "units=9 and weights for 8"),
    "units are huge": (setting("hidden", units=10**12), "units="),
    "units are a text": (setting("hidden", units="8"), "no whole number"),
    "units are below 0": (setting("hidden", units=-8), "no whole number"),
    "units are true": (setting("hidden", units=True), "no whole number"),
    "units are missing": (setting("hidden", units=None), "no whole number"),
    "filters are more": (setting("conv", filters=6), "filters=6"),
    "window is another": (setting("conv", kernel_size=[5, 5]), "kernel_size"),
    "window is huge": (setting("conv", kernel_size=[2**31, 2**31]), "kernel_size"),
    "window has three": (setting("conv", kernel_size=[3, 3, 3]), "expected 2"),
    "stride is 0": (setting("conv", strides=[0, 1]), "stride"),
    "stride is huge": (setting("conv", strides=[2**40, 1]), "expected 2 whole numbers"),
    "stride is nested": (setting("conv", strides=[[[1]], 1]), "expected 2 whole numbers"),
    "dilation is 0": (setting("conv", dilation_rate=[0, 0]), "dilation"),
    "dilation is huge": (setting("conv", dilation_rate=[2**30, 2**30]), "cannot be run"),
    "dilation is huge, padded": (setting("conv", dilation_rate=2**24, padding="same"), "bytes"),
    "padding is unknown": (setting("conv", padding="reflect"), "padding='reflect'"),
    "padding is a list": (setting("conv", padding=["same"]), "padding="),
    "groups do not divide": (setting("conv", groups=3), "groups=3"),
    "format is unknown": (setting("conv", data_format="NCHW"), "data_format='NCHW'"),
    "norm on another axis": (setting("norm", axis=2), "axis=2"),
    "norm on no axis": (setting("norm", axis="last"), "no axis"),
    "norm on far axes": (setting("norm", axis=10**9), "no axis"),
    "epsilon is a text": (setting("norm", epsilon="1e-3"), "no number"),
    "epsilon is not a number": (setting("norm", epsilon=float("nan")), "no number"),
    "pool is 0": (setting("pool", pool_size=[0, 0]), "window or a stride of 0"),
    "pool is huge": (setting("pool", pool_size=[2**30, 2**30]), "cannot be run"),
    "pool is huge, padded": (setting("pool", pool_size=[2**20, 2**20], strides=1, padding="same"), "bytes"),
    "bias is no truth value": (setting("hidden", use_bias="no"), "no truth value"),
    "input of two axes": (lambda c, a: entry(c, "x")["config"].update(batch_shape=[None, 6]), "4 are needed"),
    "input is huge": (lambda c, a: entry(c, "x")["config"].update(batch_shape=[None, 2**20, 2**20, 3]), "at most"),
    "input is open": (lambda c, a: entry(c, "x")["config"].update(batch_shape=[None, None, 6, 3]), "leaves axes open"),
    "input is below 0": (lambda c, a: entry(c, "x")["config"].update(batch_shape=[None, -6, 6, 3]), "which is none"),
    "input has no shape": (lambda c, a: entry(c, "x")["config"].pop("batch_shape"), "has no shape"),
    "input has texts": (setting("x", dtype="string"), "string"),
    "input is sparse": (setting("x", sparse=True), "sparse"),
    "no layers": (model(layers=[]), "no layers"),
    "layers are a number": (model(layers=3), "no layers"),
    "a layer is a number": (lambda c, a: c["config"]["layers"].append(3), "in place of a layer"),
    "two of one name": (lambda c, a: c["config"]["layers"].append(entry(c, "pool")), "two layers called"),
    "no outputs": (model(output_layers=None), "output_layers"),
    "output of nothing": (model(output_layers=[["nothing", 0, 0]]), "not in the model"),
    "output of a later call": (model(output_layers=[["out", 7, 0]]), "not in the model"),
    "second output": (model(output_layers=[["out", 0, 5]]), "which there is not"),
    "input of nothing": (model(input_layers=[["nothing", 0, 0]]), "not in the model"),
    "input is no input": (model(input_layers=[["conv", 0, 0]]), "other inputs than"),
    "an input more": (lambda c, a: c["config"]["layers"].insert(0, inputs(4, name="other")), "other inputs than"),
    "name is a list": (lambda c, a: entry(c, "pool").update(name=["a"]), "no name"),
    "name is long": (lambda c, a: entry(c, "pool").update(name="a" * 10**5), "no name"),
    "name steps out": (lambda c, a: entry(c, "pool").update(name="../../x"), "not in the model"),
    "loop": (lambda c, a: entry(c, "conv").update(inbound_nodes=[{"args": [tensor("out")], "kwargs": {}}]), "loop"),
    "itself": (lambda c, a: entry(c, "conv").update(inbound_nodes=[{"args": [tensor("conv")], "kwargs": {}}]), "loop"),
    "calls are a number": (lambda c, a: entry(c, "conv").update(inbound_nodes=3), "no list of calls"),
    "a call is a text": (lambda c, a: entry(c, "conv").update(inbound_nodes=["x"]), "cannot be read"),
    "a call of nothing": (
        lambda c, a: entry(c, "conv").update(inbound_nodes=[{"args": [tensor("nothing")], "kwargs": {}}]),
        "not in the model",
    ),
    "a call without arguments": (
        lambda c, a: entry(c, "conv").update(inbound_nodes=[{"args": [], "kwargs": {}}]),
        "cannot be run",
    ),
    "history is a text": (
        lambda c, a: entry(c, "conv").update(
            inbound_nodes=[{"args": [{"class_name": "__keras_tensor__", "config": "x"}], "kwargs": {}}]
        ),
        "no output of a layer",
    ),
    "an argument of code": (
        lambda c, a: entry(c, "conv").update(inbound_nodes=[{"args": [FUNCTION], "kwargs": {}}]),
        "cannot be run",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SETTINGS)
def test_settings(case: str, tmp_path: Path) -> None:
    edit, said = SETTINGS[case]
    config, arrays = net()
    edit(config, arrays)
    refused(write_keras(tmp_path / "net.keras", config, arrays), said)


BIG = 2**20
GROWING: dict[str, tuple[Json, str]] = {
    "padding": (layer("ZeroPadding2D", "g", ["x"], padding=[[BIG, BIG], [BIG, BIG]]), "bytes"),
    "upsampling": (layer("UpSampling2D", "g", ["x"], size=[BIG, BIG]), "bytes"),
    "resizing": (layer("Resizing", "g", ["x"], height=BIG, width=BIG), "bytes"),
    "cropping": (layer("Cropping2D", "g", ["x"], cropping=[[9, 9], [0, 0]]), "cuts all"),
    "repeated": (layer("RepeatVector", "g", ["flat"], n=2**31), "bytes"),
    "repeated beyond numbers": (layer("RepeatVector", "g", ["flat"], n=2**62), "no whole number"),
    "reshaped": (layer("Reshape", "g", ["flat"], target_shape=[BIG, BIG]), "does not fit"),
    "reshaped to nothing": (layer("Reshape", "g", ["flat"], target_shape=[0, -1]), "does not fit"),
    "reshaped twice open": (layer("Reshape", "g", ["flat"], target_shape=[-1, -1]), "does not fit"),
    "reshaped to texts": (layer("Reshape", "g", ["flat"], target_shape=["a"]), "no shape"),
    "permuted": (layer("Permute", "g", ["x"], dims=[1, 1, 2]), "not the numbers of its axes"),
    "permuted by code": (layer("Permute", "g", ["x"], dims=FUNCTION), "not the numbers of its axes"),
    "adaptive": (layer("AdaptiveAveragePooling2D", "g", ["x"], output_size=[BIG, BIG]), "bytes"),
    "scaled by texts": (layer("Rescaling", "g", ["x"], scale=["a", "b"], offset=0.0), "no numbers"),
    "scaled by many": (layer("Rescaling", "g", ["x"], scale=[1.0] * 7, offset=0.0), "cannot be run"),
    "normalised by code": (layer("Normalization", "g", ["x"], axis=-1, mean=FUNCTION, variance=[1.0]), "no numbers"),
    "merged": (layer("Add", "g", [[tensor("x"), tensor("flat")]]), "axes"),
    "merged alone": (layer("Add", "g", ["x"]), "two or more"),
    "joined on no axis": (layer("Concatenate", "g", [[tensor("x"), tensor("x")]], axis="c"), "no axis"),
    "attention without heads": (layer("MultiHeadAttention", "g", ["x", "x"], num_heads=0, key_dim=4), "no heads"),
    "group norm of no groups": (layer("GroupNormalization", "g", ["x"], groups=0, axis=-1), "no gamma in the file"),
    "slopes of another class": (layer("LeakyReLU", "g", ["x"], negative_slope="a"), "no number"),
    "wraps nothing": (layer("TimeDistributed", "g", ["x"], layer=3), "wraps no layer"),
    "wraps code": (
        layer("TimeDistributed", "g", ["x"], layer={"class_name": "Lambda", "config": {"function": FUNCTION}}),
        "never run",
    ),
    "wraps code both ways": (
        layer("Bidirectional", "g", ["x"], layer={"class_name": "Lambda", "config": {"function": FUNCTION}}),
        "never run",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GROWING)
def test_layers_that_grow_or_do_not_fit(case: str, tmp_path: Path) -> None:
    made, said = GROWING[case]
    config = functional(inputs(6, 6, 3), layer("Flatten", "flat", ["x"]), made)
    refused(write_keras(tmp_path / "net.keras", config, {}), said)


def test_models_in_models_without_end(tmp_path: Path) -> None:
    config = functional(inputs(4), layer("ReLU", "r", ["x"]))
    for depth in range(60):
        inner = {**layer("Functional", f"m{depth}", ["x"]), "config": config["config"]}
        config = functional(inputs(4), inner)
    refused(write_keras(tmp_path / "net.keras", config, {}), "models in each other")


@pytest.mark.parametrize("depth", [300, 900])
def test_values_in_values_without_end(depth: int, tmp_path: Path) -> None:
    config, arrays = net()
    text = json.dumps(config).replace('"units": 8', f'"units": {"[" * depth}8{"]" * depth}')
    refused(write_keras(tmp_path / "net.keras", text.encode(), arrays), "")


def test_a_name_that_is_code_stays_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "a'); open('marker', 'w'); ('"
    config = sequential(inputs(4), layer("Dense", name, units=5), layer("Dense", "\n\u202edef f():", units=3))
    arrays = {
        "layers/dense/vars/0": numbers(4, 5),
        "layers/dense/vars/1": numbers(5),
        "layers/dense_1/vars/0": numbers(5, 3),
        "layers/dense_1/vars/1": numbers(3),
    }
    loaded = load_keras(write_keras(tmp_path / "net.keras", config, arrays))
    result = secateur.prune(loaded, method="saliency", remove=0.3)
    secateur.save_model(tmp_path / "small.keras", result.model)
    secateur.save_model(tmp_path / "small.pt2", result.model, torch.rand(2, 4))
    assert not (tmp_path / "marker").exists()
    assert load_keras(tmp_path / "small.keras").specs[1].name == name


# --- HDF5 of whole models -----------------------------------------------------------------------------------


LEGACY: dict[str, tuple[Callable[[Json, Any], None], str]] = {
    "Lambda": (
        lambda c, w: c["config"]["layers"].append(
            {"class_name": "Lambda", "config": {"name": "l", "function": [CODE, None, None]}}
        ),
        "never run",
    ),
    "other weights": (lambda c, w: w["a"].pop("a/bias:0"), "has 1 weights in the file; 2 are needed"),
    "no weights": (lambda c, w: w.pop("b"), "has no weights in the file"),
    "other names": (
        lambda c, w: w.update(b={"one": numbers(5, 3), "other": numbers(3)}),
        "tell no order",
    ),
    "other shapes": (lambda c, w: w["b"].update({"b/kernel:0": numbers(5, 4)}), "units=3 and weights for 4"),
    "no input": (
        lambda c, w: c["config"]["layers"][0]["config"].pop("batch_input_shape"),
        "shape of its input",
    ),
    "configuration is a list": (lambda c, w: c.update(config=[]), "no configuration"),
}


@pytest.mark.parametrize("case", LEGACY)
def test_whole_models_in_hdf5(case: str, tmp_path: Path) -> None:
    config, weights = legacy_net()
    edit, said = LEGACY[case]
    edit(config, weights)
    refused(write_legacy(tmp_path / "net.h5", config, weights), said)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 200_000])
def test_configurations_in_hdf5_that_are_none(text: str, tmp_path: Path) -> None:
    path = write_legacy(tmp_path / "net.h5", *legacy_net(), model_config=text)
    refused(path, "net.h5", InputError)


@pytest.mark.parametrize("name", ["/etc/passwd", "../../b/b/kernel:0", "a\0b", ""])
def test_names_of_weights_that_lead_elsewhere(name: str, tmp_path: Path) -> None:
    config, weights = legacy_net()
    path = write_legacy(tmp_path / "net.h5", config, weights)
    with h5py.File(path, "a") as file:
        file["model_weights/b"].attrs["weight_names"] = np.array([name.encode(), b"b/bias:0"], dtype="S40")
    refused(path, "", InputError)


@pytest.mark.parametrize(
    "names", [b"b/kernel:0", 3, [[b"b/kernel:0"], [b"b/bias:0"]], [b"b/bias:0"] * 2, [1.0, 2.0]]
)
def test_lists_of_names_that_are_none(names: Any, tmp_path: Path) -> None:
    path = write_legacy(tmp_path / "net.h5", *legacy_net())
    with h5py.File(path, "a") as file:
        file["model_weights/b"].attrs["weight_names"] = names
    try:
        load_keras(path)
    except InputError:
        return
    assert names == [[b"b/kernel:0"], [b"b/bias:0"]]


def test_texts_that_may_be_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many entries of an attribute may be one text, which HDF5 then gives out as often."""
    path = write_legacy(tmp_path / "net.h5", *legacy_net())
    with h5py.File(path, "a") as file:
        file.attrs.create("notes", ["x"] * 4000, dtype=h5py.string_dtype())
    monkeypatch.setattr("secateur.formats.keras.hdf5.budget", lambda: 2**22)
    refused(path, "may be 4,000 texts of", InputError)


def test_weights_alone_are_no_model(tmp_path: Path) -> None:
    path = tmp_path / "net.weights.h5"
    path.write_bytes(hdf5(net()[1]))
    refused(path, "holds arrays and no model", InputError)


# --- random damage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", range(4))
def test_random_damage_to_the_configuration(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused in words, or sound."""
    monkeypatch.chdir(tmp_path)
    for seed in range(40 * block, 40 * (block + 1)):
        rng = random.Random(seed)
        config, arrays = net()
        for _ in range(rng.choice((1, 1, 3))):
            damage(rng, config)
        path = write_keras(tmp_path / "net.keras", json.dumps(config).encode(), arrays)
        try:
            model = load_keras(path)
            model.check(model.example_inputs)
            model(*model.example_inputs)
        except SecateurError:
            continue
    assert [p.name for p in tmp_path.iterdir()] == ["net.keras"]


ODD = (
    None, True, -1, 0, 2**31, 2**63, 1e308, float("nan"), "", "x", "../x", [], {}, [[[]]], [1] * 9,
    {"class_name": "__lambda__", "config": {}}, "__import__('os').system('touch marker')",
)  # fmt: skip


def damage(rng: random.Random, content: Any) -> None:
    """One entry somewhere in it left out or put in place of another."""
    holder, key = rng.choice(list(places(content)))
    if rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = rng.choice(ODD)
