"""How long a model takes for one sample, before and after, side by side."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from secateur.errors import InputError
from secateur.evaluate.cost import latency_ms
from secateur.evaluate.runtime import RUNTIMES, Runtime, session_pass
from secateur.formats.onnx.check import inference_session
from secateur.formats.onnx.export import exported
from secateur.formats.onnx.imported import OnnxModel
from secateur.formats.onnx.read import read_proto
from secateur.graph.example import ExampleInputs, at_least_two, split_inputs
from secateur.graph.export import as_module, export_program, first_line
from secateur.torch_state import ALONE, EXPORTING

Timed = nn.Module | ExportedProgram | str | os.PathLike[str]

_REPEATS, _SECONDS = 50, 3.0  # of each model, but no more turns once both together have taken so long


@dataclass(frozen=True)
class Latency:
    """Median milliseconds of a pass of one sample."""

    before: float
    after: float
    runtime: Runtime

    @property
    def fell(self) -> bool:
        return self.after < self.before


def latency(
    before: Timed,
    after: Timed,
    example_inputs: ExampleInputs | None = None,
    *,
    runtime: Runtime | None = None,
) -> Latency:
    """Time two models on one sample of `example_inputs`, on the CPU, in turns.

    A model is a module, an exported program, or the path of an `.onnx` file. `runtime` is `torch` or
    `onnxruntime` (default: onnxruntime where one of the models came as ONNX); a model of torch is exported
    for onnxruntime. A batch that an ONNX model fixes is filled with copies of the sample. `example_inputs`
    may be left out where `before` knows its own. Raises `InputError` for a model that cannot be run there.
    """
    if runtime is None:
        runtime = "onnxruntime" if _is_onnx(before) or _is_onnx(after) else "torch"
    if runtime not in RUNTIMES:
        raise InputError(f"runtime={runtime!r}; there are {' and '.join(RUNTIMES)}")
    if example_inputs is None:
        example_inputs = getattr(before, "example_inputs", None)
        if isinstance(before, ExportedProgram) and example_inputs is not None:
            example_inputs = example_inputs[0] or example_inputs[1]
    if example_inputs is None:
        raise InputError("example_inputs is needed: give one tensor of a legal input, or a tuple of them")
    passes = [_forward_pass(model, example_inputs, runtime) for model in (before, after)]
    first, second = latency_ms(passes, torch.device("cpu"), repeats=_REPEATS, warm_up=1, limit_s=_SECONDS)
    return Latency(first, second, runtime)


def _is_onnx(model: Timed) -> bool:
    return isinstance(model, OnnxModel | str | os.PathLike)


def _forward_pass(model: Timed, example_inputs: ExampleInputs, runtime: Runtime) -> Callable[[], object]:
    """A pass of one sample that has run once."""
    args, kwargs = pytree.tree_map(_first, split_inputs(example_inputs))
    if runtime == "onnxruntime":
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        run = session_pass(inference_session(_proto(model, example_inputs)), tensors)
    elif isinstance(model, nn.Module | ExportedProgram):
        with ALONE:
            module = as_module(model)
        run = partial(_alone, module, args, kwargs)
    else:
        raise InputError(f"{model} cannot be timed in torch; load it with load_model, or take onnxruntime")
    try:
        with torch.no_grad():
            run()
    except Exception as error:
        raise InputError(f"{runtime} cannot run the model on one sample: {first_line(error)}") from error
    return run


def _alone(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    with EXPORTING:
        return module(*args, **kwargs)


def _first(x: Any) -> Any:
    return x[:1].cpu() if isinstance(x, Tensor) and x.ndim else x


def _proto(model: Timed, example_inputs: ExampleInputs) -> Any:
    if isinstance(model, OnnxModel):
        return model.proto
    if not isinstance(model, nn.Module | ExportedProgram):
        return read_proto(model)
    args, kwargs = at_least_two(*split_inputs(example_inputs))
    return exported(export_program(as_module(model), args, kwargs, to_file=True))
