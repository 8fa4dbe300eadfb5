"""Estimate the cost of linear bounds from interval bounds of the first ball."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import fx

from secateur.bounds.arithmetic import as_interval
from secateur.bounds.certified import Certified
from secateur.bounds.joint import Networks
from secateur.bounds.pairs import Pair
from secateur.cost import macs_after
from secateur.errors import SecateurWarning
from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.graph.node import kind
from secateur.types import Interval

_BENT = {"relu", "relu_", "leaky_relu", "leaky_relu_", "hardtanh", "hardtanh_", "relu6"}
_PER_SECOND = 3e10  # multiplications of the formula in `certify` on one core, to an order of magnitude
_LONG = 60.0  # seconds from which a warning is due


def warn_if_long(graph: Graph, coupling: Coupling, networks: Networks, boxes: Sequence[Interval]) -> None:
    """Warn before the work begins if linear bounds on all boxes will take more than a minute.

    Cost: interval bounds of one box, about four forward passes.
    """
    first = [Interval(x.lower[:1, None], x.upper[:1, None]) for x in boxes]
    either, total = _signs(networks, first)
    seconds = 6.0 * len(boxes[0].lower) * either * macs_after(graph, coupling, {}) / _PER_SECOND
    if seconds > _LONG:
        warnings.warn(
            f"{either:,} of {total:,} activations may have either sign in the first ball: linear bounds on "
            f"all of {len(boxes[0].lower):,} will take about {seconds / 60:,.0f} minutes and may be far "
            "wider than what a search finds. Consider a smaller eps, fewer inputs, or method='interval' "
            "(--method interval)",
            SecateurWarning,
            stacklevel=3,
        )


def _signs(networks: Networks, box: Sequence[Interval]) -> tuple[int, int]:
    """How many activations of the original may have either sign in the box, and how many there are."""
    found = Certified.of(networks, box, linear=False)
    either, total = 0, 0
    for node in networks.graph.nodes:
        if node.op != "call_function" or kind(node) not in _BENT or not isinstance(node.args[0], fx.Node):
            continue
        value = found.engine.bounds[node.args[0]]
        x = as_interval(value.before if isinstance(value, Pair) else value)
        either += int(((x.lower < 0) & (x.upper > 0)).sum())
        total += x.lower.numel()
    return either, total
