"""The latency of a network after a removal, from a table of times."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch

from secateur.report.times import LayerTimes, TimeTable, Weights
from secateur.timing.parts import Parts, Removed

Sums = tuple[float, float, float, float]  # layers in ms, elements, MACs of products, calls: as `Weights`


@dataclass(frozen=True, eq=False)
class Predictor:
    """`predictor(removed)` is the milliseconds of one sample."""

    parts: Parts
    table: TimeTable

    def __call__(self, removed: Removed) -> float:
        return corrected(self._total(removed), self.table)

    def corrected_by(self, removed: Removed, ms: float) -> Predictor:
        """The predictor that gives `ms` for this removal, as measured."""
        points = dict(self.table.corrections) | {self._total(removed): ms}
        return replace(
            self, table=self.table.model_copy(update={"corrections": tuple(sorted(points.items()))})
        )

    def _total(self, removed: Removed) -> float:
        return weighed(sums(self.parts, self.table.rows, removed), self.table.weights)


def sums(parts: Parts, rows: Sequence[LayerTimes], removed: Removed) -> Sums:
    """The parts of the time of a network after a removal."""
    by_layer = {name: row for row in rows for name in row.layers}
    layers = sum(
        interpolated(by_layer[layer.name], layer.inputs.after(removed), layer.outputs.after(removed))
        for layer in parts.layers
    )
    return layers, parts.elements(removed), parts.product_macs(removed), 1.0


def weighed(found: Sums, weights: Weights) -> float:
    values = (weights.layers, weights.elements, weights.products, weights.call)
    return sum(a * b for a, b in zip(found, values, strict=True))


def corrected(total: float, table: TimeTable) -> float:
    """`total` as measured networks tell: linear between two of them, in proportion outside.

    A network that is not slower than a larger one, but was measured so, counts as just as fast.
    """
    sizes = [size for size, _ in table.corrections]
    times = list(accumulate((ms for _, ms in table.corrections), max))
    i = bisect_right(sizes, total)
    if i == 0:
        return total * times[0] / sizes[0]
    if i == len(sizes):
        return total * times[-1] / sizes[-1]
    share = (total - sizes[i - 1]) / (sizes[i] - sizes[i - 1])
    return times[i - 1] + share * (times[i] - times[i - 1])


def interpolated(row: LayerTimes, inputs: int, outputs: int) -> float:
    """Milliseconds at a width, linear between measured ones; the nearest beyond them."""
    i, across = _between(row.inputs, inputs)
    if len(row.ms[0]) == 1:
        j, along = (0, 0), 0.0
    else:
        j, along = _between(row.outputs, outputs)
    first, second = (row.ms[i[0]][k] + across * (row.ms[i[1]][k] - row.ms[i[0]][k]) for k in j)
    return first + along * (second - first)


def _between(widths: Sequence[int], width: int) -> tuple[tuple[int, int], float]:
    """The measured widths on both sides, and where `width` lies between them."""
    right = bisect_right(widths, width)
    if right == 0:
        return (0, 0), 0.0
    if right == len(widths):
        return (right - 1, right - 1), 0.0
    below, above = widths[right - 1], widths[right]
    return (right - 1, right), (width - below) / (above - below)


def rising(ms: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    """Times that never fall as a layer becomes wider: the plan searches by bisection."""
    found = torch.tensor(ms, dtype=torch.float64).cummax(0).values.cummax(1).values
    return tuple(tuple(row) for row in found.tolist())


def fitted(measured: Sequence[tuple[Sums, float]]) -> Weights:
    """The weights of the parts, none negative, of which the sums come nearest to the measured milliseconds.

    Relative errors count. The first network, the whole one, is met exactly.
    """
    parts = torch.tensor([found for found, _ in measured], dtype=torch.float64)
    times = torch.tensor([ms for _, ms in measured], dtype=torch.float64)
    scale = parts.abs().amax(0).clamp_min(1e-300)
    best, least = torch.zeros(4, dtype=torch.float64), torch.inf
    for chosen in range(1, 16):  # of the sums, those that take part
        columns = [k for k in range(4) if chosen >> k & 1 and bool(parts[:, k].any())]
        if not columns or len(columns) > len(measured):
            continue
        system = (parts / scale)[:, columns] / times[:, None]
        solution = torch.linalg.lstsq(system, torch.ones(len(times), 1, dtype=torch.float64)).solution[:, 0]
        error = float((system @ solution - 1).square().sum()) + 1e-6 * len(columns)
        if bool((solution >= 0).all()) and error < least:
            best, least = torch.zeros(4, dtype=torch.float64), error
            best[columns] = solution / scale[columns]
    best *= times[0] / (parts[0] @ best)
    return Weights(**dict(zip(Weights.model_fields, best.tolist(), strict=True)))
