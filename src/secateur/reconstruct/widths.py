"""Widths of heads: turned within each head so that the dimensions that matter least come last.

The logits q·k of a head do not change when its queries are turned by G and its keys by G⁻ᵀ, nor does what a
layer reads when values are turned by R and its columns by R⁻¹. With second moments Σ over tokens,

    Σ_q^½ Σ_k^½ = U s Vᵀ,   G = s^½ Uᵀ Σ_q^-½

makes the logits a sum over dimensions of which the last ones can be left out at the least E(Δq·k)², among all
linear maps, for queries and keys of independent tokens. What a key adds to all logits of a query alike is
nothing to a softmax, so that Σ_k is about the mean of a sample. Of values, s are the singular values of
√S W Σ_v^½, S as in `sensitivity`: what the layer that reads them gives to the outputs.

After CORP (arXiv 2602.05243), which keeps dimensions as they are and fits the logits of those that leave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx

from secateur.graph.coupling import Coupling
from secateur.graph.footprint import batch_size, footprint
from secateur.graph.interpret import batches, for_passes, precision_of, run
from secateur.graph.widths import is_width
from secateur.graph.workers import in_order
from secateur.reconstruct.gates import Gates, gates_of
from secateur.reconstruct.heads import Factor, Parts, factors_of, turns_of
from secateur.reconstruct.layers import Consumer
from secateur.reconstruct.statistics import LayerStatistics
from secateur.reconstruct.turns import Turn, turned
from secateur.types import Group

_SAMPLES = 512
_RIDGE = 1e-4  # share of the mean moment that is added to second moments


@dataclass(frozen=True, eq=False)
class Widths:
    """How the widths of heads are turned, and which of queries and keys go first."""

    turns: tuple[Turn, ...] = ()
    # group of queries and keys → what leaving out each unit costs the logits; shape: (units,)
    costs: Mapping[str, Tensor] = field(default_factory=dict)
    gates: Mapping[str, Gates] = field(default_factory=dict)  # and what it costs the outputs

    def turned(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """New values of the tensors that are turned."""
        return turned(tensors, self.turns)

    def cheapest(self, group: Group, alive: Tensor, count: int) -> Tensor:
        """The `count` units of queries and keys that leave next."""
        gates = self.gates.get(group.name)
        if gates is not None and gates.tensors:
            return gates.cheapest(alive, count)[0]
        return torch.where(alive, self.costs[group.name], torch.inf).argsort(stable=True)[:count]

    def factors(self, alive: Mapping[str, Tensor]) -> list[Turn]:
        """What the units that are left are multiplied by, to make up for the others."""
        return [turn for name, gates in self.gates.items() for turn in gates.turns(alive[name])]


def widths_of(stats: LayerStatistics, coupling: Coupling, groups: Sequence[Group]) -> Widths:
    """Turns for those of `groups` that are widths of heads, and gates of queries and keys that cannot turn.

    Cost: a forward pass of up to 512 samples, and with gates a backward pass of fewer.
    """
    parts = _parts(stats, coupling, groups)
    if not parts:
        return Widths()
    moments = _moments(stats, coupling, parts)
    turns, costs = list[Turn](), dict[str, Tensor]()
    for part in parts:
        own, cost = _settled(part, stats, moments)
        turns += own
        if cost is not None:
            costs[part.group.name] = cost
    turned = Widths(tuple(turns), costs)
    gated = [part for part in parts if part.of_keys and not part.plain]
    return replace(turned, gates=gates_of(with_turned(stats, turned), coupling, gated))


def costs_of_keys(
    stats: LayerStatistics, coupling: Coupling, widths: Widths, alive: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Group of queries and keys → what each next unit costs at the outputs, shape: (units − 1,).

    `stats` are of the network whose heads are turned. Cost: a backward pass where some are.
    """
    groups = [group for group in coupling.prunable if group.name in widths.costs.keys() - widths.gates.keys()]
    every = {**widths.gates, **gates_of(stats, coupling, _parts(stats, coupling, groups))}
    found = dict[str, Tensor]()
    for name, gates in every.items():
        left = alive[name]
        more = max(0, int(left.sum()) - 1)
        if gates.tensors:
            costs = gates.cheapest(left, more)[1]
        else:
            order = torch.where(left, widths.costs[name], torch.inf).argsort(stable=True)
            costs = gates.in_order(order[:more])
        found[name] = torch.cat([costs.new_zeros(len(left) - 1 - more), costs])
    return found


