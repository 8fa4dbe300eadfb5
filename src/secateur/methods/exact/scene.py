"""What the exact method looks at: one moment of a run, with bounds over the box on all that units are read
from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from secateur.bounds.interval import propagate
from secateur.bounds.rounding import OUTWARD
from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.graph.owners import groups_in_values
from secateur.methods.context import Norm, fold, following_norms
from secateur.reconstruct.layers import Consumer, find_consumers
from secateur.types import Group, Interval

_LARGEST_NOISE = 1e-6


@dataclass(frozen=True, eq=False)
class Scene:
    """Full-size tensors, in which removed units have no effect any more, and what is known about their
    values.
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


def make_scene(
    graph: Graph,
    coupling: Coupling,
    box: Iterable[Interval],
    weights: Mapping[str, Tensor],
    alive: Mapping[str, Tensor],
) -> Scene:
    """Look at a network for the first time; `look_again` where its weights have changed."""
    floating = [t.dtype for t in graph.tensors.values() if t.is_floating_point()]
    noise = min(
        _LARGEST_NOISE, max((8 * torch.finfo(dtype).eps for dtype in floating), default=_LARGEST_NOISE)
    )
    return Scene(
        graph, coupling, find_consumers(graph), following_norms(graph), _carriers(coupling), tuple(box),
        noise,
        weights, alive, bounded(graph, coupling, box, weights),
    )  # fmt: skip


def bounded(
    graph: Graph, coupling: Coupling, box: Iterable[Interval], weights: Mapping[str, Tensor]
) -> dict[fx.Node, Interval]:
    """Intervals, in float64 and rounded outward, of every value that holds units. Cost: two forward passes of
    one input, and as many again for the rounding. Raises `UnsupportedOpError` for an op without a rule.
    """
    found = propagate(graph, tuple(box), weights, keep=lambda node: node in coupling.units, rounding=OUTWARD)
    return {node: value for node, value in found.items() if isinstance(value, Interval)}


def _carriers(coupling: Coupling) -> dict[str, tuple[fx.Node, ...]]:
    """Group name → the nodes in whose values its units stand."""
    found: dict[str, list[fx.Node]] = {group.name: [] for group in coupling.prunable}
    for node, names in groups_in_values(coupling).items():
        for name in names:
            if name in found:
                found[name].append(node)
    return {name: tuple(nodes) for name, nodes in found.items()}


def readers(scene: Scene, group: Group) -> list[Consumer]:
    """The layers that read the units of a group, seen as linear maps; empty where some reader is none."""
    slots = group.having("consumer")
    if not all(
        s.tensor in scene.consumers and scene.consumers[s.tensor][0].view.axis == s.axis for s in slots
    ):
        return []
    return [
        consumer
        for weight in dict.fromkeys(slot.tensor for slot in slots)
        for consumer in scene.consumers[weight]
    ]


def input_of(consumer: Consumer) -> fx.Node:
    """The node whose value a layer reads."""
    (found,) = (node for node in consumer.node.all_input_nodes if node.op != "get_attr")
    return found


def unit_of(scene: Scene, node: fx.Node, group: Group) -> Tensor | None:
    """The unit of each element of a node's value for one input, −1 where it is none of the group; shape: (1,
    …).

    None where the first axis is not that of the samples alone.
    """
    units, value = scene.coupling.units[node], scene.values.get(node)
    alike = value is not None and units.shape[1:] == value.lower.shape[1:] and len(value.lower) == 1
    if not alike or (units.stride(0) != 0 and not torch.equal(units, units[:1].expand_as(units))):
        return None
    ids = scene.coupling.ids[group.name]
    number = torch.full((int(max(ids.max(), units.max())) + 1,), -1)
    number[ids] = torch.arange(group.units)
    return torch.where(units[:1] < 0, -1, number[units[:1].clamp(min=0)])


def each_unit(units: Tensor, numbers: Tensor, count: int) -> Tensor:
    """The largest of the numbers at each unit's elements, −∞ where it has none; shape: (count,)."""
    found = torch.full((count + 1,), -torch.inf, dtype=torch.float64)
    return found.scatter_reduce_(0, (units + 1).flatten(), numbers.double().flatten(), "amax")[1:]


def folded(scene: Scene, group: Group) -> tuple[dict[str, Tensor], list[Norm]]:
    """The weights with the batch norms right after the group's layers folded into them, and these norms."""
    own = {slot.tensor for slot in group.slots if slot.role != "consumer"}
    norms = {weight: norm for weight, norm in scene.norms.items() if weight in own}
    return fold(scene.weights, norms), list(norms.values())


def left(scene: Scene, group: Group) -> Tensor:
    """The numbers of the units that are there; shape: (units left,)."""
    return scene.alive[group.name].nonzero().flatten()


def rows_of(
    tensors: Mapping[str, Tensor], places: Sequence[tuple[str, int, Tensor]], units: Tensor
) -> Tensor:
    """All that stands at (tensor, axis, positions) for each of `units`, side by side; shape: (units,
    numbers).
    """
    none = torch.zeros(len(units), 0, dtype=torch.float64)
    return torch.cat([none, *(tensors[t].movedim(a, 0)[p[units]].flatten(1) for t, a, p in places)], dim=1)
