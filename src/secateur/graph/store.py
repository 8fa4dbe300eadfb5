"""Where the values between two layers wait, batch by batch: in memory, or in a scratch file."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.errors import SecateurError
from secateur.memory import shown


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

    @property
    def leaves(self) -> list[Any]:
        """The parts of both."""
        return pytree.tree_leaves((self.original, self.pruned))


Values = dict[fx.Node, Both]


class Scratch:
    """A file for tensors without a name in the file system, so that it is gone with the process.

    `size`: bytes that it is going to take, for messages. Raises `SecateurError` where the disk is full.
    """

    def __init__(self, size: int) -> None:
        self._size, self._end, self._lock = size, 0, threading.Lock()
        with self._named():
            self._file: IO[bytes] = tempfile.TemporaryFile(prefix="secateur-", buffering=0)  # noqa: SIM115  # closed by `close`

    def write(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        content = leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        with self._lock:
            place = _Place(self, self._end, leaf.shape, leaf.dtype, leaf.device)
            self._file.seek(self._end)
            with self._named():
                _write_all(self._file, content.data)
            self._end += content.nbytes
        return place

    def read(self, place: _Place) -> Tensor:
        content = np.empty(place.shape.numel() * place.dtype.itemsize, dtype=np.uint8)
        with self._lock:
            self._file.seek(place.offset)
            _read_all(self._file, content.data)
        return torch.from_numpy(content).view(place.dtype).reshape(place.shape).to(place.device)

    def close(self) -> None:
        self._file.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors of the system name the folder, the bytes and the ways out."""
        try:
            yield
        except OSError as error:
            raise SecateurError(
                f"the scratch file for values between layers cannot be written in {_folder()}: "
                f"{error.strerror or error}; it takes {shown(self._size)}, of which {shown(self._end)} were "
                "written. Free as much there, name another folder (environment variable TMPDIR), or let the "
                "run take more memory, so that it needs no such file (memory=, --memory)"
            ) from error


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

    def begin(self, on_disk: bool, size: int = 0) -> Callable[[Values], Values]:
        """A new generation of `size` bytes; gives what its values must go through before `save`, in any
        thread.
        """
        if not on_disk:
            return lambda values: values
        file = Scratch(size)
        self._files.append(file)
        return lambda values: {node: value.mapped(file.write) for node, value in values.items()}

    def save(self, batch: int, values: Values) -> None:
        """Keep the values of a batch, those of workers as copies.

        The C library (glibc) gives each thread blocks of 64 MiB, of which a few values that stay would keep
        almost twice their size from being used again.
        """
        before = {id(leaf) for value in self._values[batch].values() for leaf in value.leaves}

        def kept(leaf: Any) -> Any:
            made = isinstance(leaf, Tensor) and leaf.device.type == "cpu" and id(leaf) not in before
            return leaf.clone() if made else leaf

        self._values[batch] = {node: value.mapped(kept) for node, value in values.items()}

    def drop_older(self, on_disk: bool) -> None:
        """Give the room of earlier generations back, once all batches are of the last."""
        kept = self._files[-1:] if on_disk else []
        for file in self._files[: len(self._files) - len(kept)]:
            file.close()
        self._files = kept


def _write_all(file: IO[bytes], content: memoryview) -> None:
    """In several calls: one writes at most 2 GiB, and less where the disk becomes full."""
    while content:
        content = content[file.write(content) :]


def _read_all(file: IO[bytes], content: memoryview) -> None:
    while content:
        count = file.readinto(content)  # type: ignore[attr-defined]
        if not count:
            raise SecateurError(f"the scratch file in {_folder()} was cut short while the run was using it")
        content = content[count:]


def _read(leaf: Any) -> Any:
    return leaf.file.read(leaf) if isinstance(leaf, _Place) else leaf


def scratch_room() -> int:
    """Bytes that scratch files may take: half of what is free where they are made; 0 where none can be."""
    try:
        return shutil.disk_usage(tempfile.gettempdir()).free // 2
    except OSError:
        return 0


def _folder() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:
        return "any folder for temporary files"
