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
from secateur.evaluate.runtime import check_runtime, session_pass
from secateur.formats.format import Format, Runtime
from secateur.formats.kinds import kind_of
from secateur.formats.onnx.check import inference_session
from secateur.formats.onnx.export import exported
from secateur.formats.registry import FORMATS, format_of
from secateur.graph.example import ExampleInputs, at_least_two, split_inputs
from secateur.graph.export import as_module, export_program, first_line
from secateur.torch_state import ALONE, EXPORTING

Timed = nn.Module | ExportedProgram | str | os.PathLike[str]

_REPEATS, _SECONDS = 50, 3.0  # of each model, but no more turns once both together have taken so long


@dataclass(frozen=True)
class Latency:
    """Median milliseconds of a forward pass of one sample.

    Examples:
        >>> Latency(before=2.0, after=1.25, runtime="torch").fell
        True
    """

    before: float
    after: float
    runtime: Runtime

    @property
    def fell(self) -> bool:
        """Whether the second model took less time."""
        return self.after < self.before


def latency(
    before: Timed,
    after: Timed,
    example_inputs: ExampleInputs | None = None,
    *,
    runtime: Runtime | None = None,
) -> Latency:
    """Time two models on one sample, on the CPU, in turns.

    Args:
        before, after: a module, an exported program, or the path of an `.onnx` file.
        example_inputs: one tensor of a legal input, a tuple of them, or a dict by argument; the first sample
            is used. Default: that of `before`, where it has one.
        runtime: `torch` or `onnxruntime`, for which a model of torch is exported. Default: onnxruntime where
            one of the models came as ONNX. A batch that such a model fixes is filled with copies of the
            sample.

    Returns:
        The median milliseconds of both models.

    Raises:
        InputError: a model cannot be run there.

    Examples:
        >>> import torch, secateur
        >>> wide, narrow = (torch.nn.Sequential(torch.nn.Linear(8, n), torch.nn.ReLU()) for n in (64, 8))
        >>> took = secateur.latency(wide, narrow, torch.zeros(1, 8))
        >>> took.runtime, took.before > 0
        ('torch', True)
    """
    runtime = usual_runtime(before, after) if runtime is None else runtime
    check_runtime(runtime)
    example_inputs = example_of(before, example_inputs)
    passes = [one_sample_pass(model, example_inputs, runtime) for model in (before, after)]
    first, second = latency_ms(passes, torch.device("cpu"), repeats=_REPEATS, warm_up=1, limit_s=_SECONDS)
    return Latency(first, second, runtime)


def usual_runtime(*models: Timed) -> Runtime:
    """onnxruntime where one of the models came as ONNX."""
    usual = [found.runtime for found in map(_format, models) if found is not None]
    return "onnxruntime" if "onnxruntime" in usual else "torch"


def example_of(model: Timed, example_inputs: ExampleInputs | None) -> ExampleInputs:
    """The inputs that are given, or the model's own; `InputError` where there are none."""
    found = _own_example(model) if example_inputs is None else example_inputs
    if found is None:
        raise InputError("example_inputs is needed: give one tensor of a legal input, or a tuple of them")
    return found


def _format(model: Timed) -> Format | None:
    """The format of a file, or of the file that a loaded model stands for."""
    return FORMATS.get(kind_of(model)) if isinstance(model, str | os.PathLike) else format_of(model)


def _own_example(model: Timed) -> ExampleInputs | None:
    if not isinstance(model, ExportedProgram):
        return getattr(model, "example_inputs", None)
    if model.example_inputs is None:
        return None
    args, kwargs = model.example_inputs
    found: ExampleInputs = args or kwargs
    return found


def one_sample_pass(model: Timed, example_inputs: ExampleInputs, runtime: Runtime) -> Callable[[], object]:
    """A pass of one sample that has run once."""
    args, kwargs = pytree.tree_map(_first, split_inputs(example_inputs))
    if runtime == "onnxruntime":
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        run = session_pass(inference_session(_proto(model, example_inputs), spin=False), tensors)
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
    found = _format(model)
    if found is not None and found.proto is not None:
        return found.proto(model)
    if not isinstance(model, nn.Module | ExportedProgram):
        raise InputError(f"{model} is no ONNX model; load it with load_model, and give that")
    args, kwargs = at_least_two(*split_inputs(example_inputs))
    return exported(export_program(as_module(model), args, kwargs, to_file=True))
