"""More reductions, pools and norms of ONNX in torch: one row in `OPS` for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from secateur.formats.onnx.host import Host
from secateur.formats.onnx.node import Node
from secateur.formats.onnx.ops import OPS as PLAIN
from secateur.formats.onnx.ops import number, reduced


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _arg(f: Callable[..., Tensor]) -> Callable[[Node, Tensor], Tensor]:
    """The place of the extreme, the first of several or the last."""

    def rule(node: Node, x: Tensor) -> Tensor:
        axis, keep = node.attribute("axis", 0) % x.ndim, bool(node.attribute("keepdims", 1))
        if node.attribute("select_last_index", 0):
            found = f(x.flip(axis), axis, keepdim=keep)
            return x.shape[axis] - 1 - found  # type: ignore[no-any-return]
        return f(x, axis, keepdim=keep)

    return rule


def _top_k(node: Node, x: Tensor, k: Host | None = None) -> list[Tensor]:
    count = int(number(k)) if k is not None else node.attribute("k")
    largest, axis = bool(node.attribute("largest", 1)), node.attribute("axis", -1) % x.ndim
    # A stable sort: of equal numbers, the first is taken first.
    values, places = torch.sort(x, dim=axis, descending=largest, stable=True)
    return [values.narrow(axis, 0, count), places.narrow(axis, 0, count)]


def _cumulated(node: Node, x: Tensor, axis: Host) -> Tensor:
    """Cumulative sums; `exclusive` leaves the element itself out, `reverse` begins at the end."""
    dim = int(number(axis)) % x.ndim
    x = x.flip(dim) if node.attribute("reverse", 0) else x
    total = x.cumsum(dim)
    if node.attribute("exclusive", 0):
        total = torch.cat(
            [torch.zeros_like(x.narrow(dim, 0, 1)), total.narrow(dim, 0, x.shape[dim] - 1)], dim
        )
    return total.flip(dim) if node.attribute("reverse", 0) else total


def _lp_normalised(node: Node, x: Tensor) -> Tensor:
    """By the norm along an axis; zeros stay."""
    norm = torch.linalg.vector_norm(x, node.attribute("p", 2), [node.attribute("axis", -1)], keepdim=True)
    return x / norm.clamp(min=torch.finfo(x.dtype).tiny)  # type: ignore[no-any-return]


def _standardised(node: Node, x: Tensor) -> Tensor:
    axes = node.attribute("axes", [0, 2, 3])
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)


def _global_lp_pool(node: Node, x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, node.attribute("p", 2), list(range(2, x.ndim)), keepdim=True)  # type: ignore[no-any-return]


def _lp_pool(node: Node, x: Tensor) -> Tensor:
    """(Σ |x|ᵖ)^(1/p), by an average that counts the padding."""
    p, size = node.attribute("p", 2), prod(node.attribute("kernel_shape"))
    averaged = replace(node, attributes=node.attributes | {"count_include_pad": 1})
    return (PLAIN["AveragePool"](averaged, x.abs() ** p) * size) ** (1 / p)  # type: ignore[no-any-return]


OPS: dict[str, Callable[..., Any]] = {
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "CumSum": _cumulated,
    "GlobalLpPool": _global_lp_pool,
    "LpNormalization": _lp_normalised,
    "LpPool": _lp_pool,
    "MeanVarianceNormalization": _standardised,
    "ReduceL1": reduced(lambda x, axes, keep: torch.linalg.vector_norm(x, 1, axes, keep)),
    "ReduceLogSum": reduced(lambda x, axes, keep: torch.sum(x, axes, keep).log()),
    "ReduceLogSumExp": reduced(torch.logsumexp),
    "ReduceProd": reduced(_product),
    "ReduceSumSquare": reduced(lambda x, axes, keep: torch.sum(x.square(), axes, keep)),
    "TopK": _top_k,
}

SETTINGS: dict[str, set[int]] = {
    "CumSum": {1}, "TopK": {1},
    **{kind: {1} for kind in OPS if kind.startswith("Reduce")},
}  # fmt: skip
