"""Inputs under which batch norm sees what it saw in training: a model with batch norm remembers its data."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from secateur.errors import InputError
from secateur.graph.interpret import batches
from secateur.graph.ops import bound_arguments, kind
from secateur.surrogates.box import widths
from secateur.surrogates.forward import as_log_probabilities, classes, forward, join
from secateur.surrogates.source import Inputs, Source

BATCH = 256  # inputs whose statistics are matched together
STEPS = 20
_RATE = 0.05  # of Adam, in units of the box
_CLASSES = 0.1  # weight of the cross-entropy
_FLOOR = 1e-6


def has_batch_norm(source: Source) -> bool:
    """Whether there are running statistics to match."""
    return any(_remembers(node) for node in source.graph.nodes)


def require_batch_norm(source: Source, name: str) -> None:
    if not has_batch_norm(source):
        raise InputError(
            f"{name} needs a model with batch norm and its running statistics; use another, such as auto"
        )


def mismatch(source: Source, inputs: Inputs) -> tuple[Tensor, tuple[Tensor, ...]]:
    """How far the inputs' statistics are from the running ones, as a mean over all norms; and the outputs.

    Of each channel (μ − μ₀)²/σ₀² + ½ log²(σ²/σ₀²), after Yin et al. 2020 (DeepInversion, arXiv 1912.08795),
    whose differences of variances let the largest channels rule.
    """
    found: list[Tensor] = []

    def observe(node: fx.Node, args: Any, value: Any) -> None:
        if _remembers(node):
            x, (mean, variance) = args[0], _statistics(source, node)
            axes = [axis for axis in range(x.ndim) if axis != 1]
            var, mu = torch.var_mean(x, axes, correction=0)
            variance = variance + _FLOOR
            ratio = (var / variance + _FLOOR).log()
            found.append(((mu - mean).square() / variance + 0.5 * ratio.square()).mean())

    outputs = forward(source, inputs, observe)
    return torch.stack(found).mean(), outputs


def match_batch_norm(source: Source, inputs: Inputs, *, steps: int = STEPS) -> Inputs:
    """Move `inputs` by Adam until batch norm finds its running statistics in them, and the model its classes
    evenly.

    Cost: `steps` forward and backward passes, in batches of at most 256 inputs, whose statistics are taken
    together.
    """
    total, count = classes(source), len(inputs[0])
    found = []
    for part in batches(inputs, math.ceil(count / math.ceil(count / BATCH))):
        targets = torch.randperm(len(part[0]), generator=source.generator) % total if total else None
        found.append(_match(source, part, targets, steps))
    return join(found)


def _match(source: Source, inputs: Inputs, targets: Tensor | None, steps: int) -> Inputs:
    free = [i for i, x in enumerate(inputs) if x.is_floating_point()]
    moves = {i: torch.zeros_like(inputs[i]).requires_grad_() for i in free}  # in units of the box
    adam = torch.optim.Adam(list(moves.values()), lr=_RATE)
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = _RATE * min(1.0, (step + 1) / 5) * (0.52 + 0.48 * math.cos(math.pi * step / steps))
        adam.zero_grad()
        now = tuple(x + moves[i] * widths(source, i) if i in moves else x for i, x in enumerate(inputs))
        loss, outputs = mismatch(source, now)
        if targets is not None:
            log_p = as_log_probabilities(source, outputs[0])
            loss = loss - _CLASSES * log_p.gather(1, targets[:, None]).mean()
        if not loss.requires_grad:  # no gradient reaches the inputs
            break
        loss.backward()
        for move in moves.values():
            move.grad = None if move.grad is None else move.grad.nan_to_num(0.0, 0.0, 0.0)
        adam.step()
        with torch.no_grad():
            for i, move in moves.items():
                move.copy_(
                    (_inside(source, i, inputs[i] + move * widths(source, i)) - inputs[i]) / widths(source, i)
                )
    return tuple(
        _inside(source, i, x + moves[i].detach() * widths(source, i)) if i in moves else x
        for i, x in enumerate(inputs)
    )


def _inside(source: Source, index: int, x: Tensor) -> Tensor:
    return x.clamp(source.box[index].lower.cpu().float(), source.box[index].upper.cpu().float())


def _statistics(source: Source, node: fx.Node) -> tuple[Tensor, Tensor]:
    a = bound_arguments(node, node.args, node.kwargs)
    mean, variance = (
        source.graph.tensors[str(a[name].target)].cpu() for name in ("running_mean", "running_var")
    )
    return mean, variance


def _remembers(node: fx.Node) -> bool:
    if kind(node) != "batch_norm":
        return False
    a = bound_arguments(node, node.args, node.kwargs)
    return all(
        isinstance(a[name], fx.Node) and a[name].op == "get_attr" for name in ("running_mean", "running_var")
    )
