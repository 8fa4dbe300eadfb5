"""Input splitting: bounds over a box from bounds over the parts that it is cut into, the widest part first.

The hull of the bounds of all parts bounds the whole box, however far the splitting has come. Each cut halves
one number of the input, so that it pays for inputs of few numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.bounds.certified import Certified
from secateur.bounds.joint import Networks
from secateur.decisions import Decision
from secateur.graph.interpret import run
from secateur.types import Interval

_AT_ONCE = 16  # parts that are cut together


@dataclass(frozen=True, eq=False)
class Parts:
    """Parts that together are the box, n of them, and what is certain on each."""

    boxes: tuple[Interval, ...]  # (n, …) for each input
    drift: Interval  # (n, outputs)
    apart: Tensor | None  # (n, positions), see `Certified.margin_drift`

    def __len__(self) -> int:
        return len(self.drift.lower)

    @property
    def worst(self) -> Tensor:
        """The most that an output may move, (n,)."""
        return torch.maximum(-self.drift.lower, self.drift.upper).amax(1)

    def at(self, chosen: Tensor) -> Parts:
        boxes = tuple(Interval(x.lower[chosen], x.upper[chosen]) for x in self.boxes)
        drift = Interval(self.drift.lower[chosen], self.drift.upper[chosen])
        return Parts(boxes, drift, None if self.apart is None else self.apart[chosen])

    def hull(self) -> tuple[Interval, Tensor | None]:
        """What is certain of the whole box, with a leading axis of 1."""
        drift = Interval(self.drift.lower.amin(0, keepdim=True), self.drift.upper.amax(0, keepdim=True))
        return drift, None if self.apart is None else self.apart.amax(0, keepdim=True)


def split(
    networks: Networks,
    boxes: Sequence[Interval],
    decision: Decision | None,
    *,
    linear: bool,
    go_on: Callable[[int], bool],
) -> Iterator[tuple[int, Parts]]:
    """Yield the number of boxes that were bounded so far, and the parts; `boxes` are (1, …) for each input.

    First the box itself; then the parts with the widest drift are cut, as long as `go_on(number)` holds and
    there is something to cut. Cost of a step: bounds of 32 boxes.
    """
    parts, number = bounded_parts(networks, boxes, decision, linear), 1
    yield number, parts
    while go_on(number):
        order = parts.worst.argsort(descending=True)
        chosen = order[:_AT_ONCE][parts.worst[order[:_AT_ONCE]] > 0]
        old = parts.at(chosen)
        halves = _halves(networks, old)
        if halves is None:
            return
        new = _inside(bounded_parts(networks, halves, decision, linear), old)
        rest = torch.ones(len(parts), dtype=torch.bool)
        rest[chosen] = False
        parts, number = _joined(parts.at(rest.nonzero().flatten()), new), number + len(new)
        yield number, parts


def until(seconds: float | None, boxes: int | None) -> Callable[[int], bool]:
    """Go on as long as there is time, and as long as fewer than so many boxes were bounded."""
    end = None if seconds is None else time.monotonic() + seconds

    def go_on(number: int) -> bool:
        return (end is None or time.monotonic() < end) and (boxes is None or number < boxes)

    return go_on


def bounded_parts(
    networks: Networks, boxes: Sequence[Interval], decision: Decision | None, linear: bool
) -> Parts:
    ends = [Interval(x.lower[:, None].contiguous(), x.upper[:, None].contiguous()) for x in boxes]
    found = Certified.of(networks, ends, linear)
    apart = None if decision is None else found.margin_drift(decision)
    return Parts(tuple(boxes), found.drift(), apart)


def _halves(networks: Networks, parts: Parts) -> list[Interval] | None:
    """Each part cut in two, first all lower halves; None where no number of an input can be halved.

    Cut is the number along which the worst output of both networks moves most.
    """
    if not len(parts):
        return None
    centres = [(x.lower + x.upper) / 2 if x.lower.is_floating_point() else x.lower for x in parts.boxes]
    slopes = _slopes(networks, parts, centres)
    reach = torch.cat(
        [
            ((x.upper - x.lower) * slope).flatten(1)
            if x.lower.is_floating_point()
            else torch.zeros_like(slope).flatten(1)
            for x, slope in zip(parts.boxes, slopes, strict=True)
        ],
        1,
    )
    where, halves, start = reach.argmax(1), list[Interval](), 0
    if not bool((reach.amax(1) > 0).all()):
        return None
    for x, middle in zip(parts.boxes, centres, strict=True):
        size = x.lower[0].numel()
        index = where - start
        here = torch.nn.functional.one_hot(index.clamp(0, max(size - 1, 0)), size).bool()
        here &= ((index >= 0) & (index < size))[:, None]
        cut = here.reshape(x.lower.shape)
        low = torch.cat([x.lower, torch.where(cut, middle, x.lower)])
        high = torch.cat([torch.where(cut, middle, x.upper), x.upper])
        halves.append(Interval(low, high))
        start += size
    return halves


def _slopes(networks: Networks, parts: Parts, centres: Sequence[Tensor]) -> list[Tensor]:
    """How much the worst output of f and that of g move with each number of the input, roughly; above 0."""
    worst = torch.maximum(-parts.drift.lower, parts.drift.upper).argmax(1, keepdim=True)
    points = [c.detach().requires_grad_(c.is_floating_point()) for c in centres]
    moving = [p for p in points if p.requires_grad]
    total = [torch.zeros_like(p) for p in moving]
    for tensors in (networks.first, networks.second):
        values = run(networks.graph, points, tensors, dtype=networks.like.dtype, gradients=True)
        flat = torch.cat([y.reshape(len(worst), -1) for y in values if y.is_floating_point()], 1)
        found = torch.autograd.grad(flat.gather(1, worst).sum(), moving, allow_unused=True)
        total = [t if g is None else t + g.abs() for t, g in zip(total, found, strict=True)]
    # where units are silent, gradients are 0 at the centre and not in the whole part
    least = max((float(t.mean()) for t in total), default=0.0) or 1.0
    slopes = iter(total)
    return [next(slopes) + least if p.requires_grad else torch.zeros(p.shape) for p in points]


def _inside(new: Parts, old: Parts) -> Parts:
    """What is certain of the whole is certain of its halves."""
    low = torch.maximum(new.drift.lower, old.drift.lower.repeat(2, 1))
    high = torch.minimum(new.drift.upper, old.drift.upper.repeat(2, 1))
    apart = new.apart
    if apart is not None and old.apart is not None:
        apart = torch.minimum(apart, old.apart.repeat(2, 1))
    return Parts(new.boxes, Interval(low, high), apart)


def _joined(first: Parts, second: Parts) -> Parts:
    boxes = tuple(_cat(x, y) for x, y in zip(first.boxes, second.boxes, strict=True))
    apart = None
    if first.apart is not None and second.apart is not None:
        apart = torch.cat([first.apart, second.apart])
    return Parts(boxes, _cat(first.drift, second.drift), apart)


def _cat(x: Interval, y: Interval) -> Interval:
    return Interval(torch.cat([x.lower, y.lower]), torch.cat([x.upper, y.upper]))
