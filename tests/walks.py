"""Walks to the extremes of a network over a box, and how far values lie outside of their bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from secateur.graph.graph import Graph
from secateur.graph.interpret import run
from secateur.types import Interval

LIKE = torch.zeros(0, dtype=torch.float64)


def values(graph: Graph, tensors: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> dict[fx.Node, Any]:
    """The value of every node in float64; gradients pass."""
    nodes = [node for node in graph.nodes if node.op != "output"]
    found = run(graph, inputs, tensors, dtype=torch.float64, wanted=nodes, gradients=True)
    return dict(zip(nodes, found, strict=True))


def excess(bound: Any, value: Any) -> float:
    """How far a value is outside of its bounds, in shares of 1 + |value|; positions and values without bounds
    never.
    """
    if not isinstance(bound, Interval) or not value.is_floating_point():
        return 0.0
    assert not bound.lower.isnan().any() and not bound.upper.isnan().any()
    finite = value.isfinite()
    out = torch.maximum(bound.lower - value, value - bound.upper) / (1 + value.abs())
    return float(torch.where(finite, out, 0.0).max())


def random_point(box: Sequence[Interval], corner: bool) -> list[Tensor]:
    """A point or a corner of the box; ids of a small vocabulary."""
    found = []
    for x in box:
        share = torch.rand(x.lower.shape, dtype=torch.float64)
        share = share.round() if corner else share
        point = torch.randint(0, 7, x.lower.shape)
        if x.lower.is_floating_point():
            point = torch.maximum(x.lower, torch.minimum(x.upper, x.lower + (x.upper - x.lower) * share))
        found.append(point)
    return found


def extreme_points(
    graph: Graph,
    tensors: Mapping[str, Tensor],
    box: Sequence[Interval],
    rounds: int,
    change: Mapping[str, Tensor] | None = None,
) -> Iterator[list[Tensor]]:
    """Random points and corners, and from each a step to the corner that the gradient of a random sum of the
    outputs (of their change, with `change`) points to.
    """
    for i in range(rounds):
        inputs = random_point(box, corner=bool(i % 2))
        yield inputs
        moving = [x.clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
        own = values(graph, tensors, moving)
        other = values(graph, change, moving) if change is not None else None
        total = torch.zeros((), dtype=torch.float64)
        for node in graph.outputs:
            out = own[node] if other is None else other[node] - own[node]
            if out.is_floating_point():
                total = total + (out.nan_to_num() * torch.randn_like(out)).sum()
        if total.requires_grad:
            leaves = [x for x in moving if x.is_floating_point()]
            gradients = iter(torch.autograd.grad(total, leaves, allow_unused=True))
            yield [
                _corner(x, b, next(gradients)) if x.is_floating_point() else x
                for x, b in zip(inputs, box, strict=True)
            ]


def _corner(x: Tensor, box: Interval, gradient: Tensor | None) -> Tensor:
    if gradient is None:
        return x
    return torch.where(gradient > 0, box.upper, torch.where(gradient < 0, box.lower, x))
