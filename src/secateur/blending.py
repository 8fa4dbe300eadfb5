"""A few inputs of a user's own, refitted on together with surrogates."""

from __future__ import annotations

import torch

from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.graph.widths import not_widths
from secateur.surrogates.bn_moments import standardised
from secateur.surrogates.choice import CORRECTED
from secateur.types import Samples

_PER_FEATURE = 4  # own inputs for each feature of the widest layer that is refitted, and
_ENOUGH = 1024  # at most, beside which surrogates have nothing to add
_LEAST = 0.2  # share of own inputs, however few; each counts several times


def enough_own(graph: Graph, coupling: Coupling) -> int:
    """How many own inputs do without surrogates beside them."""
    slots = [
        slot for group in not_widths(coupling.prunable) for slot in group.having("consumer") if slot.axis < 2
    ]
    weights = [(graph.tensors[slot.tensor], slot.axis) for slot in slots]
    features = [w.numel() // w.shape[1 - axis] for w, axis in weights if w.ndim > 1]
    return min(_ENOUGH, _PER_FEATURE * max(features, default=1))


def blended(own: Samples, drawn: Samples, wanted: int, graph: Graph, memory: int) -> Samples:
    """`own` inputs in a share of their number over `wanted`, at least a fifth, and surrogates.

    Own inputs are repeated to make up their share, so that the moments of all samples are means in these
    shares: few inputs alone are fitted too closely, and surrogates alone are unlike the data. Where the
    surrogates bring statistics of batch norm along, those of all samples take their place. Cost: with batch
    norm, a forward pass.
    """
    count, most = len(own.inputs[0]), len(drawn.inputs[0])
    share = max(_LEAST, count / wanted)
    repeated = max(count, round(share * most))
    order = torch.arange(repeated) % count
    rest = max(1, round(repeated * (1 - share) / share))
    apart = torch.linspace(0, most - 1, min(rest, most)).round().long()  # of every family
    inputs = tuple(
        torch.cat([x[order.to(x.device)], y[apart.to(y.device)]])
        for x, y in zip(own.inputs, drawn.inputs, strict=True)
    )
    if drawn.tensors:
        return standardised(graph, inputs, memory, CORRECTED)
    return Samples(inputs)
