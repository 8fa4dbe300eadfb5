"""Keras files that are put together by hand, without Keras: sound ones, to be damaged, and those of Keras 2."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Json = dict[str, Any]
Arrays = dict[str, Any]


def layer(kind: str, name: str, inputs: list[Any] | None = None, **config: Any) -> Json:
    """An entry of a functional model; `inputs` are names of layers, or whole arguments."""
    args = [tensor(i) if isinstance(i, str) else i for i in inputs or []]
    return {
        "module": "keras.layers",
        "class_name": kind,
        "config": {"name": name, **config},
        "registered_name": None,
        "name": name,
        "inbound_nodes": [{"args": args, "kwargs": {}}] if args else [],
    }


def tensor(name: str, call: int = 0, output: int = 0) -> Json:
    return {
        "class_name": "__keras_tensor__",
        "config": {"shape": None, "keras_history": [name, call, output]},
    }


def functional(*layers: Json, inputs: Any = None, outputs: Any = None) -> Json:
    names = [entry["name"] for entry in layers]
    return {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "config": {
            "name": "net",
            "layers": list(layers),
            "input_layers": inputs or [[names[0], 0, 0]],
            "output_layers": outputs or [[names[-1], 0, 0]],
        },
        "registered_name": "Functional",
    }


def sequential(*layers: Json) -> Json:
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "net", "layers": [{**entry, "inbound_nodes": []} for entry in layers]},
        "registered_name": None,
    }


def inputs(*shape: int | None, name: str = "x", **more: Any) -> Json:
    return layer("InputLayer", name, batch_shape=[None, *shape], dtype="float32", **more)


def numbers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


def net() -> tuple[Json, Arrays]:
    """A convolution, a norm, pooling, two dense layers."""
    config = functional(
        inputs(6, 6, 3),
        layer("Conv2D", "conv", ["x"], filters=5, kernel_size=[3, 3], activation="relu"),
        layer("BatchNormalization", "norm", ["conv"], axis=-1, epsilon=0.001),
        layer("MaxPooling2D", "pool", ["norm"], pool_size=[2, 2]),
        layer("Flatten", "flat", ["pool"]),
        layer("Dense", "hidden", ["flat"], units=8, activation="tanh"),
        layer("Dense", "out", ["hidden"], units=3, activation="softmax"),
    )
    arrays = {
        "layers/conv2d/vars/0": numbers(3, 3, 3, 5),
        "layers/conv2d/vars/1": numbers(5),
        **{f"layers/batch_normalization/vars/{i}": abs(numbers(5, seed=i)) + 0.1 for i in range(4)},
        "layers/dense/vars/0": numbers(20, 8),
        "layers/dense/vars/1": numbers(8),
        "layers/dense_1/vars/0": numbers(8, 3),
        "layers/dense_1/vars/1": numbers(3),
    }
    return config, arrays


def legacy_net() -> tuple[Json, dict[str, dict[str, Any]]]:
    """Two dense layers as Keras 2 describes them."""
    config = {
        "class_name": "Sequential",
        "config": {
            "name": "net",
            "layers": [
                {"class_name": "Dense", "config": {"name": "a", "units": 5, "batch_input_shape": [None, 4]}},
                {"class_name": "Dense", "config": {"name": "b", "units": 3}},
            ],
        },
    }
    weights = {
        "a": {"a/kernel:0": numbers(4, 5), "a/bias:0": numbers(5)},
        "b": {"b/kernel:0": numbers(5, 3), "b/bias:0": numbers(3)},
    }
    return config, weights


def hdf5(arrays: Mapping[str, Any], attributes: Mapping[str, Mapping[str, Any]] | None = None) -> bytes:
    """Arrays by path; a callable is given the file and the path, and makes what is there."""
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for path, value in arrays.items():
            if callable(value):
                value(file, path)
            else:
                file.create_dataset(path, data=value)
        for path, values in (attributes or {}).items():
            (file.require_group(path) if path else file).attrs.update(values)
    return stream.getvalue()


METADATA = {"keras_version": "3.12.0", "date_saved": "2026-01-01@00:00:00"}


def records(config: Any, arrays: Mapping[str, Any]) -> dict[str, bytes]:
    """Of a `.keras` archive."""
    return {
        "metadata.json": json.dumps(METADATA).encode(),
        "config.json": config if isinstance(config, bytes) else json.dumps(config).encode(),
        "model.weights.h5": hdf5(arrays),
    }


def zipped(parts: Mapping[str, bytes], compressed: bool = False) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as file:
        for name, data in parts.items():
            file.writestr(name, data)
    return stream.getvalue()


def write_keras(path: Path, config: Any, arrays: Mapping[str, Any]) -> Path:
    path.write_bytes(zipped(records(config, arrays)))
    return path


def write_legacy(
    path: Path,
    config: Any,
    weights: Mapping[str, Mapping[str, Any]],
    version: str = "2.15.0",
    **attributes: Any,
) -> Path:
    """A whole model in HDF5 as Keras 2 writes it: layer → name of a weight → numbers."""
    groups: dict[str, dict[str, Any]] = {
        f"model_weights/{name}": {"weight_names": [w.encode() for w in found]}
        for name, found in weights.items()
    }
    root = {
        "model_config": json.dumps(config),
        "keras_version": version,
        "backend": "tensorflow",
        **attributes,
    }
    groups["model_weights"] = {"layer_names": [name.encode() for name in weights], "keras_version": version}
    arrays = {f"model_weights/{name}/{w}": v for name, found in weights.items() for w, v in found.items()}
    path.write_bytes(hdf5(arrays, {"": root, **groups}))
    return path
