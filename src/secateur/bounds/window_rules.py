"""How windows of coefficients pass the ops of convolutional networks, from a result to its arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from secateur.bounds.layers import batch_norm_line
from secateur.bounds.windows import Window
from secateur.graph.node import bound_arguments, kind
from secateur.graph.ops import of

# coefficients and windows of the arguments, and the constant
Passed = tuple[list[Tensor | None], list[Window], Any]


def _convolution(op: dict[str, Any], c: Tensor, where: Window) -> Passed:
    """The transposed convolution, tap by tap: each is one product of matrices."""
    weight, groups = op["weight"], op["groups"]
    (sy, sx), (py, px), (dy, dx) = (_two(op[name]) for name in ("stride", "padding", "dilation"))
    rows, _, _, h, w = c.shape
    out, per_group, ky, kx = weight.shape
    wide = c[:, 0].permute(0, 2, 3, 1).reshape(rows * h * w, groups, out // groups)
    height, width = (h - 1) * sy + (ky - 1) * dy + 1, (w - 1) * sx + (kx - 1) * dx + 1
    total = c.new_zeros((rows, height, width, groups * per_group))
    taps = weight.reshape(groups, out // groups, per_group, ky, kx)
    for i in range(ky):
        for j in range(kx):
            part = (
                torch.einsum("pgo,goi->pgi", wide, taps[..., i, j])
                if groups > 1
                else wide[:, 0] @ taps[0, ..., i, j]
            )
            y, x = i * dy, j * dx
            total[:, y : y + (h - 1) * sy + 1 : sy, x : x + (w - 1) * sx + 1 : sx] += part.reshape(
                rows, h, w, -1
            )
    constant = 0.0 if op["bias"] is None else c.sum((1, 3, 4)) @ op["bias"]
    seen = replace(where, top=where.top * sy - py, left=where.left * sx - px, height=height, width=width)
    return [total.permute(0, 3, 1, 2)[:, None]], [seen], constant


def _batch_norm(op: dict[str, Any], c: Tensor, where: Window) -> Passed:
    factor, offset = batch_norm_line(
        op["weight"], op["bias"], op["running_mean"], op["running_var"], op["eps"]
    )
    return [c * factor[:, None, None]], [where], c.sum((1, 3, 4)) @ offset


def _sum(op: dict[str, Any], c: Tensor, where: Window) -> Passed:
    signs = {"add": (1.0, op["alpha"]), "sub": (1.0, -op["alpha"]), "rsub": (-op["alpha"], 1.0)}[op["kind"]]
    found: list[Tensor | None] = []
    constant: Any = 0.0
    for sign, operand in zip(signs, (op["self"], op["other"]), strict=True):
        if operand is VARIES:
            found.append(c if sign == 1 else sign * c)
        else:
            constant = constant + sign * (c * _constant(operand)).flatten(1).sum(1)
    return found, [where] * len(found), constant


def _scaled(op: dict[str, Any], c: Tensor, where: Window) -> Passed:
    factor = op["other"] if op["self"] is VARIES else op["self"]
    factor = _constant(factor)
    return [c / factor if op["kind"] == "div" else c * factor], [where], 0.0


def _constant(value: Any) -> Any:
    """A number, or one for each channel; with another shape it is no constant of a window."""
    if isinstance(value, Tensor) and value.numel() > 1 and (value.ndim < 3 or value.shape[-2:] != (1, 1)):
        raise NotImplementedError("a constant with places")
    return value


def _slice(op: dict[str, Any], c: Tensor, where: Window) -> Passed:
    """Every `step`-th row or column from `start`."""
    dim, start, step = op["dim"] % 4, op["start"] or 0, op["step"]
    if dim < 2 or start < 0:
        raise NotImplementedError("a slice of channels")
    sy, sx = where.steps
    if dim == 2:
        return [c], [replace(where, top=where.top * step + start, steps=(sy * step, sx))], 0.0
    return [c], [replace(where, left=where.left * step + start, steps=(sy, sx * step))], 0.0


def _padded(op: dict[str, Any], c: Tensor, where: Window) -> Passed:
    left, _, top, _ = [*op["pad"], 0, 0][:4]
    if len(op["pad"]) > 4 or op["value"] or op.get("mode", "constant") != "constant":
        raise NotImplementedError("padding of channels, or not by zeros")
    return [c], [replace(where, top=where.top - top, left=where.left - left)], 0.0


def _unchanged(op: dict[str, Any], c: Tensor, where: Window) -> Passed:
    return [c], [where], 0.0


def _average(op: dict[str, Any], c: Tensor, where: Window) -> Passed:
    (ky, kx), (py, px) = _two(op["kernel_size"]), _two(op["padding"])
    sy, sx = _two(op["stride"]) if op["stride"] else (ky, kx)
    if op["ceil_mode"] or (py, px) != (0, 0):
        raise NotImplementedError("average pooling with padding")
    kernel = torch.full(
        (c.shape[2], 1, ky, kx), 1 / (op["divisor_override"] or ky * kx), dtype=c.dtype, device=c.device
    )
    spread = F.conv_transpose2d(c[:, 0], kernel, stride=(sy, sx), groups=c.shape[2])
    seen = replace(
        where, top=where.top * sy, left=where.left * sx, height=spread.shape[2], width=spread.shape[3]
    )
    return [spread[:, None]], [seen], 0.0


def _two(value: Any) -> tuple[int, int]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return int(values[0]), int(values[-1])


VARIES = object()  # in place of an argument that depends on the inputs

RULES: dict[str, Callable[[dict[str, Any], Tensor, Window], Passed]] = {
    "add": _sum,
    "avg_pool2d": _average,
    "batch_norm": _batch_norm,
    "clone": _unchanged,
    "constant_pad_nd": _padded,
    "conv2d": _convolution,
    "div": _scaled,
    "dropout": _unchanged,
    "feature_dropout": _unchanged,
    "mul": _scaled,
    "pad": _padded,
    "rsub": _sum,
    "slice": _slice,
    "sub": _sum,
}
# Their operands may be broadcast: windows pass those that are not.
ELEMENTWISE = RULES.keys() & set(of("arithmetic"))


def passed(node: fx.Node, value_of: Callable[[fx.Node], Any], c: Tensor, where: Window) -> Passed:
    """Through a linear op; `value_of` gives `VARIES` for what depends on the inputs, and constants."""
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), value_of)
    return RULES[kind(node)](bound_arguments(node, args, kwargs) | {"kind": kind(node)}, c, where)
