"""Gradient search for the inputs where outputs, and decisions, differ most.

Ascent along the sign of the gradient with falling steps, in float64, on both networks in one graph. All
iterates count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.bounds.joint import Networks
from secateur.decisions import Decision, same
from secateur.graph.interpret import run
from secateur.types import Interval


@dataclass(frozen=True, eq=False)
class Found:
    """For each of N boxes, what some point of it shows; of models without decisions, the drift alone."""

    drift: Tensor  # (N,), the largest |g − f| of an output
    disagree: Tensor | None = None  # (N, positions), bool: somewhere the two decide differently
    # (N, positions), bool: somewhere f decides otherwise than at the centre
    flips_first: Tensor | None = None
    flips_second: Tensor | None = None
    apart: Tensor | None = None  # (N,), the largest margin of f where the two decide differently, or 0


@dataclass(frozen=True, eq=False)
class Passed:
    """A batch that went through a network, with gradients: outputs, and the value that decides."""

    count: int  # of samples; an output may have lost the axis of a single one
    outputs: list[Tensor]
    value: Tensor

    @staticmethod
    def of(
        networks: Networks, tensors: Mapping[str, Tensor], inputs: Sequence[Tensor], decision: Decision | None
    ) -> Passed:
        graph = networks.graph
        read = graph.outputs[0] if decision is None else decision.node
        wanted, dtype = [*graph.outputs, read], networks.like.dtype
        *outputs, value = run(graph, inputs, tensors, dtype=dtype, wanted=wanted, gradients=True)
        return Passed(len(inputs[0]), outputs, value)


def search(
    networks: Networks,
    boxes: Sequence[Interval],
    centres: Sequence[Tensor],
    decision: Decision | None,
    *,
    steps: int,
    generator: torch.Generator,
) -> Found:
    """Ascend the drift and descend the margins of f and of g, from random points of each box.

    Boxes are (N, …) for each input.
    """

    def both(points: Sequence[Tensor]) -> tuple[Passed, Passed]:
        first, second = (Passed.of(networks, t, points, decision) for t in (networks.first, networks.second))
        return first, second

    with torch.no_grad():
        f, g = both(centres)
    shown = _Shown(decision, f, g)
    of_decisions = ("first", "second", "apart") if decision is not None else ()
    for goal in ("rise", "fall", *of_decisions):
        points = [random_point(box, generator) for box in boxes]
        for step in range(steps):
            points = [p.detach().requires_grad_(p.is_floating_point()) for p in points]
            f, g = both(points)
            shown.note(f, g)
            value = shown.margin(goal, f, g) if goal in of_decisions else _objective(goal, f, g)
            moving = [p for p in points if p.requires_grad]
            if not moving:
                break
            gradients = iter(torch.autograd.grad(value.sum(), moving, allow_unused=True))
            share = 0.5 * (1 - step / steps)  # of each box's radius
            points = [
                _moved(p, next(gradients), box, share) if p.requires_grad else p
                for p, box in zip(points, boxes, strict=True)
            ]
    return shown.found


class _Shown:
    """What the points so far have shown, beside the decisions at the centres."""

    def __init__(self, decision: Decision | None, f: Passed, g: Passed) -> None:
        self.decision, self.found = decision, Found(_distance(f, g))
        if decision is not None:
            self.centres = decision.classes(f.value), decision.classes(g.value)
            apart = ~same(*self.centres)
            nothing = torch.zeros_like(apart)
            self.found = Found(self.found.drift, apart, nothing, nothing, self._apart(f, g))

    def note(self, f: Passed, g: Passed) -> None:
        old, drift = self.found, torch.maximum(self.found.drift, _distance(f, g).detach())
        if (
            self.decision is None
            or old.disagree is None
            or old.flips_first is None
            or old.flips_second is None
            or old.apart is None
        ):
            self.found = Found(drift)
            return
        a, b = self.decision.classes(f.value), self.decision.classes(g.value)
        first, second = self.centres
        self.found = Found(
            drift,
            old.disagree | ~same(a, b),
            old.flips_first | ~same(a, first),
            old.flips_second | ~same(b, second),
            torch.maximum(old.apart, self._apart(f, g)),
        )

    def _apart(self, f: Passed, g: Passed) -> Tensor:
        """The largest margin of f at a place where g decides differently, or 0; (N,)."""
        assert self.decision is not None
        a, b = self.decision.classes(f.value), self.decision.classes(g.value)
        margin = self.decision.margins(f.value.detach(), a)
        return margin.masked_fill(same(a, b) | ~torch.isfinite(margin), 0.0).clamp(min=0).amax(1)

    def margin(self, goal: str, f: Passed, g: Passed) -> Tensor:
        """The negated margin of f, or of g, to another decision than at the centre; of many, the smallest.

        Of `apart`: the margin of f where g decides otherwise, else how far g is from that; of many, the
        largest.
        """
        assert self.decision is not None
        if goal == "apart":
            classes = self.decision.classes(f.value)
            ours, theirs = (self.decision.margins(x.value, classes) for x in (f, g))
            return torch.where(theirs < 0, ours, -theirs).amax(1)
        value, classes = (f.value, self.centres[0]) if goal == "first" else (g.value, self.centres[1])
        return -self.decision.margins(value, classes).amin(1)


def _distance(f: Passed, g: Passed) -> Tensor:
    return _change(f, g).abs().amax(1)


def _objective(goal: str, f: Passed, g: Passed) -> Tensor:
    delta = _change(f, g)
    largest = delta.detach().abs().argmax(1, keepdim=True)
    way = delta.gather(1, largest)[:, 0]
    return way.abs() if goal == "rise" else delta.abs().sum(1)


def _change(f: Passed, g: Passed) -> Tensor:
    """g − f of all floating outputs, (N, values)."""
    pairs = zip(f.outputs, g.outputs, strict=True)
    return torch.cat([(b - a).reshape(f.count, -1) for a, b in pairs if a.is_floating_point()], 1)


def random_point(box: Interval, generator: torch.Generator) -> Tensor:
    if not box.lower.is_floating_point():
        return box.lower
    share = torch.rand(box.lower.shape, generator=generator, dtype=torch.float64).to(box.lower.device)
    return _inside(box.lower + share * (box.upper - box.lower), box)


def _moved(point: Tensor, gradient: Tensor | None, box: Interval, share: float) -> Tensor:
    if gradient is None:
        return point.detach()
    return _inside(point.detach() + share * (box.upper - box.lower) / 2 * gradient.sign(), box)


def _inside(point: Tensor, box: Interval) -> Tensor:
    return torch.minimum(torch.maximum(point, box.lower), box.upper)
