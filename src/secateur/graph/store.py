"""Where the values between two layers wait, batch by batch: in memory, or in a scratch file."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree


@dataclass(frozen=True, eq=False)
class Both:
    """A value in the original and in the pruned network; one object as long as nothing differs."""

    original: Any
    pruned: Any

    def mapped(self, function: Callable[[Any], Any]) -> Both:
        """The same, with all tensors replaced."""
        original = pytree.tree_map(function, self.original)
        same = self.pruned is self.original
        return Both(original, original if same else pytree.tree_map(function, self.pruned))


Values = dict[fx.Node, Both]


class Scratch:
    """A file for tensors without a name in the file system, so that it is gone with the process."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="secateur-", buffering=0)  # noqa: SIM115  # closed by `close`
        self._end, self._lock = 0, threading.Lock()

    def write(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        content = leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        with self._lock:
            place = _Place(self, self._end, leaf.shape, leaf.dtype, leaf.device)
            self._file.seek(self._end)
            self._file.write(content.data)
            self._end += content.nbytes
        return place

    def read(self, place: _Place) -> Tensor:
        content = np.empty(place.shape.numel() * place.dtype.itemsize, dtype=np.uint8)
        with self._lock:
            self._file.seek(place.offset)
            self._file.readinto(content)  # type: ignore[attr-defined]
        return torch.from_numpy(content).view(place.dtype).reshape(place.shape).to(place.device)

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a tensor lies in a scratch file."""

    file: Scratch
    offset: int
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


class Store:
    """The values of each batch; a new generation replaces the last, batch by batch."""

    def __init__(self, batches: int) -> None:
        self._values: list[Values] = [{} for _ in range(batches)]
        self._files: list[Scratch] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._values.clear()
        for file in self._files:
            file.close()

    def load(self, batch: int) -> Values:
        """The values of a batch; the caller may add and remove some."""
        return {node: value.mapped(_read) for node, value in self._values[batch].items()}

    def begin(self, on_disk: bool) -> Callable[[Values], Values]:
        """A new generation; gives what its values must go through before `save`, in any thread."""
        if not on_disk:
            return lambda values: values
        file = Scratch()
        self._files.append(file)
        return lambda values: {node: value.mapped(file.write) for node, value in values.items()}

    def save(self, batch: int, values: Values) -> None:
        self._values[batch] = values

    def drop_older(self, on_disk: bool) -> None:
        """Give the room of earlier generations back, once all batches are of the last."""
        kept = self._files[-1:] if on_disk else []
        for file in self._files[: len(self._files) - len(kept)]:
            file.close()
        self._files = kept


def _read(leaf: Any) -> Any:
    return leaf.file.read(leaf) if isinstance(leaf, _Place) else leaf


def scratch_room() -> int:
    """Bytes that scratch files may take: half of what is free where they are made."""
    return shutil.disk_usage(tempfile.gettempdir()).free // 2
