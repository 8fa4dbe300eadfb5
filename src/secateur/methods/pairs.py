"""Pairs a→b (a is removed, b absorbs it) in ascending saliency, without conflicts."""

from __future__ import annotations

import heapq

import torch
from torch import Tensor

from secateur.graph.workers import in_order
from secateur.methods.context import Context, fan_out, incoming
from secateur.types import Group

TILE = 1024  # units in a tile of the pair matrix
_NEAR = 8  # candidates for the nearest unit by float32
_ROUNDING = torch.finfo(torch.float32).eps / 2
_GATHERED = 2**21  # numbers in the rows that are compared at once


def least_partners(features: Tensor, fan: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
    """For each unit a of `units`, the other unit b of least s(a→b) = ‖W[:, a]‖² · ‖w_a − w_b‖².

    Srinivas & Babu 2015 (arXiv 1507.06149). Returns the values and the units b; shapes: (n,). Of equal ones
    the first. Infinite for a unit that is alone. Cost: n²·d / 2 multiplications in float32 for d features, in
    tiles that threads share, since distances are symmetric. Those that rounding may have put out of order are
    compared again in float64: a few of the nearest, or all where a few do not settle it.
    """
    if len(units) < 2:
        return torch.full((len(units),), torch.inf, dtype=torch.float64), units.clone()
    rows = features[units]
    squares = rows.square().sum(1)
    rough, near = _nearest(rows.float())
    reach = rough[:, :1] + 2 * _error(squares, rows.shape[1])[:, None]
    distance = _distances(rows, near, rough <= reach)
    value = distance.amin(1)
    partner = near.masked_fill(distance > value[:, None], len(units)).amin(1).clamp(max=len(units) - 1)
    settled = (rough[:, -1:] > reach) if near.shape[1] < len(units) - 1 else rough[:, -1:].isfinite()
    for some in (~settled).nonzero()[:, 0].split(TILE):
        value[some], partner[some] = pair_distances(rows, squares, some).min(1)
    return fan[units] * value, units[partner]


def _nearest(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The squared distances of the nearest other rows, and which they are, the first first; shapes: (n, few).

    The last distance is the largest of them. It is infinite or NaN where float32 cannot hold it.
    """
    blocks = torch.arange(len(rows)).split(TILE)
    squares = rows.square().sum(1)

    def nearest(tile: tuple[int, int]) -> list[tuple[int, Tensor, Tensor]]:
        first, second = tile
        distance = pair_distances(rows, squares, blocks[first], blocks[second])
        sides = [(first, second, distance)] + ([] if first == second else [(second, first, distance.T)])
        found = [(side, other, d.topk(min(_NEAR, d.shape[1]), largest=False)) for side, other, d in sides]
        return [(side, top.values, top.indices + other * TILE) for side, other, top in found]

    kept: list[tuple[Tensor, Tensor]] = [(rows.new_empty(len(b), 0), b.new_empty(len(b), 0)) for b in blocks]
    tiles = [(i, j) for i in range(len(blocks)) for j in range(i, len(blocks))]
    for found in in_order(nearest, tiles):
        for side, values, indices in found:
            both = [torch.cat(pair, 1) for pair in zip(kept[side], (values, indices), strict=True)]
            best = both[0].topk(min(_NEAR, len(rows) - 1, both[0].shape[1]), largest=False)
            kept[side] = (best.values, both[1].gather(1, best.indices))
    values, indices = (torch.cat(parts) for parts in zip(*kept, strict=True))
    return values.double(), indices


def pair_distances(features: Tensor, squares: Tensor, a: Tensor, b: Tensor | None = None) -> Tensor:
    """‖w_a − w_b‖² for units `a` and `b` (default: all), infinite for a = b; shape: (len(a), len(b)).

    squares: ‖w‖² of all units, shape (units,).
    """
    b = torch.arange(len(features)) if b is None else b
    distance = torch.addmm(squares[a][:, None] + squares[b], features[a], features[b].T, alpha=-2.0)
    return distance.clamp_(min=0.0).masked_fill_(a[:, None] == b[None, :], float("inf"))


def _distances(rows: Tensor, near: Tensor, wanted: Tensor) -> Tensor:
    """‖w_a − w_b‖² for each unit a and the units b of its row of `near` that are `wanted`, else infinite.

    Shape: that of `near`.
    """
    a, column = wanted.nonzero().unbind(1)
    b = near[a, column]
    block = max(1, _GATHERED // max(1, rows.shape[1]))
    pairs = zip(a.split(block), b.split(block), strict=True)
    found = torch.full(near.shape, torch.inf, dtype=rows.dtype)
    found[a, column] = torch.cat([(rows[one] - rows[other]).square_().sum(1) for one, other in pairs])
    return found


def _error(squares: Tensor, features: int) -> Tensor:
    """How far a distance of each row in float32 is from that in float64 at most; shape: (n,).

    squares: ‖w‖² of each row.

    A sum of d products in any order is off by at most d·u / (1 − d·u) times that of their magnitudes (Higham,
    Accuracy and Stability of Numerical Algorithms, 2nd ed., (3.5)); magnitudes add up to ‖w_a‖·‖w_b‖ at most.
    """
    terms = (features + 8) * _ROUNDING  # and the conversion, and the two squares
    length = squares.sqrt()
    return terms / (1.0 - terms) * (length + length.max()).square()


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
