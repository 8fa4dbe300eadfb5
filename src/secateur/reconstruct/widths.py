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
from secateur.graph.graph import Graph
from secateur.graph.interpret import batches, precision_of, run
from secateur.graph.labels import compressed, varying_axes
from secateur.graph.node import kind
from secateur.graph.ops import MOVES, of
from secateur.graph.widths import is_width
from secateur.graph.workers import in_order
from secateur.reconstruct.layers import Consumer
from secateur.reconstruct.statistics import LayerStatistics
from secateur.types import Group, Slot

_SAMPLES = 512
_RIDGE = 1e-4  # share of the mean moment that is added to second moments
_SUMMING = of("attention", "product")
_PLAIN = {*of(*MOVES, "dropout", "linear", "product", "attention"), "getitem"}  # what turns commute with


@dataclass(frozen=True, eq=False)
class Turn:
    """Indices of one tensor that are multiplied by a matrix, head by head."""

    tensor: str
    axis: int
    positions: Tensor  # shape: (heads, units)
    matrix: Tensor  # shape: (heads, units, units)

    def of(self, tensor: Tensor) -> Tensor:
        """The tensor, turned; float64."""
        turned = tensor.movedim(self.axis, 0).clone()
        rows = turned[self.positions].flatten(2) if turned.ndim > 1 else turned[self.positions][..., None]
        turned[self.positions] = (self.matrix @ rows).reshape(turned[self.positions].shape)
        return turned.movedim(0, self.axis).contiguous()