def _parts(stats: LayerStatistics, coupling: Coupling, groups: Sequence[Group]) -> list[Parts]:
    found = [Parts.of(stats, coupling, group) for group in groups if is_width(group)]
    return [part for part in found if part is not None]


def _settled(part: Parts, stats: LayerStatistics, moments: _Moments) -> tuple[list[Turn], Tensor | None]:
    """The turns, and what each unit of queries and keys then costs."""
    name = part.group.name
    if part.of_keys:
        queries, keys = moments.made[name]
        if not part.plain:
            return [], _energies(queries, keys)
        turn, back, s = _balanced(queries, keys)
        return [*turns_of(part.makers, turn), *turns_of(part.keys, back)], s.square().sum(0)
    if not part.plain:
        return [], None
    turn, back = _principal(_read(part, stats), moments.read[name])
    return [*turns_of(part.makers, turn), *turns_of(part.readers, back)], None


def _read(part: Parts, stats: LayerStatistics) -> Tensor:
    """Wᵀ S W of the columns of each head, summed over the layers; shape: (heads, units, units)."""
    total = torch.zeros(())
    for slot, at in part.readers:
        for consumer in stats.consumers[slot.tensor]:
            weight = consumer.view.matrix(stats.original[slot.tensor], consumer.blocks)
            columns = stats.roots[consumer.node].times(weight)[0][:, at]  # (any, heads, c, units)
            total = total + torch.einsum("ohcu,ohcv->huv", columns, columns)
    return total


def with_turned(stats: LayerStatistics, widths: Widths) -> LayerStatistics:
    """The statistics of the same network with its heads turned."""
    original, plain = widths.turned(stats.original), widths.turned(stats.plain)
    shared = {name: plain[name] for name in plain if stats.original[name] is stats.plain[name]}
    return replace(stats, original={**stats.original, **original, **shared}, plain={**stats.plain, **plain})


# --- second moments -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Moments:
    """Second moments by head; shapes: (heads, units, units)."""

    made: dict[str, tuple[Tensor, Tensor]]  # group → of queries, and of keys about the mean of a sample
    read: dict[str, Tensor]  # group → of values where they are read, about their mean


def _moments(stats: LayerStatistics, coupling: Coupling, parts: Sequence[Parts]) -> _Moments:
    """Of the original on the samples, in one pass."""
    inputs = [x[:_SAMPLES] for x in stats.samples.inputs]
    sources = {source.key: source for part in parts for source in _sources(stats, coupling, part)}
    wanted = list(dict.fromkeys(source.node for source in sources.values()))
    size, total = batch_size(footprint(stats.graph).total, inputs), dict[tuple[str, str], Tensor]()
    first, count = dict[tuple[str, str], Tensor](), dict[tuple[str, str], int]()
    dtype = precision_of(inputs)
    used = for_passes(stats.graph, stats.original, inputs, dtype)

    def one(part: tuple[Tensor, ...]) -> dict[tuple[str, str], tuple[Tensor, Tensor, int]]:
        values = run(stats.graph, part, used, dtype=dtype, wanted=wanted)
        by_node = dict(zip(wanted, values, strict=True))
        return {key: source.sums(by_node[source.node]) for key, source in sources.items()}

    for found in in_order(one, batches(inputs, size)):
        for key, (square, plain, rows) in found.items():
            total[key] = total[key] + square if key in total else square
            first[key] = first[key] + plain if key in first else plain
            count[key] = count.get(key, 0) + rows
    moment = {key: square / count[key] for key, square in total.items()}
    for key in moment:
        if key[1] == "read":
            mean = first[key] / count[key]  # shape: (heads, c, units)
            moment[key] = moment[key] - torch.einsum("hcu,hcv->huv", mean, mean)
    names = [part.group.name for part in parts]
    made = {n: (moment[n, "made"], moment[n, "keys"]) for n in names if (n, "keys") in moment}
    return _Moments(made, {n: moment[n, "read"] for n in names if (n, "read") in moment})


