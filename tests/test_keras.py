"""Keras files in and out, with Keras itself as the oracle."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.errors import InputError, SecateurWarning, UnsupportedOpError

os.environ["KERAS_BACKEND"] = "torch"  # before it is imported, or it asks for TensorFlow
os.environ.setdefault(
    "KERAS_HOME", os.path.join(tempfile.gettempdir(), "keras")
)  # it writes its settings there
pytest.importorskip("h5py")
pytest.importorskip("keras")

import keras_files as files
from command import run
from keras_models import MODELS, inputs_of, keras, predicted, with_weights
from secateur.formats.arrays import load_arrays
from secateur.formats.keras import support as keras_support
from secateur.formats.keras.files import load_keras, save_keras
from secateur.formats.keras.imported import KerasModel
from secateur.formats.keras.spec import spec_of
from secateur.formats.safetensors.weights import load_weights
from trained import blobs

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:keras",
    "ignore::DeprecationWarning:keras",
    "ignore:.*optimizer",
    "ignore:.*as is done with pixels",
)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def outputs(model: Any, given: list[Any]) -> list[Any]:
    with torch.no_grad():
        found = model(*map(torch.from_numpy, given))
    return [y.float().numpy() for y in (found if isinstance(found, tuple) else (found,))]


def agree(made: Any, model: Any, given: list[Any], **close: float) -> None:
    """That Keras predicts what the module of torch gives."""
    for a, b in zip(predicted(made, given), outputs(model, given), strict=True):
        np.testing.assert_allclose(b, a.astype(np.float32), **(close or CLOSE))


def reloaded(path: Path) -> Any:
    if path.suffix == ".keras":
        return keras.saving.load_model(path, safe_mode=True)
    return keras.saving.load_model(path, compile=False)


def saved(made: Any, path: Path) -> KerasModel:
    made.save(path)
    return load_keras(path)


# --- every model: the same in torch, and smaller in Keras ---------------------------------------------------


@pytest.mark.sweep
@pytest.mark.parametrize("name", MODELS)
def test_models(name: str, tmp_path: Path) -> None:
    """Loads the same, is pruned by both methods, and again; Keras loads every result and predicts the same."""
    made = MODELS[name]()
    given, close = inputs_of(made), {"rtol": 2e-2, "atol": 2e-2} if "mixed" in name else CLOSE
    model = saved(made, tmp_path / "net.keras")
    agree(made, model, given, **close)
    agree(made, pickle.loads(pickle.dumps(model)), given, **close)  # noqa: S301 (its own)
    path = tmp_path / "small.keras"
    for source, method, more in (
        (tmp_path / "net.keras", "reconstruct", {"samples": 64}),
        (path, "saliency", {}),
    ):
        before = load_keras(source)
        result = secateur.prune(before, remove=0.3, method=method, **more)
        assert result.after.parameters < result.before.parameters
        save_keras(path, result.model)
        check_sizes(before.source.config, load_keras(path).source.config)
        small = reloaded(path)
        agree(small, result.model, given, **close)
        agree(small, load_keras(path), given, **close)
        assert small.count_params() < made.count_params()
        assert [layer.name for layer in small.layers] == [layer.name for layer in made.layers]


def check_sizes(before: Any, after: Any) -> None:
    """That the sizes which pruning changes are those that `secateur ops --keras` names."""
    for old, new in zip(before["config"]["layers"], after["config"]["layers"], strict=True):
        if "layers" in old["config"]:
            check_sizes(old, new)
            continue
        if old["class_name"] == "InputLayer":
            continue
        (row,) = keras_support.named([spec_of(old, False).kind])
        changed = {key for key, value in old["config"].items() if new["config"][key] != value}
        assert changed <= set(row.sizes) and not (row.whole and changed)


# Keras itself cannot read its operations, nor `Attention`, from HDF5.
NOT_IN_HDF5 = set(
    "masked mixed_precision moving_operations operations plain_attention slices split vision_transformer".split()
)


@pytest.mark.sweep
@pytest.mark.parametrize("name", sorted(MODELS.keys() - NOT_IN_HDF5))
def test_models_in_hdf5(name: str, tmp_path: Path) -> None:
    made = MODELS[name]()
    given, path = inputs_of(made), tmp_path / "small.h5"
    model = saved(made, tmp_path / "net.h5")
    agree(made, model, given)
    result = secateur.prune(model, remove=0.3, method="saliency")
    save_keras(path, result.model)
    agree(made, load_keras(tmp_path / "net.h5"), given)
    agree(reloaded(path), result.model, given)


# --- what stays, and what does not --------------------------------------------------------------------------


def small_net() -> Any:
    layers = keras.layers
    made = keras.Sequential(
        [
            keras.Input((10, 10, 3)),
            layers.Conv2D(10, 3, activation="relu", name="first"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(12, "relu"),
            layers.Dense(4, "softmax", name="scores"),
        ]
    )
    return with_weights(made)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_the_rest_of_the_file_stays(suffix: str, tmp_path: Path) -> None:
    made = small_net()
    made.compile(keras.optimizers.Adam(0.012), "sparse_categorical_crossentropy")
    made.fit(np.random.rand(8, 10, 10, 3), np.arange(8) % 4, verbose=0)
    model = saved(made, tmp_path / f"net{suffix}")
    result = secateur.prune(model, remove=0.3, method="saliency")
    with pytest.warns(SecateurWarning, match="the state of the optimizer is not written"):
        secateur.save_model(tmp_path / f"small{suffix}", result.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = keras.saving.load_model(tmp_path / f"small{suffix}")
    assert float(small.optimizer.learning_rate) == pytest.approx(0.012)
    assert "sparse_categorical_crossentropy" in str(small.loss)
    assert [layer.name for layer in small.layers] == [layer.name for layer in made.layers]
    assert small.layers[0].filters < 10
    small.fit(np.random.rand(8, 10, 10, 3), np.arange(8) % 4, verbose=0)
    if suffix == ".keras":
        before, after = (zipfile.ZipFile(tmp_path / name) for name in ("net.keras", "small.keras"))
        assert before.read("metadata.json") == after.read("metadata.json")
        assert json.loads(after.read("config.json"))["compile_config"] == made.get_compile_config()


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    model = saved(small_net(), tmp_path / "net.keras")
    for name in ("a.keras", "b.keras"):
        save_keras(tmp_path / name, secateur.prune(model, remove=0.3, method="saliency").model)
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()


def test_what_is_not_pruned_is_written_as_it_was(tmp_path: Path) -> None:
    model = saved(small_net(), tmp_path / "net.keras")
    save_keras(tmp_path / "again.keras", model)
    before, after = (zipfile.ZipFile(tmp_path / name) for name in ("net.keras", "again.keras"))
    assert json.loads(before.read("config.json")) == json.loads(after.read("config.json"))
    given = inputs_of(reloaded(tmp_path / "net.keras"))
    first, second = (predicted(reloaded(tmp_path / n), given) for n in ("net.keras", "again.keras"))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_shapes_in_the_configuration_follow(tmp_path: Path) -> None:
    """Those with which layers are built, and those of the values between them."""
    model = saved(MODELS["nested"](), tmp_path / "net.keras")
    save_keras(tmp_path / "small.keras", secateur.prune(model, remove=0.5, method="saliency").model)
    keras.saving.load_model(tmp_path / "small.keras").save(tmp_path / "again.keras")
    mine, theirs = (
        json.loads(zipfile.ZipFile(tmp_path / name).read("config.json"))
        for name in ("small.keras", "again.keras")
    )
    assert without_ids(mine) == without_ids(theirs)


def without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_ids(v) for k, v in value.items() if k not in ("shared_object_id", "date_saved")}
    return [without_ids(v) for v in value] if isinstance(value, list) else value


def test_other_formats(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    made = small_net()
    result = secateur.prune(saved(made, tmp_path / "net.keras"), remove=0.3, method="saliency")
    given = inputs_of(made)
    expected = outputs(result.model, given)
    for name in ("small.onnx", "small.pt2"):
        secateur.save_model(tmp_path / name, result.model, torch.from_numpy(given[0]))
        loaded = secateur.load_model(tmp_path / name)
        module = loaded if isinstance(loaded, nn.Module) else loaded.module()
        np.testing.assert_allclose(outputs(module, given)[0], expected[0], **CLOSE)
    for name in ("small.h5", "small.hdf5"):
        with pytest.raises(InputError, match=r"came from a \.keras file"):
            secateur.save_model(tmp_path / name, result.model)
    with pytest.raises(InputError, match="only a model that was read from a Keras file"):
        secateur.save_model(tmp_path / "net2.keras", nn.Linear(2, 2).eval(), torch.rand(2, 2))


def test_bfloat16_is_kept(tmp_path: Path) -> None:
    made = keras.Sequential(
        [keras.Input((8,), dtype="bfloat16"), *(keras.layers.Dense(n, dtype="bfloat16") for n in (12, 3))]
    )
    model = saved(with_weights(made), tmp_path / "net.keras")
    x = torch.rand(3, 8).bfloat16()
    expected = torch.as_tensor(made(x)).detach().float()
    torch.testing.assert_close(model(x).float(), expected, rtol=2e-2, atol=2e-2)
    save_keras(tmp_path / "again.keras", model)
    again = reloaded(tmp_path / "again.keras")
    assert again.weights[0].dtype == "bfloat16"
    torch.testing.assert_close(torch.as_tensor(again(x)).float(), expected)


def test_layers_that_the_table_lacks_are_named(tmp_path: Path) -> None:
    i = keras.Input((6,))
    made = keras.Model(i, keras.layers.Lambda(lambda x: x + 1, name="plus")(keras.layers.Dense(4)(i)))
    made.save(tmp_path / "net.keras")
    with pytest.raises(UnsupportedOpError, match=r"layer 'plus' \(Lambda\) holds a Python function"):
        load_keras(tmp_path / "net.keras")
    i = keras.Input((6,), dtype="int32")
    x = keras.layers.LSTM(4)(keras.layers.Embedding(9, 5, mask_zero=True)(i))
    keras.Model(i, x).save(tmp_path / "net.keras")
    with pytest.raises(UnsupportedOpError, match=r"layer 'lstm' \(LSTM\) is given a mask"):
        secateur.inspect(load_keras(tmp_path / "net.keras"))
    keras.Sequential([i, keras.layers.Embedding(9, 5, mask_zero=True), keras.layers.GRU(3)]).save(
        tmp_path / "net.keras"
    )
    with pytest.raises(UnsupportedOpError, match=r"has mask_zero=True, and layer 'gru'.* reads its mask"):
        load_keras(tmp_path / "net.keras")


def test_open_axes_need_a_size(tmp_path: Path) -> None:
    layers = keras.layers
    i = keras.Input((None, None, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, padding="same", strides=2, activation="relu")(i))
    made = with_weights(keras.Model(i, layers.Dense(3)(x)))
    model = saved(made, tmp_path / "net.keras")
    with pytest.raises(InputError, match=r"leaves axes open \(\?,\?,3\)"):
        secateur.inspect(model)
    result = secateur.prune(model, torch.rand(2, 9, 8, 3), remove=0.5, method="saliency")
    save_keras(tmp_path / "small.keras", result.model)
    small = reloaded(tmp_path / "small.keras")
    assert small.input_shape == (None, None, None, 3)
    agree(small, result.model, [np.random.rand(2, 13, 11, 3).astype("f4")])


# --- files of Keras 2 ---------------------------------------------------------------------------------------


def keras_2() -> tuple[Any, dict[str, dict[str, Any]]]:
    """A functional model with a model in it, as Keras 2.15 describes it."""
    convolution = {
        "filters": 6,
        "kernel_size": [3, 3],
        "strides": [1, 1],
        "padding": "same",
        "activation": "relu",
    }
    inner = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 6, 6, 6], "name": "in"}},
        {"class_name": "Conv2D", "config": {**convolution, "name": "conv_2"}},
        {"class_name": "BatchNormalization", "config": {"name": "norm", "axis": [3], "epsilon": 0.001}},
        {"class_name": "Dense", "config": {"name": "dense", "units": 5, "activation": "hard_sigmoid"}},
    ]
    layers = [
        {
            "class_name": "InputLayer",
            "config": {"batch_input_shape": [None, 6, 6, 3], "dtype": "float32", "name": "x"},
        },
        {"class_name": "Conv2D", "config": {**convolution, "name": "conv"}},
        {"class_name": "LeakyReLU", "config": {"name": "leaky", "alpha": 0.2}},
        {"class_name": "Sequential", "config": {"name": "inner", "layers": inner}},
        {"class_name": "Flatten", "config": {"name": "flat", "data_format": "channels_last"}},
        {"class_name": "Dense", "config": {"name": "out", "units": 3, "activation": "linear"}},
    ]
    for before, entry in zip([None, *layers], layers, strict=False):
        entry["name"] = entry["config"]["name"]
        # Calls of a model are counted from 1.
        call = [[before["name"], int(before["class_name"] == "Sequential"), 0, {}]] if before else []
        entry["inbound_nodes"] = [call] if call else []
    config = {
        "class_name": "Functional",
        "config": {
            "name": "net",
            "layers": layers,
            "input_layers": [["x", 0, 0]],
            "output_layers": [["out", 0, 0]],
        },
    }
    weights = {
        "conv": {"conv/kernel:0": files.numbers(3, 3, 3, 6), "conv/bias:0": files.numbers(6)},
        "inner": {
            "conv_2/kernel:0": files.numbers(3, 3, 6, 6, seed=1),
            "conv_2/bias:0": files.numbers(6, seed=1),
            **{f"norm/{n}:0": abs(files.numbers(6, seed=i)) for i, n in enumerate(("gamma", "beta"))},
            "dense/kernel:0": files.numbers(6, 5),
            "dense/bias:0": files.numbers(5),
            **{
                f"norm/{n}:0": abs(files.numbers(6, seed=i))
                for i, n in enumerate(("moving_mean", "moving_variance"))
            },
        },
        "out": {"out/kernel:0": files.numbers(180, 3), "out/bias:0": files.numbers(3)},
    }
    return config, weights


def test_whole_model_of_keras_2(tmp_path: Path) -> None:
    config, weights = keras_2()
    model = load_keras(files.write_legacy(tmp_path / "net.h5", config, weights))
    x = torch.rand(4, 6, 6, 3)

    def convolved(x: torch.Tensor, layer: str, name: str) -> torch.Tensor:
        kernel, bias = (torch.from_numpy(weights[layer][f"{name}/{k}:0"]) for k in ("kernel", "bias"))
        return torch.relu(torch.conv2d(x, kernel.permute(3, 2, 0, 1), bias, padding=1))

    inner = {name: torch.from_numpy(value) for name, value in weights["inner"].items()}
    y = nn.functional.leaky_relu(convolved(x.permute(0, 3, 1, 2), "conv", "conv"), 0.2)
    y = convolved(y, "inner", "conv_2")
    y = nn.functional.batch_norm(
        y, *(inner[f"norm/{n}:0"] for n in ("moving_mean", "moving_variance", "gamma", "beta")), eps=0.001
    )
    y = y.permute(0, 2, 3, 1) @ inner["dense/kernel:0"] + inner["dense/bias:0"]
    y = torch.clamp(0.2 * y + 0.5, 0, 1).flatten(1)  # as Keras 2 has it
    expected = y @ torch.from_numpy(weights["out"]["out/kernel:0"]) + torch.from_numpy(
        weights["out"]["out/bias:0"]
    )
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)

    result = secateur.prune(model, remove=0.3, method="saliency")
    save_keras(tmp_path / "small.h5", result.model)
    again = load_keras(tmp_path / "small.h5")
    torch.testing.assert_close(again(x), result.model(x))
    assert sum(p.numel() for p in again.parameters()) == result.after.parameters


def test_archive_of_keras_2(tmp_path: Path) -> None:
    """Other names of groups, and calls as lists."""
    config, arrays = files.net()
    for entry in config["config"]["layers"]:
        entry["inbound_nodes"] = [
            [[tensor["config"]["keras_history"][0], 0, 0, {}] for tensor in node["args"]]
            for node in entry["inbound_nodes"]
        ]
    old = {path.replace("layers/", "_layer_checkpoint_dependencies/", 1): a for path, a in arrays.items()}
    parts = files.records(config, old)
    parts["metadata.json"] = json.dumps({"keras_version": "2.13.1"}).encode()
    path = tmp_path / "net.keras"
    path.write_bytes(files.zipped(parts))
    model = load_keras(path)
    x = np.random.default_rng(0).random((2, 6, 6, 3), np.float32)
    agree(reloaded(path), model, [x])
    save_keras(path, secateur.prune(model, remove=0.3, method="saliency").model)
    agree(reloaded(path), load_keras(path), [x])


def test_lists_of_names_that_were_cut(tmp_path: Path) -> None:
    config, weights = files.legacy_net()
    path = files.write_legacy(tmp_path / "net.h5", config, weights)
    import h5py

    with h5py.File(path, "a") as file:
        attributes = file["model_weights/b"].attrs
        names = list(attributes.pop("weight_names"))
        for number, name in enumerate(names):
            attributes[f"weight_names{number}"] = [name]
    model = load_keras(path)
    x = torch.rand(2, 4)
    expected = (
        x @ torch.from_numpy(weights["a"]["a/kernel:0"]) + torch.from_numpy(weights["a"]["a/bias:0"])
    ) @ (torch.from_numpy(weights["b"]["b/kernel:0"])) + torch.from_numpy(weights["b"]["b/bias:0"])
    torch.testing.assert_close(model(x), expected)


# Peaks above what the process had before, as multiples of the file: of reading, and of writing beside the model.
MEASURED = """
import sys
from pathlib import Path
import secateur.surgery
from secateur.formats.keras.files import load_keras, save_keras

