"""The data sets, one row each, and where their parts lie.

Training data stay in the folder of the packages. What `load` gives lies elsewhere: test data, and 2,000
training samples that serve only to compare data-free pruning with pruning on real data (`oracle`). Those of
MNIST, Fashion-MNIST and CIFAR-10 are the shared ones of all benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from . import made, packages
from .packages import Array, Arrays

Task = Literal["classes", "values", "objects"]
ORACLE = 2000


@dataclass(frozen=True)
class Data:
    """Attributes:
    read: makes all four parts from a folder of packages.
    axes: of one sample as the network takes it: 1, a row; 2, (channels, time); 3, (channels, h, w).
    outputs: classes, values, or classes of a cell with the empty one.
    shared: whether test and oracle samples lie with those of all benchmarks.
    """

    read: Callable[[Path], Arrays]
    task: Task
    axes: int
    outputs: int
    shared: bool = False


DATA: dict[str, Data] = {
    "mnist": Data(packages.mnist, "classes", 3, 10, shared=True),
    "fashion_mnist": Data(packages.fashion_mnist, "classes", 3, 10, shared=True),
    "cifar10": Data(packages.cifar10, "classes", 3, 10, shared=True),
    "digits": Data(packages.digits, "classes", 3, 10),
    "cancer": Data(packages.cancer, "classes", 1, 2),
    "wine": Data(packages.wine, "classes", 1, 3),
    "vowels": Data(packages.vowels, "classes", 2, 9),
    "control": Data(made.control, "classes", 2, 6),
    "spoken": Data(made.spoken, "classes", 2, 10),
    "friedman": Data(made.friedman, "values", 1, 1),
    "pose": Data(made.pose, "values", 3, 4),
    "scenes": Data(made.scenes, "objects", 3, 11),
}


@dataclass(frozen=True, eq=False)
class Samples:
    """Attributes:
    images: inputs in [0, 1] before they are normalised, float32, (n, *shape of an input).
    labels: classes (n,); values (n, outputs); classes of cells (n, cells, cells).
    boxes: of the objects in cells (n, 4, cells, cells); none for other tasks.
    """

    images: Tensor
    labels: Tensor
    boxes: Tensor | None = None


def training(name: str, folder: Path) -> tuple[Samples, Samples]:
    """Training and test samples, from the packages in `folder`."""
    arrays = _all(name, folder)
    return samples(name, arrays, "train"), samples(name, arrays, "test")


def _all(name: str, folder: Path) -> Arrays:
    """Both parts of a data set; what is made is kept in `folder`."""
    path = folder / "made" / f"{name}.npz"
    if path.is_file():
        return arrays_of(path)
    arrays = DATA[name].read(folder)
    if DATA[name].read.__module__ == made.__name__:
        write(path, arrays)
    return arrays


def publish(name: str, packages_folder: Path, folder: Path) -> None:
    """Write the test and oracle samples of a data set that is not shared to NAME.npz in `folder`."""
    path = folder / f"{name}.npz"
    if DATA[name].shared or path.is_file():
        return
    arrays = _all(name, packages_folder)
    kept = {key: array for key, array in arrays.items() if key.startswith("test_")}
    chosen = np.random.default_rng(0).permutation(len(arrays["train_images"]))[:ORACLE]
    for key, array in arrays.items():
        if key.startswith("train_"):
            kept[key.replace("train_", "oracle_")] = array[chosen]
    write(path, kept)


def published(name: str, folder: Path) -> tuple[Samples, Samples]:
    """Test and oracle samples, from NAME.npz in `folder`."""
    arrays = arrays_of(folder / f"{name}.npz")
    return samples(name, arrays, "test"), samples(name, arrays, "oracle")


def samples(name: str, arrays: Arrays, part: str) -> Samples:
    """The samples of one part (`train`, `test` or `oracle`)."""
    images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
    boxes = arrays.get(f"{part}_boxes")
    labelled = torch.from_numpy(labels.copy())
    return Samples(
        _inputs(images, DATA[name].axes),
        labelled if labelled.is_floating_point() else labelled.long(),
        None if boxes is None else torch.from_numpy(boxes.copy()),
    )


def _inputs(images: Array, axes: int) -> Tensor:
    x = torch.from_numpy(images.copy())
    x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    if axes == 3:
        return (x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2)).contiguous()
    return x


def arrays_of(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def write(path: Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez_compressed(file, **arrays)
    part.replace(path)
