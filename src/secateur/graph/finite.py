"""Where a model gives NaN or infinite values, and from which op on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from secateur.graph.footprint import batch_size, footprint
from secateur.graph.graph import Graph
from secateur.graph.interpret import batches, run
from secateur.graph.node import kind
from secateur.graph.sources import described
from secateur.graph.workers import in_order

_MASKS = {"masked_fill", "where", "full", "full_like", "scalar_tensor", "fill"}  # infinite on purpose


def finite_samples(
    graph: Graph, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Which samples (n,) give finite outputs only; outputs without a row for each sample are left out.

    Cost: one forward pass.
    """

    def one(batch: tuple[Tensor, ...]) -> Tensor:
        good = torch.ones(len(batch[0]), dtype=torch.bool, device=batch[0].device)
        for out in run(graph, batch, tensors):
            if out.is_floating_point() and out.ndim and len(out) % len(good) == 0:
                good &= torch.isfinite(out).reshape(len(good), -1).all(1)
        return good

    size = batch_size(footprint(graph).peak, inputs)
    return torch.cat(list(in_order(one, batches(inputs, size))))


def first_not_finite(
    graph: Graph, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor] | None = None
) -> str:
    """The first node whose value is not finite, in words: name, op, shape and source line of the model.

    Values of −∞ that masks are made of do not count.
    """
    found: list[tuple[fx.Node, Tensor]] = []

    def observe(node: fx.Node, args: tuple[Any, ...], value: Any) -> None:
        if not found and isinstance(value, Tensor) and value.is_floating_point():
            bad = value.isnan() if kind(node) in _MASKS else ~torch.isfinite(value)
            if bool(bad.any()):
                found.append((node, value))

    run(graph, inputs, tensors, observe)
    if not found:
        return "an output"
    node, value = found[0]
    what = "NaN" if bool(value.isnan().any()) else "infinite values"
    return f"{described(node)}, which gives {what} (shape {tuple(value.shape[1:])} for each sample)"