def held(key):
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return 1024 * int(line.split()[1])

def since():
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    return held("VmRSS")

small, large = sys.argv[1:]
save_keras(small + ".again.keras", load_keras(small))
size, before = Path(large).stat().st_size, since()
model = load_keras(large)
read = held("VmHWM") - before
since()
save_keras(large + ".again.keras", model)
print(read / size, (held("VmHWM") - before) / size)
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs the memory's peaks from Linux")
def test_memory_of_large_files(tmp_path: Path) -> None:
    def written(width: int, name: str) -> Path:
        config = files.sequential(files.inputs(width), files.layer("Dense", "dense", units=width))
        arrays = {
            "layers/dense/vars/0": files.numbers(width, width),
            "layers/dense/vars/1": files.numbers(width),
        }
        return files.write_keras(tmp_path / name, config, arrays)

    paths = written(8, "small.keras"), written(5000, "large.keras")
    assert paths[1].stat().st_size > 10**8
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *paths], capture_output=True, text=True, check=True
    )
    read, write = map(float, done.stdout.split())
    assert read < 2.5 and write < 3, done.stdout  # one layer, so that all of it changes its layout at once


# --- the command --------------------------------------------------------------------------------------------


@pytest.mark.long
def test_commands(tmp_path: Path) -> None:
    """inspect, prune, evaluate, replay and certify, by the names of the user's own layers."""
    small_net().save(tmp_path / "net.keras")
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "data.npz",
        images=rng.integers(0, 256, (20, 10, 10, 3), np.uint8),
        labels=np.arange(20) % 4,
    )

    def said(*arguments: str) -> str:
        done = run(tmp_path, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "first" in said("inspect", "net.keras")
    pruned = (
        "prune",
        "net.keras",
        "--remove",
        "30%",
        "--samples",
        "64",
        "--no-latency",
        "--normalize",
        "imagenet",
    )
    said(*pruned, "-o", "small.keras")
    agree(reloaded(tmp_path / "small.keras"), load_keras(tmp_path / "small.keras"), inputs_of(small_net()))
    compared = ("--original", "net.keras", "--data", "data.npz", "--normalize", "imagenet")
    assert "agreement" in said("evaluate", "small.keras", *compared, "--corruption", "gaussian_blur")
    said("replay", "net.keras", "small.recipe.json", "-o", "again.keras")
    assert (tmp_path / "again.keras").read_bytes() == (tmp_path / "small.keras").read_bytes()
    said(
        "certify",
        "net.keras",
        "small.keras",
        "--data",
        "data.npz",
        "--samples",
        "1",
        "--eps",
        "0.001",
        "--normalize",
        "imagenet",
    )
    said(*pruned[:7], "-o", "small.onnx")
    for output in ("small2.h5", "small2.hdf5"):
        done = run(tmp_path, *pruned, "-o", output)
        assert done.returncode == 1 and "read from a .h5 file" in done.stderr and "pruned" not in done.stdout


def test_several_inputs_go_by_their_names(tmp_path: Path) -> None:
    """In a file, in any order; without names they are in Keras' order."""
    made = MODELS["several_inputs_and_outputs"]()
    model = saved(made, tmp_path / "net.keras")
    a, b = inputs_of(made, count=30)
    np.savez(tmp_path / "own.npz", b=b, a=a, labels=np.zeros(30))
    given: dict[str, Any] = {"remove": 0.3, "method": "saliency", "input_bounds": (-9, 9)}
    by_name, in_order = (
        secateur.prune(model, calibration=own, **given) for own in (tmp_path / "own.npz", (a, b))
    )
    assert by_name.verdict == in_order.verdict and by_name.recipe.used == in_order.recipe.used
    np.savez(tmp_path / "wrong.npz", left=a, right=b)
    with pytest.raises(InputError, match=r"and none for a, b; the model's inputs are a, b"):
        secateur.prune(model, calibration=tmp_path / "wrong.npz", **given)


# --- the same as from torch ---------------------------------------------------------------------------------


def as_keras(net: nn.Sequential, shape: tuple[int, ...]) -> tuple[Any, dict[str, Any]]:
    """A torch network of dense layers as Keras describes it."""
    layers, arrays = [files.inputs(*shape)], dict[str, Any]()
    for name, module in net.named_children():
        if isinstance(module, nn.Linear):
            layers.append(files.layer("Dense", f"dense{name}", units=module.out_features))
            number = len(arrays) // 2
            group = f"layers/dense_{number}" if number else "layers/dense"
            arrays |= {
                f"{group}/vars/0": module.weight.detach().T.numpy(),
                f"{group}/vars/1": module.bias.detach().numpy(),
            }
        else:
            layers.append(files.layer(type(module).__name__, f"layer{name}"))
    return files.sequential(*layers), arrays


def agrees_with_torch(net: nn.Sequential, folder: Path, x: Tensor, labels: Tensor) -> None:
    """The same units are removed, and the smaller models decide alike."""
    model = load_keras(files.write_keras(folder / "net.keras", *as_keras(net, tuple(x.shape[1:]))))
    given: dict[str, Any] = {"remove": 0.5, "seed": 3, "normalize": "none"}
    one, other = (secateur.prune(m, x[:1], **given) for m in (net, model))
    removed = [[edit.units for step in result.recipe.steps for edit in step.edits] for result in (one, other)]
    assert removed[0] == removed[1] and one.verdict == other.verdict
    figures = [secateur.evaluate(result.model, x, labels).accuracy[1] for result in (one, other)]
    assert figures[0] == figures[1]


def test_the_same_units_as_from_torch(tmp_path: Path) -> None:
    net, x, labels = blobs()
    assert isinstance(net, nn.Sequential)
    agrees_with_torch(net, tmp_path, x, labels)


def test_the_same_units_of_a_convolutional_network(tmp_path: Path) -> None:
    """Though one takes channels first, and the other last; the dense layer reads them in another order."""
    L = keras.layers
    keras.utils.set_random_seed(0)
    parts = [
        *(L.Input((10, 10, 1)), L.Conv2D(6, 3, padding="same", activation="relu", name="a")),
        *(L.MaxPooling2D(), L.Conv2D(8, 3, activation="relu", name="b")),
        *(L.Flatten(), L.Dense(24, "relu", name="c"), L.Dense(5, name="d")),
    ]
    model = saved(with_weights(keras.Sequential(parts)), tmp_path / "net.keras")
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(72, 24), nn.ReLU(), nn.Linear(24, 5),
    ).eval()  # fmt: skip
    own = dict(model.named_parameters())
    layers = [m for m in net if hasattr(m, "weight")]
    with torch.no_grad():
        for layer, name in zip(layers, "abcd", strict=True):
            weight = own[f"{name}.weight"]
            if weight.shape == (24, 72):
                weight = weight.reshape(24, 3, 3, 8).permute(0, 3, 1, 2).reshape(24, 72)
            layer.weight.copy_(weight)
            layer.bias.copy_(own[f"{name}.bias"])
    x = torch.rand(3, 1, 10, 10)
    with torch.no_grad():
        torch.testing.assert_close(model(x.permute(0, 2, 3, 1)), net(x))
    given: dict[str, Any] = {"remove": 0.5, "seed": 3, "samples": 64, "normalize": "none"}
    one, other = secateur.prune(net, x, **given), secateur.prune(model, **given)
    removed = [[edit.units for step in result.recipe.steps for edit in step.edits] for result in (one, other)]
    assert removed[0] == removed[1]
    # Convolutions add in another order.
    assert one.verdict is not None and other.verdict is not None
    assert one.verdict.word == other.verdict.word
    assert one.verdict.agreement == pytest.approx(other.verdict.agreement, abs=0.01)


