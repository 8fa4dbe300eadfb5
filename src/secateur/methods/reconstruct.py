"""`reconstruct` as a method: one round for the whole network at each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from secateur.methods.per_group import PerGroup
from secateur.methods.protocol import Goal, Method, Needs, Task
from secateur.methods.saliency import saliency
from secateur.reconstruct import LayerStatistics, Settings, marginal_costs, reconstruct
from secateur.report.recipe import Edit

_OTHERS = PerGroup("saliency", saliency)  # for groups whose units no layer reads that can be refitted


@dataclass(frozen=True)
class Reconstruct(Settings, Method):
    """Remove the units whose removal changes the outputs least, and refit the layers that follow.

    See `Settings` for the options, docs/design.md for the derivation.
    """

    name = "reconstruct"
    needs: ClassVar[Needs] = "samples"
    preparing: ClassVar[str] = "measuring the layers on samples"

    def default_step(self, guarded: bool) -> float:
        return super().default_step(guarded) if guarded else 1.0

    def prepare(self, task: Task) -> LayerStatistics:
        return task.statistics(self)

    def costs(self, task: Task, state: LayerStatistics) -> dict[str, Tensor]:
        return marginal_costs(state, task.run.alive)

    def step(self, task: Task, state: LayerStatistics, goal: Goal) -> list[Edit]:
        run, groups = task.run, {group.name: group for group in state.groups}
        edits = _OTHERS.advance(task, [g for g in task.groups if g.name not in groups], goal)
        need = {group.name: goal.gone.get(group.name, 0) - run.gone(group) for group in state.groups}
        removals, weights = reconstruct(state, run.weights, run.alive, need)
        run.solve(weights)
        return edits + [run.apply(groups[removal.group], removal) for removal in removals]