@dataclass(frozen=True, eq=False)
class Widths:
    """How the widths of heads are turned, and which of queries and keys go first."""

    turns: tuple[Turn, ...] = ()
    # group of queries and keys → what leaving out each unit costs; shape: (units,)
    costs: Mapping[str, Tensor] = field(default_factory=dict)

    def turned(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """New values of the tensors that are turned."""
        found = dict[str, Tensor]()
        for turn in self.turns:
            found[turn.tensor] = turn.of(found.get(turn.tensor, tensors[turn.tensor]))
        return found


def widths_of(stats: LayerStatistics, coupling: Coupling, groups: Sequence[Group]) -> Widths:
    """Turns for those of `groups` that are widths of heads. Cost: one forward pass of up to 512 samples."""
    found = [_Parts.of(stats, coupling, group) for group in groups if is_width(group)]
    parts = [part for part in found if part is not None]
    if not parts:
        return Widths()
    moments = _moments(stats, coupling, parts)
    turns, costs = list[Turn](), dict[str, Tensor]()
    for part in parts:
        own, cost = part.settled(stats, moments)
        turns += own
        if cost is not None:
            costs[part.group.name] = cost
    return Widths(tuple(turns), costs)


def with_turned(stats: LayerStatistics, widths: Widths) -> LayerStatistics:
    """The statistics of the same network with its heads turned."""
    original, plain = widths.turned(stats.original), widths.turned(stats.plain)
    shared = {name: plain[name] for name in plain if stats.original[name] is stats.plain[name]}
    return replace(stats, original={**stats.original, **original, **shared}, plain={**stats.plain, **plain})


@dataclass(frozen=True, eq=False)
class _Parts:
    """A group of widths by heads: where its units are made, and where they are read.

    Positions have shape (heads, indices of each head and unit, units).
    """

    group: Group
    makers: list[tuple[Slot, Tensor]]  # of queries, or of values
    keys: list[tuple[Slot, Tensor]]
    readers: list[tuple[Slot, Tensor]]  # columns of the layers that read values
    plain: bool  # whether nothing but moves and products stands between

    @staticmethod
    def of(stats: LayerStatistics, coupling: Coupling, group: Group) -> _Parts | None:
        """None for a group whose heads cannot be told apart, or that no known layers make."""
        makers, keys, readers = (
            list[tuple[Slot, Tensor]](),
            list[tuple[Slot, Tensor]](),
            list[tuple[Slot, Tensor]](),
        )
        for slot in group.slots:
            at = _by_head(coupling, slot)
            weight = stats.consumers.get(slot.tensor)
            if at is None or slot.role == "through":
                return None
            if slot.role == "producer":
                makers.append((slot, at))
            elif weight is not None and weight[0].view.axis == slot.axis:
                if weight[0].taps > 1 or weight[0].blocks > 1:
                    return None
                readers.append((slot, at))
            else:
                keys.append((slot, at))
        makes_known = any(slot.tensor in stats.consumers for slot, _ in makers)
        keys_known = any(slot.tensor in stats.consumers for slot, _ in keys)
        heads = {len(at) for _, at in (*makers, *keys, *readers)}
        if len(heads) > 1 or not makes_known or bool(keys) == bool(readers) or (keys and not keys_known):
            return None
        return _Parts(group, makers, keys, readers, _is_plain(stats.graph, coupling, group))

    @property
    def of_keys(self) -> bool:
        return bool(self.keys)

    def settled(self, stats: LayerStatistics, moments: _Moments) -> tuple[list[Turn], Tensor | None]:
        """The turns, and what each unit of queries and keys then costs."""
        if self.of_keys:
            queries, keys = moments.made[self.group.name]
            if not self.plain:
                return [], _energies(queries, keys)
            turn, back, s = _balanced(queries, keys)
            turns = [*_turns(self.makers, turn), *_turns(self.keys, back)]
            return turns, s.square().sum(0)
        if not self.plain:
            return [], None
        turn, back = _principal(self._read(stats), moments.read[self.group.name])
        return [*_turns(self.makers, turn), *_turns(self.readers, back)], None

    def _read(self, stats: LayerStatistics) -> Tensor:
        """Wᵀ S W of the columns of each head, summed over the layers; shape: (heads, units, units)."""
        total = torch.zeros(())
        for slot, at in self.readers:
            for consumer in stats.consumers[slot.tensor]:
                weight = consumer.view.matrix(stats.original[slot.tensor], consumer.blocks)
                columns = stats.roots[consumer.node].times(weight)[0][:, at]  # (any, heads, c, units)
                total = total + torch.einsum("ohcu,ohcv->huv", columns, columns)
        return total


def _turns(parts: Sequence[tuple[Slot, Tensor]], matrix: Tensor) -> list[Turn]:
    return [Turn(slot.tensor, slot.axis, at[:, c], matrix) for slot, at in parts for c in range(at.shape[1])]


def _by_head(coupling: Coupling, slot: Slot) -> Tensor | None:
    """The positions by the heads that they belong to: whole heads are units of another group."""
    if slot.positions.shape[1] == 1:
        return slot.positions.T[:, None]
    owner = torch.full((int(slot.positions.max()) + 1,), -1)
    for group in coupling.groups:
        for other in group.slots if not is_width(group) else ():
            if (other.tensor, other.axis) == (slot.tensor, slot.axis):
                unit = torch.arange(group.units)[:, None].expand(other.positions.shape)
                within = other.positions < len(owner)
                owner[other.positions[within]] = unit[within]
    heads = owner[slot.positions]  # shape: (units, indices)
    order = heads.argsort(dim=1, stable=True)
    counts = torch.bincount(heads[0].clamp(min=0))
    alike = bool((heads.gather(1, order) == heads[0].sort().values).all())
    if not alike or int(heads.min()) < 0 or len(set(counts.tolist())) > 1:
        return None
    return slot.positions.gather(1, order).reshape(len(heads), len(counts), -1).permute(1, 2, 0)


def _is_plain(graph: Graph, coupling: Coupling, group: Group) -> bool:
    """Whether the group's units pass through moves, products and scalar factors alone."""
    own = coupling.ids[group.name]
    for node, units in coupling.inner.items():
        if node.op != "call_function" or not bool(torch.isin(compressed(units), own).any()):
            continue
        scaled = kind(node) in ("mul", "div") and len(node.all_input_nodes) == 1
        if not (kind(node) in _PLAIN or scaled):
            return False
    return True


# --- second moments -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Moments:
    """Second moments by head; shapes: (heads, units, units)."""

    made: dict[str, tuple[Tensor, Tensor]]  # group → of queries, and of keys about the mean of a sample
    read: dict[str, Tensor]  # group → of values where they are read, about their mean


def _moments(stats: LayerStatistics, coupling: Coupling, parts: Sequence[_Parts]) -> _Moments:
    """Of the original on the samples, in one pass."""
    inputs = [x[:_SAMPLES] for x in stats.samples.inputs]
    sources = {source.key: source for part in parts for source in _sources(stats, coupling, part)}
    wanted = list(dict.fromkeys(source.node for source in sources.values()))
    size, total = batch_size(footprint(stats.graph).total, inputs), dict[tuple[str, str], Tensor]()
    first, count = dict[tuple[str, str], Tensor](), dict[tuple[str, str], int]()

    def one(part: tuple[Tensor, ...]) -> dict[tuple[str, str], tuple[Tensor, Tensor, int]]:
        values = run(stats.graph, part, stats.original, dtype=precision_of(inputs), wanted=wanted)
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


@dataclass(frozen=True, eq=False)
class _Factor:
    """A factor of the product that sums over a group: its units as they are there, rotated for example."""

    key: tuple[str, str]
    node: fx.Node
    order: tuple[int, ...]  # the axes: samples, heads, width, tokens
    units: Tensor  # of each index of the width

    def sums(self, value: Tensor) -> tuple[Tensor, Tensor, int]:
        """As `_Source.sums`, of the squares alone; those of keys about the mean of a sample."""
        rows = value.permute(self.order).flatten(3).double()
        if self.key[1] == "keys":
            rows = rows - rows.mean(3, keepdim=True)
        square = rows.square().sum((0, 3)).cpu()  # shape: (heads, width)
        energy = square.new_zeros(len(square), int(self.units.max()) + 1).index_add_(1, self.units, square)
        return torch.diag_embed(energy), energy, rows.shape[0] * rows.shape[3]


def _factors(coupling: Coupling, graph: Graph, group: Group) -> list[_Factor]:
    """The two factors of the first product that sums over the group; none where their axes are not known."""
    own = coupling.ids[group.name]
    for node in graph.nodes:
        if node.op != "call_function" or kind(node) not in _SUMMING:
            continue
        found = list[_Factor]()
        for name, factor in zip(("made", "keys"), node.all_input_nodes[:2], strict=False):
            units = coupling.inner.get(factor)
            if units is None or not bool(torch.isin(compressed(units), own).any()):
                break
            (width,), heads = varying_axes(units), sorted(varying_axes(coupling.units[factor]))
            if len(heads) != 1 or heads[0] in (0, width) or width == 0:
                break
            rest = [axis for axis in range(1, units.ndim) if axis not in (width, heads[0])]
            along = units.movedim(width, 0).flatten(1)[:, 0]
            number = torch.searchsorted(own.sort().values, along)
            found.append(
                _Factor((group.name, name), factor, (0, heads[0], width, *rest), own.argsort()[number])
            )
        if len(found) == 2:
            return found
    return []


def _sources(stats: LayerStatistics, coupling: Coupling, part: _Parts) -> Sequence[_Source | _Factor]:
    if part.of_keys and not part.plain and (factors := _factors(coupling, stats.graph, part.group)):
        return factors
    if not part.of_keys:
        slot, at = part.readers[0]
        consumer = stats.consumers[slot.tensor][0]
        (read,) = (n for n in consumer.node.all_input_nodes if n.op != "get_attr")
        return [_Source((part.group.name, "read"), read, consumer, at)]
    found = []
    for name, slots in (("made", part.makers), ("keys", part.keys)):
        slot, at = next((slot, at) for slot, at in slots if slot.tensor in stats.consumers)
        consumer = stats.consumers[slot.tensor][0]
        found.append(_Source((part.group.name, name), consumer.node, consumer, at))
    return found


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