def test_a_recurrent_layer_that_aten_lacks_goes_through_pt2(tmp_path: Path) -> None:
    """A GRU whose reset gate acts before the product is an op of our own, which `.pt2` files may name."""
    layers = keras.layers
    parts = [layers.Input((5, 3)), layers.GRU(4, reset_after=False), layers.Dense(8, "relu"), layers.Dense(2)]
    keras.Sequential(parts).save(tmp_path / "gru.keras")
    model, x = secateur.load_model(tmp_path / "gru.keras"), torch.rand(3, 5, 3)
    secateur.save_model(tmp_path / "gru.pt2", model, x[:2])
    torch.testing.assert_close(secateur.load_model(tmp_path / "gru.pt2").module()(x), model(x))


@pytest.mark.long
def test_the_same_units_on_a_trained_network(tmp_path: Path) -> None:
    shared = Path(os.environ.get("SECATEUR_SHARED", Path(__file__).parents[1] / ".." / "shared")).resolve()
    if not (shared / "zoo" / "paoding_mlp.safetensors").exists():
        pytest.skip(
            f"no trained networks in {shared}; set SECATEUR_SHARED to the folder that holds zoo/ and data/"
        )
    sizes = (784, 128, 128, 64, 10)
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    net = nn.Sequential(nn.Flatten(), *layers[:-1]).eval()
    load_weights(net, shared / "zoo" / "paoding_mlp.safetensors")
    arrays = load_arrays(shared / "data" / "mnist.npz")
    agrees_with_torch(net, tmp_path, arrays["images"], arrays["labels"])


