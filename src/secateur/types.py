"""The words of secateur as frozen dataclasses, without logic (see the design notes in docs/)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Slot:
    """Where a group's units stand in one tensor: unit u owns the indices `positions[u]` of `axis`.

    Roles: `producer` (rows that make the unit), `consumer` (columns that read it), `through` (a per-unit
    parameter on the way: norm scale, depthwise kernel, layer scale).
    """

    tensor: str  # name of the parameter or buffer
    axis: int
    # shape: (units, width), int64; width > 1 for flattened maps, heads and grouped convolutions
    positions: Tensor
    role: str


@dataclass(frozen=True, eq=False)
class Group:
    """Units that stand in the same slots. Unit numbers are the indices used in every edit and in the
    recipe.
    """

    name: str  # named after its first producer, e.g. `layer1.0.conv1`
    units: int
    slots: tuple[Slot, ...]
    pinned: str = ""  # why no unit of the group can leave; empty where they can

    def having(self, role: str) -> tuple[Slot, ...]:
        return tuple(slot for slot in self.slots if slot.role == role)


@dataclass(frozen=True, eq=False)
class Groups:
    """All groups of a model, and the tensors that no rule could label."""

    groups: tuple[
        Group, ...
    ]  # prunable and pinned; the prunable ones in the order in which the graph makes them
    blocked: Mapping[str, str]  # tensor → why no rule could label it

    @property
    def prunable(self) -> tuple[Group, ...]:
        return tuple(group for group in self.groups if not group.pinned)


@dataclass(frozen=True, eq=False)
class Removal:
    """A decision about one group: these units go; each is stood in for by `into` (−1: by nothing).

    Where more than a merge makes up for them, `weights` holds the new values of the tensors that change, of
    full size.
    """

    group: str
    units: Tensor  # shape: (k,), int64
    into: Tensor  # shape: (k,), int64
    weights: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Interval:
    """Element-wise bounds, `lower <= x <= upper`, of equal shape."""

    lower: Tensor
    upper: Tensor


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs on which a network is looked at: surrogates, or a user's own.

    `tensors` hold values to be used in place of the network's while it is looked at (batch-norm statistics,
    where the inputs are mere noise).
    """

    inputs: tuple[Tensor, ...]  # one for each input of the graph; axis 0 is the samples
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
