"""An ONNX protobuf as a file, or as two, its weights beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

from secateur.errors import InputError
from secateur.files import write_atomically, written_together
from secateur.formats.onnx.read import EXTERNAL, LIMIT, tensors_of

Proto = Any
_SMALLEST = 1024  # bytes of a tensor that is written outside
_ALIGNED = 4096  # bytes of which its place is a multiple


def save_proto(path: str | os.PathLike[str], proto: Proto) -> None:
    """Write the model; its weights go to `<path>.data` where they came from such a file or are too large.

    Every file appears whole or not at all, the weights before the model that names them. Raises `InputError`
    for a wrong path.
    """
    import onnx

    if Path(path).suffix.lower() != ".onnx":
        raise InputError(f"{path}: the name of an ONNX model must end in .onnx")
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    notes = [note for note in model.metadata_props if note.key != EXTERNAL]
    outside = len(notes) < len(model.metadata_props) or model.ByteSize() > LIMIT
    del model.metadata_props[:]
    model.metadata_props.extend(notes)
    with written_together():
        if outside:
            beside = f"{Path(path).name}.data"
            pieces = _moved_out(model, beside)
            write_atomically(Path(path).with_name(beside), lambda file: _write_pieces(file, pieces))
        write_atomically(path, lambda file: file.write(model.SerializeToString()))


def _moved_out(model: Proto, location: str) -> list[tuple[int, bytes]]:
    """References in place of the larger tensors; (offset, bytes) of each."""
    pieces, end = [], 0
    for tensor in tensors_of(model):
        data = tensor.raw_data
        if len(data) < _SMALLEST:
            continue
        start = -(-end // _ALIGNED) * _ALIGNED
        pieces.append((start, data))
        end = start + len(data)
        tensor.ClearField("raw_data")
        tensor.data_location = 1
        for key, value in (("location", location), ("offset", start), ("length", len(data))):
            tensor.external_data.add(key=key, value=str(value))
    return pieces


def _write_pieces(file: BinaryIO, pieces: list[tuple[int, bytes]]) -> None:
    for start, data in pieces:
        file.write(b"\0" * (start - file.tell()))
        file.write(data)
