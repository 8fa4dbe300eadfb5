"""The tangent of layer, group, instance and RMS norm: n = z/σ(z), z = x − mean (or x), σ² = mean z² + eps.

With z₀ and σ₀ at x₀ and w = z − z₀, m = mean(z₀ w)/σ₀² and q = mean(w²)/σ₀²,

    n = (z₀ + w)/σ₀ · (1 + 2m + q)^−½ = [z₀ + w − z₀ m]/σ₀ + [−w m + (z₀ + w) ρ]/σ₀,

where the first bracket is linear in x, and ρ = (1 + 2m + q)^−½ − 1 + m is of second order: t ↦ (1 + t)^−½ is
convex, so ρ ≥ −q/2; and by Taylor's remainder ρ is at most ⅜ t² (1 − |t|)^−5/2 for t = 2m + q < 0, and ⅜ t²
else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from secateur.bounds.layers import Norm, norm_of
from secateur.bounds.op import Op
from secateur.bounds.rounding import FUNCTIONS, gamma
from secateur.bounds.site import Site
from secateur.bounds.tangents import Tangent, centre_and_radius, is_bounded, of_boxes
from secateur.graph.node import bound_arguments
from secateur.types import Interval

_LONGEST_STEP = 0.9  # of 2m: beyond, σ may be next to nothing
_MOST_ROUNDING = 1e-3  # of z₀, in shares of σ₀


def norm_tangent(site: Site) -> tuple[Tangent, Interval] | None:
    a = bound_arguments(site.node, site.node.args, site.node.kwargs)
    source, (weight, bias) = a["input"], (site.plain(a.get(name)) for name in ("weight", "bias"))
    x, value = site.value(source), site.value(site.node)
    if isinstance(weight, Interval) or isinstance(bias, Interval) or not is_bounded(x):
        return None
    shape = site.engine.shape(source)
    group = Group.of(norm_of(Op(site.node, a, site.engine.networks.like), shape), x)
    m = _share(group, site, source)
    if not bool((2 * m <= _LONGEST_STEP).any()):
        return None
    offset, gap = _of_normalised(group, m, _radius(group, site, source))

    def by_weight(t: Tensor) -> Tensor:
        return t if weight is None else t * group.norm.parameter(weight, len(shape))

    gap, offset = by_weight(group.unfold(gap)).abs(), by_weight(group.unfold(offset))
    size = gap + offset.abs()
    if bias is not None:
        shift = group.norm.parameter(bias, len(shape))
        offset, size = offset + shift, size + shift.abs()
    gap = gap + FUNCTIONS * size

    def transpose(c: Tensor, box: Tensor) -> list[tuple[fx.Node, Tensor]]:
        z, variance, sigma = (of_boxes(t, box) for t in (group.z, group.variance, group.sigma))
        d = group.fold(by_weight(c))
        d = d - z * ((z * d).mean(-1, keepdim=True) / variance)
        return [(source, group.unfold(group.centred(d) / sigma))]

    return Tangent.of(transpose, offset, gap, value), value


@dataclass(frozen=True, eq=False)
class Group:
    """What is normalised together, on the last axis, at x₀: (boxes, …, n)."""

    norm: Norm
    fold: Callable[[Tensor], Tensor]
    unfold: Callable[[Tensor], Tensor]
    radius: Tensor  # of x
    size: Tensor  # the largest |x|, (boxes, …, 1)
    z: Tensor
    variance: Tensor
    sigma: Tensor

    @staticmethod
    def of(norm: Norm, x: Interval) -> Group:
        fold, unfold = torch.vmap(norm.fold), torch.vmap(norm.unfold)
        centre, radius = map(fold, centre_and_radius(x))
        z = centre - centre.mean(-1, keepdim=True) if norm.centred else centre
        variance = z.square().mean(-1, keepdim=True) + norm.eps
        size = (centre.abs() + radius).amax(-1, keepdim=True)
        return Group(norm, fold, unfold, radius, size, z, variance, variance.sqrt())

    @property
    def n(self) -> int:
        return self.z.shape[-1]

    @property
    def reach(self) -> Tensor:
        """How far each z_i is from z₀ at most, from the radii of x."""
        if not self.norm.centred:
            return self.radius
        return self.radius * (1 - 2 / self.n) + self.radius.mean(-1, keepdim=True)

    def centred(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.norm.centred else x


def _of_normalised(group: Group, m: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Offset and gap of n, given the greatest |m| and |w|."""
    z, sigma = group.z, group.sigma
    q = w.square().mean(-1, keepdim=True) / group.variance * (1 + gamma(4 * group.n))
    back, ahead = (2 * m).clamp(max=_LONGEST_STEP), 2 * m + q
    most = 0.375 * torch.maximum(back.square() * (1 - back).pow(-2.5), ahead.square())
    middle, room = most / 2 - q / 4, most / 2 + q / 4  # of ρ
    gap = (w * m + z.abs() * room + w * torch.maximum(most, q / 2)) / sigma
    # rounding: of z₀ and σ₀, of the terms of J x and of the offset, all in shares of the size of x
    share, steps = gamma(4 * group.n + 64) * (1 + group.size / sigma), 1 + w.amax(-1, keepdim=True) / sigma
    error = 16 * (1 + math.sqrt(group.n)) * share * steps.square()
    fits = (2 * m <= _LONGEST_STEP) & (share <= _MOST_ROUNDING)
    gap = torch.where(fits, gap * (1 + FUNCTIONS), math.inf)
    at_centre = z * ((z * z).mean(-1, keepdim=True) / group.variance)  # n − J x at x₀, times σ₀
    return (at_centre + z * middle) / sigma, gap + error


def _radius(group: Group, site: Site, source: fx.Node) -> Tensor:
    """How far z_i is from z₀ at most, by a row for each, and from the radii of x."""

    def rows(unit: Tensor, box: Tensor) -> Tensor:
        return group.unfold(group.centred(group.fold(unit)))

    found = site.bound(source, rows, None)
    low, high = group.fold(found.lower), group.fold(found.upper)
    by_row = torch.maximum((high - group.z).clamp(min=0), (group.z - low).clamp(min=0))
    return torch.minimum(by_row, group.reach) + gamma(8 * group.n) * group.size


def _share(group: Group, site: Site, source: fx.Node) -> Tensor:
    """The greatest |m|, by one row for each group, and from the radii of x."""
    weights = group.z / (group.n * group.variance)

    def rows(unit: Tensor, box: Tensor) -> Tensor:
        return group.unfold(group.fold(unit)[..., :1] * of_boxes(weights, box))

    first = torch.zeros_like(weights, dtype=torch.bool)
    first[..., 0] = True
    found = site.bound(source, rows, group.unfold(first))
    low, high = (group.fold(end)[..., :1] for end in (found.lower, found.upper))
    at = (weights * group.z).sum(-1, keepdim=True)
    by_row = torch.maximum((high - at).clamp(min=0), (at - low).clamp(min=0))
    by_size = (weights.abs() * group.reach).sum(-1, keepdim=True)
    slack = weights.abs().sum(-1, keepdim=True) + group.reach.mean(-1, keepdim=True) / group.variance
    slack = gamma(8 * group.n + 64) * group.size * slack
    return torch.minimum(by_row, by_size) + slack