# --- networks of keras.applications -------------------------------------------------------------------------

APPLICATIONS: dict[str, tuple[int, dict[str, Any]]] = {
    "MobileNetV2": (32, {"alpha": 0.35}),
    "MobileNetV3Small": (32, {}),
    "MobileNetV3Large": (32, {}),
    "ResNet50V2": (32, {}),
    "DenseNet121": (32, {}),
    "EfficientNetB0": (32, {}),
    "ConvNeXtTiny": (32, {}),
    "VGG16": (32, {}),
    "Xception": (71, {}),
    "InceptionV3": (75, {}),
}


LIGHT = ("MobileNetV2", "MobileNetV3Small", "MobileNetV3Large", "EfficientNetB0")


@pytest.mark.long
@pytest.mark.parametrize("name", APPLICATIONS)
def test_applications(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if name not in LIGHT and not request.config.getoption("--all"):
        pytest.skip("takes 20 seconds; --all runs it")
    size, more = APPLICATIONS[name]
    keras.utils.clear_session()
    build = getattr(keras.applications, name)
    made = with_weights(build(weights=None, input_shape=(size, size, 3), classes=10, **more))
    given = inputs_of(made, count=2)
    model = saved(made, tmp_path / "net.keras")
    agree(made, model, given, rtol=1e-4, atol=1e-5)
    assert secateur.inspect(model).groups
    result = secateur.prune(model, remove=0.3, method="saliency")
    save_keras(tmp_path / "small.keras", result.model)
    small = reloaded(tmp_path / "small.keras")
    agree(small, result.model, given, rtol=1e-4, atol=1e-5)
    assert small.count_params() < 0.85 * made.count_params()
