"""What a method may use when it decides: the graph, the present weights and the input box; no data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from secateur.bounds.interval import propagate
from secateur.graph.graph import Graph
from secateur.methods.batch_norm import Norm, fold, own_norms
from secateur.methods.rows import all_rows, makers
from secateur.types import Group, Interval


@dataclass(frozen=True, eq=False)
class Context:
    """One moment of a pruning run. Full-size tensors, in which removed units have no effect any more."""

    graph: Graph
    weights: Mapping[str, Tensor]  # by name, float64 where floating
    box: Sequence[Interval]  # float32, one for each input, batch 1
    generator: torch.Generator
    alive: Mapping[str, Tensor]  # group name → units that stay so far, bool
    used: Mapping[str, Tensor]  # group name → units that stood in for another, bool
    recursive: bool  # whether a unit that stood in for another may do so again, or leave
    progress: float = 0.0  # share of the planned removals that is done
    norms: Mapping[str, Norm] = field(default_factory=dict)  # producer weight → the batch norm that follows

    @cached_property
    def values(self) -> dict[fx.Node, Any]:
        """Bounds over the box on every node's value, of the network with batch norms folded; float32."""
        folded = fold(self.weights, self.norms)
        tensors = {name: w.float() if w.is_floating_point() else w for name, w in folded.items()}
        return propagate(self.graph, self.box, tensors, keep=lambda node: True)


def incoming(context: Context, group: Group) -> Tensor:
    """All numbers that make each unit, batch norm folded; shape: (units, features).

    These are its rows in every producer and its parameters on the way (depthwise kernels, norms, scales).
    """
    folded = fold(context.weights, own_norms(context.norms, group))
    return all_rows(folded, makers(group), group)


def fan_out(context: Context, group: Group) -> Tensor:
    """‖W[:, a]‖² over all consumers; shape: (units,)."""
    total = torch.zeros(group.units, dtype=torch.float64)
    for slot in group.having("consumer"):
        columns = context.weights[slot.tensor].movedim(slot.axis, 0)  # shape: (indices, …)
        squared = columns.flatten(1).square().sum(1) if columns.ndim > 1 else columns.square()
        total += squared[slot.positions].sum(1)
    return total


def filters(context: Context, group: Group) -> Tensor:
    """The weights that make each unit, without bias and norm; shape: (units, weights)."""
    producers = [slot for slot in group.having("producer") if context.weights[slot.tensor].ndim > 1]
    return all_rows(context.weights, producers, group)


def smallest(context: Context, group: Group, count: int, norm: int) -> tuple[Tensor, Tensor]:
    """The `count` remaining units of the least filter norms (L1 or L2), and the others, sorted.

    Cost: n·d for n units of d weights.
    """
    size = torch.linalg.vector_norm(filters(context, group), ord=norm, dim=1)
    size[~context.alive[group.name]] = torch.inf
    order = torch.sort(size, stable=True).indices[: int(context.alive[group.name].sum())]
    return order[:count], order[count:].sort().values
