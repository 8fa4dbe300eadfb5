"""Pairs a→b (a is removed, b absorbs it) in ascending saliency, without conflicts."""

from __future__ import annotations

import heapq

import torch
from torch import Tensor

from secateur.methods.context import Context, fan_out, incoming
from secateur.types import Group

BLOCK_BYTES = 2**26  # memory for the rows of the pair matrix that are computed at a time


def pair_saliency(features: Tensor, fan: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
    """s(a→b) = ‖W[:, a]‖² · ‖w_a − w_b‖² for units a of `sources` and b of `targets`.

    Srinivas & Babu 2015 (arXiv 1507.06149). Distances come from one matrix product.

    Args:
        features: w, the weights that compute each unit, shape (units, features).
        fan: ‖W[:, a]‖² of each unit, shape (units,).

    Returns:
        Shape (sources, targets).
    """
    a, b = features[sources], features[targets]
    distance = torch.addmm(a.square().sum(1, keepdim=True) + b.square().sum(1), a, b.T, alpha=-2.0)
    return fan[sources, None] * distance.clamp_(min=0.0)


def least_partners(features: Tensor, fan: Tensor, sources: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """For each unit a of `sources` the unit b ≠ a of `targets` with the least s(a→b).

    Cost: |sources|·|targets|·d multiplications for d features, in blocks of `BLOCK_BYTES`.

    Returns:
        The values, infinite where there is no b; and the units b. Shapes (sources,).
    """
    block = max(1, BLOCK_BYTES // (8 * len(targets)))
    values, partners = [], []
    for rows in sources.split(block):
        saliency = pair_saliency(features, fan, rows, targets)
        saliency.masked_fill_(rows[:, None] == targets[None, :], float("inf"))
        value, column = saliency.min(dim=1)
        values.append(value)
        partners.append(targets[column])
    return torch.cat(values), torch.cat(partners)


def least_pairs(context: Context, group: Group, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Up to `count` compatible pairs a→b in ascending saliency.

    Compatible: no unit is removed twice, and a unit that absorbs another stays. Unless `context.recursive`,
    a unit that has absorbed another (in this step or before) neither absorbs more nor leaves.

    Returns:
        The units a, the units b and the saliencies; shapes (k,) with k ≤ `count`.
    """
    alive, used = context.alive[group.name], context.used[group.name]
    features, fan = incoming(context, group), fan_out(context, group)
    sources = (alive & ~used if not context.recursive else alive).clone()
    targets = sources.clone()
    if int(targets.sum()) < 2:
        return (torch.empty(0, dtype=torch.int64),) * 2 + (torch.empty(0, dtype=torch.float64),)

    rows = sources.nonzero().flatten()
    values, partners = least_partners(features, fan, rows, rows)
    heap = list(zip(values.tolist(), rows.tolist(), partners.tolist(), strict=True))
    heapq.heapify(heap)
    chosen: list[tuple[float, int, int]] = []
    while heap and len(chosen) < count:
        value, a, b = heapq.heappop(heap)
        if not sources[a] or value == float("inf"):
            continue
        if not targets[b]:  # the partner is gone: find the next best one and queue again
            (value,), (b,) = least_partners(features, fan, torch.tensor([a]), targets.nonzero().flatten())
            heapq.heappush(heap, (float(value), a, int(b)))
            continue
        chosen.append((value, a, b))
        sources[a] = targets[a] = sources[b] = False
        if not context.recursive:
            targets[b] = False
    scores, a, b = zip(*chosen, strict=True) if chosen else ((), (), ())
    return (
        torch.tensor(a, dtype=torch.int64),
        torch.tensor(b, dtype=torch.int64),
        torch.tensor(scores, dtype=torch.float64),
    )
