"""reconstruct: units leave by optimal brain surgeon, and what reads the rest is solved for anew, layer after
layer.

`make_study` looks at the network once, `reconstruct` is one round, `marginal_costs` says what every unit of
every group would cost at the outputs. DESIGN of the method: docs/design.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx

from secateur.compensate import merged
from secateur.reconstruct.elimination import eliminate
from secateur.reconstruct.layers import Arguments, Consumer
from secateur.reconstruct.moments import Moments
from secateur.reconstruct.naming import naming
from secateur.reconstruct.robust import perturbed
from secateur.reconstruct.solve import best_weights, mean_error, repaired
from secateur.reconstruct.study import Study, features_left, make_study, moments_at, problem_of, sum_of
from secateur.reconstruct.sweep import sweep
from secateur.types import Group, Removal

__all__ = ["Study", "make_study", "marginal_costs", "reconstruct"]


def reconstruct(
    study: Study, weights: Mapping[str, Tensor], alive: Mapping[str, Tensor], need: Mapping[str, int]
) -> tuple[list[Removal], dict[str, Tensor]]:
    """Remove `need[group]` units of each group and solve for all consumers; nothing given is changed.

    In graph order, with the original beside: a group's units are chosen at its first consumer, on what that
    one reads in the pruned network and the others read so far; then the consumer is solved for, so that it
    makes up for what went wrong before it. Returns the removals and the new values of all tensors that
    change.
    """
    before = _in_view_of(study, weights)
    removals, after, alive = _round(study, before, alive, need)
    if study.robust > 0.0:
        moved = perturbed(study.graph, study.original, after, study.samples, study.box, study.robust)
        pairs = zip(study.samples.inputs, moved.inputs, strict=True)
        both = replace(study.samples, inputs=tuple(torch.cat(pair) for pair in pairs))
        _, after, _ = _round(replace(study, samples=both), after, alive, {})
    changed = {name: value for name, value in after.items() if value is not before[name]}
    return removals, _out_of_view(study, changed)


def _round(
    study: Study, weights: Mapping[str, Tensor], alive: Mapping[str, Tensor], need: Mapping[str, int]
) -> tuple[list[Removal], dict[str, Tensor], dict[str, Tensor]]:
    """Remove units and solve for all consumers; the new weights, full size, in the samples' view."""
    weights, alive = dict(weights), {name: mask.clone() for name, mask in alive.items()}
    removals = list[Removal]()
    todo = {group.name for group in study.groups if need.get(group.name, 0) > 0}
    later = _moments_of_several(study, weights, todo)
    solved = set[str]()

    def look(consumer: Consumer, arguments: Arguments, first: Tensor, x: Tensor, target: Tensor) -> None:
        weight = consumer.weight
        groups = study.readers.get(weight, ())
        untouched = first is x and not any(group.name in todo for group in groups)
        if weight in solved or (untouched and bool(features_left(study, weight, alive).all())):
            return
        here = moments_at(study, consumer, arguments, x, target)
        for group in groups:
            if group.name in todo:
                todo.remove(group.name)
                removals.append(
                    _chosen(study, group, need[group.name], {**later, consumer.node: here}, weights, alive)
                )
                alive[group.name][removals[-1].units] = False
                weights.update(merged(weights, group, removals[-1]))
        _solve(study, consumer, sum_of([here, *_others(study, consumer, later)]), weights, alive)
        solved.add(weight)

    sweep(study.graph, study.nodes, study.original, weights, study.samples.inputs, look)
    return removals, weights, alive


