"""Models of torch as ONNX files, by torch's own exporter."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from secateur.errors import InputError, VerificationError
from secateur.formats.onnx.check import close, distance_told, session
from secateur.formats.onnx.draws import random_like
from secateur.formats.onnx.read import require_packages
from secateur.formats.onnx.save import save_proto
from secateur.formats.onnx.tensors import to_proto
from secateur.graph.capture import as_module, first_line, quiet_export

Proto = Any


def exported(
    model: nn.Module,
    example: tuple[Tensor, ...],
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    free_batch: bool = False,
) -> Proto:
    """The model as an ONNX protobuf; axis 0 of its inputs is left open with `free_batch`. Raises `InputError`."""
    require_packages("onnx", "onnxscript")
    batch = tuple({0: Dim.DYNAMIC} if x.ndim else {} for x in example) if free_batch else None
    try:
        with quiet_export():
            program = torch.onnx.export(
                model,
                example,
                dynamo=True,
                dynamic_shapes=batch,
                input_names=input_names,
                output_names=output_names,
                verbose=False,
            )
    except Exception as error:
        raise InputError(f"torch cannot write the model as ONNX: {first_line(error)}") from error
    assert program is not None
    return program.model_proto


def export_onnx(path: str | os.PathLike[str], model: nn.Module | ExportedProgram, example: tuple[Tensor, ...]) -> None:
    """Write a model of torch to the `.onnx` file at `path`, its batch left open, after it has run in onnxruntime.

    Raises `InputError` where torch has no way to write it, `VerificationError` where onnxruntime computes another
    function.
    """
    require_packages("onnxruntime")
    module = as_module(model)
    names = ["input"] if len(example) == 1 else [f"input_{i}" for i in range(len(example))]
    proto = exported(module, example, names, free_batch=True)
    _check(proto, module, random_like(example))
    save_proto(path, proto)


def _check(proto: Proto, module: nn.Module, inputs: Sequence[Tensor]) -> None:
    """On random inputs, the file must compute what the module does."""
    fed = {value.name: to_proto(x, value.name) for value, x in zip(proto.graph.input, inputs, strict=True)}
    found = session(proto)([value.name for value in proto.graph.output], fed)
    with torch.no_grad():
        expected = [x for x in pytree.tree_leaves(module(*inputs)) if isinstance(x, Tensor)]
    for value, ours, theirs in zip(proto.graph.output, expected, found, strict=True):
        if not close(ours, theirs):
            raise VerificationError(
                f"the output {value.name!r} of the ONNX model that torch wrote, shape {tuple(theirs.shape)}, is not "
                f"that of the model, shape {tuple(ours.shape)}: {distance_told(ours, theirs)}. Nothing was written"
            )
