"""What is certain of two networks over boxes of inputs: how far their outputs are apart, and which decisions stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from secateur.bounds.arithmetic import as_interval, subtract
from secateur.bounds.backward import Backward, Coefficients, lower
from secateur.bounds.joint import Networks
from secateur.bounds.pairs import Pair
from secateur.bounds.rounding import FUNCTIONS
from secateur.bounds.tighten import bounded, rows_at_a_time, values_per_sample
from secateur.bounds.windows import Everywhere
from secateur.types import Interval

_BYTES = 2**30  # that the bounds of a block of boxes may take


def blocks(networks: Networks, boxes: Sequence[Interval]) -> Iterator[tuple[int, list[Interval]]]:
    """The boxes, (n, …) for each input, in blocks that memory holds: (number of the first, intervals (N, 1, …))."""
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

    def _drift(self, node: fx.Node) -> Interval | None:
        value = self.engine.bounds[node]
        first = as_interval(value.before if isinstance(value, Pair) else value)
        if not first.lower.is_floating_point():
            return None
        shape = first.lower.flatten(1).shape
        if not isinstance(value, Pair):
            nothing = first.lower.new_zeros((self.boxes, shape[1]))
            return Interval(nothing, nothing)
        delta = as_interval(value.change)
        low, high = (end.flatten(1).expand(self.boxes, -1) for end in (delta.lower, delta.upper))
        if self.linear:
            unit = torch.eye(shape[1], dtype=low.dtype, device=low.device)
            low = torch.maximum(low, self._least(node, -unit, unit))
            high = torch.minimum(high, -self._least(node, unit, -unit))
        return Interval(low, high)

    def margins(self, classes: Tensor, second: bool) -> Tensor:
        """Lower bounds, (N,), of how far f's (g's) output for `classes` (N,) stays above every other output.

        Of one output alone (two classes): how far it stays on its side of 0.
        """
        node = self.engine.networks.graph.outputs[0]
        value = self.engine.bounds[node]
        x = as_interval((value.after if second else value.before) if isinstance(value, Pair) else value)
        low, high = (end.flatten(1).expand(self.boxes, -1) for end in (x.lower, x.upper))
        k = low.shape[1]
        if k == 1:
            side = torch.where(classes == 1, 1.0, -1.0).to(low.dtype)
            least = torch.where(classes == 1, low[:, 0], -high[:, 0])
            return torch.maximum(least, self._rows(node, side[:, None, None], second)[:, 0]) if self.linear else least
        own = torch.nn.functional.one_hot(classes, k).to(low.dtype)
        apart = subtract(
            Interval((own * low).sum(1, keepdim=True), (own * high).sum(1, keepdim=True)), Interval(low, high)
        )
        least = apart.lower - FUNCTIONS * (low.abs() + high.abs() + apart.lower.abs())
        if self.linear:
            rows = own[:, None, :] - torch.eye(k, dtype=low.dtype, device=low.device)
            least = torch.maximum(least, self._rows(node, rows, second))
        return least.masked_fill(own.bool(), torch.inf).amin(1)

    def _least(self, node: fx.Node, f: Tensor, g: Tensor) -> Tensor:
        """Lower bounds, (N, rows), of f·x + g·x′ for rows of coefficients (rows, outputs), the same in every box."""
        box = torch.arange(self.boxes).repeat_interleave(len(f))
        return self._lower(node, f.repeat(self.boxes, 1), g.repeat(self.boxes, 1), box).reshape(self.boxes, -1)

    def _rows(self, node: fx.Node, rows: Tensor, second: bool) -> Tensor:
        """Lower bounds, (N, rows), of rows · x (or x′) for coefficients (N, rows, outputs)."""
        box = torch.arange(self.boxes).repeat_interleave(rows.shape[1])
        flat = rows.flatten(0, 1)
        found = self._lower(node, None, flat, box) if second else self._lower(node, flat, None, box)
        return found.reshape(self.boxes, -1)

    def _lower(self, node: fx.Node, f: Tensor | None, g: Tensor | None, box: Tensor) -> Tensor:
        sample = self.engine.samples[0][node]
        found = []
        for part in torch.arange(len(box)).split(rows_at_a_time(self.engine)):
            seed: Coefficients = (_of_shape(f, part, sample), _of_shape(g, part, sample))
            found.append(lower(self.engine, {node: seed}, Everywhere(box[part])))
        return torch.cat(found)


def decisions(output: Tensor) -> Tensor:
    """Classes, (batch,): the largest of several outputs, the side of 0 of a single one."""
    flat = output.flatten(1)
    return flat.argmax(1) if flat.shape[1] > 1 else (flat[:, 0] > 0).long()


def _of_shape(rows: Tensor | None, part: Tensor, sample: Tensor) -> Tensor | None:
    return None if rows is None else rows[part].reshape(-1, *sample.shape)
