"""What the weights tell of a layer's inputs, beside what the samples show.

Training leaves the inputs of a layer correlated as the columns of its weights are: the largest variance lies
where the weights are large (the neural feature ansatz, Radhakrishnan et al. 2024, arXiv 2212.13881, read the
other way round). Samples that were drawn without data miss a part of these correlations, and a refit that
trusts them alone bends the weights in directions of which they say nothing.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from secateur.reconstruct.moments import Moments

_ISOTROPIC = 0.05  # share of the identity in the correlations
_EXACT = 0.01  # share of the outputs' variance that a refit misses below which the prior fades


def with_prior(moments: Moments, weight: Tensor, refitted: Tensor, share: float, intercept: bool) -> Moments:
    """The moments, and `share` times as many rows whose features vary as they do, correlated as WᵀW.

    The targets of these rows are what W, the original's `weight`, gives. The less of the outputs a refit on
    the moments alone (`refitted`) misses, the fewer rows: what is redundant leaves at no loss. Shape of both
    weights: (B, O, D). Cost: B·O·D².
    """
    xx, yx = moments.normal(intercept)
    alike = weight.mT @ weight
    mean = alike.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)[:, None, None]
    alike /= mean
    alike.diagonal(dim1=1, dim2=2).add_(_ISOTROPIC)
    own = xx.diagonal(dim1=1, dim2=2).clamp_min(0.0)
    scale = (own / alike.diagonal(dim1=1, dim2=2)).sqrt()
    share *= min(1.0, _missed(moments, xx, yx, refitted, intercept) / _EXACT)
    prior = alike.mul_(scale[:, :, None]).mul_(scale[:, None]).mul_(share * moments.count)
    yx = moments.yx + weight @ prior
    return replace(moments, xx=prior.add_(moments.xx), yx=yx)


def _missed(moments: Moments, xx: Tensor, yx: Tensor, weight: Tensor, intercept: bool) -> float:
    """E‖y − W′x − c‖² over E‖y − c‖²."""
    whole = moments.yy / moments.count
    if intercept:
        whole = whole - (moments.y / moments.count).square()
    missed = whole.sum() - 2 * (weight * yx).sum() + ((weight @ xx) * weight).sum()
    return max(0.0, float(missed / whole.sum().clamp_min(1e-30)))
