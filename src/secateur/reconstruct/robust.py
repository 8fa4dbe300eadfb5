"""Samples moved, inside the input box, to where the pruned network disagrees most with the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from secateur.graph.graph import Graph
from secateur.graph.interpret import batches, for_passes, precision_of, run
from secateur.types import Interval, Samples

_STEPS = 5
_BATCH = 128


def perturbed(
    graph: Graph,
    original: Mapping[str, Tensor],
    pruned: Mapping[str, Tensor],
    samples: Samples,
    box: Sequence[Interval],
    eps: float,
) -> Samples:
    """The samples after projected gradient ascent on ‖f(x) − g(x)‖², within `eps` (L∞) and the box.

    After Madry et al. 2018 (arXiv 1706.06083), with disagreement for the loss. Inputs of whole numbers stay.
    Cost: five forward and backward passes of both networks.
    """
    first, second = (
        for_passes(graph, tensors, samples.inputs, precision_of(samples.inputs))
        for tensors in (original, pruned)
    )
    parts = [_ascend(graph, first, second, batch, box, eps) for batch in batches(samples.inputs, _BATCH)]
    return replace(samples, inputs=tuple(torch.cat(xs) for xs in zip(*parts, strict=True)))


def _ascend(
    graph: Graph,
    original: Mapping[str, Tensor],
    pruned: Mapping[str, Tensor],
    start: Sequence[Tensor],
    box: Sequence[Interval],
    eps: float,
) -> list[Tensor]:
    """One batch after `_STEPS` steps of gradient ascent."""
    x = list(start)
    floating = [i for i, value in enumerate(start) if value.is_floating_point()]
    for _ in range(_STEPS):
        for i in floating:
            x[i] = x[i].detach().requires_grad_()
        slopes = _slopes(graph, original, pruned, x, floating)
        if all(slope is None for slope in slopes):
            break
        for i, slope in zip(floating, slopes, strict=True):
            if slope is not None:
                moved = x[i].detach() + 2.5 * eps / _STEPS * slope.sign()
                moved = moved.clamp(start[i] - eps, start[i] + eps)
                x[i] = moved.clamp(box[i].lower.to(moved), box[i].upper.to(moved))
    return [value.detach() for value in x]


def _slopes(
    graph: Graph,
    original: Mapping[str, Tensor],
    pruned: Mapping[str, Tensor],
    x: Sequence[Tensor],
    floating: Sequence[int],
) -> Sequence[Tensor | None]:
    """Gradients of ‖f(x) − g(x)‖² with respect to the floating inputs; None where none reaches them."""
    with torch.enable_grad():
        f, g = (_outputs(graph, x, tensors) for tensors in (original, pruned))
        gaps = [(a - b).square().sum() for a, b in zip(f, g, strict=True) if a.is_floating_point()]
        gap = torch.stack(gaps).sum()
        if not gap.requires_grad:
            return [None] * len(floating)
        return torch.autograd.grad(gap, [x[i] for i in floating], allow_unused=True)


def _outputs(graph: Graph, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    return run(graph, inputs, tensors, dtype=precision_of(inputs), gradients=True)
