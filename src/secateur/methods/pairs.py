"""Pairs a→b (a is removed, b absorbs it) in ascending saliency, without conflicts."""

from __future__ import annotations

import heapq

import torch
from torch import Tensor

from secateur.graph.workers import in_order
from secateur.methods.context import Context, fan_out, incoming
from secateur.types import Group

TILE = 1024  # units in a tile of the pair matrix


def pair_distances(features: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """‖w_a − w_b‖² for units `a` and `b`, from one matrix product; shape: (len(a), len(b))."""
    x, y = features[a], features[b]
    distance = torch.addmm(x.square().sum(1, keepdim=True) + y.square().sum(1), x, y.T, alpha=-2.0)
    return distance.clamp_(min=0.0).masked_fill_(a[:, None] == b[None, :], float("inf"))


def least_partners(features: Tensor, fan: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
    """For each unit a of `units`, the other unit b of least s(a→b) = ‖W[:, a]‖² · ‖w_a − w_b‖².

    Srinivas & Babu 2015 (arXiv 1507.06149). Returns the values and the units b; shapes: (n,). Of equal ones
    the first, as for a whole matrix. Cost: n²·d / 2 multiplications for d features, in tiles that threads
    share, since distances are symmetric. Infinite for a unit that is alone.
    """
    blocks = units.split(TILE)
    value = torch.full((len(units),), float("inf"), dtype=torch.float64)
    partner = units.roll(-1)

    def nearest(tile: tuple[int, int]) -> list[tuple[int, Tensor, Tensor]]:
        first, second = tile
        distance = pair_distances(features, blocks[first], blocks[second])
        found = [(first, *distance.min(1))]
        return found if first == second else [*found, (second, *distance.min(0))]

    tiles = [(i, j) for i in range(len(blocks)) for j in range(i, len(blocks))]
    for (first, second), found in zip(tiles, in_order(nearest, tiles), strict=True):
        for number, distance, index in found:
            other = blocks[second if number == first else first][index]
            here = slice(number * TILE, number * TILE + len(distance))
            better = distance < value[here]
            value[here] = torch.where(better, distance, value[here])
            partner[here] = torch.where(better, other, partner[here])
    return fan[units] * value, partner


def least_partner(
    features: Tensor, squares: Tensor, fan: Tensor, unit: int, targets: Tensor
) -> tuple[float, int]:
    """The same for one unit, among the `targets`, a mask of shape (units,). Cost: n·d multiplications.

    squares: ‖w‖² of all units, shape (units,).
    """
    distance = squares - 2.0 * (features @ features[unit]) + squares[unit]
    allowed = targets.clone()
    allowed[unit] = False
    value, index = distance.clamp_(min=0.0).masked_fill_(~allowed, float("inf")).min(0)
    return float(fan[unit] * value), int(index)


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

    rows, squares = sources.nonzero().flatten(), features.square().sum(1)
    values, partners = least_partners(features, fan, rows)
    heap = list(zip(values.tolist(), rows.tolist(), partners.tolist(), strict=True))
    heapq.heapify(heap)
    chosen: list[tuple[float, int, int]] = []
    while heap and len(chosen) < count:
        value, a, b = heapq.heappop(heap)
        if not sources[a] or value == float("inf"):
            continue
        if not targets[b]:  # its partner has been removed meanwhile: queue it again with the next best
            value, b = least_partner(features, squares, fan, a, targets)
            heapq.heappush(heap, (value, a, b))
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
