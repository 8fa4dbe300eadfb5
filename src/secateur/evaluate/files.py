"""Models that are files, run by onnxruntime as they are."""

from __future__ import annotations

from torch import nn

from secateur.formats.format import Runtime
from secateur.formats.onnx.as_is import OnnxFile
from secateur.inputs import Normalised


def inner(module: nn.Module) -> nn.Module:
    """The model itself, without the normalisation before it."""
    return module.model if isinstance(module, Normalised) else module


def onnx_file(module: nn.Module) -> OnnxFile | None:
    """The file, where the model is one."""
    found = inner(module)
    return found if isinstance(found, OnnxFile) else None


def computed_in(module: nn.Module) -> Runtime:
    """What computes the outputs that are measured."""
    return "torch" if onnx_file(module) is None else "onnxruntime"
