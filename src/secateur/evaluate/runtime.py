"""One forward pass of a model, in torch or in onnxruntime, as a function that can be timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.evaluate.accuracy import outputs_of
from secateur.formats.onnx import OnnxModel
from secateur.formats.onnx.check import inference_session
from secateur.formats.onnx.export import exported
from secateur.inputs import Normalised

Runtime = Literal["torch", "onnxruntime"]
RUNTIMES: tuple[Runtime, ...] = ("torch", "onnxruntime")


def runtime_of(module: nn.Module) -> Runtime:
    """Where the model would be run: one that came as ONNX in onnxruntime."""
    inner = module.model if isinstance(module, Normalised) else module
    return "onnxruntime" if isinstance(inner, OnnxModel) else "torch"


def forward_pass(module: nn.Module, batch: Tensor, runtime: Runtime) -> Callable[[], object]:
    """The pass on `batch` (b, …). In onnxruntime the model is exported first, unless it came as ONNX.

    Raises `InputError` where the runtime is missing or the model cannot be exported.
    """
    if runtime not in RUNTIMES:
        raise InputError(f"runtime={runtime!r}; there are {' and '.join(RUNTIMES)}")
    if runtime == "torch":
        return lambda: outputs_of(module, batch)
    inner = module.model if isinstance(module, Normalised) else module
    with torch.no_grad():
        batch = (module.normalise(batch) if isinstance(module, Normalised) else batch).cpu()
    if isinstance(inner, OnnxModel):
        return _in_onnxruntime(inner.proto, inner.inputs[0].name, batch)
    assert isinstance(inner, nn.Module)
    proto = exported(inner.cpu(), (batch,))
    return _in_onnxruntime(proto, proto.graph.input[0].name, batch)


def _in_onnxruntime(proto: Any, name: str, batch: Tensor) -> Callable[[], object]:
    session, fed = inference_session(proto), {name: batch.numpy()}
    return lambda: session.run(None, fed)


def fixed_batch(module: nn.Module) -> int | None:
    """The only batch that onnxruntime takes, where the model fixes one."""
    inner = module.model if isinstance(module, Normalised) else module
    return inner.batch if isinstance(inner, OnnxModel) else None
