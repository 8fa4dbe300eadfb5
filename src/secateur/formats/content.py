"""What the first bytes of a file tell about it, whatever its name says.

Nothing is loaded. Only the names of records are read of archives, only the numbers of the outermost fields of
protobufs, and only the names in folders.
"""

from __future__ import annotations

import os
import zipfile
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

_HEAD = 512  # bytes
_FIELDS = 256  # of a protobuf
_LENGTHS = {0: 0, 1: 8, 2: -1, 5: 4}  # wire type of a field → bytes of its value; −1: it begins with them
_ZIP = b"PK\x03\x04"


class Content:
    """A file, or a folder, that is looked at only as far as it is asked about."""

    def __init__(self, path: Path, file: BinaryIO | None) -> None:
        self.path, self._file = path, file
        self.head = b"" if file is None else file.read(_HEAD)
        self.size = 0 if file is None else os.fstat(file.fileno()).st_size

    def starts(self, *values: bytes, offset: int = 0) -> bool:
        """Whether one of the values stands at `offset`, in upper or lower case."""
        return any(self.head[offset : offset + len(v)].lower() == v.lower() for v in values)

    @property
    def is_folder(self) -> bool:
        return self._file is None

    def in_folder(self, pattern: str) -> bool:
        """Whether this is a folder with such a file."""
        return self.is_folder and any(self.path.glob(pattern))

    @cached_property
    def records(self) -> list[str] | None:
        """The names in a zip archive; None for other files, damaged archives, and archives inside others."""
        if self._file is None or not self.starts(_ZIP):
            return None
        try:
            with zipfile.ZipFile(self._file) as archive:
                infos = archive.infolist()
        except Exception:  # of a damaged archive, as many kinds as there are damages
            return None
        # The only complete archive in a file that was cut short may be one of its records.
        inside = min((info.header_offset for info in infos), default=0) > 0
        return None if inside else [info.filename for info in infos]

    @cached_property
    def names(self) -> frozenset[str]:
        """The names in a zip archive, also below its root folder; none for other files."""
        records = self.records or []
        return frozenset(records) | frozenset(name.partition("/")[2] for name in records)

    @cached_property
    def fields(self) -> dict[int, int]:
        """Number → wire type of the fields of a protobuf message; empty where the file is none."""
        return {} if self._file is None else _fields(self._file, self.size)


def _fields(file: BinaryIO, size: int) -> dict[int, int]:
    found = dict[int, int]()
    file.seek(0)
    for _ in range(_FIELDS):
        if file.tell() == size:
            return found
        tag = _varint(file)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 2**29 or wire not in _LENGTHS:
            return {}
        found[number] = wire
        length = _LENGTHS[wire]
        if wire == 0:
            _varint(file)
        elif length < 0:
            length = _varint(file)
        if file.tell() + length > size:
            return {}
        file.seek(length, os.SEEK_CUR)
    return found


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            return 0
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return 0
