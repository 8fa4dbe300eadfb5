"""ONNX in and out: read a file into a torch module, check it against onnxruntime, write it back smaller."""

from __future__ import annotations

import os

from secateur.errors import SecateurError
from secateur.formats.onnx.check import check_import
from secateur.formats.onnx.export import export_onnx
from secateur.formats.onnx.imported import OnnxModel
from secateur.formats.onnx.read import read_proto
from secateur.formats.onnx.save import save_proto

__all__ = ["OnnxModel", "check_import", "export_onnx", "load_onnx", "save_onnx"]


def load_onnx(path: str | os.PathLike[str]) -> OnnxModel:
    """The model in the `.onnx` file at `path`, as a torch module in eval mode.

    Its parameters are the file's initializers, under their names. `prune` on it gives another one, which
    `save_onnx` writes. Raises `InputError` for a file that is no sound model, `UnsupportedOpError` naming all
    nodes that have no rule. Whether it computes what onnxruntime does is for `check_import` to say.
    """
    proto = read_proto(path)
    try:
        return OnnxModel(proto)
    except SecateurError as error:
        raise type(error)(f"{path}: {error}") from error


def save_onnx(path: str | os.PathLike[str], model: OnnxModel) -> None:
    """Write the model; weights that came from a file beside it go to `<path>.data`. The files appear whole or
    not.
    """
    save_proto(path, model.proto)
