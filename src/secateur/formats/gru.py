"""A GRU whose reset gate acts before the product, which torch lacks, as an op that a graph keeps whole.

ONNX means it by `linear_before_reset=0`, Keras by `reset_after=False`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _gru(
    input: Tensor, hx: Tensor, params: list[Tensor], has_biases: bool, num_layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Arguments and results are those of `torch.gru`, for one layer."""
    x = input.transpose(0, 1) if batch_first else input
    each = 4 if has_biases else 2
    outputs, last = [], []
    for direction in range(2 if bidirectional else 1):
        own = params[each * direction : each * (direction + 1)]
        y, h = _gru_forward(x.flip(0) if direction else x, hx[direction], *own)
        outputs.append(y.flip(0) if direction else y)
        last.append(h)
    output = torch.cat(outputs, -1)
    return (output.transpose(0, 1) if batch_first else output), torch.stack(last)


def _gru_forward(
    x: Tensor, h: Tensor, w: Tensor, r: Tensor, wb: Tensor | None = None, rb: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """h′ = (1 − z) tanh(W x + R (r · h)) + z h, the reset r and the update z as in `torch.gru`."""
    split, n = 2 * h.shape[-1], h.shape[-1]
    bias = None if wb is None or rb is None else wb + rb
    from_x, outputs = torch.nn.functional.linear(x, w, bias), list[Tensor]()
    for step in from_x.unbind(0):
        reset, update = torch.sigmoid(step[:, :split] + h @ r[:split].t()).split(n, 1)
        new = torch.tanh(step[:, split:] + (reset * h) @ r[split:].t())
        h = (1 - update) * new + update * h
        outputs.append(h)
    return torch.stack(outputs), h


_LIBRARY = torch.library.Library("secateur", "FRAGMENT")
_LIBRARY.define(
    "gru.input(Tensor input, Tensor hx, Tensor[] params, bool has_biases, int num_layers, float dropout, "
    "bool train, bool bidirectional, bool batch_first) -> (Tensor, Tensor)"
)
_LIBRARY.impl("gru.input", _gru, "CompositeImplicitAutograd")

RESET_FIRST = torch.ops.secateur.gru.input
NAME = "torch.ops.secateur.gru.input"  # in `.pt2` files
