"""How many units each group loses where numbers of channels are rounded: a sequence of smaller networks.

Every request stops somewhere on the same sequence, so a larger request never gives a larger network.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd, isfinite

from torch import Tensor

from secateur.channels import kept_counts
from secateur.types import Group

Share = Callable[[Mapping[str, int]], float]  # units removed of each group → share of the whole that this is

# How much more than requested may be removed for round numbers: half of the request, a tenth of the whole.
SLACK, SLACK_OF_ALL = 0.5, 0.1
_EPSILON = 1e-9


@dataclass(frozen=True)
class _Move:
    """One group goes from one number of kept units to the next lower one."""

    group: Group
    before: int
    after: int
    price: float  # of the unit halfway: where it is due, the lower number is the nearer one


def rounded_removal(
    groups: Sequence[Group],
    blocks: Mapping[str, int],
    prices: Mapping[str, Tensor],
    share: Share,
    wanted: float,
    gone: Mapping[str, int],
    most: Mapping[str, int],
) -> dict[str, int]:
    """Units to remove from each group: the first network of the sequence with a `share` of at least `wanted`.

    Groups move down their `kept_counts` (for `blocks`), cheapest first, as far as `most` units may go;
    `prices[group]` is that of each next unit, never falling. Where the last move takes much more than asked,
    it stops on the way: at the roundest number that does not, or else at the first that reaches. Units that
    are `gone` already count. Less than `wanted` where the whole sequence does not reach it.
    """
    moves = _moves(groups, blocks, prices, most)
    limit = wanted + min(wanted * SLACK, SLACK_OF_ALL) + _EPSILON

    def after(count: int) -> dict[str, int]:
        removed = {g.name: gone.get(g.name, 0) for g in groups}
        for move in moves[:count]:
            removed[move.group.name] = max(removed[move.group.name], move.group.units - move.after)
        return removed

    count = bisect_left(range(len(moves)), wanted - _EPSILON, key=lambda n: share(after(n)))
    if count == 0 or share(after(count)) <= limit:
        return after(count)
    name, units, block = (
        moves[count - 1].group.name,
        moves[count - 1].group.units,
        blocks[moves[count - 1].group.name],
    )
    before, least = after(count - 1), after(count)
    stops = [before | {name: number} for number in range(before[name] + 1, least[name] + 1)]
    first = bisect_left(stops, wanted - _EPSILON, key=share)
    within = [removed for removed in stops[first:] if share(removed) <= limit]
    return max(within, key=lambda removed: gcd(units - removed[name], block), default=stops[first])


def _moves(
    groups: Sequence[Group], blocks: Mapping[str, int], prices: Mapping[str, Tensor], most: Mapping[str, int]
) -> list[_Move]:
    found = []
    for group in groups:
        fewest = group.units - most.get(group.name, group.units - 1)
        counts = dict.fromkeys(max(n, fewest) for n in kept_counts(group.units, blocks[group.name]))
        for before, after in pairwise(counts):
            price = float(prices[group.name][group.units - (before + after) // 2 - 1])
            if isfinite(price):
                found.append(_Move(group, before, after, price))
    return sorted(found, key=lambda move: move.price)
