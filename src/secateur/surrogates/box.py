"""From draws in the unit cube to legal inputs: inside of the box, whole numbers that the model knows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from secateur.surrogates.source import Inputs, Source
from secateur.surrogates.text import vocabulary

_GAUSS = 12.0**0.5  # 1 / deviation of a uniform number from 0 to 1


def from_units(
    source: Source, count: int, draw: Callable[[int], Tensor], ids: Tensor | None = None
) -> Inputs:
    """Inputs of which `draw(index)` gives the floating ones, in the unit cube, shape (count, *shape).

    `ids`: probabilities of the tokens of the input of text, (vocabulary,). Default: as `whole_numbers` draws.
    """
    text = source.text if ids is not None else None
    return tuple(
        scaled(source, i, draw(i))
        if example.is_floating_point()
        else tokens(source, ids, count)
        if ids is not None and text is not None and text.index == i
        else whole_numbers(source, i, count)
        for i, example in enumerate(source.graph.example)
    )


def tokens(source: Source, ids: Tensor, count: int) -> Tensor:
    """Independent tokens of these probabilities (vocabulary,), framed as the tokenizer frames a sequence;
    shape: (count, length).
    """
    text = source.text
    assert text is not None
    drawn = torch.multinomial(ids, count * text.length, replacement=True, generator=source.generator)
    return framed(source, drawn.reshape(count, text.length))


def framed(source: Source, ids: Tensor) -> Tensor:
    """Sequences with the tokens that every sequence begins and ends with; changes `ids`, (count, length)."""
    text, known = source.text, source.tokenizer
    assert text is not None
    if known is not None and len(known.start) + len(known.end) < text.length:
        ids[:, : len(known.start)] = torch.tensor(known.start, dtype=ids.dtype)
        ids[:, text.length - len(known.end) :] = torch.tensor(known.end, dtype=ids.dtype)
    return ids.to(source.graph.example[text.index].dtype)


def framed_at(source: Source) -> tuple[int, int]:
    """From which position on, and up to which, the tokens of a sequence are not given by the frame."""
    text, known = source.text, source.tokenizer
    assert text is not None
    if known is None or len(known.start) + len(known.end) >= text.length:
        return 0, text.length
    return len(known.start), text.length - len(known.end)


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
    stretched = unit.clamp(0, 1).mul_((high - low).where(bounded, 1.0)).add_(low.where(bounded, 0.0))
    if not bool(bounded.all()):
        stretched = torch.where(bounded, stretched, (unit - 0.5) * _GAUSS)
    return torch.clamp(stretched, low, high, out=stretched)


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
    size = vocabulary(source.graph, source.graph.inputs[index])
    if example.dtype == torch.bool or not size:
        return rows
    low, high = (end.cpu().clamp(0, size - 1) for end in (source.box[index].lower, source.box[index].upper))
    drawn = low + (torch.rand(rows.shape, generator=source.generator) * (high - low + 1)).to(rows.dtype)
    share = torch.rand(count, *[1] * (rows.ndim - 1), generator=source.generator)
    return torch.where(torch.rand(rows.shape, generator=source.generator) < share, drawn, rows)
