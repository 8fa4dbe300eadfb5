"""The tangent of softmax.

With p at x₀ and u_i = (x − x₀)_i − Σ_j p_j (x − x₀)_j, which is linear in x,

    softmax(x)_i = p_i exp(u_i) / D,  D = Σ_j p_j exp(u_j) ∈ [1, 1 + H],  H = Σ_j p_j h(u_j),

since Σ_j p_j u_j = 0, with h(t) = exp(t) − 1 − t ≥ 0. So softmax(x)_i − p_i (1 + u_i), where p_i u_i is the
linear part, is at most p_i h(u_i), and at least −p_i exp(u_i) H / (1 + H).
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from secateur.bounds.arithmetic import intersect, settle
from secateur.bounds.rounding import FUNCTIONS, gamma
from secateur.bounds.site import Site
from secateur.bounds.tangents import Tangent, centre_and_radius, is_bounded, of_boxes
from secateur.graph.node import bound_arguments
from secateur.types import Interval

_MOST_ROUNDING = 1e-3  # of p, relative


def softmax_tangent(site: Site) -> tuple[Tangent, Interval] | None:
    """The tangent, and bounds on the value that follow from those on u."""
    a = bound_arguments(site.node, site.node.args, site.node.kwargs)
    source, dim = a["self"], a["dim"]
    assert isinstance(source, fx.Node)
    x, value = site.value(source), site.value(site.node)
    if not is_bounded(x):
        return None
    axis = dim + 1 if dim >= 0 else dim  # after the boxes
    x0, radius = centre_and_radius(x)
    p = x0.softmax(axis)
    u = _steps(site, source, x0, radius, p, axis)
    most_terms, greatest = 8 * x.lower.shape[axis] + 64, (x0.abs() + radius).amax(axis, keepdim=True)
    share = gamma(most_terms) * (1 + greatest).square()  # of p, and of Σ p u
    if bool((share > _MOST_ROUNDING).any()):
        return None
    least = 8 * torch.finfo(p.dtype).tiny  # what p may lack by underflow
    bent = torch.maximum(_bent(u.lower), _bent(u.upper))
    total = ((p + least) * bent).sum(axis, keepdim=True) + share
    top, bottom = torch.exp(u.upper), torch.exp(u.lower)
    high = p * bent
    low = -p * top * total / (1 + total)
    error = (8 * share * p + least) * (2 + top + bent)
    mean = (p * x0).sum(axis, keepdim=True)
    offset = p * (1 - (x0 - mean)) + (low + high) / 2
    # rounding of J x: Σ_j |J_ij| |x_j| is at most p_i (|x_i| + Σ_j p_j |x_j|)
    size = x0.abs() + radius
    size = p * (1 + size + (p * size).sum(axis, keepdim=True))
    gap = (high - low) / 2 + error + 8 * gamma(x.lower[0].numel()) * size

    def transpose(c: Tensor, box: Tensor) -> list[tuple[fx.Node, Tensor]]:
        at = of_boxes(p, box)
        weighted = at * c
        return [(source, weighted - at * weighted.sum(axis, keepdim=True))]

    within = settle(p * bottom / (1 + total) * (1 - 8 * share) - error, p * top * (1 + 8 * share) + error)
    value = intersect(value, within)
    return Tangent.of(transpose, offset, gap, value), value


def _steps(site: Site, source: fx.Node, x0: Tensor, radius: Tensor, p: Tensor, axis: int) -> Interval:
    """Bounds on u, by a row e_i − p for each, and from the radii of x."""

    def rows(unit: Tensor, box: Tensor) -> Tensor:
        return unit - of_boxes(p, box) * unit.sum(axis, keepdim=True)

    mean = (p * radius).sum(axis, keepdim=True)
    share = gamma(8 * x0.shape[axis])
    own = radius * (1 - 2 * p) + mean + share * (radius + mean)
    found = site.bound(source, rows, None)
    at = x0 - (p * x0).sum(axis, keepdim=True)
    slack = share * (x0.abs() + (p * x0.abs()).sum(axis, keepdim=True))
    return intersect(Interval(found.lower - at - slack, found.upper - at + slack), Interval(-own, own))


def _bent(t: Tensor) -> Tensor:
    """At least exp(t) − 1 − t: by Taylor t² exp(max(t, 0)) / 2, or the difference itself."""
    taylor = t.square() / 2 * torch.exp(t.clamp(min=0))
    return torch.where(t.abs() < 0.5, taylor, torch.expm1(t) - t) * (1 + 64 * FUNCTIONS)
