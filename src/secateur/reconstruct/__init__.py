"""Remove units by optimal brain surgeon and refit the layers that read the others, layer after layer.

`layer_statistics` is taken once, `reconstruct` is one round, `marginal_costs` gives the cost of every unit at
the outputs. Derivation: docs/design.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, fx

from secateur.compensate import merged
from secateur.reconstruct.elimination import eliminate
from secateur.reconstruct.few_rows import FewRows
from secateur.reconstruct.layers import Consumer
from secateur.reconstruct.moments import Moments, sum_of
from secateur.reconstruct.naming import naming
from secateur.reconstruct.prior import with_prior
from secateur.reconstruct.robust import perturbed
from secateur.reconstruct.settings import Settings
from secateur.reconstruct.solve import best_weights, mean_error, repaired
from secateur.reconstruct.statistics import (
    LayerStatistics,
    features_left,
    layer_statistics,
    problem_of,
    rows_at,
    without_bias,
)
from secateur.reconstruct.streams import written
from secateur.reconstruct.sweep import Reading, Rows, Visitor, sweep
from secateur.reconstruct.turns import Turn, turned
from secateur.types import Group, Removal

__all__ = ["LayerStatistics", "Settings", "layer_statistics", "marginal_costs", "reconstruct"]


def reconstruct(
    stats: LayerStatistics,
    weights: Mapping[str, Tensor],
    alive: Mapping[str, Tensor],
    need: Mapping[str, int],
    turns: Sequence[Turn] = (),
) -> tuple[list[Removal], dict[str, Tensor]]:
    """Remove `need[group]` units of each group and solve for all consumers; nothing given is changed.

    In graph order, with the original beside: a group's units are chosen at its first consumer, on what that
    one reads in the pruned network and the others read so far; then the consumer is solved for, so that it
    makes up for what went wrong before it. Rows that `turns` have turned are refitted as they were before.
    Returns the removals and the new values of all tensors that change.
    """
    before = _in_view_of(stats, weights)
    removals, after, alive = _round(stats, before, alive, need, turns)
    if stats.settings.robust > 0.0:
        moved = perturbed(stats.graph, stats.original, after, stats.samples, stats.box, stats.settings.robust)
        pairs = zip(stats.samples.inputs, moved.inputs, strict=True)
        both = replace(stats.samples, inputs=tuple(torch.cat(pair) for pair in pairs))
        _, after, _ = _round(replace(stats, samples=both), after, alive, {}, turns)
    changed = {name: value for name, value in after.items() if value is not before[name]}
    return removals, _out_of_view(stats, changed)


def _round(
    stats: LayerStatistics,
    weights: Mapping[str, Tensor],
    alive: Mapping[str, Tensor],
    need: Mapping[str, int],
    turns: Sequence[Turn],
) -> tuple[list[Removal], dict[str, Tensor], dict[str, Tensor]]:
    """Remove units and refit all consumers; the new weights, full size, in the samples' view."""
    visitor = _Refit(stats, dict(weights), {name: mask.clone() for name, mask in alive.items()}, need, turns)
    _sweep(stats, stats.nodes, visitor.weights, visitor)
    return visitor.removals, visitor.weights, visitor.alive


def _sweep(
    stats: LayerStatistics, nodes: Mapping[fx.Node, Consumer], weights: Mapping[str, Tensor], visitor: Visitor
) -> None:
    inputs = stats.samples.inputs
    sweep(stats.graph, nodes, stats.original, weights, inputs, visitor, stats.memory)


class _Rows:
    """What all visitors measure: rows of a consumer's input and target."""

    def __init__(self, stats: LayerStatistics) -> None:
        self.stats = stats

    def measure(self, reading: Reading) -> Rows:
        return rows_at(self.stats, reading)


