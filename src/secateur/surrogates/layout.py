"""The layout of one input: the axes of space, along which natural signals are smooth, and of channels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from secateur.data.pixels import colours_last
from secateur.graph.interpret import batches
from secateur.graph.node import kind
from secateur.surrogates.box import noise
from secateur.surrogates.forward import forward, gradient_batch
from secateur.surrogates.source import Source

_MOVES = {"permute", "movedim", "moveaxis", "transpose"}
_ELEMENTWISE = {"add", "sub", "mul", "div", "to"}
_STEPS = 8  # ops that are followed from an input
_PROBES = 512


@dataclass(frozen=True)
class Layout:
    """How a draw of shape (n, channels, *space) becomes an input of shape (n, *shape)."""

    channels: int
    space: tuple[int, ...]  # () in a table of features
    shape: tuple[int, ...]  # of one sample, as the model takes it
    last: bool = False  # whether the channels follow the space

    def place(self, x: Tensor) -> Tensor:
        """From (n, channels, *space) to (n, *shape)."""
        return (x.movedim(1, -1) if self.last else x).reshape(len(x), *self.shape)

    def unfold(self, x: Tensor) -> Tensor:
        """From (n, *shape) to (n, channels, *space)."""
        if self.last:
            return x.reshape(len(x), *self.space, self.channels).movedim(-1, 1)
        return x.reshape(len(x), self.channels, *self.space)


def layouts(source: Source, index: int) -> list[Layout]:
    """The possible layouts of input `index`, the likeliest first.

    Images are (channels, height, width) or (height, width, colours); of a sequence either axis may be time. A
    model that begins by moving its last axis behind the batch says that channels are last. A vector is a
    table, unless its neighbours in some grid have like gradients (a flattened image or signal).
    """
    shape = tuple(source.graph.example[index].shape[1:])
    if len(shape) < 2:
        return _of_vector(source, index, shape)
    if _moves_last_axis_first(source.graph.inputs[index], len(shape) + 1):
        return [Layout(shape[-1], shape[:-1], shape, last=True)]
    if len(shape) == 2:
        return [Layout(shape[0], shape[1:], shape), Layout(shape[1], shape[:1], shape, last=True)]
    if colours_last(shape):
        return [Layout(shape[-1], shape[:-1], shape, last=True)]
    return [Layout(shape[0], shape[1:], shape)]


def _moves_last_axis_first(node: fx.Node, rank: int) -> bool:
    """Whether an input, after element-wise ops, has its last axis moved behind the batch and no other use."""
    for _ in range(_STEPS):
        users = list(node.users)
        if len(users) != 1:
            return False
        (node,) = users
        if kind(node) in _MOVES:
            return _moved_sizes(node, tuple(range(2, rank + 2))) == (2, rank + 1, *range(3, rank + 1))
        if kind(node) not in _ELEMENTWISE:
            return False
    return False


def _moved_sizes(node: fx.Node, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that an op which moves axes gives to a value of these sizes."""
    x = torch.empty(sizes, device="meta")
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda _: x)
    moved: Tensor = node.target(*args, **kwargs)  # type: ignore[operator]
    return tuple(moved.shape)


def _of_vector(source: Source, index: int, shape: tuple[int, ...]) -> list[Layout]:
    """The table, behind the grid with the strongest correlation of neighbours where that is beyond chance."""
    size = math.prod(shape)
    table = Layout(size, (), shape)
    if size < 64 or not source.graph.example[index].is_floating_point():
        return [table]
    slopes = input_gradients(source, index, _PROBES)
    slopes = slopes / slopes.norm(dim=0).clamp(min=1e-12)  # shape: (probes, size)
    alike = slopes.T @ slopes
    chance = float(alike.abs().mean()) * 2 + 3 / _PROBES**0.5
    best, found = chance, None
    for layout in _grids(size, shape):
        number = layout.unfold(torch.arange(size).unsqueeze(0))[0]  # shape: (channels, *space)
        score = min(_of_neighbours(alike, number, axis) for axis in range(1, number.ndim))
        if score > best:
            best, found = score, layout
    return [table] if found is None else [found, table]


def _of_neighbours(alike: Tensor, number: Tensor, axis: int) -> float:
    length = number.shape[axis]
    return float(alike[number.narrow(axis, 0, length - 1), number.narrow(axis, 1, length - 1)].mean())


def _grids(size: int, shape: tuple[int, ...]) -> Iterator[Layout]:
    """Planes no longer than twice their width, grey or in colours; then a line."""
    for colours in (1, 3):
        plane = size // colours
        for height in range(4, plane // 4 + 1):
            width = plane // height
            if height * width * colours == size and 0.5 <= height / width <= 2:
                yield Layout(colours, (height, width), shape)
                if colours > 1:
                    yield Layout(colours, (height, width), shape, last=True)
    yield Layout(1, (size,), shape)


def input_gradients(source: Source, index: int, count: int) -> Tensor:
    """Gradients of random combinations of the outputs at inputs drawn from the box.

    Shape: (count, size of input).
    """
    inputs = noise(source, count)
    rows = []
    for part in batches(inputs, gradient_batch(source, inputs)):
        part = tuple(x.requires_grad_() if i == index else x for i, x in enumerate(part))
        outputs = [y for y in forward(source, part) if y.requires_grad]
        if not outputs:
            return torch.zeros(count, inputs[index][0].numel())
        total = sum((y * torch.randn(y.shape, generator=source.generator)).sum() for y in outputs)
        (slope,) = torch.autograd.grad(total, part[index], allow_unused=True)  # type: ignore[arg-type]
        rows.append(torch.zeros_like(part[index]) if slope is None else slope)
    return torch.cat(rows).flatten(1).nan_to_num(0.0, 0.0, 0.0)
