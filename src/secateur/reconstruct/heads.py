"""Where the widths of heads stand: in the tensors, by head, and in the factors of the product over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.graph.labels import compressed, varying_axes
from secateur.graph.node import kind
from secateur.graph.ops import MOVES, of
from secateur.graph.widths import is_width
from secateur.reconstruct.statistics import LayerStatistics
from secateur.reconstruct.turns import Turn
from secateur.types import Group, Slot

_SUMMING = of("attention", "product")
_PLAIN = {*of(*MOVES, "dropout", "linear", "product", "attention"), "getitem"}  # what turns commute with


@dataclass(frozen=True, eq=False)
class Parts:
    """A group of widths by heads: where its units are made, and where they are read.

    Positions have shape (heads, indices of each head and unit, units).
    """

    group: Group
    makers: list[tuple[Slot, Tensor]]  # of queries, or of values
    keys: list[tuple[Slot, Tensor]]
    readers: list[tuple[Slot, Tensor]]  # columns of the layers that read values
    norms: list[Slot]  # parameters of norms over the width
    plain: bool  # whether nothing but moves and products stands between

    @staticmethod
    def of(stats: LayerStatistics, coupling: Coupling, group: Group) -> Parts | None:
        """None for a group whose heads cannot be told apart, or that no known layers make."""
        makers, keys, readers = (
            list[tuple[Slot, Tensor]](),
            list[tuple[Slot, Tensor]](),
            list[tuple[Slot, Tensor]](),
        )
        layers = {c.bias for found in stats.consumers.values() for c in found} | stats.consumers.keys()
        norms = [slot for slot in group.slots if group.normed and slot.tensor not in layers]
        for slot in group.slots:
            if slot in norms:
                continue
            at = by_head(coupling, slot)
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
        return Parts(group, makers, keys, readers, norms, is_plain(stats.graph, coupling, group))

    @property
    def of_keys(self) -> bool:
        return bool(self.keys)


def turns_of(parts: Sequence[tuple[Slot, Tensor]], matrix: Tensor) -> list[Turn]:
    return [Turn(slot.tensor, slot.axis, at[:, c], matrix) for slot, at in parts for c in range(at.shape[1])]


def by_head(coupling: Coupling, slot: Slot) -> Tensor | None:
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


def is_plain(graph: Graph, coupling: Coupling, group: Group) -> bool:
    """Whether the group's units pass through moves, products and scalar factors alone."""
    own = coupling.ids[group.name]
    for node, units in coupling.inner.items():
        if node.op != "call_function" or not bool(torch.isin(compressed(units), own).any()):
            continue
        scaled = kind(node) in ("mul", "div") and len(node.all_input_nodes) == 1
        if not (kind(node) in _PLAIN or scaled):
            return False
    return True


@dataclass(frozen=True, eq=False)
class Factor:
    """A factor of the product that sums over a group: its units as they are there, rotated for example."""

    key: tuple[str, str]
    node: fx.Node
    order: tuple[int, ...]  # the axes: samples, heads, width, tokens
    at: Tensor  # the indices of the width that are of the group: others pass by a partial rotation
    units: Tensor  # of each of them

    @property
    def places(self) -> Tensor:
        """The indices of each unit; shape: (indices of a unit, units)."""
        count = int(self.units.max()) + 1
        return self.at[self.units.argsort(stable=True)].reshape(count, -1).T

    def sums(self, value: Tensor) -> tuple[Tensor, Tensor, int]:
        """As `_Source.sums`, of the squares alone; those of keys about the mean of a sample."""
        rows = value.permute(self.order).flatten(3)[:, :, self.at.to(value.device)].double()
        if self.key[1] == "keys":
            rows = rows - rows.mean(3, keepdim=True)
        square = rows.square().sum((0, 3)).cpu()  # shape: (heads, width)
        energy = square.new_zeros(len(square), int(self.units.max()) + 1).index_add_(1, self.units, square)
        return torch.diag_embed(energy), energy, rows.shape[0] * rows.shape[3]


def factors_of(coupling: Coupling, graph: Graph, group: Group) -> list[Factor]:
    """The two factors of the first product that sums over the group; none where their axes are not known."""
    own = coupling.ids[group.name]
    for node in graph.nodes:
        if node.op != "call_function" or kind(node) not in _SUMMING:
            continue
        found = list[Factor]()
        for name, factor in zip(("made", "keys"), node.all_input_nodes[:2], strict=False):
            units = coupling.inner.get(factor)
            if units is None or not bool(torch.isin(compressed(units), own).any()):
                break
            (width,), heads = varying_axes(units), sorted(varying_axes(coupling.units[factor]))
            if len(heads) != 1 or heads[0] in (0, width) or width == 0:
                break
            rest = [axis for axis in range(1, units.ndim) if axis not in (width, heads[0])]
            along = units.movedim(width, 0).flatten(1)[:, 0]
            at = torch.isin(along, own).nonzero().flatten()
            number = own.argsort()[torch.searchsorted(own.sort().values, along[at].contiguous())]
            found.append(Factor((group.name, name), factor, (0, heads[0], width, *rest), at, number))
        if len(found) == 2:
            return found
    return []
