"""Train one network in bfloat16 where the processor or the GPU has it, and measure it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .table import Network, Task

MASK = 0  # the id of <mask>
MASKED = 0.15  # share of the tokens that are masked
DECAY = 0.05


def train(
    row: Network, x: Tensor, labels: Tensor, seed: int = 0, device: str = "cpu"
) -> tuple[nn.Module, dict[str, Any]]:
    """The trained network in eval mode on the CPU, its last loss and the seconds that it took. `labels` is
    unused for text.
    """
    began = time.perf_counter()
    torch.manual_seed(seed)
    model = row.build(row.dropout).train().to(device)
    x, labels = x.to(device), labels.to(device)
    steps = int(row.passes * len(x) / row.batch)
    optimizer = torch.optim.AdamW(decayed(model, DECAY), row.rate, (0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, row.rate, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    order = torch.cat([torch.randperm(len(x)) for _ in range(math.ceil(row.passes) + 1)])
    order = order.to(device)
    running = torch.zeros((), device=device)
    for step in range(steps):
        chosen = order[step * row.batch : (step + 1) * row.batch]
        optimizer.zero_grad()
        # On a processor faster than the fused kernels, for such short sequences.
        with sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext():
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                loss = LOSSES[row.task](model, x[chosen], labels[chosen])
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running = 0.98 * running + 0.02 * loss.detach() if step else loss.detach()
        if step % 50 == 0:
            seconds = time.perf_counter() - began
            print(f"{row.name} step {step} of {steps} loss {float(running):.3f} {seconds:.0f} s", flush=True)
    row_of_index = {"loss": round(float(running), 4), "steps": steps, "device": device}
    return model.eval().cpu(), {**row_of_index, "seconds": round(time.perf_counter() - began)}


def decayed(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Parameters for an optimiser, of which matrices and kernels decay."""
    plain = [p for p in model.parameters() if p.ndim < 2]
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    return [{"params": matrices, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]


def _classes(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(moved(x)).float(), labels, label_smoothing=0.05)


def moved(x: Tensor) -> Tensor:
    """Pictures moved by up to an eighth of their size, on black, half of them mirrored; one move for each."""
    n, _, height, width = x.shape
    most = width // 8
    shift = torch.randint(-most, most + 1, (2, n, 1), device=x.device)
    rows = torch.arange(height, device=x.device) + shift[0] + most
    columns = torch.arange(width, device=x.device) + shift[1] + most
    columns = torch.where(torch.rand(n, 1, device=x.device) < 0.5, columns.flip(1), columns)
    padded = F.pad(x, (most,) * 4)
    picked = padded[torch.arange(n, device=x.device)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def _next(model: nn.Module, ids: Tensor, _: Tensor) -> Tensor:
    logits = model(ids)[:, :-1].float()
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def _masked(model: nn.Module, ids: Tensor, _: Tensor) -> Tensor:
    chance, others = torch.rand(ids.shape), torch.randint(1, 1024, ids.shape)
    shown, hidden = masked(ids, chance.to(ids.device), others.to(ids.device))
    return F.cross_entropy(model(shown)[hidden].float(), ids[hidden])


def masked(ids: Tensor, chance: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """ids with 15 % of the tokens to be told (80 % masked, 10 % replaced, 10 % as they are), and which."""
    shown = torch.where(chance < 0.8 * MASKED, MASK, ids)
    shown = torch.where((chance >= 0.8 * MASKED) & (chance < 0.9 * MASKED), others, shown)
    return shown, chance < MASKED


LOSSES: dict[Task, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {
    "classes": _classes,
    "next": _next,
    "masked": _masked,
}


@torch.no_grad()
def measure(row: Network, model: nn.Module, x: Tensor, labels: Tensor) -> dict[str, float]:
    """`accuracy`, or `perplexity` (of masked tokens for `masked`) on held-out data."""
    parts = list(zip(x.split(250), labels.split(250), strict=True))
    if row.task == "classes":
        right = sum(int((model(images).argmax(1) == classes).sum()) for images, classes in parts)
        return {"accuracy": right / len(x)}
    torch.manual_seed(1)
    total = sum(float(LOSSES[row.task](model, ids, classes)) * len(ids) for ids, classes in parts)
    return {"perplexity": math.exp(total / len(x))}
