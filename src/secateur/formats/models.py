"""Models in and out, by the name of the file: one branch for each format."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn
from torch.export import ExportedProgram

from secateur.arguments import MODEL, PATH, parsed
from secateur.errors import InputError
from secateur.formats.foreign import refuse_foreign
from secateur.formats.onnx import load_onnx, save_onnx
from secateur.formats.onnx.export import export_onnx
from secateur.formats.onnx.imported import OnnxModel
from secateur.formats.torch import load_factory, load_program, save_program, save_weights
from secateur.graph.example import ExampleInputs, at_least_two, split_inputs
from secateur.torch_state import ALONE


def load_model(
    source: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None
) -> nn.Module | ExportedProgram:
    """The model that `source` names: a `.pt2` or `.onnx` file, or `package.module:factory` (with `weights`).

    What a file is, its first bytes tell before its name. Raises `InputError`, with what to do, for other
    formats.
    """
    text = os.fspath(parsed("source", source, PATH))
    kind = refuse_foreign(text)
    if kind in ("pt2", "onnx"):
        if weights is not None:
            raise InputError(f"{text} holds its own weights; leave {weights} out")
        return load_program(text) if kind == "pt2" else load_onnx(text)
    if ":" in text and kind != "safetensors":
        return load_factory(text, weights)
    absent = "" if os.path.exists(text) else "; there is no such file"
    raise InputError(
        f"{text}: give a .pt2 or .onnx file, or package.module:factory together with a .safetensors file of "
        f"weights{absent}"
    )


def save_model(
    path: str | os.PathLike[str],
    model: nn.Module | ExportedProgram,
    example_inputs: ExampleInputs | None = None,
) -> None:
    """Write the model as the name of the file says: `.pt2`, `.onnx`, or `.safetensors` (weights alone).

    A model that was read from ONNX is written as that file made smaller; any other is exported by torch.
    Raises as `save_program` does, and `VerificationError` where onnxruntime computes another function than
    the model.
    """
    parsed("model", model, MODEL)
    suffix = Path(parsed("path", path, PATH)).suffix.lower()
    with ALONE:
        if suffix == ".safetensors" and isinstance(model, nn.Module):
            save_weights(path, model)
        elif suffix != ".onnx":
            save_program(path, model, example_inputs)
        elif isinstance(model, OnnxModel):
            save_onnx(path, model)
        else:
            if example_inputs is None:
                raise InputError(
                    "example_inputs is needed to export a model: give one tensor of a legal input"
                )
            args, kwargs = at_least_two(*split_inputs(example_inputs))
            export_onnx(path, model, args, kwargs)
