"""The inputs that a classifier is most confident of, evenly over its classes, and steps that raise that."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.graph.interpret import batches
from secateur.graph.workers import in_order
from secateur.surrogates.box import widths
from secateur.surrogates.forward import all_log_probabilities, gradient_batch, join, log_probabilities
from secateur.surrogates.layout import Layout
from secateur.surrogates.shapes import smooth
from secateur.surrogates.source import Inputs, Source

_CLASSES = 256  # that are sorted at once
SURE = 0.99  # probability beyond which an input is left alone


def surest(log_p: Tensor, count: int) -> Tensor:
    """`count` samples, evenly those of the highest probability of each class; log_p: (samples, classes).

    Memory: 16 bytes for each sample and each of at most 256 classes. Cost: a sort of the samples for every
    class.
    """
    samples = torch.arange(len(log_p))
    best = torch.full_like(samples, len(log_p))  # of the ranks of each sample in all classes
    for some in log_p.split(_CLASSES, 1):
        order = torch.sort(some.T.contiguous(), dim=1, descending=True, stable=True).indices
        rank = torch.empty_like(order).scatter_(1, order, samples.expand_as(order))
        best = torch.minimum(best, rank.amin(0))
    return torch.sort(best, stable=True).indices[:count].sort().values


def toward_classes(
    source: Source, inputs: Inputs, layout: Sequence[Layout], *, steps: int, length: float, softness: float
) -> Inputs:
    """Smoothed gradient steps that raise the likeliest class of each input until the model is sure of it.

    A step moves the numbers of the unit cube by `length` (root of the mean square); gradients are smoothed
    over `softness` points along the axes of space, for pixels that move alone make no natural picture.
    """
    targets = all_log_probabilities(source, inputs).argmax(1)
    size = gradient_batch(source, inputs)

    def one(pair: tuple[Inputs, Tensor]) -> Inputs:
        part, target = pair
        for _ in range(steps):
            part, done = _step(source, part, target, layout, length, softness)
            if done:
                break
        return part

    pairs = zip(batches(inputs, size), targets.split(size), strict=True)
    return join(in_order(one, pairs), len(targets))


def _step(
    source: Source, inputs: Inputs, target: Tensor, layout: Sequence[Layout], length: float, softness: float
) -> tuple[Inputs, bool]:
    floating = [i for i, x in enumerate(inputs) if x.is_floating_point()]
    given = tuple(x.detach().requires_grad_(i in floating) for i, x in enumerate(inputs))
    log_p = log_probabilities(source, given).gather(1, target[:, None]).squeeze(1)
    unsure = log_p.detach().exp() < SURE
    if not floating or not bool(unsure.any()) or not log_p.requires_grad:  # no gradient reaches the inputs
        return inputs, True
    slopes: tuple[Tensor | None, ...] = torch.autograd.grad(
        log_p.sum(), [given[i] for i in floating], allow_unused=True
    )
    out = list(inputs)
    for i, slope in zip(floating, slopes, strict=True):
        if slope is None:
            continue
        unit = smoothed(slope.nan_to_num(0.0, 0.0, 0.0) * widths(source, i), layout[i], softness)
        size = unit.flatten(1).square().mean(1).sqrt().clamp(min=1e-30).reshape(-1, *[1] * (unit.ndim - 1))
        step = torch.where(unsure.reshape(size.shape), length / size, 0.0) * unit * widths(source, i)
        box = source.box[i]
        out[i] = (inputs[i] + step).clamp(box.lower.cpu().float(), box.upper.cpu().float())
    return tuple(out), False


def smoothed(x: Tensor, layout: Layout, deviation: float) -> Tensor:
    """Gaussian means along the axes of space; shape: (n, *shape)."""
    if not layout.space or not deviation:
        return x
    axes = tuple(range(2, 2 + len(layout.space)))
    return layout.place(smooth(layout.unfold(x), deviation, axes))
