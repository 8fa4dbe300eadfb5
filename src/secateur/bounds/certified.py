"""What is certain of two networks over boxes of inputs: the drift of their outputs, and their decisions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from secateur.bounds.arithmetic import as_interval, magnitude, subtract
from secateur.bounds.backward import lower
from secateur.bounds.coefficients import Coefficients
from secateur.bounds.engine import Backward
from secateur.bounds.joint import Networks
from secateur.bounds.pairs import Pair, after, before
from secateur.bounds.rounding import FUNCTIONS
from secateur.bounds.tighten import bounded, rows_at_a_time, values_per_sample
from secateur.bounds.windows import Everywhere
from secateur.decisions import Decision
from secateur.types import Interval

_BYTES = 2**30  # that the bounds of a block of boxes may take
_PAIRS = 2**12  # rows for pairs of classes in each box, at most; beyond, each class is bounded by itself


def blocks(networks: Networks, boxes: Sequence[Interval]) -> Iterator[tuple[int, list[Interval]]]:
    """Blocks of boxes that fit in memory: the number of the first box, and intervals (N, 1, …).

    `boxes` holds one interval (n, …) for each input.
    """
    each = 8 * 24 * values_per_sample(networks)
    size = max(1, _BYTES // each)
    for start in range(0, len(boxes[0].lower), size):
        ends = [(x.lower[start : start + size, None], x.upper[start : start + size, None]) for x in boxes]
        yield start, [Interval(low.contiguous(), high.contiguous()) for low, high in ends]


def ball(centre: Tensor, eps: float, whole: Interval) -> Interval:
    """The L∞ ball round each centre (N, …), cut with the box, in float64; whole numbers stay as they are."""
    if not centre.is_floating_point():
        return Interval(centre, centre)
    x = centre.double()
    slack = 4 * torch.finfo(torch.float64).eps * (x.abs() + eps)  # the ball's own rounding
    return Interval(torch.maximum(x - eps - slack, whole.lower), torch.minimum(x + eps + slack, whole.upper))


@dataclass(frozen=True, eq=False)
class Certified:
    """Bounds for one block of N boxes."""

    engine: Backward
    boxes: int
    linear: bool

    @staticmethod
    def of(networks: Networks, boxes: Sequence[Interval], linear: bool = True) -> Certified:
        return Certified(bounded(networks, boxes, linear), len(boxes[0].lower), linear)

    def drift(self) -> Interval:
        """Of every floating output, flattened: bounds on g(x) − f(x), shape (N, outputs)."""
        parts = [self._drift(node) for node in self.engine.networks.graph.outputs]
        found = [part for part in parts if part is not None]
        return Interval(torch.cat([x.lower for x in found], 1), torch.cat([x.upper for x in found], 1))

    def is_floating(self, node: fx.Node) -> bool:
        return as_interval(before(self.engine.bounds[node])).lower.is_floating_point()

    def size_at(self, node: fx.Node, second: int) -> float:
        """The most that a value of f (of g) may be in size, in any box."""
        value = self.engine.bounds[node]
        return float(magnitude(as_interval(after(value) if second else before(value))).max())

    def _drift(self, node: fx.Node) -> Interval | None:
        value = self.engine.bounds[node]
        first = as_interval(before(value))
        if not self.is_floating(node):
            return None
        size = self.engine.samples[0][node].numel()
        if not isinstance(value, Pair):
            nothing = first.lower.new_zeros((self.boxes, size))
            return Interval(nothing, nothing)
        delta = as_interval(value.change)
        low, high = (end.reshape(-1, size).expand(self.boxes, -1) for end in (delta.lower, delta.upper))
        if self.linear:
            unit = torch.eye(size, dtype=low.dtype, device=low.device)
            low = torch.maximum(low, self._least(node, -unit, unit))
            high = torch.minimum(high, -self._least(node, unit, -unit))
        return Interval(low, high)

    def stands(self, decision: Decision, classes: Tensor, second: bool) -> Tensor:
        """Where f (g) certainly decides for `classes` all over a box, (N, positions)."""
        return self.certain_margins(decision, classes, second) > 0

    def certain_margins(self, decision: Decision, classes: Tensor, second: bool) -> Tensor:
        """`margins`, and −∞ where the output may not show what is compared, or `classes` are none."""
        x = self._compared(decision, second)
        least = self.margins(decision, classes, second)
        certain = decision.distinct(x.lower, x.upper, least) & (classes >= 0).all(-1)
        return least.masked_fill(~certain, -torch.inf)

    def margins(self, decision: Decision, classes: Tensor, second: bool) -> Tensor:
        """Lower bounds, (N, positions), of how far f (g) is from another decision than `classes`.

        Of a class: of how far its score stays above every other. Of yes or no: of how far each number stays
        on its side of the cut.
        """
        x = self._compared(decision, second)
        if decision.cut is None:
            return self._of_greatest(decision, x, classes, second)
        side = decision.sides(classes).to(x.lower.dtype)
        least = torch.where(side > 0, x.lower - decision.cut, decision.cut - x.upper)
        if self.linear:
            found = self._rows(decision, side, decision.index, None, second) - side * decision.cut
            least = torch.maximum(least, found)
        if decision.cut != 0:  # x − 0 is exact
            least = least - FUNCTIONS * (least.abs() + 2 * abs(decision.cut))
        return least.amin(-1)

    def margin_drift(self, decision: Decision) -> Tensor:
        """Upper bounds δ, (N, positions), of how far g moves what f decides by.

        All over a box, f and g decide alike wherever the margin of f is above δ. Of a class i that f may
        decide for, and any other j: (f_i − f_j) − (g_i − g_j) ≤ δ. Of yes or no: |g − f| ≤ δ.
        """
        if not isinstance(self.engine.bounds[decision.node], Pair):
            return torch.zeros_like(self._compared(decision, False).lower[..., 0])
        low, high = self._change(decision)
        if decision.cut is not None:
            return torch.maximum(-low, high).amax(-1)
        first = high.argmax(-1, keepdim=True)
        other = high.scatter(-1, first, -torch.inf).amax(-1, keepdim=True)
        # by how much the score of any other class may come closer to that of each
        closer = high.amax(-1, keepdim=True).expand_as(high).scatter(-1, first, other) - low
        closer = closer + 2 * FUNCTIONS * torch.maximum(low.abs(), high.abs()).amax(-1, keepdim=True)
        x = self._compared(decision, False)
        possible = x.upper >= x.lower.amax(-1, keepdim=True)  # the classes that f may decide for
        if self.linear and decision.index.numel() * (decision.columns - 1) <= _PAIRS:
            closer = torch.minimum(closer, self._of_pairs(decision, possible))
        return closer.masked_fill(~possible, 0.0).clamp(min=0).amax(-1)

    def _change(self, decision: Decision) -> tuple[Tensor, Tensor]:
        """Bounds, (N, positions, k), on g − f of what is compared."""
        change = as_interval(self.engine.bounds[decision.node].change)
        low, high = (
            end.reshape(-1, decision.size).expand(self.boxes, -1) for end in (change.lower, change.upper)
        )
        if self.linear:
            used = decision.index.flatten().unique()
            unit = torch.eye(decision.size, dtype=low.dtype, device=low.device)[used]
            low, high = low.clone(), high.clone()
            low[:, used] = torch.maximum(low[:, used], self._least(decision.node, -unit, unit))
            high[:, used] = torch.minimum(high[:, used], -self._least(decision.node, unit, -unit))
        return low[:, decision.index], high[:, decision.index]

    def _of_pairs(self, decision: Decision, possible: Tensor) -> Tensor:
        """Upper bounds, (N, positions, k), of (f_i − f_j) − (g_i − g_j) for any j, where i is `possible`.

        By a row for each pair; infinite elsewhere.
        """
        k, like = decision.columns, self.engine.networks.like
        found = torch.full(possible.shape, torch.inf, dtype=like.dtype, device=like.device)
        places = possible.nonzero()  # box, position and class i
        for part in places.split(max(1, rows_at_a_time(self.engine) // max(1, k - 1))):
            box, position, own = part.T
            every = torch.arange(k, device=own.device).expand(len(own), k)
            others = every[every != own[:, None]].reshape(len(own), k - 1)
            i = decision.index[position, own][:, None, None].expand(-1, k - 1, 1)
            j = decision.index[position[:, None], others][..., None]
            rows = torch.zeros((len(own), k - 1, decision.size), dtype=like.dtype, device=like.device)
            rows = rows.scatter(2, i, -1.0).scatter(2, j, 1.0).flatten(0, 1)
            bound = -self._lower(decision.node, rows, -rows, box.repeat_interleave(k - 1))
            found[box, position, own] = bound.reshape(len(own), k - 1).amax(1)
        return found

    def _of_greatest(self, decision: Decision, x: Interval, classes: Tensor, second: bool) -> Tensor:
        low, high = x.lower, x.upper
        own = torch.nn.functional.one_hot(classes[..., 0].clamp(min=0), decision.columns).to(low.dtype)
        apart = subtract(
            Interval((own * low).sum(-1, keepdim=True), (own * high).sum(-1, keepdim=True)),
            Interval(low, high),
        )
        least = apart.lower - FUNCTIONS * (low.abs() + high.abs() + apart.lower.abs())
        if self.linear:
            first = decision.index.gather(1, classes[..., 0].clamp(min=0).T).T[..., None].expand_as(low)
            ones = torch.ones_like(low)
            least = torch.maximum(
                least, self._rows(decision, ones, first, decision.index.expand_as(first), second)
            )
        others: Tensor = least.masked_fill(own.bool(), torch.inf)
        return others.amin(-1)

    def _compared(self, decision: Decision, second: bool) -> Interval:
        """Bounds, (N, positions, k), on what f (g) compares."""
        value = self.engine.bounds[decision.node]
        x = as_interval(after(value) if second else before(value))
        ends = (end.reshape(-1, decision.size).expand(self.boxes, -1) for end in (x.lower, x.upper))
        low, high = (end[:, decision.index] for end in ends)
        return Interval(low, high)

    def _least(self, node: fx.Node, f: Tensor, g: Tensor) -> Tensor:
        """Lower bounds, (N, rows), of f·x + g·x′; the rows (rows, outputs) are the same for every box."""
        box = torch.arange(self.boxes).repeat_interleave(len(f))
        return self._lower(node, f.repeat(self.boxes, 1), g.repeat(self.boxes, 1), box).reshape(
            self.boxes, -1
        )

    def _rows(
        self, decision: Decision, factor: Tensor, plus: Tensor, minus: Tensor | None, second: bool
    ) -> Tensor:
        """Lower bounds of factor · x[plus] − x[minus], x of f (of g), all of shape (N, positions, k)."""
        shape, node = factor.shape, decision.node
        box = torch.arange(self.boxes).repeat_interleave(shape[1:].numel())
        flat = [t.expand(shape).flatten() for t in (factor, plus, *(() if minus is None else (minus,)))]
        sample = self.engine.samples[0][node]
        found = []
        for part in torch.arange(len(box)).split(rows_at_a_time(self.engine)):
            rows = flat[0].new_zeros((len(part), sample.numel()))
            rows.scatter_add_(1, flat[1][part, None], flat[0][part, None])
            if minus is not None:
                rows.scatter_add_(1, flat[2][part, None], -torch.ones_like(rows[:, :1]))
            seed: Coefficients = (None, rows) if second else (rows, None)
            found.append(self._lower_part(node, seed, box[part]))
        return torch.cat(found).reshape(shape)

    def _lower(self, node: fx.Node, f: Tensor, g: Tensor, box: Tensor) -> Tensor:
        parts = torch.arange(len(box)).split(rows_at_a_time(self.engine))
        return torch.cat([self._lower_part(node, (f[part], g[part]), box[part]) for part in parts])

    def _lower_part(self, node: fx.Node, rows: Coefficients, box: Tensor) -> Tensor:
        """Of rows over all elements of the node's value, in the box of each."""
        shape = self.engine.samples[0][node].shape
        f, g = (None if c is None else c.reshape(-1, *shape) for c in rows)
        return lower(self.engine, {node: (f, g)}, Everywhere(box))
