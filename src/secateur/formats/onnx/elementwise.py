"""More element-wise ops of ONNX in torch, and linear algebra of small matrices: one row in `OPS` for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.errors import UnsupportedOpError
from secateur.formats.onnx.node import Node
from secateur.formats.onnx.ops import binary, softmax_like, tensor, unary


def _shrink(node: Node, x: Tensor) -> Tensor:
    """Zero within ±lambd, and nearer to zero by `bias` outside."""
    bias, edge = node.attribute("bias", 0.0), node.attribute("lambd", 0.5)
    if bias == edge:
        return F.softshrink(x, edge)
    y = F.hardshrink(x, edge)
    return y if bias == 0 else y - bias * torch.sign(y)


def _thresholded_relu(node: Node, x: Tensor) -> Tensor:
    return F.threshold(x, node.attribute("alpha", 1.0), 0.0)


def _hardmax(x: Tensor, axis: int) -> Tensor:
    """One where the first of the largest is, zero elsewhere."""
    places = torch.arange(x.shape[axis], device=x.device).reshape(
        [-1 if i == axis else 1 for i in range(x.ndim)]
    )
    return (places == x.argmax(axis, keepdim=True)).to(x.dtype)


def _mod(node: Node, a: Any, b: Any) -> Tensor:
    """The sign is the divisor's, or with `fmod` the dividend's."""
    return binary(torch.fmod if node.attribute("fmod", 0) else torch.remainder)(node, a, b)


def _is_inf(node: Node, x: Tensor) -> Tensor:
    either = [x == sign * float("inf") for sign, name in _SIGNS if node.attribute(name, 1)]
    if not either:
        return torch.zeros_like(x, dtype=torch.bool)
    return either[0] if len(either) == 1 else x.isinf()


_SIGNS = ((1, "detect_positive"), (-1, "detect_negative"))


def _bit_shift(node: Node, a: Any, b: Any) -> Tensor:
    shift = {"LEFT": torch.bitwise_left_shift, "RIGHT": torch.bitwise_right_shift}[
        node.attribute("direction")
    ]
    return binary(shift)(node, a, b)


def _cast_like(node: Node, x: Tensor, like: Any) -> Tensor:
    like = tensor(like, x)
    return x if x.dtype == like.dtype else x.to(like.dtype)


def _swish(node: Node, x: Tensor) -> Tensor:
    alpha = node.attribute("alpha", 1.0)
    return F.silu(x) if alpha == 1 else x * torch.sigmoid(alpha * x)


def _random(node: Node, *given: Any) -> Tensor:
    raise UnsupportedOpError(
        f"{node} gives other numbers in each run; export the model in eval mode, without it"
    )


OPS: dict[str, Callable[..., Any]] = {
    "Acos": unary(torch.acos),
    "Acosh": unary(torch.acosh),
    "Asin": unary(torch.asin),
    "Asinh": unary(torch.asinh),
    "Atan": unary(torch.atan),
    "Atanh": unary(torch.atanh),
    "BitShift": _bit_shift,
    "BitwiseAnd": binary(torch.bitwise_and),
    "BitwiseNot": unary(torch.bitwise_not),
    "BitwiseOr": binary(torch.bitwise_or),
    "BitwiseXor": binary(torch.bitwise_xor),
    "CastLike": _cast_like,
    "Cosh": unary(torch.cosh),
    "Det": unary(torch.linalg.det),
    "Hardmax": softmax_like(_hardmax),
    "IsInf": _is_inf,
    "IsNaN": unary(torch.isnan),
    "Mod": _mod,
    "Shrink": _shrink,
    "Sinh": unary(torch.sinh),
    "Swish": _swish,
    "Tan": unary(torch.tan),
    "ThresholdedRelu": _thresholded_relu,
    "Xor": binary(torch.logical_xor),
    **dict.fromkeys(
        "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split(), _random
    ),
}
