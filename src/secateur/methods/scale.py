"""The smallest filters leave, without a stand-in: the field's baseline, and the papers' choice for
convolutions.
"""

from __future__ import annotations

import torch

from secateur.methods.context import Context, filters
from secateur.options import Norm
from secateur.types import Group, Removal


def scale(context: Context, group: Group, count: int, *, norm: Norm = 2) -> Removal:
    """Remove the `count` units whose filters have the least L1 or L2 norm. Cost: n·d for n units of d
    weights.
    """
    size = torch.linalg.vector_norm(filters(context, group), ord=norm, dim=1)
    size[~context.alive[group.name]] = float("inf")
    units = torch.sort(size, stable=True).indices[:count]
    return Removal(group.name, units, torch.full_like(units, -1))
