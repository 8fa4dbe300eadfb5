"""Random inputs to compare a model with its file: floats of several sizes, ids that tables have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from secateur.formats.onnx.model import OnnxGraph
from secateur.formats.onnx.node import Node

DRAWS = 3
_SIZES = (1.0, 4.0, 255.0)  # of the floats of each draw
_PASSES = frozenset("Cast Identity Reshape Squeeze Unsqueeze Flatten Transpose Slice Expand Concat".split())
_COMPARES = {"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"}


def random_inputs(model: OnnxGraph, inputs: Sequence[Tensor], draw: int = 0) -> list[Tensor]:
    """Like `inputs`, at least two samples, and two batches where the file fixes one."""
    count = len(inputs[0])
    wanted = 2 * model.batch if model.batch is not None else max(2, count)
    wide = [
        torch.zeros((wanted, *x.shape[1:]), dtype=x.dtype) if x.ndim and len(x) == count else x
        for x in inputs
    ]
    below = [_values_of(model, value.name) for value in model.inputs]
    return random_like(wide, draw, below)


def random_like(inputs: Sequence[Tensor], draw: int = 0, below: Sequence[int] | None = None) -> list[Tensor]:
    """Random numbers in [0, s] for the first sample, in [−s, s] for the others; ids below a limit."""
    generator, size = torch.Generator().manual_seed(draw), _SIZES[draw % len(_SIZES)]

    def like(x: Tensor, most: int) -> Tensor:
        if x.is_floating_point():
            drawn = size * torch.rand(x.shape, generator=generator, dtype=torch.float64)
            return torch.cat([drawn[:1], 2 * drawn[1:] - size]).to(x.dtype) if x.ndim else drawn.to(x.dtype)
        return torch.randint(0, most, x.shape, generator=generator).to(x.dtype)

    return [like(x, most) for x, most in zip(inputs, below or [2] * len(inputs), strict=True)]


def _values_of(model: OnnxGraph, name: str) -> int:
    """How many values whole numbers of the input have; two where nothing says more.

    Counted are rows of the tables that they pick from, and numbers that they are compared with.
    """
    found, frontier = list[int](), {name}
    for node in model.nodes:
        if frontier.isdisjoint(node.inputs):
            continue
        if node.kind in _PASSES:
            frontier.update(node.outputs)
        else:
            found += _values_in(node, model.constants, frontier)
    return max(2, min(found, default=2))


def _values_in(node: Node, constants: Mapping[str, Tensor], names: set[str]) -> list[int]:
    others = [constants[name] for name in node.inputs if name in constants]
    if node.kind == "Gather" and node.inputs[1] in names and others:
        return [int(others[0].shape[node.attribute("axis", 0)])]
    if node.kind in _COMPARES and others:
        return (
            [int(others[0].max()) + 1] if others[0].numel() and not others[0].dtype.is_floating_point else []
        )
    if node.kind == "OneHot" and node.inputs[0] in names and node.inputs[1] in constants:
        return [int(constants[node.inputs[1]].reshape(-1)[0])]
    return []
