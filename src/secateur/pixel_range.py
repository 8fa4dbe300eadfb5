"""Whether a model scales its inputs as only pixels from 0 to 255 are, though they were said to be small."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from secateur.graph.graph import Graph, tensor_name
from secateur.graph.node import bound_arguments, kind
from secateur.inputs import Normalisation

_PIXEL = 255.0
_SMALL = 2.0  # upper ends of bounds that pixels do not have
_DIVISORS = (100.0, 300.0)  # 127.5 and 255, and deviations of either
_MEANS = (50.0, 200.0)  # of the colours of photographs
_MOVES = (
    "permute",
    "transpose",
    "_to_copy",
    "to",
    "contiguous",
    "clone",
    "alias",
    "detach",
    "unsqueeze",
    "view",
)


def pixel_evidence(graph: Graph, bounds: Any, normalisation: Normalisation) -> str:
    """How the model scales an input that should have been said to lie between 0 and 255; empty if none.

    Read from the first op on each floating-point input: a division by about 127.5 or 255, or a subtraction
    of the mean of colours.
    """
    if normalisation or not _are_small(bounds):
        return ""
    for node, example in zip(graph.inputs, graph.example, strict=True):
        told = _scaling(graph, node) if example.is_floating_point() else ""
        if told:
            return told
    return ""


def _are_small(bounds: Any) -> bool:
    ends = bounds if isinstance(bounds, tuple | list) else ()
    known = len(ends) == 2 and all(isinstance(end, int | float) for end in ends)
    return known and max(map(abs, ends)) <= _SMALL


def _scaling(graph: Graph, node: fx.Node) -> str:
    """What the first op that is no move does to an input, where only pixels are treated so."""
    users = list(node.users)
    while len(users) == 1 and kind(users[0]) in _MOVES:
        node, users = users[0], list(users[0].users)
    if len(users) != 1 or kind(users[0]) not in ("mul", "div", "sub"):
        return ""
    given = bound_arguments(users[0], users[0].args, users[0].kwargs)
    if given.get("self") is not node:
        return ""
    sizes, op = _values(graph, given.get("other")), kind(users[0])
    if not sizes.numel():
        return ""
    if op == "sub":
        within = bool(((sizes > _MEANS[0]) & (sizes < _MEANS[1])).all())
        return f"subtracts {_shown(sizes)} from it" if within else ""
    divisors = sizes if op == "div" else 1 / sizes
    within = bool(((divisors > _DIVISORS[0]) & (divisors < _DIVISORS[1])).all())
    return f"divides it by {_shown(divisors)}" if within else ""


def _values(graph: Graph, value: Any) -> Tensor:
    """The numbers of a constant; none for other values."""
    name = tensor_name(value)
    if name is not None:
        return graph.tensors[name].detach().double().flatten()
    return torch.tensor([float(value)] if isinstance(value, int | float) else [], dtype=torch.float64)


def _shown(values: Tensor) -> str:
    return ", ".join(f"{n:.4g}" for n in dict.fromkeys(values.tolist()))
