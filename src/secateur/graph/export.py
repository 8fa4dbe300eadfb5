"""torch.export, with the batch axis left free, quiet, and with reasons that a user can act on."""

from __future__ import annotations

import gc
import inspect
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram, ShapesCollection, export
from torch.fx import config as fx_settings

from secateur.errors import CaptureError, few
from secateur.graph.example import tensors_in
from secateur.graph.fitness import FLOAT_FIRST, check_kind
from secateur.graph.imported import Imported
from secateur.graph.sources import source_of_error
from secateur.graph.structured import is_known, is_plain, with_plain_outputs
from secateur.torch_state import ALONE, EXPORTING, no_fast_path

_FAILURES: tuple[tuple[tuple[str, ...], str], ...] = (  # words in an error or its class → what to do
    (
        ("data-dependent", "DataDependent", "DynamicOutputShape"),
        "Control flow that depends on tensor values has no static graph; rewrite it with torch.where or "
        "torch.cond, or prune the part without it",
    ),
    (("quantize",), f"The model is quantised. {FLOAT_FIRST}"),
    (("numpy",), "Values that leave torch for NumPy cannot be followed; use torch's functions"),
    (
        ("UnsupportedOperator", "fake impl", "Meta' backend", "fake tensor"),
        "An op of another library needs a fake kernel (torch.library.register_fake) to be captured, or "
        "torch's own ops in its place",
    ),
    (("", ), "torch.export.export(model, args, strict=False) shows all of the reason; rewrite that part of "
     "forward, or prune the part of the model without it"),
)  # fmt: skip


@contextmanager
def quiet_export() -> Iterator[None]:
    """Export without the fused path of attention, without gradients and without torch's own messages.

    Gradients are off so that `no_grad` blocks leave no subgraphs. One thread at a time: torch.export keeps
    state of the process.
    """
    with ALONE, EXPORTING, no_fast_path(), torch.no_grad():
        silenced = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.disable(silenced)


def export_program(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], to_file: bool = False
) -> ExportedProgram:
    """The program of a model that runs on these inputs, its batch left free.

    `to_file`: one that returns tensors in plain containers alone. Raises `CaptureError`.
    """
    with ALONE:
        return _exported(model, args, kwargs, to_file)


def _exported(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], to_file: bool
) -> ExportedProgram:
    check_kind(model)
    output = _tried(model, args, kwargs)
    readable = is_plain(output) if to_file else is_known(output)
    tensors, free = tensors_in((args, kwargs)), ShapesCollection()
    for x in tensors:
        if x.ndim and x.shape[0] == tensors[0].shape[0]:
            free[x] = {0: Dim.AUTO}
    try:
        with quiet_export(), _collector_paused(), _source_lines(not isinstance(model, Imported)):
            traced = model if readable else with_plain_outputs(model)
            return export(traced, args, kwargs, dynamic_shapes=free, strict=False)  # type: ignore[arg-type]
    except CaptureError:
        raise
    except Exception as error:
        at = source_of_error(error)
        raise CaptureError(
            f"torch.export cannot capture {type(model).__name__}: {first_line(error).rstrip('.')}"
            f"{f' ({at})' if at else ''}. {_advice(error)}"
        ) from error


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause the garbage collector, which takes 15 % of the time: an export makes millions of objects."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def _source_lines(wanted: bool) -> Iterator[None]:
    """Whether nodes know the line that made them. Those of an importer tell a user nothing, and take time."""
    name = "do_not_emit_stack_traces"  # not in older versions of torch, where it does nothing
    before = getattr(fx_settings, name, False)
    setattr(fx_settings, name, before or not wanted)
    try:
        yield
    finally:
        setattr(fx_settings, name, before)


def _tried(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The model's output on the example; `CaptureError` where it fails or changes the buffers."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.no_grad():
            output = model(*args, **kwargs)
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in tensors_in((args, kwargs)))
        raise CaptureError(
            f"the model refuses the example inputs of shape {shapes}: {first_line(error)}. "
            "Axis 0 must be the batch; check the shape, the dtype and the number of inputs"
        ) from error
    changed = [name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])]
    if changed:
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])
        raise CaptureError(
            f"the model changes its own buffers when it runs ({few(changed)}); a static graph cannot"
        )
    return output


def _advice(error: Exception) -> str:
    said = f"{type(error).__name__} {error}"
    return next(advice for words, advice in _FAILURES if any(word in said for word in words))


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def unlifted(program: ExportedProgram) -> nn.Module:
    """The program as a module that holds its own tensors, without guards on its inputs."""
    unguarded = (
        {"check_guards": False} if "check_guards" in inspect.signature(program.module).parameters else {}
    )
    return program.module(**unguarded)


def as_module(model: nn.Module | ExportedProgram) -> nn.Module:
    """The model as a module in eval mode."""
    if isinstance(model, nn.Module):
        return model
    module = unlifted(model)
    for part in module.modules():  # an exported graph has its mode baked in
        part.training = False
    return module
