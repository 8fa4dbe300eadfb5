"""Damaged and hostile model files: refused in words or sound, within 60 seconds and 2 GiB, and nothing in
them runs.
"""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from arena import LIMITS
from mutations import archive, damaged_bytes, damaged_json, damaged_message, records
from onnx import TensorProto, helper, numpy_helper

from command import run

pytestmark = pytest.mark.slow

NETWORKS = ("net", "encoder")


def test_damaged_onnx(attack: Callable[..., None], folder_with: Callable[..., Any]) -> None:
    names = [f"{name}.onnx" for name in NETWORKS]
    cases = [
        (f"{how}-{seed}", partial(_onnx, how, seed))
        for seed in range(110)
        for how in ("message", "twice", "bytes")
    ]
    attack("ONNX, damaged", cases, folder_with(*names))


def _onnx(how: str, seed: int, folder: Path) -> tuple[str, ...]:
    rng = random.Random(f"{how}{seed}")
    path = folder / f"{rng.choice(NETWORKS)}.onnx"
    if how == "bytes":
        path.write_bytes(damaged_bytes(rng, path.read_bytes()))
    else:
        model = onnx.load(path)
        for _ in range(1 if how == "message" else 4):
            damaged_message(rng, model)
        path.write_bytes(model.SerializeToString())
    return _command(rng, path.name)


def _command(rng: random.Random, name: str) -> tuple[str, ...]:
    if rng.random() < 0.6:
        return "inspect", name
    return (
        "prune",
        name,
        "--method",
        "scale",
        "--remove",
        "50%",
        "-o",
        f"out{Path(name).suffix}",
        "--no-latency",
    )


def _doubled(times: int) -> list[Any]:
    return [("Concat", [f"g{i - 1}" if i else "h"] * 2, {"axis": 1}) for i in range(times)]


SIZES = (10**6, 10**9, 2**31 - 1, 2**40, 2**62)
GROWING: dict[str, Callable[[int], tuple[list[Any], list[Any]]]] = {
    "Expand": lambda n: ([("Expand", ["h", "size"], {})], [1, n]),
    "ConstantOfShape": lambda n: ([("ConstantOfShape", ["size"], {}), ("Add", ["h", "g0"], {})], [n]),
    "Tile": lambda n: ([("Tile", ["h", "size"], {})], [1, n]),
    "Pad": lambda n: ([("Pad", ["h", "size"], {})], [0, n, 0, n]),
    "Range": lambda n: (
        [("Range", ["zero", "last", "one"], {}), ("Cast", ["g0"], {"to": TensorProto.FLOAT}), ("Add", ["h", "g1"], {})],
        [n],
    ),
    "OneHot": lambda n: ([("OneHot", ["ids", "last", "ends"], {}), ("Add", ["h", "g0"], {})], [n]),
    "Resize": lambda n: ([("Resize", ["picture", "", "", "size"], {}), ("Flatten", ["g0"], {})], [1, 1, n, n]),
    "doubled": lambda n: (_doubled(n.bit_length()), [1]),
    "outer sum": lambda n: ([("ConstantOfShape", ["size"], {}), ("Transpose", ["g0"], {}), ("Add", ["g0", "g1"], {})],
                            [1, n]),
}  # fmt: skip


@pytest.mark.long
def test_onnx_that_grows(attack: Callable[..., None], folder_with: Callable[..., Any]) -> None:
    cases = [(f"{how} to {size}", partial(_growing, how, size)) for size in SIZES for how in GROWING]
    attack("ONNX, growing", cases, folder_with())


@pytest.mark.parametrize("how", GROWING)
def test_the_same_graphs_are_sound_where_they_are_small(how: str, tmp_path: Path) -> None:
    done = run(tmp_path, *_growing(how, 4, tmp_path), limits=LIMITS)
    assert done.returncode == 0, done.stderr


