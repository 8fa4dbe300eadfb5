"""The box of legal inputs."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from secateur.errors import InputError, SecateurWarning
from secateur.graph.graph import Graph
from secateur.types import Interval

Box = tuple[Interval, ...]


def input_box(graph: Graph, input_bounds: Any, dtype: torch.dtype = torch.float64) -> Box:
    """The box of legal inputs, one interval of batch size 1 per graph input.

    `input_bounds` is a pair (lower, upper) of floats or of tensors that broadcast to an input without its
    batch axis, or a sequence of such pairs, one per input. Inputs of whole numbers (token ids) and of truth
    values are left free: bounds given for them are not read.
    """
    bounds = [input_bounds] * len(graph.inputs) if _is_pair(input_bounds) else list(input_bounds)
    if len(bounds) != len(graph.inputs):
        raise InputError(
            f"input_bounds has {len(bounds)} pairs but the model has {len(graph.inputs)} inputs "
            f"({', '.join(node.name for node in graph.inputs)}); give one pair for all, or one for each"
        )
    batch = graph.example[0].shape[0]
    return tuple(
        _box_of_input(node.name, example, pair, batch, dtype)
        for node, example, pair in zip(graph.inputs, graph.example, bounds, strict=True)
    )


def warn_without_width(graph: Graph, box: Box) -> None:
    """A `SecateurWarning` for bounds between which an input has one value only."""
    for node, side in zip(graph.inputs, box, strict=True):
        if side.lower.is_floating_point() and bool((side.lower == side.upper).all()):
            warnings.warn(
                f"input_bounds of {node.name}: the lower bound is the upper one, so that only one input is "
                "legal",
                SecateurWarning,
                stacklevel=2,
            )


def _is_pair(bounds: Any) -> bool:
    return len(bounds) == 2 and not any(isinstance(end, (tuple, list)) for end in bounds)


def _box_of_input(name: str, example: Tensor, pair: Any, batch: int, dtype: torch.dtype) -> Interval:
    batched = example.ndim > 0 and example.shape[0] == batch
    shape = (1, *example.shape[1:]) if batched else tuple(example.shape)
    if not example.is_floating_point():
        largest = 1 if example.dtype == torch.bool else torch.iinfo(example.dtype).max
        low = torch.zeros(shape, dtype=example.dtype, device=example.device)
        return Interval(low, torch.full_like(low, largest))
    if not _is_pair(pair):
        raise InputError(f"input_bounds of {name}: expected a pair (lower, upper), got {len(pair)} values")
    ends = []
    for side, end in zip(("lower", "upper"), pair, strict=True):
        value = torch.as_tensor(end, dtype=dtype, device=example.device)
        if not bool(torch.isfinite(value).all()):
            raise InputError(
                f"input_bounds of {name}: the {side} bound is not finite; give the legal range of inputs"
            )
        try:
            ends.append(value.expand(shape).contiguous())
        except RuntimeError:
            raise InputError(
                f"input_bounds of {name}: the {side} bound of shape {tuple(value.shape)} does not "
                f"broadcast to one input of shape {shape[1:] if batched else shape}"
            ) from None
    if bool((ends[0] > ends[1]).any()):
        raise InputError(
            f"input_bounds of {name}: a lower bound is above its upper bound; give (lower, upper)"
        )
    return Interval(*ends)
