"""One array of any library, or nested lists of numbers, as a tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def is_array(value: Any) -> bool:
    """Whether `tensor_of` may take it."""
    return isinstance(value, Tensor) or hasattr(value, "__array__") or _is_nested(value)


def tensor_of(value: Any) -> Tensor:
    """A tensor as it is; arrays and nested lists as tensors, floating ones as float32.

    Raises `ValueError` for what is none, for ragged lists, and for tensors without values at hand.
    """
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            raise ValueError("sparse, quantised and meta tensors hold no plain values")
        return value
    if not is_array(value):
        raise ValueError(f"a {type(value).__name__} is no array")
    return _of_numpy(np.asarray(value))


def _of_numpy(array: NDArray[Any]) -> Tensor:
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind not in "fiub" or (kind == "u" and size == 8):
        raise ValueError(f"an array of type {array.dtype}")
    dtype: np.dtype[Any]
    if kind == "f":
        dtype = np.dtype(np.float32)
    elif kind == "u" and size > 1:
        dtype = np.dtype(np.int64)
    else:
        dtype = array.dtype.newbyteorder("=")
    with np.errstate(over="ignore"):  # infinite values are named later
        return torch.from_numpy(np.require(array, dtype, ("C", "W")))


def _is_nested(value: Any) -> bool:
    """Whether lists lead to a number."""
    while isinstance(value, list | tuple) and value:
        value = value[0]
        if isinstance(value, bool | int | float | np.number):
            return True
    return False
