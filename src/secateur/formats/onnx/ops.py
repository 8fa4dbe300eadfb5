"""What ONNX ops are in torch: one row in `OPS` for each. Rules take the node and the values of its inputs.

Values are tensors, or arrays of numbers (`host`) where a shape or another setting is meant; an input that is
left out is None. Versions of an op differ in where settings stand (attributes, later inputs), which rules
look up either way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.errors import UnsupportedOpError
from secateur.formats.onnx.host import Host, host, slice_of
from secateur.formats.onnx.node import Node, axes_of
from secateur.formats.onnx.tensors import dtype_of


def tensor(value: Any, like: Tensor) -> Tensor:
    """A tensor as it is, numbers as a tensor of the type that they have in the model."""
    if isinstance(value, Tensor):
        return value
    floating = like.dtype if like.is_floating_point() else torch.float32
    if value.dtype != object:
        return torch.tensor(value, dtype=floating if value.dtype.kind == "f" else None)
    flat = list(value.reshape(-1))
    dtype = floating if any(isinstance(v, float) for v in flat) else torch.int64
    return torch.tensor(flat, dtype=torch.bool if flat and isinstance(flat[0], bool) else dtype).reshape(
        value.shape
    )


def number(value: Any) -> Any:
    """The one number of an array of one."""
    return value.reshape(-1)[0] if isinstance(value, np.ndarray) and value.size == 1 else value


def numbers(value: Host | None) -> list[Any]:
    if value is None:
        return []
    return list(value.reshape(-1)) if value.dtype == object else list(value.reshape(-1).tolist())


# --- convolutions and products ------------------------------------------------------------------------------


def _padding(node: Node, size: Sequence[Any], kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Padding before and after each spatial axis."""
    rank, mode = len(kernel), node.attribute("auto_pad", "NOTSET")
    pads = node.attribute("pads", [0] * (2 * rank))
    if mode in ("NOTSET", ""):
        return pads[:rank], pads[rank:]
    if mode == "VALID":
        return [0] * rank, [0] * rank
    strides, dilations = node.attribute("strides", [1] * rank), node.attribute("dilations", [1] * rank)
    total = []
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        n = int(n)
        total.append(max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n))
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    return (less, more) if mode == "SAME_UPPER" else (more, less)


