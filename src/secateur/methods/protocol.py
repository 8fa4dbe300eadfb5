"""The interface of a pruning method: prepared once, it then removes units step by step."""

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
from secateur.plan import AUTO, Allocation, Plan, Rounding, Target, make_plan
from secateur.quantities import After
from secateur.reconstruct import LayerStatistics, Settings, layer_statistics, marginal_costs
from secateur.report.recipe import Edit
from secateur.run import Run
from secateur.types import Group, Interval, Samples
from secateur.uniform import Roles

Needs = Literal["weights", "bounds", "samples"]


@dataclass(frozen=True, eq=False)
class Task:
    """What a run gives to its method. Only the state of `run` changes.

    Attributes:
        run: The current weights and the units that are left; a method changes them with `run.apply` and
            `run.solve`.
        groups: The groups whose units may be removed.
        input_bounds: The legal range of the model's own inputs, after normalisation.
        box: The same as float32 tensors on the device of the run, one for each input.
        samples: Inputs for scoring and refitting; None unless the method needs samples or the allocation is
            global.
        original: The original's tensors by name, float64 where floating.
        generator: The random generator of the run.
        seed: Its seed.
        target: How much to remove; None for all that the method can remove.
        allocation: How the target is divided among groups.
        round_to: As for `prune`.
        recursive: As for `prune`.
    """

    run: Run
    groups: Sequence[Group]
    input_bounds: Any
    box: tuple[Interval, ...]
    samples: Samples | None
    original: Mapping[str, Tensor]
    generator: torch.Generator
    seed: int
    target: Target | None = None
    allocation: Allocation = "uniform"
    round_to: Rounding = 1
    recursive: bool = True
    memory: int = 2**30  # bytes that the run may take beside the model
    roles: Roles = field(default_factory=Roles)  # groups of one role lose units alike
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

    def _memory_of_values(self) -> int:
        """What twice the samples (others are for validation) leave of the memory; at least a quarter."""
        taken = 0 if self.samples is None else sum(x.nbytes for x in self.samples.inputs)
        return max(self.memory // 4, self.memory - 2 * taken)

    def gone(self) -> dict[str, int]:
        """The number of units removed so far, by group."""
        return {group.name: self.run.gone(group) for group in self.groups}

    def statistics(self, settings: Settings, turned: Mapping[str, Tensor] | None = None) -> LayerStatistics:
        """Statistics of the layers on the samples, for the costs of units and for refitting.

        `turned`: tensors in place of the original's, with which it computes the same.
        """
        assert self.samples is not None, "only for a method that needs samples, or a global allocation"
        return layer_statistics(
            self.graph,
            self.coupling,
            {**self.original, **(turned or {})},
            self.samples,
            self.box,
            settings,
            self.seed,
            self._memory_of_values(),
        )


@dataclass(frozen=True)
class Goal:
    """The goal of one step, by group."""

    gone: Mapping[str, int]  # units that must be removed after this step
    planned: Mapping[str, int]  # units that must be removed after the last step


class Method(ABC):
    """A pruning method. Subclasses are frozen dataclasses whose fields are the options.

    `prune` calls `prepare` once, `plan` once, and `step` for every step; what `prepare` returns is handed to
    the other two. A subclass must define `step` and `name`, a word of letters, digits, "_", "-" and "." that
    no other method has; register it in `secateur.methods.METHODS`, pass
    an instance as `prune(method=...)`, or declare an entry point in the group `secateur.methods`.

    Examples:
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
        >>> secateur.prune(model, torch.zeros(2, 4), method=Last(), remove=0.5).recipe.groups[0].kept
        (0, 1, 2, 3)
    """

    name: str
    needs: ClassVar[Needs] = "weights"  # what it uses besides the weights: bounds over the box, or samples
    # default of `remove`; "auto": the largest of a few shares that is close enough; None: all that it can
    remove: ClassVar[float | str | None] = AUTO
    lossless: ClassVar[bool] = False  # whether outputs do not change, so that a guard is not needed
    preparing: ClassVar[str] = "preparing"  # what `prepare` does, for the progress report
    cuts_streams: ClassVar[bool] = False  # whether it can remove coordinates of streams
    # whether `prepare` and `costs` return the same however much is removed, and `step` does not change it
    prepares_for_all: ClassVar[bool] = False

    @property
    def known_options(self) -> dict[str, Option]:
        """Name → default and range, for each option."""
        return options_in(type(self))

    @property
    def options_set(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        found = {name: (getattr(self, name), option.default) for name, option in self.known_options.items()}
        return {name: value for name, (value, default) in found.items() if value != default}

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """A copy with these options. Raises `InputError` for an unknown option or one out of its range."""
        found: Self = replace(self, **checked_options(self.name, self.known_options, options))  # type: ignore[type-var]
        return found

    def default_step(self, guarded: bool) -> float:
        """The default of `step`, the largest share of a group to remove in one step."""
        return 0.0625

    def most(self, task: Task) -> Mapping[str, int] | None:
        """The most units that the method can remove, by group; None for all but one."""
        return None

    def prepare(self, task: Task) -> Any:
        """Compute what `plan` and `step` need, once; `task` is not changed."""
        return None

    def tensors_of(self, state: Any) -> Mapping[str, Tensor]:
        """Tensors in `state` that a step may put into the run as they are, by name.

        A run that goes on after an interruption takes these from `prepare` again.
        """
        return {}

    def costs(self, task: Task, state: Any) -> dict[str, Tensor]:
        """For a global allocation, the cost at the outputs of removing one more unit.

        Group name → cost of the first, second, … removal, shape (units − 1,).
        """
        return marginal_costs(task.statistics(Settings()), task.run.alive)

    def plan(self, task: Task, state: Any) -> Plan:
        """How many units to remove from each group."""
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
            task.roles,
        )

    @abstractmethod
    def step(self, task: Task, state: Any, goal: Goal) -> list[Edit]:
        """Remove units with `task.run` until `goal.gone` of each group are removed; the edits in order."""
