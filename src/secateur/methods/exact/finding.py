"""Units that can be removed exactly, what replaces them, and the tensors that this changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from secateur.compensate import combined
from secateur.types import Group, Removal


@dataclass(frozen=True, eq=False)
class Finding:
    """k units of a group that others can replace.

    v_a = scale_a · v_into(a) + Σ_s coefficients[a, s] · v_s + a constant, over the box, for each unit a.
    """

    units: Tensor  # shape: (k,), int64
    into: Tensor  # shape: (k,), int64; −1: none
    scale: Tensor  # shape: (k,); of `into`
    kept: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))  # shape: (m,)
    coefficients: Tensor | None = None  # shape: (k, m)
    shifts: Mapping[str, Tensor] = field(default_factory=dict)  # added to biases; shape: (k, O)

    def only(self, chosen: slice) -> Finding:
        """Some of the units; the others stay."""
        return replace(
            self,
            units=self.units[chosen],
            into=self.into[chosen],
            scale=self.scale[chosen],
            coefficients=None if self.coefficients is None else self.coefficients[chosen],
            shifts={name: shift[chosen] for name, shift in self.shifts.items()},
        )


def plain(units: Tensor, shifts: Mapping[str, Tensor] | None = None) -> Finding:
    """Units that constants alone replace."""
    return Finding(
        units, torch.full_like(units, -1), torch.ones(len(units), dtype=torch.float64), shifts=shifts or {}
    )


def removal_of(weights: Mapping[str, Tensor], group: Group, finding: Finding) -> Removal:
    """The removal with the tensors that it changes.

    W[:, S] += W[:, a]·C[a, S], W[:, a] is scaled for the merge, and biases are shifted.
    """
    changed: dict[str, Tensor] = {}
    if finding.coefficients is not None:
        changed |= combined(weights, group, finding.units, finding.kept, finding.coefficients)
    scaled = (finding.scale != 1.0).nonzero().flatten()
    if len(scaled):
        units = finding.units[scaled]
        more = torch.diag(finding.scale[scaled] - 1.0)
        changed |= combined({**weights, **changed}, group, units, units, more)
    for name, shift in finding.shifts.items():
        if bool(shift.any()):
            changed[name] = weights[name] + shift.sum(0)
    return Removal(group.name, finding.units, finding.into, changed)