def _around(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """In torch's order: the last axis first."""
    return [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]


def _conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = weight.ndim - 2
    before, after = _padding(node, x.shape[2:], weight.shape[2:])
    if before != after:
        x, before = F.pad(x, _around(before, after)), [0] * rank
    run = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    strides, dilations = node.attribute("strides", [1] * rank), node.attribute("dilations", [1] * rank)
    return run(x, weight, bias, strides, before, dilations, node.attribute("group", 1))


def _conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = weight.ndim - 2
    run = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    strides, dilations = node.attribute("strides", [1] * rank), node.attribute("dilations", [1] * rank)
    extra, mode = node.attribute("output_padding", [0] * rank), node.attribute("auto_pad", "NOTSET")
    same = (
        [int(n) * s for n, s in zip(x.shape[2:], strides, strict=True)] if mode.startswith("SAME") else None
    )
    wanted = node.attribute("output_shape", None) or same
    if wanted is None:
        before, after = _padding(node, x.shape[2:], weight.shape[2:])
    else:
        sizes = zip(x.shape[2:], weight.shape[2:], strides, dilations, extra, wanted[-rank:], strict=True)
        total = [max(0, (int(n) - 1) * s + e + (k - 1) * d + 1 - out) for n, k, s, d, e, out in sizes]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        before, after = (less, more) if mode == "SAME_UPPER" else (more, less)
    if before != after:  # more is cut off at one end: the same as less padding there, then a cut
        out = run(x, weight, bias, strides, 0, extra, node.attribute("group", 1), dilations)
        return F.pad(out, [-n for n in _around(before, after)])
    return run(x, weight, bias, strides, before, extra, node.attribute("group", 1), dilations)


def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    a = a.t() if node.attribute("transA", 0) else a
    b = b if node.attribute("transB", 0) else b.t()
    plain = alpha == 1 and beta == 1 and (c is None or c.ndim == 1)
    if plain:
        return F.linear(a, b, c if c is None or c.shape[0] == b.shape[0] else c.expand(b.shape[0]))
    out = F.linear(a, b) if alpha == 1 else alpha * F.linear(a, b)
    return out if c is None else out + (c if beta == 1 else beta * c)


def _matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


def _linear(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A product with a weight (and the sum that follows), the weight as torch keeps it: (outputs, inputs)."""
    return F.linear(x, weight, bias)


def _einsum(node: Node, *operands: Tensor) -> Tensor:
    return torch.einsum(node.attribute("equation").replace(" ", ""), *operands)


# --- norms --------------------------------------------------------------------------------------------------


def _batch_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    if node.attribute("training_mode", 0):
        raise UnsupportedOpError(f"{node} is in training mode; export the model in eval mode")
    return F.batch_norm(x, mean, var, scale, bias, False, 0.0, node.attribute("epsilon", 1e-5))


def _instance_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=node.attribute("epsilon", 1e-5))


def _layer_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    shape, eps = x.shape[node.attribute("axis", -1) % x.ndim :], node.attribute("epsilon", 1e-5)
    if scale.shape == shape and (bias is None or bias.shape == shape):
        return F.layer_norm(x, shape, scale, bias, eps)
    out = F.layer_norm(x, shape, eps=eps) * scale
    return out if bias is None else out + bias


def _group_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups, eps = node.attribute("num_groups"), node.attribute("epsilon", 1e-5)
    if scale.shape[0] != x.shape[1]:  # up to opset 20 one scale for each group
        each = x.shape[1] // groups
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return F.group_norm(x, groups, scale, bias, eps)


def _rms_norm(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    shape, eps = x.shape[node.attribute("axis", -1) % x.ndim :], node.attribute("epsilon", 1e-5)
    own = scale.shape == shape
    out = F.rms_norm(x, list(shape), scale if own else None, eps)
    return out if own else out * scale


def _lrn(node: Node, x: Tensor) -> Tensor:
    size, alpha = node.attribute("size"), node.attribute("alpha", 1e-4)
    return F.local_response_norm(x, size, alpha, node.attribute("beta", 0.75), node.attribute("bias", 1.0))


def softmax_like(f: Callable[..., Tensor]) -> Callable[[Node, Tensor], Tensor]:
    def rule(node: Node, x: Tensor) -> Tensor:
        axis = node.attribute("axis", -1 if node.opset >= 13 else 1) % x.ndim
        if node.opset >= 13 or all(n == 1 for n in x.shape[axis + 1 :]):
            return f(x, axis)
        # Before opset 13, all axes from this one on together.
        return f(x.flatten(axis), axis).reshape(x.shape)

    return rule


# --- pools --------------------------------------------------------------------------------------------------


def _max_pool(node: Node, x: Tensor) -> Tensor:
    kernel = node.attribute("kernel_shape")
    rank = len(kernel)
    before, after = _padding(node, x.shape[2:], kernel)
    if before != after or any(2 * p > k for p, k in zip(before, kernel, strict=True)):
        x, before = F.pad(x, _around(before, after), value=float("-inf")), [0] * rank
    run = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
    strides, dilations = node.attribute("strides", [1] * rank), node.attribute("dilations", [1] * rank)
    return run(x, kernel, strides, before, dilations, bool(node.attribute("ceil_mode", 0)))


def _average_pool(node: Node, x: Tensor) -> Tensor:
    kernel = node.attribute("kernel_shape")
    rank = len(kernel)
    if any(d != 1 for d in node.attribute("dilations", [1] * rank)):
        raise UnsupportedOpError(f"{node}: dilated averages have no rule")
    before, after = _padding(node, x.shape[2:], kernel)
    run: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
    strides, ceil = node.attribute("strides", [1] * rank), bool(node.attribute("ceil_mode", 0))
    counted = bool(node.attribute("count_include_pad", 0)) or not any((*before, *after))
    if before == after and all(2 * p <= k for p, k in zip(before, kernel, strict=True)):
        return run(x, kernel, strides, before, ceil, counted)  # type: ignore[no-any-return]
    around = _around(before, after)
    if counted:
        return run(F.pad(x, around), kernel, strides, 0, ceil)  # type: ignore[no-any-return]
    inside = F.pad(torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device), around)
    return run(F.pad(x, around), kernel, strides, 0, ceil) / run(inside, kernel, strides, 0, ceil)  # type: ignore[no-any-return]


def _global(*pools: Callable[..., Any]) -> Callable[[Node, Tensor], Tensor]:
    def rule(node: Node, x: Tensor) -> Tensor:
        rank = x.ndim - 2
        return pools[rank - 1](x, [1] * rank)  # type: ignore[no-any-return]

    return rule


def reduced(f: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    def rule(node: Node, x: Tensor, axes: Host | None = None) -> Tensor:
        wanted, keep = axes_of(node, axes), bool(node.attribute("keepdims", 1))
        if not wanted and node.attribute("noop_with_empty_axes", 0):
            return x
        return f(x, wanted or list(range(x.ndim)), keep)

    return rule


# --- element by element -------------------------------------------------------------------------------------


def binary(f: Callable[[Any, Any], Tensor]) -> Callable[..., Tensor]:
    def rule(node: Node, a: Any, b: Any) -> Tensor:
        like = a if isinstance(a, Tensor) else b
        a, b = (v if isinstance(v, Tensor) or v.size == 1 else tensor(v, like) for v in (a, b))
        return f(number(a), number(b))

    return rule


def _folded(f: Callable[[Any, Any], Tensor]) -> Callable[..., Tensor]:
    def rule(node: Node, *parts: Tensor) -> Tensor:
        total = parts[0]
        for part in parts[1:]:
            total = f(total, part)
        return total

    return rule


def _divide(a: Any, b: Any) -> Tensor:
    whole = all(
        not (v.is_floating_point() if isinstance(v, Tensor) else isinstance(v, float)) for v in (a, b)
    )
    return torch.div(a, b, rounding_mode="trunc") if whole else a / b


def _pow(a: Any, b: Any) -> Tensor:
    return torch.pow(a, b)


def _clip(node: Node, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    low = number(low) if low is not None else node.attribute("min", None)
    high = number(high) if high is not None else node.attribute("max", None)
    if low == 0 and high is None:
        return F.relu(x)
    return x if low is None and high is None else torch.clamp(x, low, high)


def _gelu(node: Node, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=node.attribute("approximate", "none"))


def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    alpha, beta = node.attribute("alpha", 0.2), node.attribute("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


def _selu(node: Node, x: Tensor) -> Tensor:
    alpha, gamma = node.attribute("alpha", _SELU[0]), node.attribute("gamma", _SELU[1])
    usual = all(abs(a - b) < 1e-6 for a, b in zip((alpha, gamma), _SELU, strict=True))
    return F.selu(x) if usual else gamma * F.elu(x, alpha)


_SELU = (1.6732632423543772, 1.0507009873554805)  # alpha and gamma where the node names none


def _prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    after = node.attribute(AFTER, slope.ndim - 1)  # axes after that of the slopes
    if slope.numel() == 1 or (slope.ndim == 1 and after == x.ndim - 2):
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x >= 0, x, x * slope.reshape([*slope.shape, *[1] * (after + 1 - slope.ndim)]))


def _cast(node: Node, x: Tensor) -> Tensor:
    dtype = dtype_of(node.attribute("to"))
    return x if x.dtype == dtype else x.to(dtype)


def _where(node: Node, condition: Any, a: Any, b: Any) -> Tensor:
    like = next(v for v in (a, b, condition) if isinstance(v, Tensor))
    a, b = (number(v) if isinstance(v, np.ndarray) and v.size == 1 else tensor(v, like) for v in (a, b))
    return torch.where(tensor(condition, like), a, b)


# --- moving data about --------------------------------------------------------------------------------------


def _reshape(node: Node, x: Tensor, shape: Host | None = None) -> Tensor:
    sizes = numbers(shape) if shape is not None else node.attribute("shape")
    if not node.attribute("allowzero", 0):
        sizes = [x.shape[i] if _is(n, 0) else n for i, n in enumerate(sizes)]
    return x.reshape(sizes)


def _is(size: Any, value: int) -> bool:
    return isinstance(size, int) and size == value


def _flatten(node: Node, x: Tensor) -> Tensor:
    axis = node.attribute("axis", 1)
    axis = axis if axis >= 0 else axis + x.ndim
    if axis == 1:
        return x.flatten(1) if x.ndim > 1 else x.reshape(-1, 1)
    return x.reshape(prod(x.shape[:axis]), -1)


def _squeeze(node: Node, x: Tensor, axes: Host | None = None) -> Tensor:
    wanted = axes_of(node, axes)
    gone = [i for i, n in enumerate(x.shape) if isinstance(n, int) and n == 1] if wanted is None else wanted
    for axis in sorted((a % x.ndim for a in gone), reverse=True):
        x = x.squeeze(axis)
    return x


def _unsqueeze(node: Node, x: Tensor, axes: Host | None = None) -> Tensor:
    wanted = axes_of(node, axes) or []
    for axis in sorted(a % (x.ndim + len(wanted)) for a in wanted):
        x = x.unsqueeze(axis)
    return x


def _transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(node.attribute("perm", list(reversed(range(x.ndim)))))


def _expand(node: Node, x: Tensor, shape: Host) -> Tensor:
    sizes = numbers(shape)
    missing = len(sizes) - x.ndim
    own = [1] * missing + list(x.shape)
    sizes = [1] * -missing + sizes
    return x.expand([o if _is(n, 1) else n for o, n in zip(own, sizes, strict=True)])


def _tile(node: Node, x: Tensor, repeats: Host) -> Tensor:
    return x.repeat(numbers(repeats))


def _concat(node: Node, *parts: Any) -> Tensor:
    like = next(p for p in parts if isinstance(p, Tensor))
    tensors, axis = [tensor(p, like) for p in parts], node.attribute("axis", 1) % like.ndim
    return torch.cat(tensors, axis)


def _split(node: Node, x: Tensor, sizes: Host | None = None) -> Sequence[Tensor]:
    axis = node.attribute("axis", 0) % x.ndim
    given = numbers(sizes) or node.attribute("split", None)
    if given:
        return torch.split(x, [int(n) for n in given], axis)
    parts = node.attribute("num_outputs", len(node.outputs))
    return torch.split(x, -(-int(x.shape[axis]) // parts), axis)


def _slice(node: Node, x: Tensor, *bounds: Host | None) -> Tensor:
    for start, end, axis, step in zip(*slice_of(node, bounds, x.ndim), strict=True):
        if step < 0:
            places = list(range(int(x.shape[axis])))[int(start) : int(end) : step]
            whole = step == -1 and len(places) == x.shape[axis]
            x = x.flip(axis) if whole else x.index_select(axis, torch.tensor(places))
        else:
            x = torch.ops.aten.slice.Tensor(x, axis, start, end, step)
    return x


def _gather(node: Node, x: Tensor, index: Any) -> Tensor:
    axis = node.attribute("axis", 0) % x.ndim
    if isinstance(index, np.ndarray):
        if index.ndim == 0:
            return x.select(axis, int(index.item()))
        places = torch.tensor([int(i) if i >= 0 else int(i) + int(x.shape[axis]) for i in index.reshape(-1)])
        found = x.index_select(axis, places)
        return found.unflatten(axis, index.shape) if index.ndim > 1 else found
    if axis == 0 and x.ndim == 2:
        return F.embedding(index, x)
    if index.ndim == 1:
        return x.index_select(axis, index)
    raise UnsupportedOpError(
        f"{node}: indices of {index.ndim} axes into axis {axis} of {x.ndim} have no rule"
    )


def _gather_elements(node: Node, x: Tensor, index: Tensor) -> Tensor:
    return torch.gather(x, node.attribute("axis", 0), index)


def _pad(
    node: Node, x: Tensor, pads: Host | None = None, value: Any = None, axes: Host | None = None
) -> Tensor:
    amounts = [int(n) for n in (numbers(pads) if pads is not None else node.attribute("pads"))]
    mode = node.attribute("mode", "constant")
    places = [int(a) % x.ndim for a in numbers(axes)] or list(range(x.ndim))
    before, after = [0] * x.ndim, [0] * x.ndim
    for i, axis in enumerate(places):
        before[axis], after[axis] = amounts[i], amounts[i + len(places)]
    around = _around(before, after)
    while around and around[-2:] == [0, 0]:
        around = around[:-2]
    if not around:
        return x
    if mode == "constant":
        fill = number(value) if value is not None else node.attribute("value", 0.0)
        return F.pad(x, around, value=fill)
    names = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    return F.pad(x, around, mode=names[mode])


_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


def _resize(node: Node, x: Tensor, *settings: Host | None) -> Tensor:
    """Upsample (opset 9), Resize 10 (scales) and Resize 11 on (roi, scales, sizes)."""
    roi_scales_sizes = settings if len(settings) != 1 else (None, settings[0])
    _, scales, sizes = (*roi_scales_sizes, None, None, None)[:3]
    factors = numbers(scales) or ([] if sizes is not None else node.attribute("scales", []))
    axes = [a % x.ndim for a in node.attribute("axes", list(range(x.ndim)))]
    if node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch" or node.attribute("antialias", 0):
        raise UnsupportedOpError(f"{node}: aspect-ratio policies and antialiasing have no rule")
    if factors and any(a < 2 and factors[i] != 1 for i, a in enumerate(axes)):
        raise UnsupportedOpError(f"{node} resizes the batch or the channels")
    return _resampled(node, x, *_new_sizes(x, axes, factors, sizes))


def _new_sizes(
    x: Tensor, axes: list[int], factors: Sequence[Any], sizes: Host | None
) -> tuple[list[int], list[float]]:
    """Of the spatial axes: their new sizes, and the factors by which they grow."""
    size, scale = [int(n) for n in x.shape[2:]], [1.0] * (x.ndim - 2)
    for i, axis in ((i, a - 2) for i, a in enumerate(axes) if a > 1):
        old = size[axis]
        size[axis] = int(old * float(factors[i])) if factors else int(numbers(sizes)[i])
        scale[axis] = float(factors[i]) if factors else size[axis] / old
    return size, scale


def _resampled(node: Node, x: Tensor, size: list[int], scale: list[float]) -> Tensor:
    """By torch's own op where that does the same, else axis by axis."""
    mode, newer = node.attribute("mode", "nearest"), node.opset > 10
    where = node.attribute("coordinate_transformation_mode", "half_pixel" if newer else "asymmetric")
    if where not in _PLACES or node.attribute("exclude_outside", 0):
        raise UnsupportedOpError(
            f"{node}: {mode} with {where} has no rule; export it with half_pixel or align_corners"
        )
    if mode == "nearest":
        rounding = node.attribute("nearest_mode", "round_prefer_floor" if newer else "floor")
        return _nearest(x, size, scale, where, rounding)
    if where == "asymmetric" and mode == "linear":
        return _linear_by_axis(x, size, scale)
    corners = where == "align_corners"
    own = {"size": size} if corners else {"scale_factor": scale}
    if mode == "linear":
        return F.interpolate(x, **own, mode=_INTERPOLATION[x.ndim - 2], align_corners=corners)
    if node.attribute("cubic_coeff_a", -0.75) != -0.75 or x.ndim != 4 or where == "asymmetric":
        raise UnsupportedOpError(f"{node}: this form of {mode} has no rule")
    return F.interpolate(x, **own, mode="bicubic", align_corners=corners)


def _nearest(x: Tensor, size: list[int], scale: list[float], where: str, rounding: str) -> Tensor:
    whole = all(s == int(s) for s in scale)
    rounded = where == "half_pixel" and "round" in rounding
    if (where, rounding) == ("asymmetric", "floor") or (whole and rounded):
        return F.interpolate(x, scale_factor=scale, mode="nearest")
    for axis, places in _places(x, size, scale, where):
        index = torch.tensor([_ROUNDINGS[rounding](p) for p in places])
        x = x.index_select(axis, index.clamp(0, x.shape[axis] - 1))
    return x


def _linear_by_axis(x: Tensor, size: list[int], scale: list[float]) -> Tensor:
    """Asymmetric linear interpolation, which torch does not have."""
    for axis, places in _places(x, size, scale, "asymmetric"):
        inside = torch.tensor(places).clamp(0, x.shape[axis] - 1)
        low = inside.floor().long()
        share = (inside - low).to(x.dtype).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
        high = (low + 1).clamp(max=int(x.shape[axis]) - 1)
        x = x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share
    return x


def _places(x: Tensor, size: list[int], scale: list[float], where: str) -> Iterator[tuple[int, list[float]]]:
    """Each axis that changes, and where in it the new values are taken from."""
    for axis, (new, factor) in enumerate(zip(size, scale, strict=True), start=2):
        if factor != 1:
            place = _PLACES[where]
            yield axis, [place(i, factor, int(x.shape[axis]), new) for i in range(new)]


# Where value i comes from, by the factor, from `old` to `new` values.
_PLACES: dict[str, Callable[[int, float, int, int], float]] = {
    "align_corners": lambda i, factor, old, new: i * (old - 1) / (new - 1) if new > 1 else 0.0,
    "asymmetric": lambda i, factor, old, new: i / factor,
    "half_pixel": lambda i, factor, old, new: (i + 0.5) / factor - 0.5,
    "pytorch_half_pixel": lambda i, factor, old, new: (i + 0.5) / factor - 0.5 if new > 1 else 0.0,
}
_ROUNDINGS: dict[str, Callable[[float], int]] = {
    "ceil": math.ceil,
    "floor": math.floor,
    "round_prefer_ceil": lambda place: math.floor(place + 0.5),
    "round_prefer_floor": lambda place: math.ceil(place - 0.5),
}


def _depth_to_space(node: Node, x: Tensor) -> Tensor:
    n = node.attribute("blocksize")
    if node.attribute("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, n)
    b, c, h, w = x.shape
    return (
        x.reshape(b, n, n, c // (n * n), h, w)
        .permute(0, 3, 4, 1, 5, 2)
        .reshape(b, c // (n * n), h * n, w * n)
    )


def _space_to_depth(node: Node, x: Tensor) -> Tensor:
    n = node.attribute("blocksize")
    b, c, h, w = x.shape
    return (
        x.reshape(b, c, h // n, n, w // n, n).permute(0, 3, 5, 1, 2, 4).reshape(b, c * n * n, h // n, w // n)
    )


def _shape(node: Node, x: Any) -> Host:
    return host(list(x.shape)[node.attribute("start", 0) : node.attribute("end", None)])


def _size(node: Node, x: Any) -> Host:
    return host(prod(x.shape))


def _filled(node: Node, shape: Host) -> Tensor:
    value = node.attribute("value", [0.0])[0]
    return torch.full(numbers(shape), value, dtype=_dtype_of(value, torch.float32))


def _filled_like(node: Node, shape: Host, other: Tensor) -> Tensor:
    """Of the shape of another value, and so with its units."""
    value = node.attribute("value", [0.0])[0]
    return torch.full_like(other, value, dtype=_dtype_of(value, torch.float32))


def is_shape_of(shape: Host, other: Tensor) -> bool:
    sizes = numbers(shape)
    return len(sizes) == other.ndim and all(a == b for a, b in zip(sizes, other.shape, strict=True))


def _dtype_of(value: Any, floating: torch.dtype) -> torch.dtype:
    if isinstance(value, float):
        return floating
    return torch.bool if isinstance(value, bool) else torch.int64


def _expanded_like(node: Node, x: Any, shape: Host, other: Tensor) -> Tensor:
    """Against the shape of another value, and so with its units."""
    if not isinstance(x, Tensor) and x.size == 1:
        value = number(x)
        return torch.full_like(other, value, dtype=_dtype_of(value, torch.float32))
    x = tensor(x, other)
    nothing = torch.zeros_like(other, dtype=x.dtype)
    return torch.logical_or(x, nothing) if x.dtype == torch.bool else x + nothing


def _attention(node: Node, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Of opset 23, (batch, heads, length, width) in and out."""
    if q.ndim != 4 or len(node.outputs) > 1 or node.attribute("softcap", 0.0):
        raise UnsupportedOpError(f"{node}: this form of attention has no rule; export it as matrix products")
    causal = bool(node.attribute("is_causal", 0))
    grouped = q.shape[1] != k.shape[1]
    scale = node.attribute("scale", None)
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale, enable_gqa=grouped)


def _triangle(node: Node, x: Tensor, k: Host | None = None) -> Tensor:
    shift = 0 if k is None else int(number(k))
    return x.triu(shift) if node.attribute("upper", 1) else x.tril(shift)


def unary(f: Callable[[Tensor], Tensor]) -> Callable[[Node, Tensor], Tensor]:
    return lambda node, x: f(x)


def _with(f: Callable[..., Tensor], **defaults: float) -> Callable[[Node, Tensor], Tensor]:
    """A function whose parameters are the op's attributes, in their order."""
    return lambda node, x: f(x, *(node.attribute(name, value) for name, value in defaults.items()))


def _same(node: Node, x: Tensor, *rest: Any) -> Tensor:
    return x


LINEAR = "MatMul (+ Add)"  # a product with a weight, as `model` finds it
FILLED_LIKE, EXPANDED_LIKE = "ConstantOfShape (Shape)", "Expand (Shape)"  # as `like` finds them
# Where the sizes are not all of the other value's.
PLAIN = {FILLED_LIKE: "ConstantOfShape", EXPANDED_LIKE: "Expand"}
AFTER = "(after)"  # an attribute of slopes that `model` has made a row of

OPS: dict[str, Callable[..., Any]] = {
    LINEAR: _linear,
    FILLED_LIKE: _filled_like,
    EXPANDED_LIKE: _expanded_like,
    "Abs": unary(torch.abs),
    "Add": binary(torch.add),
    "And": binary(torch.logical_and),
    "Attention": _attention,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Ceil": unary(torch.ceil),
    "Celu": _with(F.celu, alpha=1.0),
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Cos": unary(torch.cos),
    "DepthToSpace": _depth_to_space,
    "Div": binary(_divide),
    "Dropout": _same,
    "Einsum": _einsum,
    "Elu": _with(F.elu, alpha=1.0),
    "Equal": binary(torch.eq),
    "Erf": unary(torch.erf),
    "Exp": unary(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": unary(torch.floor),
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
    "GlobalMaxPool": _global(F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
    "Greater": binary(torch.gt),
    "GreaterOrEqual": binary(torch.ge),
    "GroupNormalization": _group_norm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": unary(F.hardswish),
    "Identity": _same,
    "InstanceNormalization": _instance_norm,
    "LRN": _lrn,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _with(F.leaky_relu, alpha=0.01),
    "Less": binary(torch.lt),
    "LessOrEqual": binary(torch.le),
    "Log": unary(torch.log),
    "LogSoftmax": softmax_like(F.log_softmax),
    "MatMul": _matmul,
    "Max": _folded(torch.maximum),
    "MaxPool": _max_pool,
    "Mean": lambda node, *parts: _folded(torch.add)(node, *parts) / len(parts),
    "Min": _folded(torch.minimum),
    "Mish": unary(F.mish),
    "Mul": binary(torch.mul),
    "Neg": unary(torch.neg),
    "Not": unary(torch.logical_not),
    "Or": binary(torch.logical_or),
    "PRelu": _prelu,
    "Pad": _pad,
    "Pow": binary(_pow),
    "RMSNormalization": _rms_norm,
    "Reciprocal": unary(torch.reciprocal),
    "ReduceL2": reduced(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "ReduceMax": reduced(torch.amax),
    "ReduceMean": reduced(torch.mean),
    "ReduceMin": reduced(torch.amin),
    "ReduceSum": reduced(torch.sum),
    "Relu": unary(F.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Round": unary(torch.round),
    "Selu": _selu,
    "Shape": _shape,
    "Sigmoid": unary(torch.sigmoid),
    "Sign": unary(torch.sign),
    "Sin": unary(torch.sin),
    "Size": _size,
    "Slice": _slice,
    "Softmax": softmax_like(F.softmax),
    "Softplus": unary(F.softplus),
    "Softsign": unary(F.softsign),
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Sqrt": unary(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": binary(torch.sub),
    "Sum": _folded(torch.add),
    "Tanh": unary(torch.tanh),
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
    "Upsample": _resize,
    "Where": _where,
}

# Inputs that are settings, not data: read as numbers.
SETTINGS: dict[str, set[int]] = {
    "Clip": {1, 2}, "ConstantOfShape": {0}, FILLED_LIKE: {0}, EXPANDED_LIKE: {1},
    "Dropout": {1, 2}, "Expand": {1}, "Pad": {1, 2, 3}, "Range": {0, 1, 2},
    "Reshape": {1}, "Resize": {1, 2, 3}, "Slice": {1, 2, 3, 4}, "Split": {1}, "Squeeze": {1}, "Tile": {1},
    "Trilu": {1}, "Unsqueeze": {1}, "Upsample": {1},
    **{name: {1} for name in ("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")},
}  # fmt: skip
