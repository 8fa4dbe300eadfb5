"""ONNX files to torch modules and back."""

from __future__ import annotations

import os
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from secateur.errors import InputError, SecateurError
from secateur.formats.onnx.as_is import OnnxFile
from secateur.formats.onnx.dequantise import dequantised
from secateur.formats.onnx.export import checked_export
from secateur.formats.onnx.imported import OnnxModel
from secateur.formats.onnx.read import check_ops, check_proto, read_proto
from secateur.formats.onnx.save import save_proto
from secateur.graph.example import ExampleInputs, at_least_two, split_inputs


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


def load_dequantised(path: str | os.PathLike[str]) -> OnnxModel:
    """The float model in a quantised `.onnx` file in the QDQ form; the file's model is its `quantized`.

    Raises `UnsupportedOpError` naming the nodes of any other quantised file.
    """
    read = read_proto(path, quantized="qdq")
    floating = dequantised(path, read)
    check_ops(path, floating)
    check_proto(path, floating)
    model = OnnxModel(floating)
    model.quantized = read
    return model


def save_onnx(path: str | os.PathLike[str], model: OnnxModel) -> None:
    """Write the model; weights that came from a file beside it go to `<path>.data`.

    The files appear whole or not at all.
    """
    save_proto(path, model.proto)


def save_as_onnx(
    path: str | os.PathLike[str], model: nn.Module | ExportedProgram, example_inputs: ExampleInputs | None
) -> None:
    """Write any model: one that was read from ONNX as it is, any other exported on `example_inputs`.

    Raises `InputError` for a missing example, and as `checked_export` does.
    """
    save_proto(path, proto_of(model, example_inputs))


def proto_of(model: nn.Module | ExportedProgram, example_inputs: ExampleInputs | None) -> Any:
    """Any model as an ONNX protobuf; see `save_as_onnx`."""
    if isinstance(model, OnnxModel | OnnxFile):
        return model.proto
    if example_inputs is None:
        raise InputError("example_inputs is needed to export a model: give one tensor of a legal input")
    args, kwargs = at_least_two(*split_inputs(example_inputs))
    return checked_export(model, args, kwargs)
