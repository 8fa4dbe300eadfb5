"""What a pruning method is: an object that is prepared once and then removes units, one step at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.methods.batch_norm import Norm, following_norms
from secateur.options import Option, checked_options, options_in
from secateur.plan import Allocation, Plan, Rounding, Target, make_plan
from secateur.quantities import After
from secateur.reconstruct import LayerStatistics, Settings, layer_statistics, marginal_costs
from secateur.report.recipe import Edit
from secateur.run import Run
from secateur.types import Group, Interval, Samples

Needs = Literal["weights", "bounds", "samples"]


@dataclass(frozen=True, eq=False)
class Task:
    """What a run gives to its method; all of it stays the same but the state of `run`."""

    run: Run  # the weights and the units that are left; a method changes it by `run.apply` and `run.solve`
    groups: Sequence[Group]  # whose units may be removed
    input_bounds: Any  # of what the model itself takes
    box: tuple[Interval, ...]  # the same as float32 tensors on the device of the run, one for each input
    samples: Samples | None  # where the method needs samples, or the allocation is global
    original: Mapping[str, Tensor]  # the model's tensors, float64 where floating
    generator: torch.Generator
    seed: int
    target: Target | None = None  # None: all that can go
    allocation: Allocation = "uniform"
    round_to: Rounding = 1
    recursive: bool = True
    latency: After | None = None  # for a target in latency: milliseconds after a removal, predicted
    # costs of a global allocation by group, kept where a plan is made again for another prediction
    costs: dict[str, Tensor] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        return self.run.graph

    @property
    def coupling(self) -> Coupling:
        return self.run.coupling

    @cached_property
    def norms(self) -> Mapping[str, Norm]:
        """Weight of a layer → the batch norm that follows it."""
        return following_norms(self.graph)

    def gone(self) -> dict[str, int]:
        """How many units of each group are removed so far."""
        return {group.name: self.run.gone(group) for group in self.groups}

    def statistics(self, settings: Settings) -> LayerStatistics:
        """Statistics of the layers on the samples, from which costs of units and refits are computed."""
        assert self.samples is not None, "only for a method that needs samples, or a global allocation"
        return layer_statistics(
            self.graph, self.coupling, self.original, self.samples, self.box, settings, self.seed
        )


@dataclass(frozen=True)
class Goal:
    """How many units of each group are to be gone after this step, and after the last."""

    gone: Mapping[str, int]
    planned: Mapping[str, int]


class Method(ABC):
    """A pruning method. Subclasses are frozen dataclasses whose fields are the options.

    `prune` calls `prepare` once, `plan` once, and `step` for every step; what `prepare` returns is handed to
    the other two. A subclass must define `name` and `step`; register it in `secateur.methods.METHODS`, pass
    an instance as `prune(method=...)`, or declare an entry point in the group `secateur.methods`.

    Example:
        >>> from dataclasses import dataclass
        >>> import torch, secateur
        >>> from secateur.methods import Goal, Method, Removal, Task
        >>> @dataclass(frozen=True)
        ... class Last(Method):
        ...     name = "last"
        ...     def step(self, task, state, goal):
        ...         edits = []
        ...         for group in task.groups:
        ...             kept = group.units - goal.gone[group.name]
        ...             left = task.run.alive[group.name].nonzero().flatten()
        ...             units = left[kept:]
        ...             if len(units):
        ...                 removal = Removal(group.name, units, torch.full_like(units, -1))
        ...                 edits.append(task.run.apply(group, removal))
        ...         return edits
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()
        >>> secateur.prune(model, torch.zeros(2, 4), method=Last(), normalize="none").recipe.groups[0].kept
        (0, 1, 2, 3)
    """

    name: str
    needs: ClassVar[Needs] = "weights"  # what it looks at besides the weights: bounds over the box, samples
    remove: ClassVar[float | None] = 0.5  # where the caller does not say; None: all that can go
    lossless: ClassVar[bool] = False  # whether outputs stay as they are, so that a guard has nothing to stop
    preparing: ClassVar[str] = "preparing"  # what `prepare` does, for the progress report

    @property
    def known_options(self) -> dict[str, Option]:
        """Name → default and range of each option."""
        return options_in(type(self))

    @property
    def options_set(self) -> dict[str, Any]:
        """The options whose values are not the defaults."""
        found = {name: (getattr(self, name), option.default) for name, option in self.known_options.items()}
        return {name: value for name, (value, default) in found.items() if value != default}

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """The method with these options in place of its own; `InputError` for an unknown or illegal one."""
        found: Self = replace(self, **checked_options(self.name, self.known_options, options))  # type: ignore[type-var]
        return found

    def default_step(self, guarded: bool) -> float:
        """The largest share of a group that leaves at a time, where the caller does not say."""
        return 0.0625

    def most(self, task: Task) -> Mapping[str, int] | None:
        """How many units of each group the method can remove at most; None: all but one."""
        return None

    def prepare(self, task: Task) -> Any:
        """Whatever `plan` and `step` need; nothing of `task` is changed."""
        return None

    def costs(self, task: Task, state: Any) -> dict[str, Tensor]:
        """For a global allocation: costs at the outputs of each next unit of a group, shape (units − 1,)."""
        return marginal_costs(task.statistics(Settings()), task.run.alive)

    def plan(self, task: Task, state: Any) -> Plan:
        """How many units of each group are to go."""
        if task.target is None:
            raise InputError(f"remove: {self.name} needs to know how much to remove, such as 0.5")
        if task.allocation == "global" and not task.costs:
            task.costs.update(self.costs(task, state))
        return make_plan(
            task.graph,
            task.coupling,
            task.groups,
            task.target,
            task.round_to,
            task.costs if task.allocation == "global" else None,
            task.gone(),
            self.most(task),
            task.latency,
        )

    @abstractmethod
    def step(self, task: Task, state: Any, goal: Goal) -> list[Edit]:
        """Remove units through `task.run` until `goal.gone` of each group are gone; the edits in order."""