def marginal_costs(study: Study, alive: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For each group, what the next unit costs at the outputs with none, one, two… gone: squared change,
    summed.

    On the original network, each group by itself; shapes: (units − 1,). Units that are not `alive` cost
    nothing and go first. One sweep; moments are dropped as soon as a group's last consumer is reached.
    """
    read = {group.name: {consumer.node for consumer in study.consumers_of(group)} for group in study.groups}
    seen: dict[fx.Node, Moments] = {}
    costs: dict[str, Tensor] = {}

    def look(consumer: Consumer, arguments: Arguments, first: Tensor, x: Tensor, target: Tensor) -> None:
        groups = study.readers.get(consumer.weight, ())
        if groups:
            seen[consumer.node] = moments_at(study, consumer, arguments, x, target)
        for group in groups:
            if read[group.name] <= seen.keys() and group.name not in costs:
                problems = [problem_of(study, c, seen[c.node], group, study.original, alive)
                            for c in study.consumers_of(group)]  # fmt: skip
                gone = int((~alive[group.name]).sum())
                with naming(consumer):
                    rest = eliminate(problems, alive[group.name], group.units - 1 - gone)[1]
                costs[group.name] = torch.cat([torch.zeros(gone, dtype=rest.dtype), rest])
        wanted = set[fx.Node]().union(*(nodes for name, nodes in read.items() if name not in costs))
        for node in seen.keys() - wanted:
            del seen[node]

    sweep(study.graph, study.nodes, study.original, study.original, study.samples.inputs, look)
    return costs


def _in_view_of(study: Study, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights, the samples' own tensors in place of the network's and moved by as much as those have
    been.
    """
    own = {}
    for name, value in study.samples.tensors.items():
        moved = weights[name] is not study.plain[name]
        own[name] = value + weights[name] - study.plain[name] if moved else value
    return {**weights, **own}


def _out_of_view(study: Study, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    own = study.samples.tensors
    return {n: w + study.plain[n] - own[n] if n in own else w for n, w in weights.items()}


def _moments_of_several(study: Study, weights: dict[str, Tensor], names: set[str]) -> dict[fx.Node, Moments]:
    """Moments, as the network stands, at the consumers of those groups that have more than one."""
    several = [found for g in study.groups if g.name in names and len(found := study.consumers_of(g)) > 1]
    wanted = {consumer.node: consumer for found in several for consumer in found}
    moments: dict[fx.Node, Moments] = {}

    def look(consumer: Consumer, arguments: Arguments, first: Tensor, x: Tensor, target: Tensor) -> None:
        moments[consumer.node] = moments_at(study, consumer, arguments, x, target)

    if wanted:
        sweep(study.graph, wanted, study.original, weights, study.samples.inputs, look)
    return moments


def _others(study: Study, consumer: Consumer, moments: Mapping[fx.Node, Moments]) -> list[Moments]:
    """Moments at the other uses of a consumer's weight, where they were taken."""
    return [
        moments[c.node] for c in study.consumers[consumer.weight] if c is not consumer and c.node in moments
    ]


def _chosen(
    study: Study,
    group: Group,
    count: int,
    moments: Mapping[fx.Node, Moments],
    weights: Mapping[str, Tensor],
    alive: Mapping[str, Tensor],
) -> Removal:
    problems = [
        problem_of(study, c, moments[c.node], group, weights, alive) for c in study.consumers_of(group)
    ]
    with naming(study.consumers_of(group)[0]):
        units, _ = eliminate(problems, alive[group.name], count)
    return Removal(group.name, units, torch.full_like(units, -1))


def _solve(
    study: Study,
    consumer: Consumer,
    moments: Moments,
    weights: dict[str, Tensor],
    alive: Mapping[str, Tensor],
) -> None:
    """New weights for a consumer and, where something can take it up, a new mean of its output."""
    present = consumer.view.matrix(weights[consumer.weight], consumer.blocks)
    intercept = study.intercept(consumer)
    left = features_left(study, consumer.weight, alive)
    with naming(consumer):
        new = best_weights(moments, present, left, study.ridge, intercept)
    if consumer.normed and intercept:
        new = repaired(moments, new, study.repair)
    weights[consumer.weight] = consumer.view.tensor(new, weights[consumer.weight])
    if consumer.shift is not None and intercept:
        name, sign = consumer.shift
        rest = study.original[name] if sign < 0 else 0.0
        weights[name] = rest + sign * mean_error(moments, new)
