"""Images and labels from `.npz` files, without pickle."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.budget import budget
from secateur.errors import InputError

IMAGE_NAMES = ("images", "test_images", "x")
LABEL_NAMES = ("labels", "test_labels", "y")

_CHANNELS = (1, 3, 4)  # grey, RGB, RGBA


def load_arrays(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """`images` (and `labels`, where there are any) of an `.npz` file.

    Images stand under `images`, `test_images` or `x`. uint8 becomes float32 in [0, 1], (n, h, w) becomes (n, 1, h, w)
    and (n, h, w, c) with 1, 3 or 4 channels becomes (n, c, h, w); floating-point arrays keep their shape and values,
    as float32. Labels stand under `labels`, `test_labels` or `y`: whole numbers, shape (n,) or (n, 1), given as int64.
    Raises `InputError` for a file that is no `.npz`, holds Python objects, or holds other shapes or types.
    """
    arrays = _read(path, (*IMAGE_NAMES, *LABEL_NAMES))
    image_name = _first_of(IMAGE_NAMES, arrays)
    if image_name is None:
        raise InputError(f"{path} holds no images: store them under one of the names {', '.join(IMAGE_NAMES)}")
    where = f"{image_name} in {path}"
    result = {"images": _images(arrays[image_name], where)}
    label_name = _first_of(LABEL_NAMES, arrays)
    if label_name is not None:
        result["labels"] = _labels(arrays[label_name], f"{label_name} in {path}")
    return result


def _first_of(names: Sequence[str], arrays: Iterable[str]) -> str | None:
    return next((name for name in names if name in arrays), None)


def _read(path: str | os.PathLike[str], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    if Path(path).exists() and not Path(path).is_file():  # a pipe would wait for ever
        raise InputError(f"cannot read {path}: it is no regular file; give the path of an .npz file")
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise InputError(f"{path} is not an .npz file (or is cut short): write it with numpy.savez_compressed")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                wanted = [name for name in names if name in archive.files]
                _check_headers(path, archive.zip, wanted)
                return {name: archive[name] for name in wanted}
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error, NotImplementedError, KeyError) as error:
        raise InputError(
            f"cannot read the arrays of {path}: {error}. Write plain number arrays with numpy.savez_compressed; "
            "arrays of Python objects are pickles and are refused"
        ) from error


def _check_headers(path: str | os.PathLike[str], archive: zipfile.ZipFile, names: Sequence[str]) -> None:
    """Refuse, before anything is unpacked, what is too large and labels that are not as many as the images."""
    shapes = {}
    for name in names:
        with archive.open(f"{name}.npy") as member:
            version = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shapes[name], _, dtype = read(member)
        size = prod(shapes[name]) * max(dtype.itemsize, 4)  # pixels become float32
        if size > budget():
            raise InputError(
                f"{name} in {path} has shape {shapes[name]}, {size:,} bytes once it is read; at most {budget():,}, a "
                "quarter of this machine's memory, are. Store fewer samples"
            )
    image_name, label_name = _first_of(IMAGE_NAMES, shapes), _first_of(LABEL_NAMES, shapes)
    if image_name and label_name and shapes[image_name][:1] != shapes[label_name][:1]:
        images, labels = (shapes[name][0] if shapes[name] else 0 for name in (image_name, label_name))
        raise InputError(f"{path} holds {images} images but {labels} labels")


def _images(array: NDArray[Any], where: str) -> Tensor:
    if array.ndim < 2 or not len(array):
        raise InputError(f"{where} has shape {array.shape}: axis 0 must be the samples, with at least one more axis")
    if np.issubdtype(array.dtype, np.floating):
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    if array.dtype != np.uint8:
        raise InputError(f"{where} has type {array.dtype}: give uint8 pixels or floating-point numbers")
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[3] in _CHANNELS:
        array = array.transpose(0, 3, 1, 2)
    elif array.ndim == 4 and array.shape[1] not in _CHANNELS:
        raise InputError(
            f"{where} has shape {array.shape}: expected (n, h, w, c) or (n, c, h, w) with c in {_CHANNELS}"
        )
    return torch.from_numpy(np.ascontiguousarray(array)).to(torch.float32) / 255


def _labels(array: NDArray[Any], where: str) -> Tensor:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(f"{where} has shape {array.shape}: give one class number per sample (argmax of one-hot rows)")
    whole = np.issubdtype(array.dtype, np.integer) or array.dtype == np.bool_
    if not whole and not (np.issubdtype(array.dtype, np.floating) and bool((array == np.floor(array)).all())):
        raise InputError(f"{where} holds values of type {array.dtype} that are not whole numbers: give class numbers")
    return torch.from_numpy(array.astype(np.int64))
