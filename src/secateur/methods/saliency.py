"""Merge the least salient pairs (Srinivas & Babu 2015, arXiv 1507.06149): the papers' baseline."""

from __future__ import annotations

from secateur.methods.context import Context
from secateur.methods.pairs import least_pairs
from secateur.types import Group, Removal


def saliency(context: Context, group: Group, count: int) -> Removal:
    """Merge the `count` least salient compatible pairs. Cost: n²·d for n units of d incoming weights."""
    a, b, _ = least_pairs(context, group, count)
    return Removal(group.name, a, b)
