"""What `.npz` and `.npy` files have in common: checked headers, layouts and labels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import prod
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.budget import budget
from secateur.data.pixels import laid_out
from secateur.errors import InputError

_CHANNELS = (1, 3, 4)  # grey, RGB, RGBA


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of the array in an open `.npy` file.

    Raises `ValueError` for what is none, also for headers longer than numpy's own limit.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def check_size(shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> None:
    """Raise `InputError` for an array that is too large to be read."""
    size = prod(shape) * max(dtype.itemsize, 4)  # pixels become float32
    if size > budget():
        raise InputError(
            f"{where} has shape {shape}, {size:,} bytes once it is read; at most {budget():,}, a "
            "quarter of this machine's memory, are. Store fewer samples"
        )


def unreadable(path: str | os.PathLike[str], error: Exception, writer: str) -> InputError:
    """The error for an array file that numpy refuses; `writer` is the function of numpy that writes one."""
    if isinstance(error, InputError):  # it says itself what is wrong
        return error
    return InputError(
        f"cannot read the arrays of {path}: {error}. Write plain number arrays with numpy.{writer}; "
        "arrays of Python objects are pickles and are refused"
    )


def images_of(array: NDArray[Any], where: str, shape: tuple[int, ...] | None) -> Tensor:
    """Images (n, …) as uint8 or float32, in the layout of `shape` where an array may have another one.

    Other whole numbers, such as those of words, stay as they are.
    """
    if array.ndim < 2 or not len(array):
        raise InputError(
            f"{where} has shape {array.shape}: axis 0 must be the samples, with at least one more axis"
        )
    if np.issubdtype(array.dtype, np.floating):
        return laid_out(torch.from_numpy(np.require(array, np.float32, ("C", "W"))), shape)
    if np.issubdtype(array.dtype, np.signedinteger):
        return torch.from_numpy(np.require(array, requirements=("C", "W")))
    if array.dtype != np.uint8:
        raise InputError(f"{where} has type {array.dtype}: give uint8 pixels or floating-point numbers")
    if array.shape[1:] != shape:
        array = _channels_first(array, where)
    return laid_out(torch.from_numpy(np.require(array, requirements=("C", "W"))), shape)


def _channels_first(array: NDArray[Any], where: str) -> NDArray[Any]:
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and array.shape[3] in _CHANNELS:
        return array.transpose(0, 3, 1, 2)
    if array.ndim == 4 and array.shape[1] not in _CHANNELS:
        raise InputError(
            f"{where} has shape {array.shape}: expected (n, h, w, c) or (n, c, h, w) with c in {_CHANNELS}"
        )
    return array


def labels_of(array: NDArray[Any], where: str) -> Tensor:
    """Class numbers (n,), int64."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(
            f"{where} has shape {array.shape}: give one class number per sample (argmax of one-hot rows)"
        )
    whole = np.issubdtype(array.dtype, np.integer) or array.dtype == np.bool_
    if not whole and not (np.issubdtype(array.dtype, np.floating) and bool((array == np.floor(array)).all())):
        raise InputError(
            f"{where} holds values of type {array.dtype} that are not whole numbers: give class numbers"
        )
    return torch.from_numpy(array.astype(np.int64))


def first_rows(found: Mapping[str, Tensor], limit: int | None) -> dict[str, Tensor]:
    """At most the first `limit` samples."""
    return {name: x[:limit] for name, x in found.items()}
