"""What the exact method works on: a network, and bounds over the box on the values that hold units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from secateur.bounds.interval import propagate
from secateur.bounds.rounding import OUTWARD
from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.graph.owners import groups_in_values
from secateur.methods.batch_norm import Norm, fold, following_norms, own_norms
from secateur.reconstruct.layers import Consumer, all_linear, find_consumers
from secateur.types import Group, Interval

_LARGEST_NOISE = 1e-6


@dataclass(frozen=True, eq=False)
class ExactProblem:
    """A network at one moment of a run, and bounds on its values.

    Tensors have their full size; removed units have no effect any more.
    """

    graph: Graph
    coupling: Coupling
    consumers: Mapping[str, list[Consumer]]  # weight → the nodes that read through it
    norms: Mapping[str, Norm]  # producer weight → the batch norm that follows it
    carriers: Mapping[str, tuple[fx.Node, ...]]  # group name → the nodes whose values hold its units
    box: tuple[Interval, ...]  # float64
    noise: float  # relative rounding of the model's own numbers
    weights: Mapping[str, Tensor]  # by name, float64 where floating
    alive: Mapping[str, Tensor]  # group name → units that stay so far, bool
    values: Mapping[fx.Node, Interval]  # sound bounds over the box


def make_problem(
    graph: Graph,
    coupling: Coupling,
    box: Iterable[Interval],
    weights: Mapping[str, Tensor],
    alive: Mapping[str, Tensor],
) -> ExactProblem:
    """The problem for the present weights. Raises `UnsupportedOpError` for an op without a rule."""
    floating = [t.dtype for t in graph.tensors.values() if t.is_floating_point()]
    noise = max((8 * torch.finfo(dtype).eps for dtype in floating), default=_LARGEST_NOISE)
    return ExactProblem(
        graph=graph,
        coupling=coupling,
        consumers=find_consumers(graph),
        norms=following_norms(graph),
        carriers=_carriers(coupling),
        box=tuple(box),
        noise=min(_LARGEST_NOISE, noise),
        weights=weights,
        alive=alive,
        values=bounded(graph, coupling, box, weights),
    )


def bounded(
    graph: Graph, coupling: Coupling, box: Iterable[Interval], weights: Mapping[str, Tensor]
) -> dict[fx.Node, Interval]:
    """Bounds, in float64 and rounded outward, on every value that holds units.

    Cost: two forward passes of one input, and as many again for the rounding. Raises `UnsupportedOpError` for
    an op without a rule.
    """
    found = propagate(graph, tuple(box), weights, keep=lambda node: node in coupling.units, rounding=OUTWARD)
    return {node: value for node, value in found.items() if isinstance(value, Interval)}


def _carriers(coupling: Coupling) -> dict[str, tuple[fx.Node, ...]]:
    """Group name → the nodes whose values hold its units."""
    found: dict[str, list[fx.Node]] = {group.name: [] for group in coupling.prunable}
    for node, names in groups_in_values(coupling).items():
        for name in names:
            if name in found:
                found[name].append(node)
    return {name: tuple(nodes) for name, nodes in found.items()}


def readers(problem: ExactProblem, group: Group) -> list[Consumer]:
    """The layers that read the units of a group, as linear maps; empty where one of them is none."""
    slots = group.having("consumer")
    if not all_linear(slots, problem.consumers):
        return []
    return [
        consumer
        for weight in dict.fromkeys(slot.tensor for slot in slots)
        for consumer in problem.consumers[weight]
    ]


def input_of(consumer: Consumer) -> fx.Node:
    """The node whose value a layer reads."""
    (found,) = (node for node in consumer.node.all_input_nodes if node.op != "get_attr")
    return found


def unit_of(problem: ExactProblem, node: fx.Node, group: Group) -> Tensor | None:
    """The unit of each element of a node's value for one input, −1 outside the group; shape: (1, …).

    None where the first axis is not that of the samples alone.
    """
    units, value = problem.coupling.units[node], problem.values.get(node)
    alike = value is not None and units.shape[1:] == value.lower.shape[1:] and len(value.lower) == 1
    if not alike or (units.stride(0) != 0 and not torch.equal(units, units[:1].expand_as(units))):
        return None
    ids = problem.coupling.ids[group.name]
    number = torch.full((int(max(ids.max(), units.max())) + 1,), -1)
    number[ids] = torch.arange(group.units)
    return torch.where(units[:1] < 0, -1, number[units[:1].clamp(min=0)])


def each_unit(units: Tensor, numbers: Tensor, count: int) -> Tensor:
    """The largest of the numbers at each unit's elements, −∞ where it has none; shape: (count,)."""
    found = torch.full((count + 1,), -torch.inf, dtype=torch.float64)
    return found.scatter_reduce_(0, (units + 1).flatten(), numbers.double().flatten(), "amax")[1:]


def folded(problem: ExactProblem, group: Group) -> tuple[dict[str, Tensor], list[Norm]]:
    """The weights with the batch norms right after the group's layers folded into them, and these norms."""
    norms = own_norms(problem.norms, group)
    return fold(problem.weights, norms), list(norms.values())


def remaining(problem: ExactProblem, group: Group) -> Tensor:
    """The units that have not been removed; shape: (remaining units,), int64."""
    return problem.alive[group.name].nonzero().flatten()
