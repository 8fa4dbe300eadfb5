"""A `.keras` archive opened, with every record known to be plain data of the size that it declares."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NoReturn

from secateur.budget import budget
from secateur.errors import InputError
from secateur.formats.zipped import opened_zip, records_of
from secateur.graph.export import first_line

JSON_LIMIT = 64 << 20  # bytes of a record of JSON; a network of 1,000 layers needs 2 MiB
CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_NEEDED = (METADATA, CONFIG, WEIGHTS)
_PIECE = 1 << 20
_HEADER = 30  # bytes of the header of a record, before its name and its extra field
_EXPANSION = 1000  # bytes of a record for each byte in which it is compressed
_AGAIN = "If you trust the file, load and save it in Keras again"


class Archive:
    """The records of a zip file by name."""

    def __init__(self, path: str | os.PathLike[str], source: zipfile.ZipFile, file: BinaryIO) -> None:
        self.path, self.source, self.file = path, source, file
        infos = records_of(source)
        for info in infos:
            self._check(info)
        self.records = {info.filename: info for info in infos}
        if len({name.lower() for name in self.records}) != len(infos):
            self.refuse("the list of records", "holds the same name twice")
        for name in _NEEDED:
            if name not in self.records:
                self.refuse(name, f"is missing: a .keras file holds {', '.join(_NEEDED)}")
        for name in self.records:
            if name not in _NEEDED:
                self.refuse(name, "is a record that no layer with a rule needs")

    def _check(self, info: zipfile.ZipInfo) -> None:
        name = info.filename
        if "\\" in name or name.startswith("/") or ":" in name or {"", ".", ".."} & set(name.split("/")):
            self.refuse(name, "has an absolute name or steps out of the archive")
        if info.flag_bits & 1:
            self.refuse(name, "is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            self.refuse(name, "is compressed by another way than deflate")
        stored = info.compress_type == zipfile.ZIP_STORED
        if info.file_size > info.compress_size * (1 if stored else _EXPANSION) or info.file_size > budget():
            self.refuse(
                name,
                f"declares {info.file_size:,} bytes and holds {info.compress_size:,}; at most {budget():,} "
                "are read",
            )

    def refuse(self, part: str, why: str) -> NoReturn:
        raise InputError(f"{self.path}: {part} {why}. {_AGAIN}")

    def read(self, name: str, limit: int) -> bytes:
        info = self.records[name]
        if info.file_size > limit:
            self.refuse(name, f"is larger than {limit:,} bytes")
        with self.source.open(info) as record:
            content = record.read(info.file_size + 1)
        if len(content) != info.file_size:
            self.refuse(name, f"holds more than the {info.file_size:,} bytes that it declares")
        return content

    def json(self, name: str) -> Any:
        try:
            return json.loads(self.read(name, JSON_LIMIT).decode())
        except (ValueError, RecursionError) as error:
            self.refuse(name, f"is not the JSON that Keras writes ({first_line(error)})")

    def weights(self) -> BinaryIO | io.RawIOBase:
        """The record of weights as a file, checked against its sum; copied only where it is compressed."""
        info = self.records[WEIGHTS]
        if info.compress_type != zipfile.ZIP_STORED:
            return io.BytesIO(self.read(WEIGHTS, budget()))
        self.source.open(info).close()  # checks the header of the record itself
        self.file.seek(info.header_offset)
        header = self.file.read(_HEADER)
        start = (
            info.header_offset + _HEADER + sum(int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
        )
        window = Window(self.file, start, info.file_size)
        found = 0
        while piece := window.read(_PIECE):
            found = zlib.crc32(piece, found)
        if found != info.CRC:
            raise zipfile.BadZipFile(f"bad CRC-32 of {WEIGHTS}")
        window.seek(0)
        return window


class Window(io.RawIOBase):
    """Bytes `start` to `start + size` of an open file, as a file."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        super().__init__()
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        room = memoryview(buffer).cast("B")
        count = max(0, min(len(room), self._size - self._at))
        self._file.seek(self._start + self._at)
        done = self._file.readinto(room[:count])  # type: ignore[attr-defined]
        self._at += done
        return int(done)


@contextmanager
def opened_archive(path: str | os.PathLike[str]) -> Iterator[Archive]:
    with opened_zip(path, ".keras", "save") as (source, file):
        yield Archive(path, source, file)
