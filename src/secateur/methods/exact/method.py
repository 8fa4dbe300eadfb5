"""`exact` as a method: what the function over the input box does not need leaves, in one step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from secateur.errors import NothingToPruneError
from secateur.methods.exact.debloat import debloat
from secateur.methods.protocol import Goal, Method, Needs, Task
from secateur.plan import Plan, Target, as_done, capped
from secateur.report.recipe import Edit
from secateur.run import State

_NOTHING = (
    "exact: no unit can go without changing the function over the input box (within remove and round_to): "
    "none is constant, a copy or a multiple of another, a combination of others, or unread; give tighter "
    "input_bounds, or take another method"
)


@dataclass(frozen=True, eq=False)
class Unneeded:
    """Units that the function does not need, and the network without them."""

    edits: list[Edit]
    state: State
    gone: Mapping[str, int]


@dataclass(frozen=True)
class Exact(Method):
    """Units leave that the outputs over the input box do not need; nothing else does."""

    name = "exact"
    needs: ClassVar[Needs] = "bounds"
    remove: ClassVar[float | str | None] = None
    lossless: ClassVar[bool] = True
    preparing: ClassVar[str] = "looking for units that can be removed exactly"

    def default_step(self, guarded: bool) -> float:
        return 1.0

    def prepare(self, task: Task) -> Unneeded:
        found = unneeded(task, task.target)
        if not found.edits:
            raise NothingToPruneError(_NOTHING)
        return found

    def plan(self, task: Task, state: Unneeded) -> Plan:
        return as_done(task.graph, task.coupling, task.groups, task.target, state.gone, task.latency)

    def step(self, task: Task, state: Unneeded, goal: Goal) -> list[Edit]:
        task.run.go_back(state.state)
        return state.edits


def unneeded(task: Task, target: Target | None) -> Unneeded:
    """All units that can leave exactly, no more than `target` asks; the run stays as it is."""
    run, before = task.run, task.run.saved()
    most: Callable[[Mapping[str, int]], dict[str, int]] = partial(
        capped,
        task.graph,
        task.coupling,
        task.groups,
        target,
        task.round_to,
        latency=task.latency,
        roles=task.roles,
    )
    edits = debloat(run, task.groups, task.input_bounds, task.seed, most)
    found = Unneeded(edits, run.saved(), task.gone())
    run.go_back(before)
    return found
