"""From options to what the library takes: models and their inputs.

Imports torch, so import it only inside of functions.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from secateur.budget import check_input
from secateur.data import load_data, load_text
from secateur.data.tokenizer import is_text, tokenizer_path
from secateur.errors import InputError
from secateur.formats.kinds import kind_of
from secateur.formats.models import load_model
from secateur.formats.onnx.imported import OnnxModel
from secateur.formats.onnx.read import QuantizedFileError
from secateur.formats.registry import FORMATS, by_path
from secateur.graph.example import tensors_in
from secateur.graph.imported import Imported
from secateur.inputs import InputSpec, numbers, read_inputs

LENGTH = 128  # tokens of a sequence, where the model does not tell
_DTYPES = (
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
)


def model_from(source: str, weights: Path | None = None) -> nn.Module | ExportedProgram:
    """The model that `source` names.

    The current folder is searched for modules only where a factory is named: beside a model that someone
    sent, an `onnx.py` would be run in place of the library.
    """
    if ":" in source and not os.path.exists(source):
        sys.path.insert(0, "")
    return load_model(source, weights)


def float_model_from(source: str, weights: Path | None = None) -> tuple[nn.Module | ExportedProgram, bool]:
    """The model that `source` names, and whether it is the float form of a quantised file."""
    try:
        return model_from(source, weights), False
    except QuantizedFileError:
        from secateur.formats.onnx.files import load_dequantised

        return load_dequantised(source), True


def measured_from(
    source: str, weights: Path | None = None, attacked: bool = False
) -> nn.Module | ExportedProgram:
    """The model that `source` names, to be measured.

    Quantised files, and those in half precision unless they are attacked, are run by onnxruntime as they are.
    """
    from secateur.formats.onnx.as_is import load_as_is

    try:
        found = model_from(source, weights)
    except QuantizedFileError:
        return load_as_is(source)
    return load_as_is(source) if _is_half(found) and not attacked else found


def _is_half(model: nn.Module | ExportedProgram) -> bool:
    """Whether a model from ONNX stores weights in half precision."""
    if not isinstance(model, OnnxModel):
        return False
    return any(value.dtype in (torch.float16, torch.bfloat16) for value in model.constants.values())


def inputs_from(
    model: str,
    bounds: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    normalize: str | None = None,
    shapes: list[str] | None = None,
) -> InputSpec:
    """What is said of the model's inputs, in options or in the file beside it."""
    ends = numbers(bounds, "--input-bounds")
    if ends is not None and len(ends) != 2:
        raise InputError(f"--input-bounds {bounds}: give two numbers, low,high")
    return read_inputs(
        model,
        input_bounds=ends,
        mean=numbers(mean, "--mean"),
        std=numbers(std, "--std"),
        normalize=normalize,
        example_shape=shapes or None,
    )


def example_from(model: nn.Module | ExportedProgram, given: InputSpec) -> tuple[Any, ...] | dict[str, Any]:
    """Two samples of every input: halfway in the box (their values do not matter), zeros for integers."""
    if given.example_shape:
        return tuple(_sample(text, sum(given.input_bounds) / 2) for text in given.example_shape)
    if isinstance(model, Imported):
        return model.example_inputs
    if isinstance(model, ExportedProgram) and model.example_inputs is not None:
        args, kwargs = model.example_inputs
        if not args or not kwargs:
            return kwargs if kwargs else tuple(args)
    raise InputError("give the shape of an input: --example-shape 3,32,32 (without the batch axis)")


def _sample(text: str, value: float) -> Tensor:
    sizes, _, dtype_name = text.partition(":")
    dtype = getattr(torch, dtype_name or "float32", None)
    try:
        shape = [int(size) for size in sizes.split(",") if size]
    except ValueError:
        shape = [0]
    if any(size < 1 for size in shape) or dtype not in _DTYPES:
        raise InputError(
            f"--example-shape {text}: write sizes as 3,32,32, with a type where needed as 16:int64"
        )
    check_input(f"--example-shape {text}", (2, *shape), dtype)
    return torch.full((2, *shape), value if dtype.is_floating_point else 0, dtype=dtype)


def data_from(
    path: Path,
    model: nn.Module | ExportedProgram,
    given: InputSpec,
    limit: int | None = None,
    tokenizer: Path | None = None,
    length: int | None = None,
) -> dict[str, Tensor]:
    """Images, and labels where there are any; those of a folder in the shape that the model takes.

    A text becomes ids of tokens, in sequences of `length` or, by default, as long as the model takes them.
    """
    try:
        known = tensors_in(example_from(model, given))
    except InputError:  # a module from a factory does not tell it
        known = []
    if is_text(path):
        lengths = [x.shape[1] for x in known if x.ndim == 2]
        return {"images": load_text(path, tokenizer, length or max(lengths, default=LENGTH), limit)}
    if len(known) > 1:
        raise InputError(
            f"{path}: data are read for models of one input, and this one takes {len(known)}. How far a "
            "pruned model agrees with its original is measured by `secateur prune --calibration`, with an "
            ".npz file that has an array for each input"
        )
    shape = tuple(known[0].shape[1:]) if known else None
    whole = not known[0].is_floating_point() if known else None
    return load_data(path, image_shape=shape, bounds=given.input_bounds, limit=limit, whole=whole)


def tokenizer_of(model: str, given: Path | None) -> Path | None:
    """The tokenizer's file that was given, or the one in the model's folder."""
    return given if given is not None or not os.path.exists(model) else tokenizer_path(model)


def shape_text(shape: tuple[int, ...], dtype: str) -> str:
    """As for --example-shape, of a shape with its batch axis."""
    return f"{','.join(map(str, shape[1:]))}:{dtype}"


def check_packages(model: str, output: Path) -> None:
    """Raise `InputError`, before the work begins, where a package that writes the output is not installed."""
    source = kind_of(model)
    found = by_path(output, FORMATS.get(source))
    if found is not None:
        found.check_packages(source)
