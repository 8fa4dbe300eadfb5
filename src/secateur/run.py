"""The state of one pruning run, and the operations that change it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from secateur.compensate import merged
from secateur.cost import full, macs_after, parameters_after
from secateur.errors import InputError, SecateurError
from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.report.recipe import Edit, Step
from secateur.types import Group, Removal

_LARGEST = 1e75  # absolute value of a weight


class State(NamedTuple):
    """The state of a run at one moment; see `Run`."""

    weights: dict[str, Tensor]
    alive: dict[str, Tensor]
    used: dict[str, Tensor]
    solved: set[str]


class Run:
    """The state of a run.

    Attributes:
        graph: The captured original.
        coupling: Its groups.
        weights: All tensors at full size, by name; float64 where floating. Removed units have no effect.
        alive: Group name → which units are left, shape (units,), bool.
        used: Group name → which units have absorbed another one, shape (units,), bool.
        solved: Names of tensors whose values cannot be derived from the list of removals.
    """

    def __init__(self, graph: Graph, coupling: Coupling) -> None:
        self.graph, self.coupling = graph, coupling
        self.weights = {
            name: w.cpu().double() if w.is_floating_point() else w.cpu() for name, w in graph.tensors.items()
        }
        _check_sizes(self.weights)
        self.alive = full(coupling)
        self.used = {name: torch.zeros_like(mask) for name, mask in self.alive.items()}
        self.solved = set[str]()

    def apply(self, group: Group, removal: Removal) -> Edit:
        """Remove units and merge them into those that absorb them.

        Raises:
            SecateurError: The removal contradicts itself or an earlier one, or a weight becomes NaN or
                infinite.
        """
        check_removal(removal, self.alive[group.name])
        self.solve(removal.weights)
        self._take(merged(self.weights, group, removal))
        self.alive[group.name][removal.units] = False
        self.used[group.name][removal.into[removal.into >= 0]] = True
        return Edit(group=group.name, units=tuple(removal.units.tolist()), into=tuple(removal.into.tolist()))

    def solve(self, weights: Mapping[str, Tensor]) -> None:
        """Set new values of tensors. Raises `SecateurError` for one that is not finite."""
        self._take(weights)
        self.solved |= weights.keys()

    def _take(self, weights: Mapping[str, Tensor]) -> None:
        for name, value in weights.items():
            stored = value.to(self.graph.tensors[name].dtype)
            bad = int((~torch.isfinite(stored)).sum())
            if bad:
                raise SecateurError(
                    f"{name} of shape {tuple(value.shape)}: {bad} of its new values are NaN or too large for "
                    f"{stored.dtype}; remove less, give a larger ridge, or leave the layer whole (ignore=)"
                )
        # dense, since sums over other layouts are rounded differently, and a checkpoint keeps none
        self.weights |= {name: value.contiguous() for name, value in weights.items()}

    def saved(self) -> State:
        """A copy of the state, for one call of `go_back`."""
        alive, used = (
            {name: mask.clone() for name, mask in masks.items()} for masks in (self.alive, self.used)
        )
        return State(dict(self.weights), alive, used, set(self.solved))

    def go_back(self, state: State) -> None:
        self.weights, self.alive, self.used, self.solved = state

    def gone(self, group: Group) -> int:
        return int((~self.alive[group.name]).sum())

    def record(self, number: int, edits: Sequence[Edit]) -> Step:
        return Step(
            step=number,
            edits=tuple(edits),
            units_removed=sum(int((~mask).sum()) for mask in self.alive.values()),
            parameters=parameters_after(self.graph, self.coupling, self.alive),
            macs=macs_after(self.graph, self.coupling, self.alive),
        )


def _check_sizes(weights: Mapping[str, Tensor]) -> None:
    """`InputError` for a weight whose fourth power overflows; methods compare squares of products."""
    for name, value in weights.items():
        if (
            value.is_floating_point()
            and value.numel()
            and float(value.nan_to_num(0, 0, 0).abs().amax()) > _LARGEST
        ):
            raise InputError(
                f"{name} of shape {tuple(value.shape)} holds values above {_LARGEST:g}; scale the model down"
            )


def check_removal(removal: Removal, alive: Tensor) -> None:
    """Raise `SecateurError` unless every unit exists, leaves once, and is absorbed by a unit that stays."""
    units, into = removal.units, removal.into
    named = torch.cat([units, into])
    sound = (
        len(units) == len(into)
        and len(units) < int(alive.sum())
        and bool(((named >= -1) & (named < len(alive))).all())
        and bool((units >= 0).all())
        and len(units.unique()) == len(units)
        and bool(alive[units].all())
        and bool(alive[into[into >= 0]].all())
        and not bool(torch.isin(into[into >= 0], units).any())
    )
    if not sound:
        raise SecateurError(
            f"{removal.group}: removing units {units.tolist()} into {into.tolist()} is not consistent "
            f"(of {len(alive)} units, {int(alive.sum())} are left)"
        )
