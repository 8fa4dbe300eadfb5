"""Inputs whose statistics at every batch norm are the running ones, which remember the training data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from secateur.errors import InputError
from secateur.graph.batch_norm import running_statistics
from secateur.graph.interpret import batches
from secateur.graph.workers import in_order, worker_count
from secateur.surrogates.box import widths
from secateur.surrogates.forward import forward, join
from secateur.surrogates.source import Inputs, Source

_BATCH = (8, 256)  # inputs whose statistics are matched together
_NUMBERS = 2**27  # in the values of these
_BYTES = 6  # for each of them: most are kept for their gradients, some gradients are there
STEPS = 40
_RATE = 0.05  # of Adam, in units of the box
_FLOOR = 1e-6


def has_batch_norm(source: Source) -> bool:
    """Whether there are running statistics to match."""
    return any(running_statistics(node) is not None for node in source.graph.nodes)


def require_batch_norm(source: Source, name: str) -> None:
    if not has_batch_norm(source):
        raise InputError(
            f"{name} needs a model with batch norm and its running statistics; use another, such as auto"
        )


def mismatch(source: Source, inputs: Inputs) -> Tensor:
    """How far the inputs' statistics are from the running ones, as a mean over all norms.

    Of each channel (μ − μ₀)²/σ₀² + ½ log²(σ²/σ₀²), after Yin et al. 2020 (DeepInversion, arXiv 1912.08795),
    whose differences of variances let the largest channels rule.
    """
    found: list[Tensor] = []
    statistics = _statistics(source)

    def observe(node: fx.Node, args: tuple[Any, ...], value: Any) -> None:
        if node in statistics:
            x, (mean, variance) = args[0], statistics[node]
            axes = [axis for axis in range(x.ndim) if axis != 1]
            var, mu = torch.var_mean(x, axes, correction=0)
            variance = variance + _FLOOR
            ratio = (var / variance + _FLOOR).log()
            found.append(((mu - mean).square() / variance + 0.5 * ratio.square()).mean())

    forward(source, inputs, observe)
    return torch.stack(found).mean()


def _statistics(source: Source) -> dict[fx.Node, tuple[Tensor, Tensor]]:
    """Batch norm → its running mean and variance."""
    found = {}
    for node in source.graph.nodes:
        names = running_statistics(node)
        if names is not None:
            mean, variance = (source.graph.tensors[name].cpu() for name in names)
            found[node] = mean, variance
    return found


def match_batch_norm(source: Source, inputs: Inputs, *, steps: int = STEPS) -> Inputs:
    """Move `inputs` by Adam until batch norm finds its running statistics in them.

    Nothing draws them to classes: a class that an input does not show moves it away from the data. Cost:
    `steps` forward and backward passes, in batches of 8 to 256 inputs, whose statistics are taken together:
    as many as 512 MiB of values hold. Of batches side by side, values and their gradients take at most what
    the source may take.
    """
    count = len(inputs[0])
    size = max(_BATCH[0], min(_BATCH[1], _NUMBERS // source.sizes.total))
    parts = list(batches(inputs, math.ceil(count / math.ceil(count / size))))
    most = source.memory // (_BYTES * len(parts[0][0]) * source.sizes.total)
    workers = max(1, min(worker_count(), most))
    return join(in_order(lambda part: _match(source, part, steps), parts, workers), count)


def _match(source: Source, inputs: Inputs, steps: int) -> Inputs:
    floating = [i for i, x in enumerate(inputs) if x.is_floating_point()]
    moves = {i: torch.zeros_like(inputs[i]).requires_grad_() for i in floating}  # in units of the box
    adam = torch.optim.Adam(list(moves.values()), lr=_RATE)
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = _RATE * min(1.0, (step + 1) / 5) * (0.52 + 0.48 * math.cos(math.pi * step / steps))
        adam.zero_grad()
        loss = mismatch(source, _moved(source, inputs, moves))
        if not loss.requires_grad:  # no gradient reaches the inputs
            break
        loss.backward()
        for move in moves.values():
            move.grad = None if move.grad is None else move.grad.nan_to_num(0.0, 0.0, 0.0)
        adam.step()
        with torch.no_grad():
            now = _moved(source, inputs, moves)
            for i, move in moves.items():
                move.copy_((_inside(source, i, now[i]) - inputs[i]) / widths(source, i))
    with torch.no_grad():
        now = _moved(source, inputs, moves)
    return tuple(_inside(source, i, x) if i in moves else x for i, x in enumerate(now))


def _moved(source: Source, inputs: Inputs, moves: Mapping[int, Tensor]) -> Inputs:
    """The inputs after moves in units of the box."""
    return tuple(x + moves[i] * widths(source, i) if i in moves else x for i, x in enumerate(inputs))


def _inside(source: Source, index: int, x: Tensor) -> Tensor:
    return x.clamp(source.box[index].lower.cpu().float(), source.box[index].upper.cpu().float())
