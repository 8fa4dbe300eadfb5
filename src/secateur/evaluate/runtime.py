"""One forward pass of a model, in torch or in onnxruntime, as a function that can be timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.evaluate.accuracy import outputs_of
from secateur.evaluate.files import inner, onnx_file
from secateur.formats.format import RUNTIMES, Runtime
from secateur.formats.onnx.check import inference_session
from secateur.formats.onnx.export import exported
from secateur.formats.registry import format_of
from secateur.inputs import Normalised


def check_runtime(runtime: str) -> None:
    if runtime not in RUNTIMES:
        raise InputError(f"runtime={runtime!r}; there are {' and '.join(RUNTIMES)}")


def runtime_of(module: nn.Module) -> Runtime:
    """Where the model is usually run: one that came as ONNX in onnxruntime."""
    found = format_of(inner(module))
    return "torch" if found is None else found.runtime


def forward_pass(module: nn.Module, batch: Tensor, runtime: Runtime) -> Callable[[], object]:
    """The pass on `batch` (b, …). In onnxruntime the model is exported first, unless it came as ONNX.

    Raises `InputError` where the runtime is missing or the model cannot be exported.
    """
    check_runtime(runtime)
    if runtime == "torch":
        if (file := onnx_file(module)) is not None:
            raise InputError(
                f"runtime='torch': {file.path} is measured in onnxruntime as it is, and cannot be timed in "
                "torch; leave the runtime out"
            )
        return lambda: outputs_of(module, batch)
    model = inner(module)
    with torch.no_grad():
        batch = (module.normalise(batch) if isinstance(module, Normalised) else batch).cpu()
    found = format_of(model)
    if found is not None and found.proto is not None:
        proto = found.proto(model)
    else:
        proto = exported(model.cpu(), (batch,))
    return session_pass(inference_session(proto, spin=False), [batch])


def session_pass(session: Any, inputs: Sequence[Tensor]) -> Callable[[], object]:
    """The pass on `inputs`, in the session's order.

    One sample is repeated where the model fixes a larger batch.
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
    """The only batch size that onnxruntime takes, where the model fixes one."""
    model = inner(module)
    found = format_of(model)
    return None if found is None or found.fixed_batch is None else found.fixed_batch(model)
