"""`reconstruct` as a method: one round for the whole network at each step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from secateur.errors import SecateurError, few
from secateur.graph.stream import Stream
from secateur.methods.per_group import PerGroup
from secateur.methods.protocol import Goal, Method, Needs, Task
from secateur.methods.saliency import saliency
from secateur.reconstruct import LayerStatistics, Settings, marginal_costs, reconstruct
from secateur.reconstruct.streams import rotated, written
from secateur.reconstruct.turns import turned
from secateur.reconstruct.widths import Widths, costs_of_keys, widths_of, with_turned
from secateur.report.recipe import Edit
from secateur.types import Group, Removal

_OTHERS = PerGroup("saliency", saliency)  # for groups whose units no layer reads that can be refitted


@dataclass(frozen=True, eq=False)
class _State:
    """What a run measures once.

    Attributes:
        streams: The groups of coordinates of streams.
        widths: How heads are turned, for the groups of widths that lose units.
        before: The tensors that are turned in the first step, as they were when they were measured.
        after: The same, turned.
    """

    stats: LayerStatistics
    streams: Mapping[str, Stream]
    widths: Widths
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]


@dataclass(frozen=True)
class Reconstruct(Settings, Method):
    """Remove the units whose removal changes the outputs least, and refit the layers that follow.

    See `Settings` for the options, docs/design.md for the derivation.
    """

    name = "reconstruct"
    needs: ClassVar[Needs] = "samples"
    preparing: ClassVar[str] = "measuring the layers on samples"
    prepares_for_all: ClassVar[bool] = True
    cuts_streams: ClassVar[bool] = True

    def default_step(self, guarded: bool) -> float:
        return super().default_step(guarded) if guarded else 1.0

    def prepare(self, task: Task) -> _State:
        streams = {stream.group: stream for stream in task.coupling.streams}
        turned_streams = rotated_streams(task)
        stats = task.statistics(self, turned_streams)
        if lost := streams.keys() - stats.names:
            raise SecateurError(
                f"streams: {few(sorted(lost))} is read by a layer that cannot be refitted; prune without "
                "streams"
            )
        widths = widths_of(stats, task.coupling, task.groups)
        own, before = with_turned(stats, widths), {**task.run.weights, **turned_streams}
        after = {
            name: own.plain[name] if before[name] is stats.plain[name] else value
            for name, value in widths.turned(before).items()
        }  # the same tensors where they are: the sweep tells by them what differs
        after = {**turned_streams, **after}
        return _State(own, streams, widths, {name: task.run.weights[name] for name in after}, after)

    def tensors_of(self, state: _State) -> Mapping[str, Tensor]:
        return state.after

    def costs(self, task: Task, state: _State) -> dict[str, Tensor]:
        of_keys = costs_of_keys(state.stats, task.coupling, state.widths, task.run.alive)
        return marginal_costs(state.stats, task.run.alive) | of_keys

    def step(self, task: Task, state: _State, goal: Goal) -> list[Edit]:
        run, stats = task.run, state.stats
        if all(run.weights[name] is tensor for name, tensor in state.before.items()):
            run.solve(state.after)
        groups, widths = {group.name: group for group in stats.groups}, state.widths
        before = [turn.back() for turn in widths.factors(run.alive)]
        edits = [_cut(task, g, state.streams[g.name], goal) for g in task.groups if g.name in state.streams]
        edits += [_cheapest(task, g, widths, goal) for g in task.groups if g.name in widths.costs]
        others = [g for g in task.groups if g.name not in groups and g.name not in widths.costs]
        edits = [edit for edit in edits if edit.units] + _OTHERS.advance(task, others, goal)
        factors = widths.factors(run.alive)
        run.solve(turned(run.weights, [*before, *factors]))
        need = {group.name: goal.gone.get(group.name, 0) - run.gone(group) for group in stats.groups}
        removals, weights = reconstruct(stats, run.weights, run.alive, need, factors)
        run.solve(weights)
        return edits + [run.apply(groups[removal.group], removal) for removal in removals]


def rotated_streams(task: Task) -> dict[str, Tensor]:
    """The tensors of the network with its streams turned; none where it has none."""
    if not task.coupling.streams:
        return {}
    assert task.samples is not None, "the method needs samples"
    tensors = {**task.original, **task.samples.tensors}
    return rotated(task.graph, task.coupling, tensors, task.samples.inputs)


def _cut(task: Task, group: Group, stream: Stream, goal: Goal) -> Edit:
    """Remove the last coordinates of a stream, until it is at its goal."""
    run = task.run
    left = run.alive[group.name].nonzero().flatten()
    units = left[len(left) - max(0, goal.gone[group.name] - run.gone(group)) :]
    edit = run.apply(group, Removal(group.name, units, torch.full_like(units, -1)))
    names = {slot.tensor for slot in group.slots}
    run.solve(written(stream, group, run.weights, run.alive[group.name], names))
    return edit


def _cheapest(task: Task, group: Group, widths: Widths, goal: Goal) -> Edit:
    """Remove the widths of queries and keys that cost least, until the group is at its goal."""
    count = max(0, goal.gone[group.name] - task.run.gone(group))
    units = widths.cheapest(group, task.run.alive[group.name], count)
    return task.run.apply(group, Removal(group.name, units, torch.full_like(units, -1)))
