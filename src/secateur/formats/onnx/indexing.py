"""Ops of ONNX that pick, put and sample by places, in torch: one row in `OPS` for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.errors import UnsupportedOpError
from secateur.formats.onnx.host import Host
from secateur.formats.onnx.node import Node
from secateur.formats.onnx.ops import number, numbers, tensor
from secateur.formats.onnx.tensors import dtype_of


def _gather_nd(node: Node, x: Tensor, places: Any) -> Tensor:
    """x[i, j, …] for each last row (i, j, …) of `places`, behind `batch_dims` axes that both have."""
    places, lead = tensor(places, x), node.attribute("batch_dims", 0)
    columns = [_wrapped(c, x.shape[lead + i]) for i, c in enumerate(places.unbind(-1))]
    extra = columns[0].ndim - lead
    own = [
        torch.arange(x.shape[axis], device=x.device).reshape([-1, *[1] * (lead - 1 - axis + extra)])
        for axis in range(lead)
    ]
    return x[tuple([*own, *columns])]


def _wrapped(places: Tensor, size: Any) -> Tensor:
    """Places from 0, those counted from the end included."""
    return torch.where(places < 0, places + size, places)


def _scatter_nd(node: Node, x: Tensor, places: Any, values: Any) -> Tensor:
    places, values = tensor(places, x), tensor(values, x)
    columns = tuple(_wrapped(c, x.shape[i]) for i, c in enumerate(places.unbind(-1)))
    reduction = node.attribute("reduction", "none")
    if reduction not in ("none", "add"):
        raise UnsupportedOpError(f"{node}: the reduction {reduction} has no rule; export it with none or add")
    return x.index_put(columns, values, accumulate=reduction == "add")


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _scatter_elements(node: Node, x: Tensor, places: Any, values: Any) -> Tensor:
    axis, reduction = node.attribute("axis", 0) % x.ndim, node.attribute("reduction", "none")
    places, values = _wrapped(tensor(places, x), x.shape[axis]), tensor(values, x)
    if reduction == "none":
        return x.scatter(axis, places, values)
    return x.scatter_reduce(axis, places, values, _REDUCTIONS[reduction])


def _one_hot(node: Node, places: Any, depth: Host, values: Host) -> Tensor:
    """`on` at the place of each number, `off` elsewhere, along a new axis."""
    places, count = tensor(places, torch.zeros(0)), int(number(depth))
    axis = node.attribute("axis", -1) % (places.ndim + 1)
    off, on = (tensor(np.array(v, dtype=object), torch.zeros(0)) for v in values.reshape(-1))
    hit = _wrapped(places.long(), count).unsqueeze(axis) == torch.arange(count, device=places.device).reshape(
        [-1 if i == axis else 1 for i in range(places.ndim + 1)]
    )
    return torch.where(hit, on, off)


def _eye_like(node: Node, x: Tensor) -> Tensor:
    dtype = dtype_of(node.attribute("dtype")) if "dtype" in node.attributes else x.dtype
    rows, columns = (torch.arange(n, device=x.device) for n in x.shape)
    return (rows[:, None] + node.attribute("k", 0) == columns).to(dtype)  # type: ignore[no-any-return]


def _compress(node: Node, x: Tensor, condition: Any) -> Tensor:
    if isinstance(condition, Tensor):
        return _depends_on_data(node)
    axis = node.attribute("axis", None)
    places = torch.tensor([i for i, kept in enumerate(condition.reshape(-1)) if kept], device=x.device)
    return x.reshape(-1).index_select(0, places) if axis is None else x.index_select(axis, places)


def _depends_on_data(node: Node, *given: Any) -> Tensor:
    raise UnsupportedOpError(
        f"{node} gives as many numbers as the data make it; prune the model that stands before it"
    )


def _reverse_sequence(node: Node, x: Tensor, lengths: Any) -> Tensor:
    """The first `lengths` steps of each sample in reverse order."""
    time, batch = node.attribute("time_axis", 0), node.attribute("batch_axis", 1)
    lengths = tensor(lengths, x)
    steps = torch.arange(x.shape[time], device=x.device)[:, None]
    places = torch.where(steps < lengths, lengths - 1 - steps, steps)  # shape: (time, batch)
    places = places if time < batch else places.t()
    return x.gather(time, places.reshape([*places.shape, *[1] * (x.ndim - 2)]).expand(x.shape))


def _center_crop_pad(node: Node, x: Tensor, shape: Host) -> Tensor:
    axes = [a % x.ndim for a in node.attribute("axes", list(range(x.ndim)))]
    around = [[0, 0] for _ in range(x.ndim)]
    for axis, size in zip(axes, numbers(shape), strict=True):
        if not isinstance(size, int) or not isinstance(x.shape[axis], int):  # the batch as it is
            continue
        more = int(size) - int(x.shape[axis])
        if more < 0:
            x = x.narrow(axis, -more // 2, int(size))
        else:
            around[axis] = [more // 2, more - more // 2]
    amounts = [n for pair in reversed(around) for n in pair]
    return F.pad(x, amounts) if any(amounts) else x


def _grid_sample(node: Node, x: Tensor, grid: Tensor) -> Tensor:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(
        node.attribute("mode", "bilinear"), node.attribute("mode", "bilinear")
    )
    corners = bool(node.attribute("align_corners", 0))
    return F.grid_sample(x, grid, mode, node.attribute("padding_mode", "zeros"), corners)


def _affine_grid(node: Node, theta: Tensor, size: Host) -> Tensor:
    sizes = [theta.shape[0], *numbers(size)[1:]]
    return F.affine_grid(theta, sizes, bool(node.attribute("align_corners", 0)))


def _col2im(node: Node, x: Tensor, image: Host, block: Host) -> Tensor:
    sizes, kernel = ([int(n) for n in numbers(value)] for value in (image, block))
    rank = len(kernel)
    pads = node.attribute("pads", [0] * (2 * rank))
    if rank != 2 or pads[:2] != pads[2:]:
        raise UnsupportedOpError(f"{node}: blocks of {rank} axes with the padding {pads} have no rule")
    dilations, strides = node.attribute("dilations", [1, 1]), node.attribute("strides", [1, 1])
    return F.fold(x, tuple(sizes), tuple(kernel), dilations, pads[:2], strides)


OPS: dict[str, Callable[..., Any]] = {
    "AffineGrid": _affine_grid,
    "CenterCropPad": _center_crop_pad,
    "Col2Im": _col2im,
    "Compress": _compress,
    "EyeLike": _eye_like,
    "GatherND": _gather_nd,
    "GridSample": _grid_sample,
    "NonMaxSuppression": _depends_on_data,
    "NonZero": _depends_on_data,
    "OneHot": _one_hot,
    "ReverseSequence": _reverse_sequence,
    "Scatter": _scatter_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Unique": _depends_on_data,
}

SETTINGS: dict[str, set[int]] = {
    "AffineGrid": {1}, "CenterCropPad": {1}, "Col2Im": {1, 2}, "OneHot": {1, 2},
}  # fmt: skip
