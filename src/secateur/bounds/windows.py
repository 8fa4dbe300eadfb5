"""Rows of linear bounds that see a window of an image, as those of one place of a convolution do.

Coefficients are held for the window alone, (rows, 1, channels, height, width), with its corner for each row.
Places outside the image are zero padding, whose coefficients do not count. `RULES` takes windows through the
ops of convolutional networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from secateur.bounds.layers import batch_norm_line
from secateur.graph.node import bound_arguments, kind
from secateur.graph.ops import of


@dataclass(frozen=True, eq=False)
class Everywhere:
    """Rows that see all of a value; `box`: (rows,), the box that each is about."""

    box: Tensor

    def at(self, value: Tensor) -> Tensor:
        """What is known for each row's box: (boxes, …) → (rows, …)."""
        return value[self.box] if len(value) > 1 else value


@dataclass(frozen=True, eq=False)
class Window:
    """Rows that see a window of `height` × `width` of an image, its corner at (top, left), (rows,) each."""

    box: Tensor
    top: Tensor
    left: Tensor
    height: int
    width: int

    def at(self, value: Tensor) -> Tensor:
        """(boxes, 1, channels, H, W) → (rows, 1, channels, height, width); beyond the edges, the edge."""
        image = value[:, 0].permute(0, 2, 3, 1)  # channels last: places are what is picked
        y, x = self._rows(image.shape[1]), self._columns(image.shape[2])
        box = self.box if len(value) > 1 else torch.zeros_like(self.box)
        return image[box[:, None, None], y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)[:, None]

    def inside(self, shape: Sequence[int]) -> Tensor:
        """Which places of the window are in an image of `shape`, (rows, 1, 1, height, width)."""
        y = self.top[:, None] + torch.arange(self.height, device=self.top.device)
        x = self.left[:, None] + torch.arange(self.width, device=self.top.device)
        y_in, x_in = (y >= 0) & (y < shape[-2]), (x >= 0) & (x < shape[-1])
        return (y_in[:, :, None] & x_in[:, None, :])[:, None, None]

    def _rows(self, size: int) -> Tensor:
        return (self.top[:, None] + torch.arange(self.height, device=self.top.device)).clamp(0, size - 1)

    def _columns(self, size: int) -> Tensor:
        return (self.left[:, None] + torch.arange(self.width, device=self.top.device)).clamp(0, size - 1)


Where = Everywhere | Window
# coefficients and windows of the arguments, and the constant
Passed = tuple[list[Tensor | None], list[Window], Any]


def fitted(coefficients: Tensor | None, where: Window, shape: Sequence[int]) -> Tensor | None:
    """The coefficients with zeros outside the image."""
    return None if coefficients is None else torch.where(where.inside(shape), coefficients, 0.0)


def whole(coefficients: Tensor, where: Window, shape: Sequence[int]) -> Tensor:
    """The coefficients of the whole image."""
    own = Window(torch.arange(len(where.top)), -where.top, -where.left, shape[-2], shape[-1])
    return torch.where(own.inside((where.height, where.width)), own.at(coefficients), 0.0)


def of_image(where: Window, shape: Sequence[int]) -> Window:
    """The window that is the whole image."""
    corner = torch.zeros_like(where.top)
    return replace(where, top=corner, left=corner, height=shape[-2], width=shape[-1])


def move_apart(a: Window, b: Window) -> bool:
    """Whether the offset between the windows is not the same for all rows."""
    return not bool(
        (b.top - a.top == b.top[0] - a.top[0]).all() and (b.left - a.left == b.left[0] - a.left[0]).all()
    )


def joined(a: Window, b: Window) -> tuple[Window, tuple[int, ...], tuple[int, ...]]:
    """The least window that holds both, and how each is padded to it: (left, right, top, bottom)."""
    down, right = int(b.top[0] - a.top[0]), int(b.left[0] - a.left[0])
    top, left = min(0, down), min(0, right)
    bottom = max(a.height, down + b.height)
    end = max(a.width, right + b.width)
    both = replace(a, top=a.top + top, left=a.left + left, height=bottom - top, width=end - left)
    pad_a = (-left, end - a.width, -top, bottom - a.height)
    pad_b = (right - left, end - right - b.width, down - top, bottom - down - b.height)
    return both, pad_a, pad_b


# --- rules: coefficients of a result → of its arguments -----------------------------------------------------


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
    """Every `step`-th row or column from `start`: the others get no coefficient."""
    dim, start, step = op["dim"] % 4, op["start"] or 0, op["step"]
    if dim < 2 or start < 0:
        raise NotImplementedError("a slice of channels")
    size = c.shape[dim + 1]
    shape = list(c.shape)
    shape[dim + 1] = (size - 1) * step + 1
    spread = c.new_zeros(shape)
    spread[(slice(None),) * (dim + 1) + (slice(None, None, step),)] = c
    if dim == 2:
        return [spread], [replace(where, top=where.top * step + start, height=shape[3])], 0.0
    return [spread], [replace(where, left=where.left * step + start, width=shape[4])], 0.0


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
