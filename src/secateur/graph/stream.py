"""What a stream is: the width that blocks of a network read through norms and add to."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx


@dataclass(frozen=True, eq=False)
class StreamNorm:
    """A norm over the width of a stream.

    `readers`: the (weight, axis) of the layers that read what it gives.
    """

    node: fx.Node
    source: fx.Node
    centred: bool  # a layer norm, which takes the mean off
    eps: float
    weight: str
    bias: str | None
    readers: frozenset[tuple[str, int]]


@dataclass(frozen=True, eq=False)
class Stream:
    """A group of the coordinates of a stream, and the norms that it is read through."""

    group: str
    norms: tuple[StreamNorm, ...]

    @property
    def centred(self) -> bool:
        return self.norms[0].centred
