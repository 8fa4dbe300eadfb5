"""Train one network in bfloat16 where the processor has it, and measure it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .table import Network, Task

MASK = 0  # the id of <mask>
MASKED = 0.15  # share of the tokens that are masked
DECAY = 0.05


def train(row: Network, x: Tensor, labels: Tensor, seed: int = 0) -> tuple[nn.Module, dict[str, Any]]:
    """The trained network in eval mode, its last loss and the seconds that it took. `labels` is unused for
    text.
    """
    began = time.perf_counter()
    torch.manual_seed(seed)
    model = row.build(row.dropout).train()
    steps = int(row.passes * len(x) / row.batch)
    plain = [p for p in model.parameters() if p.ndim < 2]
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}],
        row.rate,
        (0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, row.rate, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    order = torch.cat([torch.randperm(len(x)) for _ in range(math.ceil(row.passes) + 1)])
    running = 0.0
    for step in range(steps):
        chosen = order[step * row.batch : (step + 1) * row.batch]
        optimizer.zero_grad()
        with sdpa_kernel(SDPBackend.MATH):  # faster than the fused kernels for such short sequences
            with torch.autocast("cpu", torch.bfloat16):
                loss = LOSSES[row.task](model, x[chosen], labels[chosen])
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running = 0.98 * running + 0.02 * float(loss.detach()) if step else float(loss.detach())
        if step % 50 == 0:
            seconds = time.perf_counter() - began
            print(f"{row.name} step {step} of {steps} loss {running:.3f} {seconds:.0f} s", flush=True)
    seconds = round(time.perf_counter() - began)
    return model.eval(), {"loss": round(running, 4), "steps": steps, "seconds": seconds}


def _classes(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    mirrored = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)
    return F.cross_entropy(model(mirrored).float(), labels, label_smoothing=0.05)


def _next(model: nn.Module, ids: Tensor, _: Tensor) -> Tensor:
    logits = model(ids)[:, :-1].float()
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def _masked(model: nn.Module, ids: Tensor, _: Tensor) -> Tensor:
    shown, hidden = masked(ids, torch.rand(ids.shape), torch.randint(1, 1024, ids.shape))
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
