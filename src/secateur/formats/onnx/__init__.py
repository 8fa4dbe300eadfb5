"""ONNX in and out: read a file into a torch module, check it against onnxruntime, write it back smaller."""

from __future__ import annotations

import os

from secateur.formats.onnx.check import check_import
from secateur.formats.onnx.export import export_onnx
from secateur.formats.onnx.model import OnnxModel
from secateur.formats.onnx.read import read_proto
from secateur.formats.onnx.save import save_proto
from secateur.formats.onnx.write import shrunk

__all__ = ["OnnxModel", "check_import", "export_onnx", "load_onnx", "save_onnx", "shrunk"]


def load_onnx(path: str | os.PathLike[str]) -> OnnxModel:
    """The model in the `.onnx` file at `path`, as a torch module in eval mode.

    Its parameters are the file's initializers, under their names. `prune` on it gives another one, which `save_onnx`
    writes. Raises `InputError` for a file that is no sound model, `UnsupportedOpError` naming all nodes that have no
    rule. Whether it computes what onnxruntime does is for `check_import` to say.
    """
    return OnnxModel(read_proto(path))


def save_onnx(path: str | os.PathLike[str], model: OnnxModel) -> None:
    """Write the model; weights that came from a file beside it go to `<path>.data`. The files appear whole or not."""
    save_proto(path, model.proto)
