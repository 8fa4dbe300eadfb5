"""What a per-group method may use: the graph, the current weights and the input box; no data."""

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
    """The state of a pruning run when a method is asked for the next removal.

    Attributes:
        graph: The captured original.
        weights: The current tensors at full size, by name; float64 where floating. Removed units have no
            effect in them.
        box: The legal range of each input, float32, batch 1.
        generator: The random generator of the run.
        alive: Group name → which units are left, shape (units,), bool.
        used: Group name → which units have absorbed another one, shape (units,), bool.
        recursive: Whether a unit that has absorbed another one may absorb more, or leave.
        progress: The share of the planned removals that is done, from 0 to 1.
        norms: Name of a layer's weight → the batch norm right after the layer.
    """

    graph: Graph
    weights: Mapping[str, Tensor]
    box: Sequence[Interval]
    generator: torch.Generator
    alive: Mapping[str, Tensor]
    used: Mapping[str, Tensor]
    recursive: bool
    progress: float = 0.0
    norms: Mapping[str, Norm] = field(default_factory=dict)

    @cached_property
    def values(self) -> dict[fx.Node, Any]:
        """Bounds over the box on every node's value, in float32, with batch norms folded."""
        folded = fold(self.weights, self.norms)
        tensors = {name: w.float() if w.is_floating_point() else w for name, w in folded.items()}
        return propagate(self.graph, self.box, tensors, keep=lambda node: True)


def incoming(context: Context, group: Group) -> Tensor:
    """All weights that compute each unit, with batch norm folded; shape: (units, features).

    These are its rows in every producer, and its own parameters in depthwise kernels, norms and scales.
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
    """The weights that compute each unit, without bias and norm; shape: (units, weights)."""
    producers = [slot for slot in group.having("producer") if context.weights[slot.tensor].ndim > 1]
    return all_rows(context.weights, producers, group)


def smallest(context: Context, group: Group, count: int, norm: int) -> tuple[Tensor, Tensor]:
    """The `count` remaining units with the smallest filter norms, and the others.

    Args:
        norm: 1 for L1, 2 for L2.

    Returns:
        The smallest units in ascending order of their norms, shape (count,); all other remaining units in
        ascending order of their numbers. Cost: n·d for n units of d weights.
    """
    size = torch.linalg.vector_norm(filters(context, group), ord=norm, dim=1)
    size[~context.alive[group.name]] = torch.inf
    order = torch.sort(size, stable=True).indices[: int(context.alive[group.name].sum())]
    return order[:count], order[count:].sort().values
