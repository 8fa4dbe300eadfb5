"""Merge the pairs that change the outputs least, by bounds on the drift of each merge (PAODING).

The idea is that of arXiv 2204.00783 and arXiv 2405.00074; bounds, squashing and tie-breaking are ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from secateur.bounds.drift import merge_difference
from secateur.cost import macs_of_op
from secateur.methods.context import Context
from secateur.methods.first_order import first_order_changes
from secateur.methods.pairs import least_pairs
from secateur.options import AtLeast1, Count, Share
from secateur.types import Group, Interval, Removal

SIMILAR = 0.9  # intervals at least so similar count as the same in the entropy
MACS = 6 * 10**11  # of the passes of the candidates of one step, about: minutes for ResNet-50 at 224 × 224
FEWEST = 4  # candidates of a group, whatever they cost


def impact(
    context: Context,
    group: Group,
    count: int,
    *,
    alpha: Share = 0.75,
    beta: Share = 0.25,
    pool: AtLeast1 = 2.0,
    bounded: Count = 256,
) -> Removal:
    """Among the `pool`·`count` least salient pairs, merge the `count` with the best impact scores.

    `alpha` and `beta` weigh the two parts of the score, see `impact_scores`. Of more than `bounded` pairs,
    those about which a first-order estimate leaves the least doubt are merged or left by it
    (`first_order_changes`), and the `bounded` about the cut by their scores. They are fewer where they would
    take more than 6·10¹¹ multiply-accumulates in a step of all groups, at least four for each group. Cost:
    that of `saliency`, bounds on the network, and a pass of at most `bounded` candidates through the
    following layers, in batches: over all groups, the square of the depth as long as they are not fewer.
    """
    a, b, _ = least_pairs(context, group, pool_size(count, pool))
    affordable = MACS // (len(context.alive) * max(1, _macs(context)))
    scored = min(bounded, max(FEWEST, affordable)) if len(a) > FEWEST else bounded
    sure, doubtful = _about_the_cut(context, group, a, b, count, scored)
    order = ranking(*impact_scores(context, group, a[doubtful], b[doubtful], alpha, beta))
    best = torch.cat([sure, doubtful[order][: max(0, count - len(sure))]])
    return Removal(group.name, a[best], b[best])


def _macs(context: Context) -> int:
    """Multiply-accumulates of the whole network for one sample."""

    def shape(value: Any) -> list[int]:
        found = context.values[value]
        return list((found.lower if isinstance(found, Interval) else found).shape)

    called = [node for node in context.graph.nodes if node.op == "call_function"]
    return sum(macs_of_op(node, shape) for node in called)


def _about_the_cut(
    context: Context, group: Group, a: Tensor, b: Tensor, count: int, bounded: int
) -> tuple[Tensor, Tensor]:
    """The pairs to merge whatever their scores, and those to score; the others are left."""
    everyone = torch.arange(len(a))
    if len(a) <= bounded:
        return everyone[:0], everyone
    order = torch.sort(first_order_changes(context, group, a, b), stable=True).indices
    start = min(max(0, count - bounded // 2), len(a) - bounded)
    return order[:start], order[start : start + bounded].sort().values


def weights_add_up(options: Mapping[str, float]) -> str:
    """What is wrong with the two weights of the impact score; empty if nothing is."""
    alpha, beta = options["alpha"], options["beta"]
    return "" if math.isclose(alpha + beta, 1.0) else f"{alpha=}, {beta=}: give two weights that add up to 1"


def pool_size(count: int, pool: float) -> int:
    """How many candidate pairs to score for `count` merges."""
    return max(count, round(count * pool))


def ranking(score: Tensor, length: Tensor) -> Tensor:
    """Order candidates by score, then by length, then by saliency."""
    order = torch.sort(length, stable=True).indices
    return order[torch.sort(score[order], stable=True).indices]


def impact_scores(
    context: Context, group: Group, a: Tensor, b: Tensor, alpha: float, beta: float
) -> tuple[Tensor, Tensor]:
    """The score α·squash(L/L₀) + β·squash(E) of each merge a→b, and L itself; shapes: (k,), (k,).

    L = Σ_c (hi_c − lo_c) is the width of the output drift, L₀ that of the output itself, and E the interval
    entropy of the drift. squash(z) = z/(1+z) does not saturate where the logistic function does.
    """
    if not len(a):
        return torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.float64)
    drift = merge_difference(context.graph, context.values, group, a, b)
    lower = torch.cat([_per_output(d.lower) for d in drift], dim=1).double()
    upper = torch.cat([_per_output(d.upper) for d in drift], dim=1).double()
    own = [context.values[node] for node in context.graph.outputs]
    scale = sum(
        float((_per_output(i.upper) - _per_output(i.lower)).sum()) for i in own if isinstance(i, Interval)
    )
    length = (upper - lower).sum(1)
    relative = length / max(scale, torch.finfo(torch.float64).tiny)
    score = alpha * _squash(relative) + beta * _squash(interval_entropy(lower, upper))
    return score, length


def _squash(z: Tensor) -> Tensor:
    return 1.0 - 1.0 / (1.0 + z)


def _per_output(bound: Tensor) -> Tensor:
    """Average the bounds of maps and sequences over all axes but the first two."""
    flat = bound.reshape(bound.shape[0], -1) if bound.ndim < 3 else bound.flatten(2).mean(2)
    return flat.float()


def interval_entropy(lower: Tensor, upper: Tensor) -> Tensor:
    """E = −Σ_i p_i log p_i, where p_i is the share of intervals j with S_ij ≥ 0.9.

    S_ij = 1 − ½(|lo_i − lo_j| + |hi_i − hi_j|) / (width of the union of i and j); S = 1 for equal points.
    Shapes: input (k, n), output (k,).
    """
    low, other_low = lower[:, :, None], lower[:, None, :]  # shapes: (k, n, 1), (k, 1, n)
    high, other_high = upper[:, :, None], upper[:, None, :]
    distance = 0.5 * ((low - other_low).abs() + (high - other_high).abs())
    union = torch.maximum(high, other_high) - torch.minimum(low, other_low)
    similar = 1.0 - distance / union.clamp(min=torch.finfo(union.dtype).tiny) >= SIMILAR
    share = similar.double().mean(2)
    return -(share * share.log()).sum(1)
