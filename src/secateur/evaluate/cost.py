"""What a model costs: parameters, multiply-accumulates, bytes and time."""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from secateur.evaluate.accuracy import logits_of
from secateur.torch_state import ALONE, no_fast_path

_FEWEST_TURNS = 3  # that are timed, however long they take


def parameters(model: nn.Module) -> int:
    """Numbers in the parameters, each shared one once; buffers do not count."""
    return sum(p.numel() for p in model.parameters())


def macs(model: nn.Module, image: Tensor) -> int:
    """Multiply-accumulates (half the FLOPs) of products and convolutions for one input, `image` (1, …)."""
    counter = FlopCounterMode(display=False)
    with _countable(), counter, torch.no_grad():
        logits_of(model, image)
    return counter.get_total_flops() // 2


@contextmanager
def _countable() -> Iterator[None]:
    """Run attention and recurrent layers as plain products, which torch's counter knows."""
    with ALONE, no_fast_path(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, on switching oneDNN off
        with sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False):
            yield


def state_bytes(model: nn.Module) -> int:
    """Bytes of parameters and persistent buffers as a `.safetensors` file holds them, without its header."""
    sizes: dict[tuple[int, tuple[int, ...]], int] = {}
    for value in model.state_dict().values():
        sizes[value.data_ptr() or id(value), tuple(value.shape)] = value.numel() * value.element_size()
    return sum(sizes.values())


def latency_ms(
    passes: Sequence[Callable[[], object]],
    device: torch.device,
    *,
    repeats: int = 30,
    warm_up: int = 5,
    limit_s: float = math.inf,
) -> list[float]:
    """The median milliseconds of each of `passes`, in `repeats` turns, fewer after `limit_s`.

    Turns keep a busy machine from favouring one model; what a pass runs is the caller's (see `runtime`).
    """
    times = turns_of(passes, device, repeats=repeats, warm_up=warm_up, limit_s=limit_s)
    return [1000 * statistics.median(seconds) for seconds in times]


def turns_of(
    passes: Sequence[Callable[[], object]],
    device: torch.device,
    *,
    repeats: int,
    warm_up: int,
    limit_s: float,
) -> list[list[float]]:
    """The seconds of each of `passes` in every turn that is timed, in order."""
    times: list[list[float]] = [[] for _ in passes]
    begin = time.perf_counter()
    with torch.no_grad():
        for turn in range(warm_up + repeats):
            if turn >= warm_up + _FEWEST_TURNS and time.perf_counter() - begin > limit_s:
                break
            for run, seconds in zip(passes, times, strict=True):
                elapsed = _seconds(run, device)
                if turn >= warm_up:
                    seconds.append(elapsed)
    return times


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    _wait_for(device)
    start = time.perf_counter()
    run()
    _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
