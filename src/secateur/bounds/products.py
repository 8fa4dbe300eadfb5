"""Tangents of products of two values that vary: x y = x₀ y + x y₀ − x₀ y₀ + (x − x₀)(y − y₀).

The last term is at most r_x r_y in size, with the radii of both: the planes of McCormick (1976) of the same
slopes, as Shi et al. (2020, arXiv 2002.06622) use them in attention.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from secateur.bounds.arithmetic import intersect
from secateur.bounds.rounding import gamma
from secateur.bounds.site import Site
from secateur.bounds.tangents import Tangent, centre_and_radius, is_bounded, of_boxes
from secateur.graph.node import bound_arguments, kind
from secateur.graph.ops import of
from secateur.types import Interval

Times = Callable[[Tensor, Tensor], Tensor]
Found = tuple[Tangent, Interval] | None


def factors(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Both factors, where these are nodes."""
    a = bound_arguments(node, node.args, node.kwargs)
    x, y = a["self"], a.get("other", a.get("mat2"))
    return (x, y) if isinstance(x, fx.Node) and isinstance(y, fx.Node) else None


def elementwise(site: Site) -> Found:
    """x · y, with broadcasting."""
    return _tangent(site, torch.mul, lambda c, y: c * y, lambda c, x: c * x, 1)


def matrices(site: Site) -> Found:
    """x @ y of stacks of matrices."""
    sources = factors(site.node)
    assert sources is not None
    x, y = map(site.engine.shape, sources)
    if min(len(x), len(y)) < 3 or len(x) != len(y) or x[:-2] != y[:-2]:
        return None
    found = _tangent(site, torch.matmul, lambda c, y: c @ y.mT, lambda c, x: x.mT @ c, x[-1])
    if found is None or not _is_mean(site, sources[0]):
        return found
    return found[0], intersect(found[1], _hull(site.value(sources[1])))


def _is_mean(site: Site, weights: fx.Node) -> bool:
    """Whether the rows of the first factor are weights ≥ 0 that sum to 1."""
    if kind(weights) not in of("softmax"):
        return False
    dim = bound_arguments(weights, weights.args, weights.kwargs)["dim"]
    return dim in (-1, len(site.engine.shape(weights)) - 1)


def _hull(x: Interval) -> Interval:
    """A mean of rows is between the least and the greatest."""
    return Interval(x.lower.amin(-2, keepdim=True), x.upper.amax(-2, keepdim=True))


def _tangent(site: Site, times: Times, back_x: Times, back_y: Times, terms: int) -> Found:
    sources = factors(site.node)
    assert sources is not None
    if not all(is_bounded(site.value(source)) for source in sources):
        return None
    ndim = len(site.engine.shape(site.node))
    (x, rx), (y, ry) = (
        tuple(_aligned(t, ndim) for t in centre_and_radius(site.value(source))) for source in sources
    )
    value = site.value(site.node)
    gap = times(rx, ry).expand_as(value.lower)
    offset = -times(x, y).expand_as(value.lower)
    # rounding: of the terms of J x and of the offset
    size = times(x.abs() + rx, y.abs() + ry).expand_as(value.lower)
    gap = gap + 8 * gamma(terms + value.lower[0].numel()) * size

    def transpose(c: Tensor, box: Tensor) -> list[tuple[fx.Node, Tensor]]:
        first = back_x(c, of_boxes(y, box)), back_y(c, of_boxes(x, box))
        return [(s, _summed(t, site.engine.shape(s))) for s, t in zip(sources, first, strict=True)]

    return Tangent.of(transpose, offset, gap, value), value


def _aligned(x: Tensor, ndim: int) -> Tensor:
    """(boxes, *shape) with as many axes after the first as the result has."""
    return x.reshape(len(x), *[1] * (ndim - x.ndim + 1), *x.shape[1:])


def _summed(rows: Tensor, shape: torch.Size) -> Tensor:
    """Rows of coefficients of a value that was broadcast, summed to its own shape."""
    extra = rows.ndim - 1 - len(shape)
    if extra:
        rows = rows.sum(tuple(range(1, extra + 1)))
    axes = [i + 1 for i, n in enumerate(shape) if n == 1 and rows.shape[i + 1] != 1]
    return rows.sum(axes, keepdim=True) if axes else rows