def _growing(how: str, size: int, folder: Path) -> tuple[str, ...]:
    steps, sizes = GROWING[how](size)
    nodes = [helper.make_node("Gemm", ["x", "w"], ["h"])]
    nodes += [helper.make_node(op, inputs, [f"g{i}"], **more) for i, (op, inputs, more) in enumerate(steps)]
    numbers = {"size": sizes, "last": sizes[-1], "zero": 0, "one": 1, "ids": [0]}
    weights = [numpy_helper.from_array(np.array(v, np.int64), name) for name, v in numbers.items()]
    weights += [numpy_helper.from_array(np.array(v, np.float32), name)
                for name, v in {"w": np.eye(4), "ends": [0, 1], "picture": np.zeros((1, 1, 2, 2))}.items()]  # fmt: skip
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    y = helper.make_tensor_value_info(f"g{len(steps) - 1}", TensorProto.FLOAT, ["a", "b"])
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "big.onnx").write_bytes(made.SerializeToString())
    return "inspect", "big.onnx"


class Shell:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch marker",)


def test_damaged_pt2(attack: Callable[..., None], folder_with: Callable[..., Any]) -> None:
    names = [f"{name}.pt2" for name in NETWORKS]
    kinds = ("json", "json", "bytes", "record", "pickle")
    cases = [
        (f"{how}{i}-{seed}", partial(_pt2, how, f"{i}{seed}"))
        for seed in range(64)
        for i, how in enumerate(kinds)
    ]
    attack(".pt2, damaged", cases, folder_with(*names))


def _pt2(how: str, seed: str, folder: Path) -> tuple[str, ...]:
    rng = random.Random(f"{how}{seed}")
    path = folder / f"{rng.choice(NETWORKS)}.pt2"
    data = path.read_bytes()
    if how == "bytes":
        path.write_bytes(damaged_bytes(rng, data))
        return _command(rng, path.name)
    parts = records(data)
    name = rng.choice([n for n in parts if n.endswith(".json")] if how == "json" else list(parts))
    if how == "json":
        content = json.loads(parts[name])
        for _ in range(rng.choice((1, 1, 3))):
            damaged_json(rng, content)
        parts[name] = json.dumps(content).encode()
    elif how == "record":
        parts[name] = damaged_bytes(rng, parts[name])
    else:
        evil = pickle.dumps(Shell())
        parts[rng.choice((name, f"{name}.pkl", "archive/data.pkl", "data.pkl", "archive/extra/x.pt"))] = evil
    path.write_bytes(archive(parts, compressed=rng.random() < 0.1))
    return _command(rng, path.name)


def test_damaged_keras(attack: Callable[..., None], folder_with: Callable[..., Any]) -> None:
    pytest.importorskip("h5py")
    kinds = ("json", "json", "weights", "bytes", "hdf5")
    cases = [
        (f"{how}{i}-{seed}", partial(_keras, how, f"{i}{seed}"))
        for seed in range(64)
        for i, how in enumerate(kinds)
    ]
    attack("Keras, damaged", cases, folder_with())


def _keras(how: str, seed: str, folder: Path) -> tuple[str, ...]:
    """The configuration, the weights in HDF5, or the archive around both; or HDF5 that holds a whole model."""
    import keras_files

    rng = random.Random(f"{how}{seed}")
    config, arrays = keras_files.net()
    parts = keras_files.records(config, arrays)
    path = folder / "net.keras"
    if how == "json":
        for _ in range(rng.choice((1, 1, 3))):
            damaged_json(rng, config)
        parts["config.json"] = json.dumps(config).encode()
    elif how == "weights":
        parts["model.weights.h5"] = damaged_bytes(rng, parts["model.weights.h5"])
    path.write_bytes(archive(parts, compressed=rng.random() < 0.1))
    if how == "bytes":
        path.write_bytes(damaged_bytes(rng, path.read_bytes()))
    elif how == "hdf5":
        path = keras_files.write_legacy(path.with_suffix(".h5"), *keras_files.legacy_net())
        path.write_bytes(damaged_bytes(rng, path.read_bytes()))
    return _command(rng, path.name)
