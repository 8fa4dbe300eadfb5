"""From draws in the unit cube to legal inputs: inside of the box, whole numbers that the model knows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from secateur.graph.node import kind
from secateur.graph.ops import ONE_TO_ONE
from secateur.surrogates.source import Inputs, Source

_GAUSS = 12.0**0.5  # 1 / deviation of a uniform number from 0 to 1

_KEEPS_IDS = {*ONE_TO_ONE, "slice"}  # ops through which ids are followed to an embedding


def from_units(source: Source, count: int, draw: Callable[[int], Tensor]) -> Inputs:
    """Inputs of which `draw(index)` gives the floating ones, in the unit cube, shape (count, *shape)."""
    return tuple(
        scaled(source, i, draw(i)) if example.is_floating_point() else whole_numbers(source, i, count)
        for i, example in enumerate(source.graph.example)
    )


def noise(source: Source, count: int) -> Inputs:
    """Independent numbers, uniform over the box."""

    def draw(index: int) -> Tensor:
        return torch.rand(count, *source.graph.example[index].shape[1:], generator=source.generator)

    return from_units(source, count, draw)


def scaled(source: Source, index: int, unit: Tensor) -> Tensor:
    """Unit numbers stretched to the box.

    Where the box is infinite, they get mean 0 and deviation 1, and are clamped.
    """
    low, high = (end.cpu().float() for end in (source.box[index].lower, source.box[index].upper))
    bounded = torch.isfinite(high - low)
    stretched = low.where(bounded, 0.0) + unit.clamp(0, 1) * (high - low).where(bounded, 1.0)
    return torch.where(bounded, stretched, (unit - 0.5) * _GAUSS).clamp(low, high)


def widths(source: Source, index: int) -> Tensor:
    """By how much an input moves as a unit number moves by one; shape: (1, *shape)."""
    width = source.box[index].upper.cpu().float() - source.box[index].lower.cpu().float()
    return width.where(torch.isfinite(width), _GAUSS).clamp(min=torch.finfo(torch.float32).tiny)


def whole_numbers(source: Source, index: int, count: int) -> Tensor:
    """Rows of the example.

    Where they are ids of an embedding, a random share of each row is drawn from its table.
    """
    example = source.graph.example[index].cpu()
    rows = example[torch.randint(len(example), (count,), generator=source.generator)]
    size = _vocabulary(source, source.graph.inputs[index])
    if example.dtype == torch.bool or not size:
        return rows
    low, high = (end.cpu().clamp(0, size - 1) for end in (source.box[index].lower, source.box[index].upper))
    drawn = low + (torch.rand(rows.shape, generator=source.generator) * (high - low + 1)).to(rows.dtype)
    share = torch.rand(count, *[1] * (rows.ndim - 1), generator=source.generator)
    return torch.where(torch.rand(rows.shape, generator=source.generator) < share, drawn, rows)


def _vocabulary(source: Source, node: fx.Node) -> int:
    """Rows of the smallest embedding table that is read by the ids in `node`; 0 where there is none."""
    sizes, frontier, seen = [], [node], {node}
    while frontier:
        for user in frontier.pop().users:
            if kind(user) == "embedding" and isinstance(user.args[0], fx.Node) and user.args[1] in seen:
                sizes.append(len(source.graph.tensors[str(user.args[0].target)]))
            elif kind(user) in _KEEPS_IDS and user.all_input_nodes[0] in seen and user not in seen:
                seen.add(user)
                frontier.append(user)
    return min(sizes, default=0)
