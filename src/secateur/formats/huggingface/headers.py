"""Tensors of `.safetensors` files, described by headers that are checked, and read one at a time.

Files are read rather than mapped, so that a model takes its own size in memory and not twice that.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.files import refusals_named
from secateur.strict_json import loads

_LENGTH = 8  # bytes of the number before a header
_LARGEST = 64 << 20  # bytes of a header; a model of 1,000 layers needs 2 MiB
_MOST_AXES = 16
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
_QUANTISED = ("F8", "F6", "F4", "E8M0", "MX", "NV")  # how the names of types of a few bits begin


@dataclass(frozen=True)
class Stored:
    """Where a tensor is: `size` bytes of the file from `start`."""

    path: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def count(self) -> int:
        return prod(self.shape)

    def read(self) -> Tensor:
        """The tensor, in memory of its own. Raises `InputError` where the file has become shorter."""
        found = torch.empty(self.shape, dtype=self.dtype)
        room: Any = found.reshape(-1).view(torch.uint8).numpy()
        with refusals_named(f"cannot read {self.path}"), open(self.path, "rb") as file:
            file.seek(self.start)
            if file.readinto(room) != self.size:
                refuse(self.path, f"{self.name} is cut short; the file has changed while it was read")
        return found


def refuse(path: str | os.PathLike[str], why: str) -> NoReturn:
    raise InputError(f"{path}: {why}")


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of one file, by name.

    Raises `InputError` unless the header is sound: plain names, known types, and tensors that fill the file
    without gaps, as the format asks.
    """
    with refusals_named(f"cannot read {path}"), open(path, "rb") as file:
        total = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(_LENGTH), "little")
        if total < _LENGTH or not 1 < length <= min(_LARGEST, total - _LENGTH):
            refuse(path, "is no safetensors file, or is cut short: its header is longer than the file")
        content = file.read(length)
    try:
        header = loads(content)
    except ValueError as error:
        refuse(path, f"is no safetensors file, or is damaged: its header is no JSON ({error})")
    if not isinstance(header, dict):
        refuse(path, "is no safetensors file: its header is no JSON object")
    header.pop("__metadata__", None)
    found = {name: _stored(path, name, entry, _LENGTH + length, total) for name, entry in header.items()}
    _check_order(path, found, _LENGTH + length, total)
    return found


def _stored(path: Path, name: str, entry: Any, begin: int, total: int) -> Stored:
    named = entry if isinstance(entry, dict) else {}
    kind, shape, offsets = (named.get(key, "") for key in ("dtype", "shape", "data_offsets"))
    if not (_whole(shape) and len(shape) <= _MOST_AXES and _whole(offsets) and len(offsets) == 2):
        refuse(path, f"the header says neither the shape nor the place of {name}; the file is damaged")
    if kind not in DTYPES:
        quantised = isinstance(kind, str) and kind.startswith(_QUANTISED)
        advice = "; a quantised model cannot be pruned: give the float one" if quantised else ""
        refuse(path, f"{name} is of type {kind!r}, which is not read{advice}")
    dtype, (start, end) = DTYPES[kind], offsets
    if end - start != prod(shape) * dtype.itemsize or begin + end > total:
        refuse(
            path,
            f"{name} of shape {tuple(shape)} and type {kind} takes {prod(shape) * dtype.itemsize:,} bytes, "
            f"and the header gives it {end - start:,} of the {total - begin:,} in the file; it is damaged or "
            "cut short",
        )
    return Stored(path, name, dtype, tuple(shape), begin + start, end - start)


def _whole(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**62 for n in value)


def _check_order(path: Path, found: dict[str, Stored], begin: int, total: int) -> None:
    at = begin
    for stored in sorted(found.values(), key=lambda s: (s.start, s.size)):
        if stored.start != at:
            refuse(path, f"{stored.name} overlaps another tensor, or leaves a gap; the file is damaged")
        at += stored.size
    if at != total:
        refuse(path, f"holds {total - at:,} bytes after its last tensor; the file is damaged")
