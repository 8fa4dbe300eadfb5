"""Remove the smallest filters, and merge each, scaled, into the most similar kept one.

Neuron Merging, Kim et al., NeurIPS 2020 (arXiv 2010.15969).
"""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.compensate import combined
from secateur.methods.affine import AffineUnits, affine_units
from secateur.methods.context import Context, smallest
from secateur.options import Cosine, Norm, Share
from secateur.types import Group, Removal


def scaled_merging(
    context: Context,
    group: Group,
    count: int,
    *,
    norm: Norm = 2,
    lam: Share = 0.85,
    threshold: Cosine = 0.45,
    threshold_conv: Cosine = 0.1,
) -> Removal:
    """Replace w_a by s·w_b, s = ‖w_a‖/‖w_b‖, b the kept unit of the best score: W[:, b] += s·W[:, a].

    ReLU(s·x) = s·ReLU(x) for s > 0, so that removing a positive multiple of a kept unit loses nothing. If the
    cosine of w_a and w_b is below `threshold` (`threshold_conv` for units of one convolution), no unit
    absorbs a. The defaults are the paper's, which has no residual streams: a unit of several layers needs the
    larger cosine. A unit may absorb several others, whatever `recursive` says. Cost: n·d for the norms, k·m·d
    for k removed and m kept units of d weights.
    """
    units, kept = smallest(context, group, count, norm)
    score, cosine, scale = likeness(affine_units(context, group), units, kept, lam)
    best = score.argmax(dim=1, keepdim=True)
    made_by = [
        w.ndim for w in (context.weights[slot.tensor] for slot in group.having("producer")) if w.ndim > 1
    ]
    one_conv = len(made_by) == 1 and made_by[0] > 2
    near = cosine.gather(1, best)[:, 0] >= (threshold_conv if one_conv else threshold)
    s = scale.gather(1, best)[:, 0]
    absorbed = near & (s > 0)
    into = torch.where(absorbed, kept[best[:, 0]], -1)
    # W[:, a] becomes s·W[:, a], which the merge then adds
    scaled = torch.diag(torch.where(absorbed, s, 1.0) - 1.0)
    return Removal(group.name, units, into, combined(context.weights, group, units, units, scaled))


def likeness(made: AffineUnits, units: Tensor, kept: Tensor, lam: float) -> tuple[Tensor, Tensor, Tensor]:
    """Score, cosine and scale of every removed unit a with every kept unit b; shapes: (units, kept).

    Without batch norm (Algorithm 2), bias is one more weight and the score is the cosine. With it (Algorithm
    3), γ_a(s·x_b − μ_a)/σ_a + β_a = S·(γ_b(x_b − μ_b)/σ_b + β_b) + B, where on folded weights S =
    ‖w′_a‖/‖w′_b‖ and B = c′_a − S·c′_b; the score is λ·cosine − (1 − λ)·|B|/S, the latter brought to [0, 1]
    for each a.
    """
    vectors = made.linear if made.normed else torch.cat([made.linear, made.constant], dim=1)
    size = torch.linalg.vector_norm(vectors, dim=1)
    tiny = torch.finfo(size.dtype).tiny
    directions = vectors / size.clamp_min(tiny)[:, None]
    cosine = directions[units] @ directions[kept].T
    a, b = size[units][:, None], size[kept][None, :]
    scale = torch.where(b > 0, a / b.clamp_min(tiny), 0.0)
    if not made.normed:
        return cosine, cosine, scale
    # |B|/S·‖w′_a‖: the factor avoids a division by zero, and cancels when brought to [0, 1]
    shift = made.constant[units][:, None] * b[..., None] - made.constant[kept][None] * a[..., None]
    distance = torch.linalg.vector_norm(shift, dim=2)
    least, most = distance.amin(dim=1, keepdim=True), distance.amax(dim=1, keepdim=True)
    return lam * cosine - (1 - lam) * (distance - least) / (most - least).clamp_min(tiny), cosine, scale
