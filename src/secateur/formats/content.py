"""What a file is by its first bytes, whatever its name says. Nothing is loaded; of archives only the names
are read.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import BinaryIO

_MAGIC: tuple[tuple[int, bytes, str], ...] = (  # offset, bytes, kind
    (0, b"GGUF", "gguf"),
    (0, b"ggml", "gguf"),
    (4, b"TFL3", "tflite"),
    (4, b"ORTM", "built"),
    (4, b"ET12", "built"),
    (0, b"\x89HDF\r\n\x1a\n", "keras"),
    (0, b"\x1f\x8b", "archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "archive"),
    (0, b"BZh", "archive"),
    (0, b"\xfd7zXZ\x00", "archive"),
    (257, b"ustar", "archive"),
    (0, b"version https://git-lfs", "lfs"),
    (0, b"<!DOCTYPE html", "web"),
    (0, b"<html", "web"),
    *((0, bytes((0x80, protocol)), "pickle") for protocol in (2, 3, 4, 5)),
)
_IN_FOLDER: tuple[tuple[str, str], ...] = (
    ("saved_model.pb", "savedmodel"),
    ("config.json", "huggingface"),
    ("Manifest.json", "mlpackage"),
    ("*.pdmodel", "paddle"),
)
_HEAD = 512  # bytes that are looked at
_FIELDS = 256  # of a protobuf


def kind_by_content(path: str | os.PathLike[str]) -> str:
    """A key of `foreign.FOREIGN`, `pt2`, `onnx` or `safetensors`; empty where the file is absent or not
    known.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return next((kind for pattern, kind in _IN_FOLDER if any(path.glob(pattern))), "folder")
        with open(path, "rb") as file:
            return _kind(file, os.fstat(file.fileno()).st_size)
    except (OSError, ValueError):  # absent, or no path at all
        return ""


def _kind(file: BinaryIO, size: int) -> str:
    head = file.read(_HEAD)
    for offset, magic, kind in _MAGIC:
        if head[offset : offset + len(magic)].lower() == magic.lower():
            return kind
    if head[:4] == b"PK\x03\x04":
        return _kind_of_zip(file)
    if head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") < size:
        return "safetensors"
    return _kind_of_protobuf(file, size)


def _kind_of_zip(file: BinaryIO) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            paths, starts = archive.namelist(), [info.header_offset for info in archive.infolist()]
    except Exception:  # of a damaged archive, as many kinds as there are damages
        return ""
    if min(starts, default=0) > 0:  # an archive within one that was cut short
        return ""
    names = {path.partition("/")[2] for path in paths} | set(paths)
    if {"archive_format", "models/model.json"} & names or any(
        "serialized_exported_program" in n for n in names
    ):
        return "pt2"
    if "data.pkl" in names:
        return "torchscript" if any(name.startswith("code/") for name in names) else "pickle"
    if {"model.weights.h5", "metadata.json"} <= names:
        return "keras"
    if "Manifest.json" in names and any("com.apple.CoreML" in name for name in names):
        return "mlpackage"
    return "arrays" if paths and all(path.endswith(".npy") for path in paths) else "archive"


def _kind_of_protobuf(file: BinaryIO, size: int) -> str:
    """ONNX, TensorFlow and Core ML tell themselves apart by the numbers and types of their outermost
    fields.
    """
    fields = _fields(file, size)
    if fields.get(1) == 0 and fields.get(7) == 2 and fields.get(8) == 2:  # IR version, graph, opsets
        return "onnx"
    if fields.get(1) == 0 and any(number >= 200 for number in fields):
        return "coreml"
    return ""


def _fields(file: BinaryIO, size: int) -> dict[int, int]:
    """Number → wire type of the fields of a protobuf message; empty where the file is none."""
    found = dict[int, int]()
    file.seek(0)
    for _ in range(_FIELDS):
        if file.tell() == size:
            return found
        tag = _varint(file)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 2**29 or wire not in (0, 1, 2, 5):
            return {}
        found[number] = wire
        length = {0: 0, 1: 8, 2: -1, 5: 4}[wire]
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
