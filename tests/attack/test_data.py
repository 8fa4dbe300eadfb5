"""Damaged recipes, settings and data."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arena import contents
from mutations import FRACTIONS, NUMBERS, TEXTS, archive, damaged_bytes, damaged_json, odd, records
from safetensors.torch import load, save

from secateur.report.recipe import seal_of

pytestmark = pytest.mark.slow

SET = ("net.onnx", "small.recipe.json", "small.recipe.solved.safetensors")


@pytest.mark.long
def test_damaged_recipes(
    attack: Callable[..., None], folder_with: Callable[..., Any], originals: Path
) -> None:
    """A replay ends in the very model that was pruned, or in a refusal."""
    right = contents(originals)["small.onnx"]

    def check(folder: Path, code: int) -> str:
        return "another model was rebuilt" if code == 0 and contents(folder)["out.onnx"] != right else ""

    kinds = ("json", "several", "bytes", "tensors")
    cases = [(f"{how}-{seed}", partial(_recipe, how, seed)) for seed in range(55) for how in kinds]
    attack("recipes, damaged", cases, folder_with(*SET), check=check)


def _recipe(how: str, seed: int, folder: Path) -> tuple[str, ...]:
    rng = random.Random(f"{how}{seed}")
    recipe, solved = (folder / name for name in SET[1:])
    if how == "tensors":
        _damage_tensors(rng, solved)
        content = json.loads(recipe.read_text())
        if rng.random() < 0.7:  # as a forger would
            content["solved"] = hashlib.sha256(solved.read_bytes()).hexdigest()
        _write_sealed(rng, recipe, content)
    elif how == "bytes":
        recipe.write_bytes(damaged_bytes(rng, recipe.read_bytes()))
    else:
        content = json.loads(recipe.read_text())
        for _ in range(1 if how == "json" else 3):
            damaged_json(rng, content)
        _write_sealed(rng, recipe, content)
    return "replay", "net.onnx", recipe.name, "-o", "out.onnx"


def _write_sealed(rng: random.Random, recipe: Path, content: dict[str, Any]) -> None:
    """Mostly with a right digest, so that what is behind it is tried too."""
    if rng.random() < 0.8:
        content["seal"] = seal_of(content)
    recipe.write_text(json.dumps(content))


def _damage_tensors(rng: random.Random, path: Path) -> None:
    tensors = load(path.read_bytes())
    name = rng.choice(sorted(tensors))
    match rng.randrange(5):
        case 0:
            path.write_bytes(damaged_bytes(rng, path.read_bytes()))
            return
        case 1:
            tensors[name] = tensors[name].double()
        case 2:
            tensors[name].view(-1)[0] = rng.choice(FRACTIONS)
        case 3:
            tensors[rng.choice(TEXTS) or "y"] = tensors.pop(name)
        case _:
            tensors[name] = tensors[name][..., :-1].contiguous()
    path.write_bytes(save(tensors))


SETTINGS = (
    "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\nmean: *c\n",
    "base: &base {mean: 0.5}\n<<: *base\nstd: 0.5\n",
    "mean: !!python/object/apply:os.system ['touch marker']\n",
    "!!python/object/new:os.system ['touch marker']\n",
    "mean: !!python/name:os.system\n",
    "mean: !!binary aGVsbG8=\n",
    "mean: 2020-01-01\n",
    "mean: " + "[" * 3000 + "]" * 3000,
    "mean: 1" + "0" * 5000,
    "mean: 0x" + "f" * 5000,
    "mean: 190:20:30\n",
    "mean: yes\nstd: no\n",
    "mean: .inf\nstd: .nan\n",
    "mean: 1e-3\nstd: 1e-3\n",
    "mean: true\n",
    "mean: {}\n",
    "- a\n- b\n",
    "mean: 0.5\nmean: 0.6\n",
    "---\nmean: 0.5\n---\nmean: 0.6\n",
    "%YAML 9.9\n---\nmean: 0.5\n",
    "? [a, b]\n: c\n",
    "input_bounds: [1, 0]\n",
    "input_bounds: [0, .inf]\n",
    "example_shape: 999999999,999999999\n",
    "example_shape: [1, 99999999, 99999999]\n",
    "example_shape: -1,8,8\n",
    "example_shape: ''\n",
    "example_shape: 1,8,8:load\n",
    "std: 0\n",
    "std: -1\n",
    "mean: \x00\n",
    "mean: '\x1b[2J'\n",
    "\ufeffmean: 0.5\n",
    "nonsense: 1\n",
    "mean: |\n  text\n",
)


@pytest.mark.long
def test_odd_settings(attack: Callable[..., None], folder_with: Callable[..., Any]) -> None:
    cases = [
        (f"text-{i}", partial(_settings, text.encode("utf-8", "surrogatepass")))
        for i, text in enumerate(SETTINGS)
    ]
    cases += [(f"random-{seed}", partial(_random_settings, seed)) for seed in range(75)]
    attack("YAML beside a model", cases, folder_with("net.onnx"))


def _settings(content: bytes, folder: Path) -> tuple[str, ...]:
    (folder / "net.yaml").write_bytes(content)
    return "inspect", "net.onnx"


def _random_settings(seed: int, folder: Path) -> tuple[str, ...]:
    rng = random.Random(seed)
    lines = [f"{key}: {rng.choice((json.dumps(odd(rng)), rng.choice(TEXTS), str(odd(rng, 0.5)), '[0, 1]', '0.5'))}"
             for key in rng.sample(("mean", "std", "input_bounds", "example_shape", "<<"), 3)]  # fmt: skip
    text = "\n".join(lines).encode("utf-8", "surrogatepass")
    return _settings(damaged_bytes(rng, text) if seed % 3 == 0 else text, folder)


@pytest.mark.long
def test_damaged_arrays(attack: Callable[..., None], folder_with: Callable[..., Any]) -> None:
    kinds = ("bytes", "header", "dtype", "record")
    cases = [(f"{how}-{seed}", partial(_arrays, how, seed)) for seed in range(26) for how in kinds]
    cases += [("pipe", _pipe), ("device", _device), ("folder", _folder)]
    attack(".npz, damaged", cases, folder_with("net.onnx", "data.npz"))


def _evaluation(name: str = "data.npz") -> tuple[str, ...]:
    return "evaluate", "net.onnx", "--data", name, "--json"


def _pipe(folder: Path) -> tuple[str, ...]:
    os.mkfifo(folder / "pipe.npz")
    return _evaluation("pipe.npz")


def _device(folder: Path) -> tuple[str, ...]:
    return _evaluation("/dev/zero")


def _folder(folder: Path) -> tuple[str, ...]:
    (folder / "d.npz").mkdir()
    return _evaluation("d.npz")


def _arrays(how: str, seed: int, folder: Path) -> tuple[str, ...]:
    rng = random.Random(f"{how}{seed}")
    path = folder / "data.npz"
    parts = records(path.read_bytes())
    name = rng.choice(sorted(parts))
    if how == "bytes":
        path.write_bytes(damaged_bytes(rng, path.read_bytes()))
        return _evaluation()
    if how == "header":  # a shape that the file does not hold, or holds as zeros that compress a thousandfold
        shape = tuple(rng.choice((*NUMBERS, 20, 8)) for _ in range(rng.choice((0, 1, 3, 5, 40))))
        parts[name] = _npy(
            f"{{'descr': '|u1', 'fortran_order': {rng.choice((True, False))}, 'shape': {shape}}}"
        )
        parts[name] += b"\0" * rng.choice((0, 64, 10**8))
    elif how == "dtype":
        kind = rng.choice(
            ("|O", "<M8[s]", "|S5", "<U9", "<c16", "<f2", "|b1", "|V9", ">f8", "(3,)<i4", "__import__")
        )
        parts[name] = _npy(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': (20,)}}") + rng.randbytes(
            400
        )
    else:
        parts[rng.choice((name, "images.npy", "../x.npy", "labels.npy"))] = rng.choice(
            (b"", rng.randbytes(99), _saved(np.array(object())), _saved(np.full((20, 8, 8), np.nan)))
        )
    path.write_bytes(archive(parts, compressed=True))
    return _evaluation()


def _npy(header: str) -> bytes:
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def _saved(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()
