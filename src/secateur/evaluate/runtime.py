"""One forward pass of a model, in torch or in onnxruntime, as a function that can be timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.evaluate.accuracy import outputs_of
from secateur.formats.onnx.check import inference_session
from secateur.formats.onnx.export import exported
from secateur.formats.onnx.imported import OnnxModel
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
        return session_pass(inference_session(inner.proto), [batch])
    assert isinstance(inner, nn.Module)
    return session_pass(inference_session(exported(inner.cpu(), (batch,))), [batch])


def session_pass(session: Any, inputs: Sequence[Tensor]) -> Callable[[], object]:
    """The pass on `inputs`, in the session's order; one sample is repeated where the model fixes a larger
    batch.
    """
    wanted = session.get_inputs()
    if len(wanted) != len(inputs):
        names = ", ".join(value.name for value in wanted)
        raise InputError(f"the ONNX model takes {len(wanted)} inputs ({names}), and {len(inputs)} are given")
    fed = {}
    for value, x in zip(wanted, inputs, strict=True):
        batch = value.shape[0] if value.shape else None
        copies = batch if isinstance(batch, int) and x.ndim and len(x) == 1 else 1
        fed[value.name] = torch.cat([x] * copies).numpy() if copies > 1 else x.numpy()
    return lambda: session.run(None, fed)


def fixed_batch(module: nn.Module) -> int | None:
    """The only batch that onnxruntime takes, where the model fixes one."""
    inner = module.model if isinstance(module, Normalised) else module
    return inner.batch if isinstance(inner, OnnxModel) else None