@dataclass(frozen=True, eq=False)
class _Source:
    """Where the units of a group are seen: a node, and their places along its channels."""

    key: tuple[str, str]
    node: fx.Node
    consumer: Consumer
    at: Tensor

    def sums(self, value: Tensor) -> tuple[Tensor, Tensor, int]:
        """Of the products of units and of the units, over tokens, and the number of tokens."""
        every = torch.arange(self.consumer.view.positions(value), device=value.device)
        rows = self.consumer.view.outputs(value, every).unflatten(0, (len(value), -1))
        rows = rows[:, :, self.at.to(rows.device)].double()  # shape: (samples, tokens, heads, c, units)
        if self.key[1] == "keys":
            rows = rows - rows.mean(1, keepdim=True)
        square = torch.einsum("sthcu,sthcv->huv", rows, rows)
        return square.cpu(), rows.sum((0, 1)).cpu(), rows.shape[0] * rows.shape[1]


def _sources(stats: LayerStatistics, coupling: Coupling, part: Parts) -> Sequence[_Source | Factor]:
    if part.of_keys and not part.plain and (found := factors_of(coupling, stats.graph, part.group)):
        return found
    if not part.of_keys:
        slot, at = part.readers[0]
        consumer = stats.consumers[slot.tensor][0]
        (read,) = (n for n in consumer.node.all_input_nodes if n.op != "get_attr")
        return [_Source((part.group.name, "read"), read, consumer, at)]
    sources = []
    for name, slots in (("made", part.makers), ("keys", part.keys)):
        slot, at = next((slot, at) for slot, at in slots if slot.tensor in stats.consumers)
        consumer = stats.consumers[slot.tensor][0]
        sources.append(_Source((part.group.name, name), consumer.node, consumer, at))
    return sources


# --- turns --------------------------------------------------------------------------------------------------


def _roots(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Σ^½ and Σ^-½ of second moments, made positive."""
    mean = moment.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
    values, vectors = torch.linalg.eigh(moment)
    values = values.clamp_min(0.0) + _RIDGE * mean[:, None]
    roots = values.sqrt()
    return (vectors * roots[:, None]) @ vectors.mT, (vectors / roots[:, None]) @ vectors.mT


def _balanced(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """G for queries, G⁻ᵀ for keys, and the singular values of the logits, descending."""
    (root, inverse), (other, _) = _roots(queries), _roots(keys)
    u, s, _ = torch.linalg.svd(root @ other)
    scale = s.clamp_min(1e-12 * s.amax(1, keepdim=True)).sqrt()[:, :, None]
    return scale * (u.mT @ inverse), (u.mT @ root) / scale, s


def _principal(read: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """R for values and R⁻ᵀ for the columns that read them: what matters least comes last."""
    root, inverse = _roots(values)
    _, vectors = torch.linalg.eigh(root @ read @ root)
    turn, back = vectors.flip(2).mT @ inverse, vectors.flip(2).mT @ root
    size = turn.square().sum(2, keepdim=True).sqrt()  # rows of length 1: values keep their scale
    return turn / size, back * size


def _energies(queries: Tensor, keys: Tensor) -> Tensor:
    """E q² · E k² of each unit as it is, summed over heads; shape: (units,).

    Fewer heads of keys than of queries are shared by as many in turn.
    """
    keys = keys.repeat_interleave(len(queries) // len(keys), 0)
    return (queries.diagonal(dim1=1, dim2=2) * keys.diagonal(dim1=1, dim2=2)).sum(0)
