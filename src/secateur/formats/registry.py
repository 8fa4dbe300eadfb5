"""The table of file formats, and the lookups in it."""

from __future__ import annotations

import os
from pathlib import Path

from secateur.formats.format import Format
from secateur.formats.huggingface.format import HUGGINGFACE
from secateur.formats.keras.format import KERAS, KERAS_HDF5
from secateur.formats.onnx.format import ONNX
from secateur.formats.pt2.format import PT2
from secateur.formats.safetensors.format import SAFETENSORS

FORMATS: dict[str, Format] = {f.name: f for f in (PT2, ONNX, KERAS, KERAS_HDF5, SAFETENSORS, HUGGINGFACE)}


def by_suffix(path: str | os.PathLike[str]) -> Format | None:
    """The format that the name of a file says."""
    suffix = Path(path).suffix.lower()
    return next((f for f in FORMATS.values() if suffix in f.suffixes), None)


def by_path(path: str | os.PathLike[str], source: Format | None) -> Format | None:
    """The format in which a model is written to a path: that of its suffix, else the folder it came from."""
    return by_suffix(path) or (source if source is not None and source.folder else None)


def format_of(model: object) -> Format | None:
    """The format of the file that a loaded model stands for; None for models of torch."""
    return next((f for f in FORMATS.values() if f.came_from(model)), None)


def suffixes_read() -> tuple[str, ...]:
    """Of files that hold a model."""
    return tuple(suffix for f in FORMATS.values() if f.load is not None for suffix in f.suffixes)


def suffixes_written() -> tuple[str, ...]:
    return tuple(suffix for f in FORMATS.values() if f.save is not None for suffix in f.suffixes)


def companions(path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Files that may belong to the model at `path`, whatever its format."""
    return tuple(dict.fromkeys(p for f in FORMATS.values() for p in f.companions(Path(path))))


def listed(suffixes: tuple[str, ...]) -> str:
    """`.pt2, .onnx or .safetensors`."""
    *first, last = suffixes
    return f"{', '.join(first)} or {last}" if first else last


def described(suffixes: tuple[str, ...]) -> str:
    """The same with what the files hold: `.pt2 (a program of torch.export), .onnx or …`."""
    rows = {suffix: f.holds for f in FORMATS.values() for suffix in f.suffixes}
    return listed(tuple(f"{s} ({rows[s]})" if rows[s] else s for s in suffixes))