class _Refit(_Rows):
    """Chooses a group's units at its first consumer, and refits every consumer that reads something else."""

    def __init__(
        self,
        stats: LayerStatistics,
        weights: dict[str, Tensor],
        alive: dict[str, Tensor],
        need: Mapping[str, int],
        turns: Sequence[Turn],
    ) -> None:
        super().__init__(stats)
        self.weights, self.alive, self.need, self.turns = weights, alive, need, turns
        self.removals = list[Removal]()
        self.todo = {group.name for group in stats.groups if need.get(group.name, 0) > 0}
        self.later = _moments_of_several(stats, weights, self.todo)
        self.solved = set[str]()

    def wants(self, consumer: Consumer, differs: bool) -> bool:
        weight = consumer.weight
        groups = self.stats.readers.get(weight, ())
        touched = differs or any(group.name in self.todo for group in groups)
        left = touched or not bool(features_left(self.stats, weight, self.alive).all())
        return left and weight not in self.solved

    def finish(self, consumer: Consumer, moments: Moments | FewRows) -> None:
        here = without_bias(self.stats, consumer, moments)
        for group in self.stats.readers.get(consumer.weight, ()):
            if group.name in self.todo:
                self.todo.remove(group.name)
                known, count = {**self.later, consumer.node: here}, self.need[group.name]
                removal = _chosen(self.stats, group, count, known, self.weights, self.alive)
                self.removals.append(removal)
                self.alive[group.name][removal.units] = False
                self.weights.update(merged(self.weights, group, removal))
        total = sum_of([here, *_others(self.stats, consumer, self.later)])
        made = {consumer.weight, consumer.shift[0] if consumer.shift is not None else ""}
        turns = [turn for turn in self.turns if turn.tensor in made]
        self.weights.update(turned(self.weights, [turn.back() for turn in turns]))
        _solve(self.stats, consumer, total, self.weights, self.alive)
        self.weights.update(turned(self.weights, turns))
        self._leave_out_keys(consumer)
        self._leave_out_coordinates(consumer)
        self.solved.add(consumer.weight)

    def _leave_out_keys(self, consumer: Consumer) -> None:
        """Rows that read queries of removed units stay 0: those of keys are no units' own.

        So does all that a norm would read of such units.
        """
        shifted = consumer.shift[0] if consumer.shift is not None else ""
        for group in self.stats.keyed:
            gone = ~self.alive[group.name]
            slots = group.slots if group.normed else group.having("consumer")
            for slot in slots if bool(gone.any()) else ():
                made_here = slot.tensor == consumer.weight and slot.axis != consumer.view.axis
                if made_here or slot.tensor == shifted:
                    rows = slot.positions[gone].flatten()
                    self.weights[slot.tensor] = self.weights[slot.tensor].index_fill(slot.axis, rows, 0.0)

    def _leave_out_coordinates(self, consumer: Consumer) -> None:
        """What is refitted writes nothing to coordinates of streams that are gone."""
        shift = () if consumer.shift is None else (consumer.shift[0],)
        for stream in self.stats.streams:
            group = next(group for group in self.stats.groups if group.name == stream.group)
            names = {consumer.weight, *shift}
            self.weights.update(written(stream, group, self.weights, self.alive[group.name], names))


