"""Norms inside of each head: over the width of queries and keys, as an op or written out with a mean.

Removed dimensions are 0 before the norm, whose mean stays that over the full width (`surgery.rewrite`).
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from secateur.graph.labels import FIXED, Labels, compressed, without_repetition
from secateur.graph.node import kind
from secateur.graph.ops import MOVES, of

_MOVES = {*of(*MOVES), "dropout", "neg", "abs", "square"}
_MADE_BY_WEIGHTS = {*of("linear", "convolution", "embedding"), "addmm", "mm"}


def widths_normed(labels: Labels, node: fx.Node, units: Tensor) -> bool:
    """Whether `node` norms, or takes the mean of, widths of heads along the last axis that may leave it."""
    known = labels.widths and labels.tables and are_of_heads(labels, units, 1)
    found = known and vanishes(node.all_input_nodes[0])
    if found:
        labels.normed.append(compressed(units))
    return found


def are_of_heads(labels: Labels, units: Tensor, last: int) -> bool:
    """Whether units differ along other axes than the `last` ones, and none is there in two places.

    Positions of a sequence are no heads, even where a part of it has units of its own: a class token, a table
    of positions.
    """
    own = without_repetition(units)
    rows = own.reshape(-1, own.shape[-last:].numel())
    named = torch.unique(rows)
    tables = [torch.isin(named, elements).any() for elements in labels.elements.values()]
    if len(rows) < 2 or FIXED in named or any(tables):
        return False
    places = torch.stack([torch.arange(len(rows))[:, None].expand_as(rows), rows]).flatten(1)
    return int(torch.unique(places, dim=1).shape[1]) == len(named)


def vanishes(value: fx.Node, known: dict[fx.Node, bool] | None = None) -> bool:
    """Whether a value is 0 in the units that are 0 in the layers and the norms before."""
    known = {} if known is None else known
    if value not in known:
        known[value] = value.op == "get_attr" or (value.op == "call_function" and _by_kind(value, known))
    return known[value]


def _by_kind(value: fx.Node, known: dict[fx.Node, bool]) -> bool:
    inputs = value.all_input_nodes
    match kind(value):
        case "mul":
            return any(x.op != "get_attr" and vanishes(x, known) for x in inputs)
        case "div" | "pow":
            return isinstance(value.args[0], fx.Node) and vanishes(value.args[0], known)
        case "add" | "sub":
            return all(isinstance(x, fx.Node) and vanishes(x, known) for x in value.args[:2])
        case "cat" | "stack" | "getitem":
            return all(vanishes(x, known) for x in inputs)
        case "rms_norm":
            return vanishes(inputs[0], known)
        case "layer_norm":  # nothing is left of a unit without scale and shift
            return len(inputs) > 1 and all(x.op == "get_attr" for x in inputs[1:])
        case name:
            return name in _MADE_BY_WEIGHTS or (name in _MOVES and vanishes(inputs[0], known))
