"""Models and data in and out of files. Nothing here unpickles, compiles or evaluates what a file holds."""

from secateur.formats.arrays import load_arrays
from secateur.formats.models import load_model, save_model
from secateur.formats.onnx import load_onnx, save_onnx
from secateur.formats.onnx.imported import OnnxModel
from secateur.formats.torch import load_factory, load_program, save_program

__all__ = [
    "OnnxModel",
    "load_arrays",
    "load_factory",
    "load_model",
    "load_onnx",
    "load_program",
    "save_model",
    "save_onnx",
    "save_program",
]