def marginal_costs(stats: LayerStatistics, alive: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For each group, what the next unit costs at the outputs with none, one, two… gone: squared change,
    summed.

    On the original network, each group by itself; shapes: (units − 1,). Units that are not `alive` cost
    nothing and go first. One sweep; moments are dropped as soon as a group's last consumer is reached.
    """
    visitor = _Costs(stats, alive)
    _sweep(stats, stats.nodes, stats.original, visitor)
    return visitor.costs


class _Costs(_Rows):
    """Eliminates all units of each group, on the original network, at the group's last consumer."""

    def __init__(self, stats: LayerStatistics, alive: Mapping[str, Tensor]) -> None:
        super().__init__(stats)
        self.alive = alive
        self.read = {group.name: {c.node for c in stats.consumers_of(group)} for group in stats.groups}
        self.known = dict[fx.Node, Moments | FewRows]()
        self.costs = dict[str, Tensor]()

    def wants(self, consumer: Consumer, differs: bool) -> bool:
        return bool(self.stats.readers.get(consumer.weight, ()))

    def finish(self, consumer: Consumer, moments: Moments | FewRows) -> None:
        self.known[consumer.node] = without_bias(self.stats, consumer, moments)
        for group in self.stats.readers[consumer.weight]:
            if self.read[group.name] <= self.known.keys() and group.name not in self.costs:
                with naming(consumer):
                    self.costs[group.name] = self._of(group)
        left = (nodes for name, nodes in self.read.items() if name not in self.costs)
        wanted = set[fx.Node]().union(*left)
        for node in self.known.keys() - wanted:
            del self.known[node]

    def _of(self, group: Group) -> Tensor:
        stats, alive = self.stats, self.alive
        problems = [problem_of(stats, c, self.known[c.node], group, stats.original, alive)
                    for c in stats.consumers_of(group)]  # fmt: skip
        gone = int((~alive[group.name]).sum())
        costs = eliminate(problems, alive[group.name], group.units - 1 - gone)[1]
        return torch.cat([torch.zeros(gone, dtype=costs.dtype), costs])


def _in_view_of(stats: LayerStatistics, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights, the samples' own tensors in place of the network's and moved by as much as those have
    been.
    """
    own = {}
    for name, value in stats.samples.tensors.items():
        moved = weights[name] is not stats.plain[name]
        own[name] = value + weights[name] - stats.plain[name] if moved else value
    return {**weights, **own}


def _out_of_view(stats: LayerStatistics, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    own = stats.samples.tensors
    return {n: w + stats.plain[n] - own[n] if n in own else w for n, w in weights.items()}


def _moments_of_several(
    stats: LayerStatistics, weights: dict[str, Tensor], names: set[str]
) -> dict[fx.Node, Moments | FewRows]:
    """Moments, as the network stands, at the consumers of those groups that have more than one."""
    several = [found for g in stats.groups if g.name in names and len(found := stats.consumers_of(g)) > 1]
    wanted = {consumer.node: consumer for found in several for consumer in found}
    visitor = _Measure(stats)
    if wanted:
        _sweep(stats, wanted, weights, visitor)
    return visitor.moments


class _Measure(_Rows):
    """Takes moments and changes nothing."""

    def __init__(self, stats: LayerStatistics) -> None:
        super().__init__(stats)
        self.moments = dict[fx.Node, Moments | FewRows]()

    def wants(self, consumer: Consumer, differs: bool) -> bool:
        return True

    def finish(self, consumer: Consumer, moments: Moments | FewRows) -> None:
        self.moments[consumer.node] = without_bias(self.stats, consumer, moments)


def _others(
    stats: LayerStatistics, consumer: Consumer, moments: Mapping[fx.Node, Moments | FewRows]
) -> list[Moments | FewRows]:
    """Moments at the other uses of a consumer's weight, where they were taken."""
    return [
        moments[c.node] for c in stats.consumers[consumer.weight] if c is not consumer and c.node in moments
    ]


def _chosen(
    stats: LayerStatistics,
    group: Group,
    count: int,
    moments: Mapping[fx.Node, Moments | FewRows],
    weights: Mapping[str, Tensor],
    alive: Mapping[str, Tensor],
) -> Removal:
    problems = [
        problem_of(stats, c, moments[c.node], group, weights, alive) for c in stats.consumers_of(group)
    ]
    with naming(stats.consumers_of(group)[0]):
        units, _ = eliminate(problems, alive[group.name], count)
    return Removal(group.name, units, torch.full_like(units, -1))


def _solve(
    stats: LayerStatistics,
    consumer: Consumer,
    moments: Moments | FewRows,
    weights: dict[str, Tensor],
    alive: Mapping[str, Tensor],
) -> None:
    """New weights for a consumer and, where something can take it up, a new mean of its output."""
    present = consumer.view.matrix(weights[consumer.weight], consumer.blocks)
    intercept = stats.intercept(consumer)
    left = features_left(stats, consumer.weight, alive)
    solve = partial(best_weights, present=present, left=left, ridge=stats.settings.ridge, intercept=intercept)
    with naming(consumer):
        new = solve(moments)
        if stats.samples.prior and isinstance(moments, Moments):
            own = consumer.view.matrix(stats.original[consumer.weight], consumer.blocks)
            new = solve(with_prior(moments, own, new, stats.samples.prior, intercept))
    if consumer.normed and intercept:
        new = repaired(moments, new, stats.settings.repair)
    weights[consumer.weight] = consumer.view.tensor(new, weights[consumer.weight])
    if consumer.shift is not None and intercept:
        name, sign = consumer.shift
        rest = stats.original[name] if sign < 0 else 0.0
        weights[name] = rest + sign * mean_error(moments, new)
