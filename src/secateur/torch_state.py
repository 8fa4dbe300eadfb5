"""Settings of torch for the process or the thread: fixed while secateur works, and restored afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

# Held where settings of the process are changed or must not change. A thread may take it again.
ALONE = threading.RLock()
# Held, after `ALONE`, while torch.export has put its own tensors into a model; take it to run a user's model.
EXPORTING = threading.RLock()

_ONE_DNN: Any = torch.backends.mkldnn
_CUDNN: Any = torch.backends.cudnn
_MATMUL: Any = torch.backends.cuda.matmul
_PRODUCTS = (_ONE_DNN.matmul, _ONE_DNN.conv, _ONE_DNN.rnn)


@contextmanager
def reproducible(model: nn.Module | ExportedProgram, *, threads: int | None = 1) -> Iterator[None]:
    """Fix the settings of torch on which bits depend, so that the same inputs give the same bits.

    These are gradients, inference mode, autocast, default dtype and device, the precision of products, and
    the number of threads. One thread of the process at a time is inside; others wait.

    Args:
        model: Its dtype becomes the default dtype, on which its own `forward` may rely.
        threads: Threads of torch, since sums are rounded differently on more than one; None leaves them.
    """
    with ALONE, ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(_as_on_the_cpu())
        stack.enter_context(_settings_of_the_process(_default_dtype(model), threads))
        yield


@contextmanager
def no_fast_path() -> Iterator[None]:
    """Disable the fused path of `nn.MultiheadAttention`; hold `ALONE` meanwhile."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _as_on_the_cpu() -> Iterator[None]:
    """No product on a GPU rounds its factors to ten bits, as convolutions do by default, and no algorithm is
    chosen by trial. The older settings and the newer must stay in line, or torch raises where they are read.
    """
    parts = (_CUDNN.conv, _CUDNN.rnn, _MATMUL, _ONE_DNN.matmul)
    precisions = [part.fp32_precision for part in parts]
    chosen = _CUDNN.deterministic, _CUDNN.benchmark
    convolutions = _readable(lambda: _CUDNN.allow_tf32)
    products = _readable(torch.get_float32_matmul_precision)
    _CUDNN.allow_tf32, _CUDNN.deterministic, _CUDNN.benchmark = False, True, False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        _CUDNN.deterministic, _CUDNN.benchmark = chosen
        if convolutions is not None:
            _CUDNN.allow_tf32 = convolutions
        if products is not None:
            torch.set_float32_matmul_precision(products)
        for part, precision in zip(parts, precisions, strict=True):
            part.fp32_precision = precision


def _readable(setting: Callable[[], Any]) -> Any:
    """The value of an older setting; None where the newer ones are of values that it cannot say."""
    try:
        return setting()
    except RuntimeError:
        return None


@contextmanager
def _settings_of_the_process(dtype: torch.dtype, threads: int | None) -> Iterator[None]:
    one_dnn, products = torch.backends.mkldnn.enabled, [p.fp32_precision for p in _PRODUCTS]
    before = torch.get_default_dtype(), torch.get_num_threads(), _flushes_denormals()
    strict = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    try:
        torch.set_default_dtype(dtype)
        # Other threads of torch keep their own handling of denormals; where it may differ, use one thread.
        torch.set_num_threads(1 if before[2] else threads or before[1])
        torch.set_flush_denormal(False)
        if strict[0]:  # torch imports its compiler for this call
            torch.use_deterministic_algorithms(False)
        torch.backends.mkldnn.set_flags(True, _fp32_precision=None)
        for part in _PRODUCTS:
            part.fp32_precision = "ieee"
        yield
    finally:
        for part, precision in zip(_PRODUCTS, products, strict=True):
            part.fp32_precision = precision
        torch.backends.mkldnn.set_flags(one_dnn, _fp32_precision=None)
        if strict[0]:
            torch.use_deterministic_algorithms(True, warn_only=strict[1])
        torch.set_flush_denormal(before[2])
        torch.set_num_threads(before[1])
        torch.set_default_dtype(before[0])


def _flushes_denormals() -> bool:
    """Whether denormal numbers become 0, which no bound allows for. torch has no function to ask."""
    tiny = torch.full((1,), torch.finfo(torch.float64).tiny, dtype=torch.float64)
    return float(tiny / 2) == 0.0


def _default_dtype(model: nn.Module | ExportedProgram) -> torch.dtype:
    """float64 for a model with float64 parameters, else float32."""
    tensors: Iterable[Tensor]
    if isinstance(model, ExportedProgram):
        tensors = model.state_dict.values()
    else:
        tensors = chain(model.parameters(), model.buffers())
    first = next((x.dtype for x in tensors if x.is_floating_point()), torch.float32)
    return first if first == torch.float64 else torch.float32
