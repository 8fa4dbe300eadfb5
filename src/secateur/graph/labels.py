"""Integer labels for units while the graph is being read: which are equal, and which are pinned.

A label tensor has the shape of the value it describes; −1 marks elements that belong to no unit. Axes along
which labels do not change are kept as stride-0 views, so a label tensor costs as much as its units, not its
elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

FIXED = -1


@dataclass(eq=False)
class Labels:
    """What the coupling rules have said so far: labels given out, pairs that are equal, pins with reasons."""

    settled: frozenset[tuple[str, int]] = frozenset()  # (tensor, axis) known to be pinned: no labels there
    widths: bool = False  # whether products of activations ask for the widths of heads, not for whole heads
    tables: bool = False  # whether factors without units can be sliced with those that they multiply
    buffers: frozenset[str] = frozenset()  # tensors that are no parameters
    streams: frozenset[str] = frozenset()  # norms whose units may leave although they are normed together
    count: int = 0
    pairs: list[Tensor] = field(default_factory=list)  # each of shape (2, n)
    # units that a product sums over: those of its first operand, and those of its second
    summed: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    columns: list[Tensor] = field(default_factory=list)  # units along which heads were joined and passed on
    stacked: list[Tensor] = field(default_factory=list)  # units of layers that are stacked in one weight
    heads: list[Tensor] = field(default_factory=list)  # units along a batch axis of a product
    normed: list[Tensor] = field(default_factory=list)  # widths that a norm inside of each head reads
    pins: list[tuple[Tensor, str]] = field(default_factory=list)
    # (tensor, axis) → labels of its indices, and its role
    axes: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    roles: dict[tuple[str, int], str] = field(default_factory=dict)
    # tensor used element by element → labels of its elements
    elements: dict[str, Tensor] = field(default_factory=dict)
    # labels, an axis that no unit may leave, why
    whole: list[tuple[Tensor, int, str]] = field(default_factory=list)
    # tensor that no rule could label → why
    blocked: dict[str, str] = field(default_factory=dict)
    # weight without units, since its input carries units along another axis → why
    crossed: dict[str, str] = field(default_factory=dict)
    # (tensor, axis) that the rule at work has labelled
    read: set[tuple[str, int]] = field(default_factory=set)

    def fresh(self, n: int) -> Tensor:
        """`n` labels never given out before."""
        self.count += n
        return torch.arange(self.count - n, self.count)

    def pin(self, labels: Tensor | None, reason: str) -> None:
        """Mark the units of `labels` as unprunable because of `reason`; None marks nothing."""
        if labels is not None:
            named = torch.unique(compressed(labels))
            named = named[named != FIXED]
            if named.numel():
                self.pins.append((named, reason))

    def equate(self, a: Tensor, b: Tensor, reason: str) -> None:
        """Elements of `a` and `b` (broadcast) leave together; one that meets no unit is pinned."""
        a, b = torch.broadcast_tensors(a, b)
        shared = [i for i in range(a.ndim) if a.stride(i) == 0 and b.stride(i) == 0 and a.shape[i] > 1]
        for axis in shared:
            a, b = a.narrow(axis, 0, 1), b.narrow(axis, 0, 1)
        a, b = a.reshape(-1), b.reshape(-1)
        both = (a != FIXED) & (b != FIXED)
        differ = both & (a != b)
        if differ.any():
            self.pairs.append(torch.unique(torch.stack([a[differ], b[differ]]), dim=1))
        self.pin(a[~both], reason)
        self.pin(b[~both], reason)

    def are_heads(self, labels: Tensor) -> bool:
        """Whether units are those of a batch axis of a product, as they came out of it."""
        named = compressed(labels)
        return any(bool(torch.isin(named, heads).any()) for heads in self.heads)

    def uniform(self, labels: Tensor, axes: Sequence[int], reason: str) -> Tensor:
        """Labels that do not change along `axes` (stride-0 views): units that differ there are joined.

        Where units differ along `axes` alone, joining would make one unit of them all; they are pinned.
        """
        axes = [axis % labels.ndim for axis in axes]
        first = labels
        for axis in axes:
            first = first.narrow(axis, 0, 1)
        if not bool((labels == first).all()):
            if varying_axes(labels) <= set(axes):
                self.pin(labels, reason)
            else:
                self.equate(labels, first.expand_as(labels), reason)
        return first.expand_as(labels)

    def index(self, tensor: str, axis: int, labels: Tensor, role: str) -> Tensor:
        """Put `labels` along `axis` of the named tensor; labels of an earlier use are made equal to them."""
        self.read.add((tensor, axis))
        known = self.axes.get((tensor, axis))
        if (tensor, axis) in self.settled:
            self.pin(labels if role != "producer" else None, f"read beside units that are pinned in {tensor}")
            return fixed(labels.shape)
        if known is None:
            self.axes[tensor, axis], self.roles[tensor, axis] = labels, role
            return labels
        self.equate(known, labels, f"{tensor} is shared with a layer that cannot shrink")
        if role != self.roles[tensor, axis] and "consumer" in (role, self.roles[tensor, axis]):
            # no column could be zeroed alone
            self.pin(labels, f"{tensor} both makes its units and reads them")
        self.axes[tensor, axis] = torch.where(known == FIXED, labels, known)
        if role == "producer":
            self.roles[tensor, axis] = role
        return self.axes[tensor, axis]

    def element(self, tensor: str, value: Tensor) -> Tensor:
        """Labels of a parameter used element by element: one for each element, the same at every use."""
        self.read.update((tensor, axis) for axis in range(value.ndim))
        if any(name == tensor for name, _ in self.settled):
            return fixed(value.shape)
        if tensor not in self.elements:
            self.elements[tensor] = self.fresh(value.numel()).reshape(value.shape)
        return self.elements[tensor]

    def fix(self, tensor: str, axis: int, size: int) -> None:
        """Keep all indices of `axis` of the named tensor."""
        self.index(tensor, axis, fixed([size]), "consumer")

    def join_uses(self) -> None:
        """Join the labels of tensors that are used both along their axes and element by element."""
        for tensor, elements in self.elements.items():
            along = {axis: vector for (name, axis), vector in self.axes.items() if name == tensor}
            moving = {axis: vector for axis, vector in along.items() if bool((vector != FIXED).any())}
            if len(moving) == 1:
                ((axis, vector),) = moving.items()
                shape = [-1 if i == axis else 1 for i in range(elements.ndim)]
                self.equate(
                    elements, vector.reshape(shape), f"{tensor} is shared with a layer that cannot shrink"
                )
            elif along:
                for labels in (elements, *moving.values()):
                    self.pin(labels, f"{tensor} is used both as a weight and element by element")

    def classes(self, sides_apart: bool = False) -> Tensor:
        """The class of each label (the smallest label equal to it); shape: (count,).

        With `sides_apart`, units that a product sums over are not equal for that.
        """
        pairs = [] if sides_apart else [torch.stack([a, b]) for a, b in self.summed]
        pairs += self.pairs
        if not pairs:
            return torch.arange(self.count)
        a, b = torch.cat(pairs, dim=1).numpy()
        links = coo_matrix((np.ones(len(a), bool), (a, b)), shape=(self.count, self.count))
        _, component = connected_components(links, directed=False)
        _, first = np.unique(component, return_index=True)
        return torch.from_numpy(first[component])


def fixed(shape: Sequence[int]) -> Tensor:
    """Labels of a value without units."""
    return torch.full((1,) * len(shape), FIXED).expand(tuple(shape))


def varying_axes(labels: Tensor) -> set[int]:
    """The axes along which labels change."""
    return {
        axis
        for axis in range(labels.ndim)
        if labels.stride(axis) != 0
        and labels.shape[axis] > 1
        and not bool((labels == labels.narrow(axis, 0, 1)).all())
    }


def compacted(labels: Tensor) -> Tensor:
    """The same labels with a stride-0 view along every axis where they do not change."""
    varying = varying_axes(labels)
    shape = labels.shape
    for axis in range(labels.ndim):
        if axis not in varying and shape[axis] > 0:
            labels = labels.narrow(axis, 0, 1)
    return labels.expand(shape)


def without_repetition(labels: Tensor) -> Tensor:
    """The labels with size 1 along stride-0 axes; `expand` to the shape of `labels` gives them back."""
    for axis in range(labels.ndim):
        if labels.stride(axis) == 0 and labels.shape[axis] > 1:
            labels = labels.narrow(axis, 0, 1)
    return labels


def compressed(labels: Tensor) -> Tensor:
    """The labels without repetition along stride-0 axes, flat."""
    return without_repetition(labels).reshape(-1)
