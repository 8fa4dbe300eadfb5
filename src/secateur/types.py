"""The basic types as frozen dataclasses without logic; docs/glossary.md explains the words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Slot:
    """The indices of a group's units along one axis of one tensor.

    Attributes:
        tensor: The name of the parameter or buffer.
        axis: The axis of the tensor.
        positions: The indices of each unit, shape (units, width), int64; width > 1 for flattened maps,
            attention heads and grouped convolutions.
        role: `producer` for weights that compute the units, `consumer` for weights that read them, `through`
            for a parameter of each unit in between (norm scale, depthwise kernel, layer scale).
    """

    tensor: str
    axis: int
    positions: Tensor
    role: str


@dataclass(frozen=True, eq=False)
class Group:
    """Units that share the same slots. Edits and the recipe use the numbers of these units.

    Attributes:
        name: The name of the layer that computes the units first, such as `layer1.0.conv1`.
        units: The number of units.
        slots: Their indices in each tensor.
        pinned: Why no unit can be removed; empty for a prunable group.
        normed: Whether a norm inside of each head reads all units. Those that are removed are 0 there, and
            none stands in for another.
    """

    name: str
    units: int
    slots: tuple[Slot, ...]
    pinned: str = ""
    normed: bool = False

    def having(self, role: str) -> tuple[Slot, ...]:
        """The slots with this role."""
        return tuple(slot for slot in self.slots if slot.role == role)


@dataclass(frozen=True, eq=False)
class Groups:
    """All groups of a model.

    Attributes:
        groups: Prunable and pinned groups; the prunable ones in the order of the graph.
        blocked: Name of a tensor that no group holds → why.
    """

    groups: tuple[Group, ...]
    blocked: Mapping[str, str]

    @property
    def prunable(self) -> tuple[Group, ...]:
        """The groups whose units can be removed."""
        return tuple(group for group in self.groups if not group.pinned)


@dataclass(frozen=True, eq=False)
class Removal:
    """Units of one group to remove, and how to compensate for them.

    Attributes:
        group: The name of the group.
        units: The units to remove, shape (k,), int64.
        into: For each of them the unit that absorbs it, shape (k,), int64; −1 where no unit does.
        weights: New values of tensors at full size, by name, where merging is not all; the merges are applied
            to these.
    """

    group: str
    units: Tensor
    into: Tensor
    weights: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Interval:
    """Element-wise bounds, `lower <= x <= upper`, of equal shape."""

    lower: Tensor
    upper: Tensor


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs used for scoring, refitting or validation: surrogates, or a user's own.

    Attributes:
        inputs: One tensor for each input of the graph; axis 0 is the samples.
        tensors: Values to use in place of the network's tensors of these names in passes of the samples, such
            as batch-norm statistics where the inputs are noise.
        prior: Weight of what a layer's own weights tell of its inputs, in shares of the samples; see
            `reconstruct.prior`.
        drawn: How they were drawn, where a surrogate chose that; the recipe records it.
    """

    inputs: tuple[Tensor, ...]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    prior: float = 0.0
    drawn: str = ""


@dataclass(frozen=True)
class Tokenizer:
    """What the files of a tokenizer tell of its ids.

    Attributes:
        order: The ids of a text, by the rank that the files give them, the likely most frequent first. Ids
            that stand for no text (padding, masks, separators) are left out.
        mask: The id that stands for a hidden token; None where there is none.
        start, end: The ids that every sequence begins and ends with.
    """

    order: tuple[int, ...]
    mask: int | None = None
    start: tuple[int, ...] = ()
    end: tuple[int, ...] = ()
