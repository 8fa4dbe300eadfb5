"""Remove the smallest filters, and express each as a combination of the kept ones.

LBYL, Lee, Kim and Choi, "Training-Free Restoration of Pruned Neural Networks" (arXiv 2502.08474; first
version 2022).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from secateur.compensate import combined
from secateur.methods.affine import affine_units
from secateur.methods.context import Context, smallest
from secateur.options import AtLeast0, Norm
from secateur.types import Group, Removal


def ridge(
    context: Context,
    group: Group,
    count: int,
    *,
    norm: Norm = 2,
    lambda1: AtLeast0 = 0.01,
    lambda2: AtLeast0 = 0.1,
) -> Removal:
    """Write each removed filter as a combination s_a of the kept ones: W[:, S] += W[:, a]·s_a.

    s_a minimises ‖w_a − Σ s_k·w_k‖² + λ₁·(c_a − Σ s_k·c_k)² + λ₂·‖s_a‖², the paper's three terms: the error
    of the filters, that of batch norm and bias, and a bound on that of the activation. Batch norm is folded
    into the weights w and constants c. λ₂ is in units of the mean ‖w_k‖². Cost: that of a singular value
    decomposition, m²·d for m kept units of d weights (d²·m where d < m).
    """
    units, kept = smallest(context, group, count, norm)
    made = affine_units(context, group)
    features = torch.cat([made.linear, math.sqrt(lambda1) * made.constant], dim=1)
    coefficients = regression(features[units], features[kept], lambda2)
    changed = combined(context.weights, group, units, kept, coefficients)
    return Removal(group.name, units, torch.full_like(units, -1), changed)


def regression(goal: Tensor, basis: Tensor, lam: float) -> Tensor:
    """argmin_C ‖goal − C·basis‖² + λ‖C‖², where λ is `lam` times the mean square norm of the basis.

    With basis = U·diag(σ)·Vᵀ, C = goal·V·diag(σ/(σ² + λ))·Uᵀ; for λ = 0, the solution of least norm.

    Returns:
        C, shape (rows of `goal`, rows of `basis`).
    """
    u, sigma, vt = torch.linalg.svd(basis, full_matrices=False)
    shrunk = lam * basis.square().sum() / len(basis)
    rounding = torch.finfo(basis.dtype).eps * max(basis.shape) * torch.linalg.vector_norm(sigma)
    gains = torch.where(sigma > rounding, sigma / (sigma.square() + shrunk), 0.0)
    combination: Tensor = (goal @ vt.T * gains) @ u.T
    return combination
