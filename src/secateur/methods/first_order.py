"""What merges change at the outputs, to first order: a cheap ranking of more pairs than can be bounded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from secateur.graph.interpret import run
from secateur.methods.context import Context
from secateur.surrogates.box import noise
from secateur.surrogates.source import Source
from secateur.types import Group, Slot

_DRAWS = (4, 16)  # inputs, each with a random direction in the outputs: at least and at most
_WORK = 1.6e10  # multiply-accumulates of one pass of all of them, about
_PAIRS = 2**24  # numbers in the columns of the pairs that are compared at once


def first_order_changes(context: Context, group: Group, a: Tensor, b: Tensor) -> Tensor:
    """The mean squared first-order change of the outputs by each merge a→b; shape: (k,).

    A merge moves the consumers' columns by ΔW, and the outputs along a direction r by ⟨∂(rᵀy)/∂W, ΔW⟩. Inputs
    are uniform in the box; directions are of random signs. Cost: 16 forward and backward passes of one input
    (fewer above 1 GMAC, at least 4), whatever the number of pairs, and a product of two columns for each.
    """
    slots = group.having("consumer")
    weights = {n: w.float() if w.is_floating_point() else w for n, w in context.weights.items()}
    source = Source(context.graph, tuple(context.box), context.generator)
    total, draws = torch.zeros(len(a), dtype=torch.float64), _draws(source)
    for _ in range(draws):
        gradients = _gradients(source, weights, [slot.tensor for slot in slots])
        change = sum(
            (_moved(weights[s.tensor], gradients[s.tensor], s, a, b) for s in slots), torch.zeros(len(a))
        )
        total += change.double().square()
    return total / draws


def _draws(source: Source) -> int:
    fewest, most = _DRAWS
    return max(fewest, min(most, int(_WORK / max(1.0, source.work))))


def _gradients(source: Source, weights: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """∂(rᵀy)/∂W on one input, for random signs r and each named W; not finite numbers count as no change."""
    leaves = {name: weights[name].detach().requires_grad_() for name in names}
    with torch.enable_grad():
        outputs = run(source.graph, noise(source, 1), {**weights, **leaves}, gradients=True)
        reached = [y for y in outputs if isinstance(y, Tensor) and y.requires_grad]
        signs = [torch.randint(0, 2, y.shape, generator=source.generator) * 2.0 - 1.0 for y in reached]
        total = sum(((y * r).sum() for y, r in zip(reached, signs, strict=True)), torch.zeros(()))
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True) if reached else ()
    gradients = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    named = {n: g.nan_to_num(0.0, 0.0, 0.0) for n, g in zip(leaves, found, strict=False) if g is not None}
    return gradients | named


def _moved(weight: Tensor, gradient: Tensor, slot: Slot, a: Tensor, b: Tensor) -> Tensor:
    """⟨∂/∂W, ΔW⟩ of each merge a→b in one consumer: W[:, b] += W[:, a], then W[:, a] = 0; shape: (k,)."""
    w, g = (t.movedim(slot.axis, 0).flatten(1) for t in (weight, gradient))
    block = max(1, _PAIRS // (slot.positions.shape[1] * max(1, w.shape[1])))
    parts = [
        (w[slot.positions[some]] * (g[slot.positions[into]] - g[slot.positions[some]])).sum((1, 2))
        for some, into in zip(a.split(block), b.split(block), strict=True)
    ]
    return torch.cat(parts)
