"""The parts of an affine op on concrete values, whatever the names of its arguments (`graph.ops.AFFINE`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secateur.bounds.arithmetic import Value, each, scale
from secateur.bounds.op import Op
from secateur.graph.node import kind
from secateur.graph.ops import AFFINE


def linear_part(op: Op, x: Tensor, weight: Tensor) -> Tensor:
    """The op without its bias."""
    form = AFFINE[kind(op.node)]
    if form.bias == "self":  # addmm and baddbmm: β bias + α (x W)
        return torch.matmul(x, weight) * float(op["alpha"])
    without_bias = {"bias": None} if form.bias == "bias" else {}
    out: Tensor = op.run(**{form.data: x, form.weight: weight}, **without_bias)
    return out


def offset(op: Op, bias: Value) -> Any:
    """The bias as it is added to the output."""
    form = AFFINE[kind(op.node)]
    if form.bias == "self":
        return scale(bias, op["beta"])
    axes = -1 - form.output_axis  # of the output, after the channels
    return each(lambda b: b.reshape(-1, *[1] * axes), bias)


def makes_units(op: Op, weight: Tensor, axis: int) -> bool:
    """Whether `axis` of the weight is that of the output units (and holds all of them, in a grouped op)."""
    form = AFFINE[kind(op.node)]
    matrix = form.weight != "other" or weight.ndim == 2  # matmul of a stack has other axes
    return axis == form.weight_axis and matrix and (axis == 0 or op.arguments.get("groups", 1) == 1)


def linear_part_of(op: Op, units: Tensor, total: int, x: Tensor, weight: Tensor) -> Tensor:
    """The linear part for some `units` of all `total`, given the weights of these units alone.

    A unit of a grouped op sees its group.
    """
    groups = op.arguments.get("groups", 1)
    if groups == 1:
        return linear_part(op, x, weight)
    inputs = weight.shape[1]
    seen = (units // (total // groups)).unsqueeze(1) * inputs + torch.arange(inputs, device=units.device)
    own = x.index_select(AFFINE[kind(op.node)].output_axis, seen.flatten())
    return op.run(input=own, weight=weight, bias=None, groups=len(units))  # type: ignore[no-any-return]
