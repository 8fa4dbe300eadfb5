"""Remove the smallest filters without merging: a baseline, and the papers' method for convolutions."""

from __future__ import annotations

import torch

from secateur.methods.context import Context, smallest
from secateur.options import Norm
from secateur.types import Group, Removal


def scale(context: Context, group: Group, count: int, *, norm: Norm = 2) -> Removal:
    """Remove the `count` units whose filters have the smallest L1 or L2 norm.

    Cost: n·d for n units of d weights.
    """
    units, _ = smallest(context, group, count, norm)
    return Removal(group.name, units, torch.full_like(units, -1))
