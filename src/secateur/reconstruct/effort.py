"""How long eliminations and refits will take: counted, and timed on one small solve and one step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from secateur.graph.footprint import footprint
from secateur.graph.graph import Graph
from secateur.reconstruct.elimination import DenseInverse, Problem, eliminate, factor
from secateur.reconstruct.layers import Consumer, all_linear, find_consumers
from secateur.reconstruct.settings import Settings
from secateur.reconstruct.statistics import rows_wanted
from secateur.types import Group

_SOLVED = 512  # width of the solve that is timed
_STEPS = 4  # that are timed
_WIDEST = 2048  # features of a step that is timed; wider ones are taken to grow with the square
_FACTORS = 2.0  # D³ in all: factors for the optimum, the inverse and the refit, each D³ / 3, and D³ for A⁻¹
_PRODUCTS = 3.0  # O·D²: the optimum, √S W*, the refit


class Shape(NamedTuple):
    """Of a layer that reads units: channel groups, features, outputs, units and features of each unit."""

    blocks: int
    features: int
    outputs: int
    units: int
    of_unit: int


class Rows(NamedTuple):
    """Of one layer's moments."""

    positions: int  # of a sample
    wanted: int  # rows, at least
    seconds: float  # of one row


@dataclass(frozen=True)
class SolveTime:
    """Seconds that the linear algebra of a run takes."""

    eliminations: float = 0.0  # of all steps together
    refits: float = 0.0  # of each step
    rows: tuple[Rows, ...] = ()  # of each step

    def estimate(self, samples: int, steps: int) -> float:
        rows = sum(samples * min(row.positions, -(-row.wanted // samples)) * row.seconds for row in self.rows)
        return self.eliminations + steps * (self.refits + rows)


def solve_time(
    graph: Graph, groups: Sequence[Group], leaving: Callable[[Group], int], settings: Settings
) -> SolveTime:
    """For a run in which `leaving(group)` units of each group are eliminated.

    Cost: a solve of 512 features, and two steps of elimination for each shape of layer.
    """
    consumers, sizes, mac = find_consumers(graph), footprint(graph), _seconds_of_mac()
    eliminations, refits, rows = 0.0, 0.0, list[Rows]()
    seen = set[str]()
    for group, reader in _readers(groups, consumers):
        shape = _shape(graph, reader, group)
        eliminations += leaving(group) * _step_seconds(shape) * max(1.0, shape.features / _WIDEST) ** 2
        if reader.weight in seen:
            continue
        seen.add(reader.weight)
        d, o = shape.features, shape.outputs
        refits += mac * shape.blocks * d * d * (_FACTORS * d + _PRODUCTS * o)
        positions = max(1, sizes.numbers[reader.node] // (shape.blocks * o))
        rows.append(Rows(positions, rows_wanted(settings, d, shape.blocks), mac * shape.blocks * d * (d + o)))
    return SolveTime(eliminations, refits, tuple(rows))


def _readers(
    groups: Sequence[Group], consumers: Mapping[str, list[Consumer]]
) -> list[tuple[Group, Consumer]]:
    """Each group that can be solved for, with each layer that reads it."""
    found = []
    for group in groups:
        slots = group.having("consumer")
        if slots and all_linear(slots, consumers):
            weights = dict.fromkeys(slot.tensor for slot in slots)
            found += [(group, consumer) for weight in weights for consumer in consumers[weight]]
    return found


def _shape(graph: Graph, reader: Consumer, group: Group) -> Shape:
    matrix = reader.view.matrix(graph.tensors[reader.weight], reader.blocks)
    units, of_unit = reader.features(group).shape
    blocks, outputs, features = matrix.shape
    return Shape(blocks, features, outputs, units, of_unit)


@cache
def _seconds_of_mac() -> float:
    """Of one multiply-accumulate in float64, in a factorisation with an inverse: n³ of them."""
    matrix = torch.eye(_SOLVED, dtype=torch.float64) + 1e-3
    return _quickest(lambda: torch.cholesky_inverse(factor(matrix))) / _SOLVED**3


@cache
def _step_seconds(shape: Shape) -> float:
    """Of one step of elimination, in a layer of this shape with at most 2,048 features."""
    features = min(shape.features, _WIDEST)
    units = min(shape.units, features // shape.of_unit)
    inverse = torch.eye(features, dtype=torch.float64).repeat(shape.blocks, 1, 1)
    weight = torch.ones(shape.blocks, shape.outputs, features, dtype=torch.float64)
    of_units = torch.arange(max(1, units) * min(shape.of_unit, features)).reshape(max(1, units), -1)
    problem, steps = Problem(DenseInverse(inverse), weight, of_units), min(_STEPS, len(of_units))
    alive = torch.ones(len(of_units), dtype=torch.bool)
    begun = _quickest(lambda: eliminate([problem], alive, 0)[0])
    return max(0.0, _quickest(lambda: eliminate([problem], alive, steps)[0]) - begun) / steps


def _quickest(function: Callable[[], Tensor | None]) -> float:
    """Seconds of the second of two calls, or of the first where that was quicker."""
    times = []
    for _ in range(2):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return min(times)
