"""What linear bounds are worked out from: both networks, the bounds known so far, and what was derived."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.bounds.arithmetic import as_interval, by_row, magnitude
from secateur.bounds.joint import Bounds, Networks
from secateur.bounds.pairs import Pair, after, before
from secateur.bounds.table import Table
from secateur.bounds.tangents import Tangent
from secateur.graph.interpret import call_op, walk
from secateur.types import Interval

Transpose = tuple[tuple[Tensor, ...], Callable[..., Any]]


@dataclass(eq=False)
class Backward:
    """Both networks and the bounds known so far; the other fields are caches by node."""

    networks: Networks
    bounds: Bounds = field(default_factory=dict)
    transposes: dict[tuple[fx.Node, int], Transpose] = field(default_factory=dict)
    sizes: dict[fx.Node, tuple[list[Tensor], int]] = field(default_factory=dict)
    tables: dict[fx.Node, Table] = field(default_factory=dict)
    magnitudes: dict[fx.Node, Tensor] = field(default_factory=dict)
    tangents: dict[fx.Node, tuple[Tangent, Tangent]] = field(default_factory=dict)
    widest: int = 0  # the largest window of a row so far

    def __post_init__(self) -> None:
        self.samples = [
            on_zeros(self.networks, tensors) for tensors in (self.networks.first, self.networks.second)
        ]

    def shape(self, node: fx.Node) -> torch.Size:
        """The shape of a node's value for one sample."""
        shape: torch.Size = self.samples[0][node].shape
        return shape

    def largest(self, node: fx.Node) -> Tensor:
        """The largest size of a number of the node's value in each box, in f or g, shape (boxes,)."""
        if node not in self.magnitudes:
            leaves = [x for x in pytree.tree_leaves(self.bounds[node]) if isinstance(x, (Pair, Interval))]
            sides = [as_interval(side(x)) for x in leaves for side in (before, after)]
            most = [by_row(magnitude(x)).amax(1) for x in sides]
            self.magnitudes[node] = torch.stack(torch.broadcast_tensors(*most)).amax(0)
        return self.magnitudes[node]

    def nothing(self, rows: int) -> Tensor:
        """A zero for each row."""
        return torch.zeros(rows, dtype=self.networks.like.dtype, device=self.networks.like.device)


def on_zeros(networks: Networks, tensors: Mapping[str, Tensor]) -> dict[fx.Node, Any]:
    """The value of every node on one sample of zeros."""
    graph, like = networks.graph, networks.like
    size = graph.example[0].shape[0]

    def zeros(x: Tensor) -> Tensor:
        one = x[:1] if x.ndim and x.shape[0] == size else x
        dtype = like.dtype if one.is_floating_point() else one.dtype
        return torch.zeros_like(one, dtype=dtype, device=like.device)

    given = dict(zip(graph.inputs, map(zeros, graph.example), strict=True))

    def leaf(node: fx.Node) -> Tensor:
        return given[node] if node.op == "placeholder" else tensors[str(node.target)]

    with torch.no_grad():
        return walk(graph, leaf, partial(call_op, like=like), keep=lambda node: True)


def varies(value: Any) -> bool:
    """Whether the value depends on the inputs."""
    leaves = pytree.tree_leaves(value)
    return any(isinstance(x.before if isinstance(x, Pair) else x, Interval) for x in leaves)
