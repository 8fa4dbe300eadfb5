"""Exact debloating: remove all units that the function over the input box does not need, and check it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.bounds.box import input_box
from secateur.errors import InputError
from secateur.graph.finite import finite_samples, first_not_finite
from secateur.graph.footprint import batch_size
from secateur.graph.graph import Graph
from secateur.graph.interpret import batches
from secateur.graph.interpret import run as forward
from secateur.methods.exact import FINDERS, unread
from secateur.methods.exact.finding import Finding, removal_of
from secateur.methods.exact.problem import ExactProblem, bounded, make_problem
from secateur.report.recipe import Edit
from secateur.run import Run
from secateur.surrogates.box import from_units, noise
from secateur.surrogates.source import Source
from secateur.types import Group, Interval

Limit = Callable[[Mapping[str, int]], dict[str, int]]  # units that can go of each group → units that may

_SAMPLES = 64  # one half in the box, one half in its corners
_DRIFT = 1e-6  # relative to the largest output
_DRIFT_IN_DOUBLE = 1e-10


def debloat(run: Run, groups: Sequence[Group], input_bounds: object, seed: int, limit: Limit) -> list[Edit]:
    """Remove all units of `groups` that can go exactly, no more than `limit` says, and never a group's last.

    Groups are looked at in the order of the graph for constant, alike and dependent units, then backward for
    units that nothing reads any more, until nothing more goes. Every removal is checked on samples in the box
    and in its corners, in float64 against the original: where an output moves by more than 1e-6 of the
    largest (1e-10 in a float64 model), it is taken back, by halves, down to the units at fault. Cost: for
    each round, bounds over the box and the finders; for each group that loses units, a forward pass of the
    samples. Raises `UnsupportedOpError` for an op that no rule bounds.
    """
    graph = run.graph
    box = [
        Interval(x.lower.cpu(), x.upper.cpu()) for x in input_box(graph, input_bounds, dtype=torch.float64)
    ]
    problem = make_problem(graph, run.coupling, box, run.weights, run.alive)
    check = _Check.of(graph, box, seed, _DRIFT if problem.noise > _DRIFT_IN_DOUBLE else _DRIFT_IN_DOUBLE)
    most, start = {g.name: g.units - 1 for g in groups}, run.saved()
    while True:
        edits = _rounds(run, replace(problem, weights=run.weights, alive=run.alive), groups, most, check)
        gone = {g.name: run.gone(g) for g in groups}
        allowed = limit(gone)
        if allowed == gone:
            return edits
        run.go_back(start)
        most, start = allowed, run.saved()


def _rounds(
    run: Run, problem: ExactProblem, groups: Sequence[Group], most: Mapping[str, int], check: _Check
) -> list[Edit]:
    edits = list[Edit]()
    while True:
        before = len(edits)
        for group in groups:
            for find in FINDERS:
                finding = find(replace(problem, weights=run.weights, alive=run.alive), group)
                edits += _applied(run, group, finding, most, check)
        for group in reversed(groups):
            finding = unread(replace(problem, weights=run.weights, alive=run.alive), group)
            edits += _applied(run, group, finding, most, check)
        if len(edits) == before:
            return edits
        problem = replace(problem, values=bounded(problem.graph, problem.coupling, problem.box, run.weights))


def _applied(
    run: Run, group: Group, finding: Finding | None, most: Mapping[str, int], check: _Check
) -> list[Edit]:
    """Remove the units of a finding, as many as may go and as keep the function."""
    room = most[group.name] - run.gone(group)
    if finding is None or room < 1:
        return []
    finding = finding.only(slice(room))
    before = run.saved()
    edit = run.apply(group, removal_of(run.weights, group, finding))
    if check.holds(run.weights):
        return [edit]
    run.go_back(before)
    count = len(finding.units)
    halves = [slice(count // 2), slice(count // 2, count)] if count > 1 else []
    return [edit for half in halves for edit in _applied(run, group, finding.only(half), most, check)]


@dataclass(frozen=True, eq=False)
class _Check:
    """Whether a network still computes what the original does on samples, in float64."""

    graph: Graph
    inputs: Sequence[tuple[Tensor, ...]]  # in batches
    outputs: Sequence[tuple[Tensor, ...]]  # the original's, of each batch
    tolerance: float  # relative to the largest value of each output

    @staticmethod
    def of(graph: Graph, box: Sequence[Interval], seed: int, tolerance: float) -> _Check:
        generator = torch.Generator().manual_seed(seed)
        source, count = Source(graph, tuple(box), generator), _SAMPLES // 2

        def corners(index: int) -> Tensor:
            drawn = torch.randint(2, (count, *graph.example[index].shape[1:]), generator=generator)
            drawn[:2] = torch.tensor([0, 1]).reshape(-1, *[1] * (drawn.ndim - 1))
            return drawn.float()

        pairs = zip(noise(source, count), from_units(source, count, corners), strict=True)
        inputs = tuple(torch.cat(pair) for pair in pairs)
        good = finite_samples(graph, inputs)
        if not bool(good.any()):
            raise InputError(
                "exact: the model's outputs are not finite anywhere in the input box; it goes wrong at "
                f"{first_not_finite(graph, inputs)}. Give narrower input_bounds"
            )
        parts = list(batches([x[good] for x in inputs], batch_size(2 * source.sizes.peak, inputs)))
        outputs = [forward(graph, part, dtype=torch.float64) for part in parts]
        return _Check(graph, parts, outputs, tolerance)

    def holds(self, weights: Mapping[str, Tensor]) -> bool:
        """Whether no output moves by more than the tolerance."""
        largest = [max(float(y.abs().max()) for y in of_all) for of_all in zip(*self.outputs, strict=True)]
        for part, outputs in zip(self.inputs, self.outputs, strict=True):
            found = forward(self.graph, part, weights, dtype=torch.float64)
            for f, g, size in zip(outputs, found, largest, strict=True):
                if f.is_floating_point() and not bool(((g - f).abs() <= self.tolerance * size).all()):
                    return False
        return True
