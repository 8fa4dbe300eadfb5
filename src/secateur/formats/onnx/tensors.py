"""ONNX tensors as torch tensors and as arrays, and back with the same data type."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.errors import UnsupportedOpError

Proto = Any

TYPES: dict[int, torch.dtype] = {  # by ONNX data type
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64,
    9: torch.bool,
    10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip


class Number(int):
    """A whole number that knows which constant of the model it is from, and its place there."""

    origin: tuple[str, int]

    @staticmethod
    def at(value: int, origin: tuple[str, int]) -> Number:
        number = Number(value)
        number.origin = origin
        return number


def dtype_of(data_type: int) -> torch.dtype:
    if data_type not in TYPES:
        raise UnsupportedOpError(f"the ONNX data type {data_type} has no rule")
    return TYPES[data_type]


def to_torch(proto: Proto) -> Tensor:
    """A tensor of its own memory."""
    import onnx.numpy_helper

    dtype = dtype_of(proto.data_type)
    if dtype is torch.bfloat16:
        if proto.HasField("raw_data"):
            bits = np.frombuffer(proto.raw_data, dtype="<i2").copy()
        else:
            bits = np.array(proto.int32_data, dtype=np.uint32).astype(np.uint16).view(np.int16)
        return torch.from_numpy(bits).view(torch.bfloat16).reshape(tuple(proto.dims))
    array = onnx.numpy_helper.to_array(proto)
    return torch.from_numpy(np.array(array, copy=True)).to(dtype)


def to_proto(tensor: Tensor, name: str) -> Proto:
    import onnx

    data_type = next(number for number, dtype in TYPES.items() if dtype == tensor.dtype)
    flat = tensor.detach().cpu().contiguous()
    raw = flat.view(torch.int16) if tensor.dtype is torch.bfloat16 else flat
    return onnx.TensorProto(
        data_type=data_type, dims=list(tensor.shape), name=name, raw_data=raw.numpy().tobytes()
    )


def to_host(tensor: Tensor, name: str) -> np.ndarray[Any, Any]:
    """Small constants as arrays of Python numbers; whole ones know their origin."""
    if tensor.is_floating_point():
        return np.array(tensor.double().tolist(), dtype=object)
    values = tensor.reshape(-1).tolist()
    if tensor.dtype is not torch.bool:
        values = [Number.at(value, (name, i)) for i, value in enumerate(values)]
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found.reshape(tuple(tensor.shape))
