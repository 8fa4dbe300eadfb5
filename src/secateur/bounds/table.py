"""What is put for an element-wise function of a node: exact lines where there are any, else lines around it.

In most rows most neurons are on one side of the kink, and one product does for them. The others, open ones,
are numbered, so that the ways to bound them are worked out for these alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.bounds.arithmetic import by_row
from secateur.bounds.lines import Lines, Planes

OPEN = 2.0**50  # above all slopes; numbers that are added to it stay exact


@dataclass(frozen=True, eq=False)
class Table:
    """Lines of f and of g, and planes of the change, by neuron.

    The lines of open neurons are held apart: those below in the first half, those above in the second.
    """

    first: Tensor  # in f, (boxes, …): the exact slope, or OPEN plus the number of the open neuron
    second: Tensor  # in g
    lines: tuple[Tensor, Tensor]  # slopes, offsets and gaps, (3, 2 · open neurons), of f and of g
    planes: Tensor | None  # tilts, slopes, offsets and gaps
    largest: Tensor  # (boxes,), what the terms of one neuron come to at most, for coefficients of 1

    @staticmethod
    def of(f: Lines, g: Lines, planes: Planes | None, size: Tensor) -> Table:
        """`size`: at least |x| + |x′|."""
        undecided = ~(f.exact & g.exact)
        number = undecided.flatten().cumsum(0, dtype=size.dtype).reshape(undecided.shape)
        number = OPEN - 1 + number
        every = [_halves(lines) for lines in (f, g, planes) if lines is not None]
        terms: Any = 0.0
        for *slopes, offsets, _ in every:
            terms = terms + sum(x.abs() for pair in slopes for x in pair) * size
            terms = terms + sum(x.abs() for x in offsets)
        held = [torch.stack([torch.cat([x[undecided] for x in pair]) for pair in lines]) for lines in every]
        return Table(
            torch.where(undecided, number, f.low_slope),
            torch.where(undecided, number, g.low_slope),
            (held[0], held[1]),
            held[2] if held[2:] else None,
            by_row(terms).amax(1),
        )


def below(lines: Tensor, number: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    """Of the lines below c · φ at open neurons: the lower ones where c ≥ 0, the upper ones elsewhere."""
    half = lines.shape[1] // 2
    return lines.index_select(1, torch.where(c >= 0, number, number + half)).unbind()


def _halves(lines: Lines | Planes) -> list[tuple[Tensor, Tensor]]:
    """Each field below and above; the gap last, the offset before it."""
    names = [name.removeprefix("low_") for name in vars(lines) if name.startswith("low_")]
    return [(getattr(lines, f"low_{name}"), getattr(lines, f"high_{name}")) for name in names]
