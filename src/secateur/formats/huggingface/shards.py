"""Write tensors to `.safetensors` files one at a time, each converted to its type when its turn comes.

The library's own functions want all tensors of a file at once, in their final types. The format: the length
of the header (8 bytes), a header of JSON with the place of every tensor, and their numbers in that order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.formats.huggingface.headers import DTYPES

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, eq=False)
class Written:
    """A tensor, and the type in which it is written."""

    value: Tensor
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """In bytes."""
        return self.value.numel() * self.dtype.itemsize


def shards(state: Mapping[str, Written], limit: int) -> Iterator[dict[str, Written]]:
    """The tensors in parts of at most `limit` bytes, a larger one by itself."""
    shard, size = dict[str, Written](), 0
    for name, written in state.items():
        if shard and size + written.size > limit:
            yield shard
            shard, size = {}, 0
        shard[name] = written
        size += written.size
    yield shard


def write_shard(path: Path, shard: Mapping[str, Written]) -> None:
    """One file. It takes the memory of its largest tensor."""
    ordered = sorted(
        shard.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])
    )  # numbers are aligned
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, written in ordered:
        place = {"dtype": _NAMES[written.dtype], "shape": list(written.value.shape)}
        header[name] = {**place, "data_offsets": [at, at + written.size]}
        at += written.size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, written in ordered:
            flat = written.value.detach().to("cpu", written.dtype).contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)
