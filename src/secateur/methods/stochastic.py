"""Visit pairs in ascending saliency and accept them by impact, as in simulated annealing (2204.00783)."""

from __future__ import annotations

import math

import torch

from secateur.methods.context import Context
from secateur.methods.impact import impact_scores, pool_size, ranking
from secateur.methods.pairs import least_pairs
from secateur.options import AtLeast0, AtLeast1, Share
from secateur.types import Group, Removal


def stochastic(
    context: Context,
    group: Group,
    count: int,
    *,
    alpha: Share = 0.75,
    beta: Share = 0.25,
    pool: AtLeast1 = 2.0,
    temperature: AtLeast0 = 1.0,
) -> Removal:
    """Accept a pair if its score is no worse than the last accepted one, else with probability exp(−Δ/T).

    T falls linearly from `temperature` to 0 over the planned removals. If fewer than `count` pairs of the
    pool are accepted, the best of the refused ones are added. `alpha`, `beta`, `pool` and the cost are those
    of `impact`.
    """
    a, b, _ = least_pairs(context, group, pool_size(count, pool))
    score, length = impact_scores(context, group, a, b, alpha, beta)
    heat = temperature * (1.0 - context.progress)
    chance = torch.rand(len(a), generator=context.generator, dtype=torch.float64).tolist()
    accepted: list[int] = []
    for i, value in enumerate(score.tolist()):
        if len(accepted) == count:
            break
        worse = value - float(score[accepted[-1]]) if accepted else 0.0
        if worse <= 0 or (heat > 0 and chance[i] < math.exp(-worse / heat)):
            accepted.append(i)
    taken = set(accepted)
    refused = [i for i in ranking(score, length).tolist() if i not in taken]
    chosen = torch.tensor([*accepted, *refused][:count], dtype=torch.int64)
    return Removal(group.name, a[chosen], b[chosen])
