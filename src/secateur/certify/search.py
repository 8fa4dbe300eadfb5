"""The empirical partner of a certificate: points of the input set where outputs differ most, and decisions too.

Ascent along the sign of the gradient with falling steps, in float64, on both networks in one graph. All iterates count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from secateur.bounds.certified import decisions
from secateur.bounds.joint import Networks
from secateur.graph.capture import call_op, walk
from secateur.types import Interval


@dataclass(frozen=True, eq=False)
class Found:
    """For each of N boxes, what some point of it shows."""

    drift: Tensor  # (N,), the largest |g − f| of an output
    disagree: Tensor  # (N,), bool: somewhere the two decide differently
    flips_first: Tensor  # (N,), bool: somewhere f decides otherwise than at the centre
    flips_second: Tensor


def outputs(networks: Networks, tensors: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Outputs on a batch, (batch, …), with gradients."""
    graph = networks.graph
    given = dict(zip(graph.inputs, inputs, strict=True))
    env = walk(
        graph,
        lambda node: given[node] if node.op == "placeholder" else tensors[str(node.target)],
        partial(call_op, like=networks.like),
    )
    return [env[node] for node in graph.outputs]


def search(
    networks: Networks,
    boxes: Sequence[Interval],
    centres: Sequence[Tensor],
    *,
    steps: int,
    generator: torch.Generator,
) -> Found:
    """Ascend the drift and descend the margins of f and of g, from random points of each box, (N, …) per input."""
    with torch.no_grad():
        first, second = (outputs(networks, t, centres) for t in (networks.first, networks.second))
    f0, g0 = decisions(first[0]), decisions(second[0])
    drift = _distance(first, second)
    disagree, flips_first, flips_second = f0 != g0, torch.zeros_like(f0, dtype=torch.bool), torch.zeros_like(f0 != g0)
    for goal in ("rise", "fall", "first", "second"):
        points = [_random_point(box, generator) for box in boxes]
        for step in range(steps):
            points = [p.detach().requires_grad_(p.is_floating_point()) for p in points]
            f, g = (outputs(networks, t, points) for t in (networks.first, networks.second))
            a, b = decisions(f[0]), decisions(g[0])
            drift = torch.maximum(drift, _distance(f, g).detach())
            disagree, flips_first, flips_second = disagree | (a != b), flips_first | (a != f0), flips_second | (b != g0)
            value = _objective(goal, f, g, f0, g0)
            moving = [p for p in points if p.requires_grad]
            if not moving:
                break
            gradients = iter(torch.autograd.grad(value.sum(), moving, allow_unused=True))
            share = 0.5 * (1 - step / steps)  # of each box's radius
            points = [
                _moved(p, next(gradients), box, share) if p.requires_grad else p
                for p, box in zip(points, boxes, strict=True)
            ]
    return Found(drift, disagree, flips_first, flips_second)


def _distance(f: Sequence[Tensor], g: Sequence[Tensor]) -> Tensor:
    parts = [(b - a).abs().flatten(1).amax(1) for a, b in zip(f, g, strict=True) if a.is_floating_point()]
    return torch.stack(parts).amax(0)


def _objective(goal: str, f: Sequence[Tensor], g: Sequence[Tensor], f0: Tensor, g0: Tensor) -> Tensor:
    if goal in ("first", "second"):
        return -_margin(f[0], f0) if goal == "first" else -_margin(g[0], g0)
    delta = torch.cat([(b - a).flatten(1) for a, b in zip(f, g, strict=True) if a.is_floating_point()], 1)
    largest = delta.detach().abs().argmax(1, keepdim=True)
    way = delta.gather(1, largest)[:, 0]
    return way.abs() if goal == "rise" else delta.abs().sum(1)


def _margin(output: Tensor, classes: Tensor) -> Tensor:
    flat = output.flatten(1)
    if flat.shape[1] == 1:
        return torch.where(classes == 1, flat[:, 0], -flat[:, 0])
    own = torch.nn.functional.one_hot(classes, flat.shape[1]).bool()
    return flat[own] - flat.masked_fill(own, -torch.inf).amax(1)


def _random_point(box: Interval, generator: torch.Generator) -> Tensor:
    if not box.lower.is_floating_point():
        return box.lower
    share = torch.rand(box.lower.shape, generator=generator, dtype=torch.float64).to(box.lower.device)
    return _inside(box.lower + share * (box.upper - box.lower), box)


def _moved(point: Tensor, gradient: Tensor | None, box: Interval, share: float) -> Tensor:
    if gradient is None:
        return point.detach()
    return _inside(point.detach() + share * (box.upper - box.lower) / 2 * gradient.sign(), box)


def _inside(point: Tensor, box: Interval) -> Tensor:
    return torch.minimum(torch.maximum(point, box.lower), box.upper)
