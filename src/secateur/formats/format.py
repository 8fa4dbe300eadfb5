"""What a file format is: the one object that a format adds to the registry.

Nothing here imports torch or a format's own library, since the command line makes its help from these
objects. The functions of a format import what they need when they are called.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from secateur.formats.content import Content

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from secateur.graph.example import ExampleInputs

    Model = nn.Module | ExportedProgram

PathLike = str | os.PathLike[str]
Runtime = Literal["torch", "onnxruntime"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)


def _never(model: object) -> bool:
    return False


def _none(path: Path) -> tuple[Path, ...]:
    return ()


def _nothing_needed(source: str) -> None:
    return None


@dataclass(frozen=True)
class Format:
    """A format of model files. `registry.FORMATS` has one row for each.

    `load` raises `InputError` for damaged and hostile files, and never unpickles or executes what a file
    holds. `save` writes a file whole or not at all (`files.write_atomically`), and raises `InputError` for
    models that the format cannot hold. None stands for a format that is not read as a model, or not written.
    """

    name: str  # the key in the registry
    suffixes: tuple[str, ...]  # in lower case; the first is the usual one; none for folders
    matches: Callable[[Content], bool]  # whether a file is one, by its content
    folder: bool = False  # whether a model is a folder and not a file
    holds: str = ""  # what such a file holds, where the suffix does not say it
    magic: tuple[int, bytes] | None = None  # offset and value of bytes that all files of the format share

    load: Callable[[str], Model] | None = None
    save: Callable[[PathLike, Model, ExampleInputs | None], None] | None = None
    check_packages: Callable[[str], None] = _nothing_needed  # for saving, from the format of that name
    companions: Callable[[Path], tuple[Path, ...]] = _none  # files that may belong to the one at a path

    came_from: Callable[[object], bool] = _never  # whether a loaded model stands for a file of this format
    runtime: Runtime = "torch"  # where models of this format are usually run
    proto: Callable[[Any], Any] | None = None  # the ONNX protobuf of a path, or of a model that came from one
    fixed_batch: Callable[[Any], int | None] | None = None  # the only batch size that such a model takes

    def can_be(self, head: bytes) -> bool:
        """Whether a file with these first bytes may be of this format."""
        offset, value = self.magic or (0, b"")
        return head[offset : offset + len(value)] == value
