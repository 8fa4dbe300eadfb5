"""Models of torch as ONNX protobufs, by torch's own exporter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from secateur.errors import InputError, VerificationError
from secateur.formats.onnx.check import close, distance_told, session
from secateur.formats.onnx.draws import random_like
from secateur.formats.onnx.read import require_packages
from secateur.formats.onnx.tensors import to_proto
from secateur.graph.example import tensors_in
from secateur.graph.export import as_module, export_program, first_line, quiet_export
from secateur.graph.structured import flat_tensors

Proto = Any


def exported(
    model: nn.Module | ExportedProgram,
    example: tuple[Tensor, ...] = (),
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Proto:
    """The model as an ONNX protobuf; a module's inputs have the sizes of the example. Raises `InputError`."""
    require_packages("onnx", "onnxscript")
    try:
        with quiet_export():
            program = torch.onnx.export(
                model,
                example,
                dynamo=True,
                input_names=input_names,
                output_names=output_names,
                verbose=False,
            )
    except Exception as error:
        raise InputError(f"torch cannot write the model as ONNX: {_reason(error)}") from error
    assert program is not None
    return program.model_proto


def _reason(error: BaseException) -> str:
    """The first error of the chain: torch's exporter wraps it into advice on how to report it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def checked_export(
    model: nn.Module | ExportedProgram, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> Proto:
    """A model of torch as an ONNX protobuf with a batch of any size, compared with it in onnxruntime.

    Keyword arguments are inputs of their names; arguments that are no tensors are constants of the graph.
    Raises `InputError` where torch has no way to write it, `VerificationError` where onnxruntime computes
    another function.
    """
    require_packages("onnxruntime")
    module, named = as_module(model), dict(kwargs or {})
    program = export_program(module, args, named, to_file=True)
    names = [*_numbered(len(tensors_in(args))), *_keyed(named)]
    proto = exported(program, input_names=names)
    _check(proto, module, args, named, names)
    return proto


def _numbered(count: int) -> list[str]:
    return ["input"] if count == 1 else [f"input_{i}" for i in range(count)]


def _keyed(kwargs: Mapping[str, Any]) -> list[str]:
    """The name of each tensor: its argument's, with its keys or numbers where the argument holds several."""
    found = pytree.tree_flatten_with_path(kwargs)[0]
    return ["_".join(str(_key(part)) for part in path) for path, x in found if isinstance(x, Tensor)]


def _key(part: Any) -> Any:
    return next(getattr(part, name) for name in ("key", "idx", "name") if hasattr(part, name))


def _check(
    proto: Proto, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], names: Sequence[str]
) -> None:
    """On random inputs, the file must compute what the module does."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    drawn = iter(inputs := random_like([x for x in leaves if isinstance(x, Tensor)]))
    args, kwargs = pytree.tree_unflatten([next(drawn) if isinstance(x, Tensor) else x for x in leaves], spec)
    wanted = {value.name for value in proto.graph.input}
    fed = {name: to_proto(x, name) for name, x in zip(names, inputs, strict=True) if name in wanted}
    found = session(proto)([value.name for value in proto.graph.output], fed)
    with torch.no_grad():
        expected = flat_tensors(module(*args, **kwargs))
    for value, ours, theirs in zip(proto.graph.output, expected, found, strict=True):
        if not close(ours, theirs):
            raise VerificationError(
                f"the output {value.name!r} of the ONNX model that torch wrote, shape {tuple(theirs.shape)}, "
                f"is not that of the model, shape {tuple(ours.shape)}: {distance_told(ours, theirs)}. "
                "Nothing was written"
            )
