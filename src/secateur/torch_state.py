"""torch's settings that belong to the process or the thread: fixed while a command works, put back afterwards."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

# Held where settings of the process are changed or must not change. A thread may take it again.
ALONE = threading.RLock()


@contextmanager
def reproducible(model: nn.Module | ExportedProgram) -> Iterator[None]:
    """The same bits from the same inputs, whatever the caller has set: gradients, inference mode, autocast, default
    dtype and device, precision of products, number of threads.

    One thread of the process at a time is inside; others wait. Work is done on one thread of torch, since sums are
    rounded differently on more. The default dtype is that of the model, since its own `forward` may rely on it.
    """
    with ALONE, ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(_settings_of_the_process(_default_dtype(model)))
        yield


@contextmanager
def _settings_of_the_process(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype(), torch.get_num_threads(), torch.get_float32_matmul_precision()
    strict = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, on oneDNN's flags
        one_dnn = torch.backends.mkldnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    try:
        with one_dnn:
            torch.set_default_dtype(dtype)
            torch.set_num_threads(1)
            torch.set_float32_matmul_precision("highest")
            torch.use_deterministic_algorithms(False)
            yield
    finally:
        torch.set_default_dtype(before[0])
        torch.set_num_threads(before[1])
        torch.set_float32_matmul_precision(before[2])
        torch.use_deterministic_algorithms(strict[0], warn_only=strict[1])


def _default_dtype(model: nn.Module | ExportedProgram) -> torch.dtype:
    """float64 for a model of float64 numbers, else float32."""
    tensors = model.state_dict().values()
    first = next((x.dtype for x in tensors if isinstance(x, Tensor) and x.is_floating_point()), torch.float32)
    return first if first == torch.float64 else torch.float32
