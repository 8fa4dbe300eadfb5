"""The constant tensors of a model: initializers, Constant nodes, and ConstantOfShape of constant shapes."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor

from secateur.errors import InputError, UnsupportedOpError
from secateur.formats.onnx.budget import CONSTANT_BYTES
from secateur.formats.onnx.tensors import to_torch

Proto = Any


def constants_of(proto: Proto) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of each, as it stands in the model."""
    known, total = {}, 0
    for t in proto.graph.initializer:
        known[t.name] = to_torch(t)
        yield t.name, known[t.name]
    for n in proto.graph.node:
        value: Tensor | None = None
        if n.op_type == "Constant":
            value = _constant(n)
        elif n.op_type == "ConstantOfShape" and n.input[0] in known:
            sizes = [int(v) for v in known[n.input[0]].reshape(-1).tolist()]
            fill = to_torch(n.attribute[0].t) if n.attribute else torch.zeros(1)
            total += prod(sizes) * fill.element_size()
            if any(s < 0 for s in sizes) or total > CONSTANT_BYTES:
                raise InputError(
                    f"ConstantOfShape {n.name or n.output[0]!r} makes a tensor of shape {sizes}; all "
                    f"together they may take at most {CONSTANT_BYTES:,} bytes, and would take {total:,}. "
                    "Export the model with constants folded"
                )
            if fill.numel() != 1:
                raise InputError(f"ConstantOfShape {n.name or n.output[0]!r} needs one number to fill with")
            value = torch.full(sizes, fill.item(), dtype=fill.dtype)
        if value is not None:
            known[n.output[0]] = value
            yield n.output[0], value


def _constant(node: Proto) -> Tensor:
    for a in node.attribute:
        if a.name == "value":
            return to_torch(a.t)
        if a.name in ("value_float", "value_floats"):
            return torch.tensor(a.f if a.name == "value_float" else list(a.floats), dtype=torch.float32)
        if a.name in ("value_int", "value_ints"):
            return torch.tensor(a.i if a.name == "value_int" else list(a.ints), dtype=torch.int64)
    raise UnsupportedOpError(f"Constant {node.output[0]!r} holds no numbers")
