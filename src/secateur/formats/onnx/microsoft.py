"""What ops of onnxruntime's own domain (com.microsoft) are in torch: one row in `OPS` for each.

onnxruntime and its transformers optimizer write them in place of several ops of ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import secateur.formats.onnx.indexing as indexing
import secateur.formats.onnx.ops as ops
from secateur.errors import UnsupportedOpError
from secateur.formats.onnx.node import Node

DOMAIN = "com.microsoft"
TURNED = "(turned)"  # an attribute of nodes whose weight `linear` keeps as (outputs, inputs)
WITH_BIAS: dict[
    str, tuple[int, int]
] = {  # op that adds a bias to its first input → input of the bias, of a weight
    f"{DOMAIN}.BiasGelu": (1, 2),
    f"{DOMAIN}.FastGelu": (1, 2),
    f"{DOMAIN}.SkipLayerNormalization": (4, 5),
    f"{DOMAIN}.SkipSimplifiedLayerNormalization": (3, 4),
}


# --- products and activations -------------------------------------------------------------------------------


def _activated(node: Node, y: Tensor, settings: Mapping[str, float]) -> Tensor:
    """By the op that the attribute `activation` names."""
    kind = node.attribute("activation", "")
    if not kind:
        return y
    if kind not in _ACTIVATIONS:
        raise UnsupportedOpError(
            f"{node}: the activation {kind} has no rule; export the model without fused ops"
        )
    return ops.OPS[kind](replace(node, kind=kind, attributes=dict(settings)), y)  # type: ignore[no-any-return]


# activation → its attributes, in the order of `activation_params`
_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "Clip": ("min", "max"), "Elu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "LeakyRelu": ("alpha",),
    "Relu": (),
    "Selu": ("alpha", "gamma"), "Sigmoid": (), "Softplus": (), "Softsign": (), "Tanh": (),
}  # fmt: skip


def _fused_conv(
    node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None, z: Tensor | None = None
) -> Tensor:
    y = ops.OPS["Conv"](node, x, weight, bias)
    names = _ACTIVATIONS.get(node.attribute("activation", ""), ())
    settings = dict(zip(names, node.attribute("activation_params", []), strict=False))
    return _activated(node, y if z is None else y + z, settings)


def _fused_gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    settings = {
        name: node.attributes[f"activation_{name}"]
        for name in _GREEK
        if f"activation_{name}" in node.attributes
    }
    return _activated(node, ops.OPS["Gemm"](node, a, b, c), settings)


_GREEK = ("alpha", "beta", "gamma")


def _fused_matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    a = _turned(node, a, "A")
    y = F.linear(a, b) if node.attribute(TURNED, 0) else torch.matmul(a, _turned(node, b, "B"))
    alpha = node.attribute("alpha", 1.0)
    return y if alpha == 1 else y * alpha


def _turned(node: Node, x: Tensor, side: str) -> Tensor:
    if node.attribute(f"transBatch{side}", 0):
        x = x.movedim(0, -2)
    return x.transpose(-1, -2) if node.attribute(f"trans{side}", 0) and x.ndim > 1 else x


def _gelu(node: Node, x: Tensor, bias: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
    return F.gelu(_with_bias(x, bias, weight))


def _fast_gelu(node: Node, x: Tensor, bias: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
    return F.gelu(_with_bias(x, bias, weight), approximate="tanh")


def _with_bias(x: Tensor, bias: Tensor | None, weight: Tensor | None) -> Tensor:
    """The product with a weight is there where `linear` has made it part of the op."""
    if weight is not None:
        return F.linear(x, weight, bias)
    return x if bias is None else x + bias


def _quick_gelu(node: Node, x: Tensor) -> Tensor:
    return x * torch.sigmoid(node.attribute("alpha", 1.702) * x)


# --- norms --------------------------------------------------------------------------------------------------


def _skip_layer_norm(
    node: Node, x: Tensor, skip: Tensor, gamma: Tensor, beta: Tensor | None = None,
    bias: Tensor | None = None, weight: Tensor | None = None,
) -> list[Tensor]:  # fmt: skip
    total = _sum(node, x, skip, bias, weight)
    y = F.layer_norm(total, total.shape[-1:], gamma, beta, node.attribute("epsilon", 1e-12))
    return _with_sum(node, y, total)


def _skip_rms_norm(
    node: Node,
    x: Tensor,
    skip: Tensor,
    gamma: Tensor,
    bias: Tensor | None = None,
    weight: Tensor | None = None,
) -> list[Tensor]:
    total = _sum(node, x, skip, bias, weight)
    y = F.rms_norm(total, list(total.shape[-1:]), gamma, node.attribute("epsilon", 1e-12))
    return _with_sum(node, y, total)


def _sum(node: Node, x: Tensor, skip: Tensor, bias: Tensor | None, weight: Tensor | None) -> Tensor:
    if any(node.outputs[1:3]):
        raise UnsupportedOpError(
            f"{node} gives its mean and deviation, which have no rule; export it without"
        )
    return _with_bias(x, bias, weight) + skip


def _with_sum(node: Node, y: Tensor, total: Tensor) -> list[Tensor]:
    """The outputs 1 and 2 (mean, deviation) are not there."""
    return [y, y, y, total] if len(node.outputs) > 3 else [y]


def _embed_layer_norm(
    node: Node, ids: Tensor, segments: Tensor | None, words: Tensor, positions: Tensor,
    segment_table: Tensor | None, gamma: Tensor, beta: Tensor, mask: Tensor | None = None,
    places: Tensor | None = None,
) -> list[Tensor]:  # fmt: skip
    """The norm of the sum of embeddings, how many tokens each sample has, and the sum."""
    at = positions[: ids.shape[1]] if places is None else F.embedding(places, positions)
    total = F.embedding(ids, words) + at
    if segments is not None and segment_table is not None:
        total = total + F.embedding(segments, segment_table)
    y = F.layer_norm(total, total.shape[-1:], gamma, beta, node.attribute("epsilon", 1e-12))
    seen = torch.zeros_like(ids) if mask is None else mask == 1
    lengths = seen.sum(1, dtype=torch.int32)
    return [y, lengths, total]


# --- attention ----------------------------------------------------------------------------------------------


def _attention(
    node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None, mask: Tensor | None = None,
    past: Tensor | None = None, scores: Tensor | None = None, *rest: Any,
) -> Tensor:  # fmt: skip
    if (
        past is not None
        or any(node.outputs[1:])
        or node.attribute("do_rotary", 0)
        or any(r is not None for r in rest)
    ):
        raise UnsupportedOpError(
            f"{node}: attention with a cache or rotary embedding has no rule; export it without"
        )
    if bias is None:
        raise UnsupportedOpError(
            f"{node} has no bias, and onnxruntime crashes on it; export it with one of zeros"
        )
    y = F.linear(x, weight if node.attribute(TURNED, 0) else weight.t(), bias)
    q, k, v = y.split(hidden_sizes(node, y.shape[-1]), -1)
    return _heads_attend(node, q, k, v, mask, scores)


def hidden_sizes(node: Node, width: int) -> list[int]:
    """Columns of queries, keys and values among the `width` of an Attention's weight."""
    sizes: list[int] = node.attribute("qkv_hidden_sizes", None) or [width // 3] * 3
    return sizes


def _multi_head_attention(
    node: Node, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, bias: Tensor | None = None,
    mask: Tensor | None = None, scores: Tensor | None = None, *rest: Any,
) -> Tensor:  # fmt: skip
    packed = q.ndim != 3 or k is None or v is None or k.ndim != 3 or v.ndim != 3
    if packed or any(node.outputs[1:]) or any(r is not None for r in rest):
        raise UnsupportedOpError(
            f"{node}: attention on packed heads or with a cache has no rule; export it without"
        )
    assert k is not None and v is not None
    if bias is not None:
        parts = bias.split([q.shape[-1], k.shape[-1], v.shape[-1]])
        q, k, v = (x + b for x, b in zip((q, k, v), parts, strict=True))
    return _heads_attend(node, q, k, v, mask, scores)


def _heads_attend(
    node: Node, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scores: Tensor | None
) -> Tensor:
    """(batch, length, heads · width) in and out."""
    heads, steps = node.attribute("num_heads"), (q.shape[1], k.shape[1])
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    parts = [scores, None if mask is None else _hidden(node, mask, steps[1], q)]
    if node.attribute("unidirectional", 0):
        never = torch.full(steps, torch.finfo(q.dtype).min, dtype=q.dtype, device=q.device)
        parts.append(never.triu(1 + steps[1] - steps[0]))
    given = [part for part in parts if part is not None]
    total = sum(given[1:], given[0]) if given else None
    if scale := node.attribute("scale", 0.0):  # the op's own is by the width, which says that this must stay
        q = q * (scale * q.shape[-1] ** 0.5)
    y = F.scaled_dot_product_attention(q, k, v, total)
    return y.transpose(1, 2).flatten(2)


def _hidden(node: Node, mask: Tensor, steps: int, like: Tensor) -> Tensor:
    """What is added to scores where the mask hides keys: by how many there are, or one by one."""
    if mask.ndim == 1 and mask.shape[0] == like.shape[0]:
        seen = torch.arange(steps, device=mask.device)[None, :] < mask[:, None]
    elif mask.ndim in (2, 3):
        seen = mask != 0
    else:
        raise UnsupportedOpError(
            f"{node}: a mask of shape {tuple(mask.shape)} has no rule; export it with one of 0 and 1"
        )
    seen = seen[:, None, None, :] if seen.ndim == 2 else seen[:, None]
    return torch.where(seen, 0.0, node.attribute("mask_filter_value", -10000.0)).to(like.dtype)


_ROWS: dict[str, Callable[..., Any]] = {
    "Attention": _attention,
    "BiasGelu": _gelu,
    "EmbedLayerNormalization": _embed_layer_norm,
    "FastGelu": _fast_gelu,
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "FusedMatMul": _fused_matmul,
    "GatherND": indexing.OPS["GatherND"],
    "Gelu": _gelu,
    "GridSample": indexing.OPS["GridSample"],
    "Inverse": lambda node, x: torch.linalg.inv(x),
    "MultiHeadAttention": _multi_head_attention,
    "Pad": ops.OPS["Pad"],
    "QuickGelu": _quick_gelu,
    "SkipLayerNormalization": _skip_layer_norm,
    "SkipSimplifiedLayerNormalization": _skip_rms_norm,
    "TransposeMatMul": _fused_matmul,
    "Trilu": ops.OPS["Trilu"],
}
OPS: dict[str, Callable[..., Any]] = {
    # onnxruntime puts it into ONNX's own domain.
    "SimplifiedLayerNormalization": ops.OPS["RMSNormalization"],
    **{f"{DOMAIN}.{kind}": rule for kind, rule in _ROWS.items()},
}
SETTINGS: dict[str, set[int]] = {f"{DOMAIN}.Pad": {1, 2}, f"{DOMAIN}.Trilu": {1}}
