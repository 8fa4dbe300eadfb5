"""Rotary embeddings of ONNX and onnxruntime: pairs of numbers, turned by an angle of their position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.errors import UnsupportedOpError
from secateur.formats.onnx.node import Node
from secateur.formats.onnx.ops import tensor


def _rotary(node: Node, x: Tensor, cos: Tensor, sin: Tensor, positions: Any = None) -> Tensor:
    """Of ONNX: caches of shape (positions, angles), or without positions (batch, length, angles)."""
    if positions is not None:
        at = tensor(positions, x)
        cos, sin = F.embedding(at, cos), F.embedding(at, sin)
    return _on_heads(node, x, cos, sin)


def _rotary_of_microsoft(node: Node, x: Tensor, positions: Any, cos: Tensor, sin: Tensor) -> Tensor:
    """A single position is that of the first token."""
    if node.attribute("is_packed_batching", 0) or node.attribute("scale", 1.0) != 1:
        raise UnsupportedOpError(
            f"{node}: packed batches and scales have no rule; export the model without them"
        )
    at = tensor(positions, x)
    if at.ndim == 1:
        length = x.shape[-2]
        at = at[:, None] + torch.arange(length, device=x.device)[None]
    return _on_heads(node, x, F.embedding(at, cos), F.embedding(at, sin))


def _on_heads(node: Node, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The embedding of (batch, length, heads · width) or (batch, heads, length, width).

    Angles have the shape (batch, length, half of a width).
    """
    if x.ndim == 4:
        return _turned(node, x, cos[:, None], sin[:, None])
    turned = node.attribute("rotary_embedding_dim", 0)
    heads = node.attribute("num_heads", 0)
    width = 2 * cos.shape[-1] if not turned or not heads else x.shape[-1] // heads
    return _turned(node, x.unflatten(-1, (-1, width)), cos[:, :, None], sin[:, :, None]).flatten(2)


def _turned(node: Node, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    turned = 2 * cos.shape[-1]
    first, rest = x[..., :turned], x[..., turned:]
    interleaved = bool(node.attribute("interleaved", 0))
    a, b = first.unflatten(-1, (-1, 2)).unbind(-1) if interleaved else first.chunk(2, -1)
    real, imaginary = a * cos - b * sin, b * cos + a * sin
    y = torch.stack([real, imaginary], -1).flatten(-2) if interleaved else torch.cat([real, imaginary], -1)
    return y if turned == x.shape[-1] else torch.cat([y, rest], -1)


OPS: dict[str, Callable[..., Any]] = {
    "RotaryEmbedding": _rotary,
    "com.microsoft.RotaryEmbedding": _rotary_of_microsoft,
}
