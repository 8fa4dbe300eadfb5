"""Replace each cluster of similar units by their mean, with its variance restored.

Model Folding, Wang et al., ICLR 2025 (arXiv 2502.10216).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from secateur.methods.batch_norm import fold, own_norms
from secateur.methods.context import Context
from secateur.methods.rows import entries, makers, rows
from secateur.options import AtLeast0, Count
from secateur.types import Group, Removal

ITERATIONS = 100  # most iterations of Lloyd's algorithm


def folding(
    context: Context, group: Group, count: int, *, repair: AtLeast0 = 1.0, restarts: Count = 8
) -> Removal:
    """Cluster the n remaining units into n − `count` by k-means; the first of a cluster becomes its mean.

    The vectors that are clustered and averaged are W/σ, (μ − b)/σ, γ and β (Algorithm 1), concatenated over
    all producers and other parameters of the units; equal units merge without loss. The consumers' columns
    of a cluster are added up. `repair` is the exponent of the variance correction (Fold-AR): 0 leaves the
    mean as it is. The best of `restarts` clusterings is used. A unit may absorb several others, whatever
    `recursive` says. Cost: n²·d for n units of d weights, and n²·k for k clusters in each iteration of each
    clustering.
    """
    norms = own_norms(context.norms, group)
    scaled = fold(context.weights, {w: replace(norm, scale=None, shift=None) for w, norm in norms.items()})
    left = context.alive[group.name].nonzero().flatten()
    points, k = rows(scaled, makers(group), left), len(left) - count
    labels = k_means(points, k, context.generator, restarts)
    head = first_members(labels, k)[labels]
    leaves = head != torch.arange(len(left))
    weights = means(context, scaled, group, left, head, repair)
    return Removal(group.name, left[leaves], left[head[leaves]], weights)


def means(
    context: Context, scaled: Mapping[str, Tensor], group: Group, left: Tensor, head: Tensor, repair: float
) -> dict[str, Tensor]:
    """Producers and norms in which the first unit of each cluster has become the cluster's mean.

    Rows and means are then multiplied by the gain of their layer, so that the norm's statistics fit the
    output of the new unit.

    Args:
        scaled: The weights divided by the standard deviation of the norm after them; means are (μ − b)/σ.
        left: The units that are left, shape (n,).
        head: For each of them the position in `left` of the first unit of its cluster, shape (n,).
        repair: The exponent of the gain.
    """
    size = torch.bincount(head, minlength=len(left))
    merged = (size > 1).nonzero().flatten()
    layer_of = {norm.mean: weight for weight, norm in own_norms(context.norms, group).items()}
    values = {slot: entries(scaled, slot, left) for slot in makers(group)}
    gains = {slot.tensor: gain(v.flatten(1), head) ** repair for slot, v in values.items() if v.ndim > 2}
    changed: dict[str, Tensor] = {}
    for slot, v in values.items():  # shape: (left, width, …)
        factor = gains.get(
            layer_of.get(slot.tensor, slot.tensor), torch.ones(len(left), dtype=v.dtype)
        ) / size.clamp_min(1)
        mean = torch.zeros_like(v).index_add_(0, head, v) * factor.reshape(-1, *(1,) * (v.ndim - 1))
        weight = changed.get(slot.tensor, context.weights[slot.tensor]).clone()
        weight.movedim(slot.axis, 0)[slot.positions[left[merged]]] = mean[merged]
        changed[slot.tensor] = weight
    return changed


def gain(vectors: Tensor, head: Tensor) -> Tensor:
    """r = N/√(N + (N² − N)·E[ρ]) of every cluster, at the position of its first vector; shape: (vectors,).

    ρ is the cosine of two vectors of the cluster, an estimate of the correlation of their outputs. Its sum
    over all pairs is ‖Σ u‖² − N for unit vectors u. The mean of N outputs of equal variance has 1/r² of that
    variance. E[ρ] < 0 counts as 0.
    """
    size = torch.bincount(head, minlength=len(head)).double()
    units = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True).clamp_min(
        torch.finfo(vectors.dtype).tiny
    )
    total = torch.zeros_like(units).index_add_(0, head, units).square().sum(1)
    return size / torch.maximum(total, size).clamp_min(1.0).sqrt()


def k_means(points: Tensor, k: int, generator: torch.Generator, restarts: int) -> Tensor:
    """Assign every point to one of `k` clusters, none of them empty; shape: (points,).

    All distances come from one Gram matrix.
    """
    gram = points @ points.T
    runs = [lloyd(gram, seeds(gram, k, generator)) for _ in range(restarts)]
    return min(runs, key=lambda run: run[1])[0]


def seeds(gram: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Draw k different points by their squared distance to those before (k-means++); shape: (k,)."""
    own = gram.diagonal()
    nearest, drawn = torch.ones_like(own), torch.zeros_like(own, dtype=torch.bool)
    for _ in range(k):
        chance = nearest.masked_fill(drawn, 0.0)
        new = torch.multinomial(chance, 1, generator=generator)
        distance = (own + own[new] - 2 * gram[new[0]]).clamp_min(torch.finfo(own.dtype).tiny)
        nearest = distance if not drawn.any() else torch.minimum(nearest, distance)
        drawn[new] = True
    return drawn.nonzero().flatten()


def lloyd(gram: Tensor, start: Tensor) -> tuple[Tensor, float]:
    """Lloyd's algorithm from the points `start`: clusters, and the sum of squared distances to means."""
    k, own = len(start), gram.diagonal()[:, None]
    labels = filled(own + own[start].T - 2 * gram[:, start], k)
    for _ in range(ITERATIONS):
        share = torch.nn.functional.one_hot(labels, k).double()
        share /= share.sum(0)
        product = gram @ share  # of every point and every mean; shape: (points, k)
        distance = own - 2 * product + (share * product).sum(0)
        before, labels = labels, filled(distance, k)
        if torch.equal(before, labels):
            break
    return labels, float(distance.gather(1, before[:, None]).sum())


def filled(distance: Tensor, k: int) -> Tensor:
    """The nearest mean of every point; shape: (points,).

    A mean that is nearest to no point gets the farthest point that is not the first of its cluster.
    """
    near, labels = distance.min(dim=1)
    first = first_members(labels, k)
    empty = (first == len(labels)).nonzero().flatten()
    near[first[first < len(labels)]] = -float("inf")
    labels[near.topk(len(empty)).indices] = empty
    return labels


def first_members(labels: Tensor, k: int) -> Tensor:
    """The first point of every cluster; for an empty one, the number of points. Shape: (k,)."""
    first = torch.full((k,), len(labels))
    return first.scatter_reduce_(0, labels, torch.arange(len(labels)), "amin")
