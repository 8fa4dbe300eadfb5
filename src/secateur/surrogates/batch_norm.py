"""Inputs whose statistics at every batch norm are the running ones, which remember the training data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx

from secateur.errors import InputError
from secateur.graph.batch_norm import running_statistics
from secateur.graph.footprint import batch_size
from secateur.graph.interpret import batches, run
from secateur.graph.workers import in_order
from secateur.surrogates.box import widths
from secateur.surrogates.channel_moments import ChannelMoments
from secateur.surrogates.forward import forward, gradient_batch, join
from secateur.surrogates.source import Inputs, Source

_FEWEST = 8  # inputs whose statistics are matched together
_COPIES = 6  # of these: moves, gradients, what Adam remembers
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


def mismatch(source: Source, inputs: Inputs) -> float:
    """How far the inputs' statistics are from the running ones, as a mean over all norms.

    Of each channel (μ − μ₀)²/σ₀² + ½ log²(σ²/σ₀²), after Yin et al. 2020 (DeepInversion, arXiv 1912.08795),
    whose differences of variances let the largest channels rule. Cost: one forward pass, in batches side by
    side.
    """
    moments = _moments(source, inputs)
    return float(_distance(source, {node: (m.mean, m.variance) for node, m in moments.items()}))


def _moments(source: Source, inputs: Inputs) -> dict[fx.Node, ChannelMoments]:
    """Of the values that batch norms read, over all inputs."""
    norms = _statistics(source).keys()

    def one(part: Inputs) -> dict[fx.Node, ChannelMoments]:
        found = dict[fx.Node, ChannelMoments]()

        def observe(node: fx.Node, args: tuple[Any, ...], value: Any) -> None:
            if node in norms:
                found[node] = ChannelMoments.of(args[0])

        run(source.graph, part, observe=observe)
        return found

    parts = in_order(one, batches(inputs, batch_size(source.sizes.peak, inputs)))
    return reduce(lambda a, b: {node: a[node] + b[node] for node in a}, parts)


def _distance(source: Source, moments: Mapping[fx.Node, tuple[Tensor, Tensor]]) -> Tensor:
    """From the mean and the variance of what each batch norm reads."""
    found = []
    for node, (known_mean, known_variance) in _statistics(source).items():
        mean, variance = moments[node]
        ratio = (variance / (known_variance + _FLOOR) + _FLOOR).log()
        found.append(((mean - known_mean).square() / (known_variance + _FLOOR) + 0.5 * ratio.square()).mean())
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
    """Move `inputs` by Adam until batch norm finds its running statistics in all of them together.

    Nothing draws them to classes: a class that an input does not show moves it away from the data. Cost:
    `steps` times two forward passes and a backward pass, in batches side by side. Memory: six times that of
    the inputs; large ones are matched some at a time.
    """
    each = sum(x[0].numel() * x.element_size() for x in inputs)
    most = max(_FEWEST, source.memory // (_COPIES * each))
    parts = batches(inputs, math.ceil(len(inputs[0]) / math.ceil(len(inputs[0]) / most)))
    return join((_match(source, part, steps) for part in parts), len(inputs[0]))


def _match(source: Source, inputs: Inputs, steps: int) -> Inputs:
    floating = [i for i, x in enumerate(inputs) if x.is_floating_point()]
    moves = {i: torch.zeros_like(inputs[i]) for i in floating}  # in units of the box
    adam = torch.optim.Adam(list(moves.values()), lr=_RATE)
    now = inputs
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = _RATE * min(1.0, (step + 1) / 5) * (0.52 + 0.48 * math.cos(math.pi * step / steps))
        slopes = _slopes(source, now)
        if not slopes:  # no gradient reaches the inputs
            break
        for i, move in moves.items():
            move.grad = (slopes[i] * widths(source, i)).nan_to_num(0.0, 0.0, 0.0)
        adam.step()
        now = _moved(source, inputs, moves)
        for i, move in moves.items():
            move.copy_((now[i] - inputs[i]) / widths(source, i))
    return now


def _slopes(source: Source, inputs: Inputs) -> dict[int, Tensor]:
    """The gradient of the mismatch of all inputs together with respect to each floating one; none: {}.

    The mismatch depends on a batch through sums over it, so that its gradient is known from those of all
    inputs, and each batch is run by itself.
    """
    pulls = _pulls(source, _moments(source, inputs))
    floating = [i for i, x in enumerate(inputs) if x.is_floating_point()]

    @torch.enable_grad()
    def one(part: Inputs) -> Inputs:
        part = tuple(x.detach().requires_grad_(x.is_floating_point()) for x in part)
        pulled = list[Tensor]()

        def observe(node: fx.Node, args: tuple[Any, ...], value: Any) -> None:
            if node in pulls and args[0].requires_grad:
                pulled.append(_Pull.apply(args[0], *pulls[node]))

        forward(source, part, observe)
        if not pulled:
            return ()
        leaves = [part[i] for i in floating]
        return torch.autograd.grad(torch.stack(pulled).sum(), leaves, materialize_grads=True)

    parts = list(in_order(one, batches(inputs, gradient_batch(source, inputs))))
    return {i: torch.cat(x) for i, x in zip(floating, zip(*parts, strict=True), strict=False)}


def _pulls(source: Source, moments: Mapping[fx.Node, ChannelMoments]) -> dict[fx.Node, tuple[Tensor, Tensor]]:
    """Norm → p and q, shape (channels,): the gradient of the mismatch with respect to what it reads, x, is
    p + q·x.
    """
    leaves = {node: (m.mean.requires_grad_(), m.variance.requires_grad_()) for node, m in moments.items()}
    with torch.enable_grad():
        slopes = iter(torch.autograd.grad(_distance(source, leaves), list(chain(*leaves.values()))))
    found = {}
    for (node, (mean, _)), of_mean, of_variance in zip(leaves.items(), slopes, slopes, strict=True):
        q = 2 * of_variance / moments[node].count
        found[node] = (of_mean / moments[node].count - q * mean.detach()).float(), q.float()
    return found


class _Pull(torch.autograd.Function):
    """A scalar whose gradient with respect to x, shape (n, channels, ...), is p + q·x, of each channel."""

    @staticmethod
    def forward(context: Any, x: Tensor, p: Tensor, q: Tensor) -> Tensor:
        context.save_for_backward(x, p, q)
        return x.new_zeros(())

    @staticmethod
    def backward(context: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        x, p, q = context.saved_tensors
        shape = (-1, *[1] * (x.ndim - 2))
        return torch.addcmul(p.to(x).view(shape), x, q.to(x).view(shape)) * slopes[0], None, None


def _moved(source: Source, inputs: Inputs, moves: Mapping[int, Tensor]) -> Inputs:
    """The inputs after moves in units of the box, inside it."""
    return tuple(
        _inside(source, i, x + moves[i] * widths(source, i)) if i in moves else x
        for i, x in enumerate(inputs)
    )


def _inside(source: Source, index: int, x: Tensor) -> Tensor:
    return x.clamp(source.box[index].lower.cpu().float(), source.box[index].upper.cpu().float())
