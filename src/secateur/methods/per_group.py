"""Methods that treat each group separately: functions (context, group, count) → `Removal`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from secateur.arguments import shown
from secateur.errors import InputError, SecateurError, TargetMissedError, few
from secateur.methods.context import Context
from secateur.methods.protocol import Goal, Method, Task
from secateur.options import Option, checked_options, options_in
from secateur.report.recipe import Edit
from secateur.types import Group, Removal

Choose = Callable[..., Removal]  # (context, group, count, **options)


@dataclass(frozen=True)
class PerGroup(Method):
    """A method made of a function `choose(context, group, count, **options)` → `Removal`.

    The function chooses at most `count` units of the group to remove, and the units that absorb them.
    """

    name: str
    choose: Choose
    needs: Literal["weights", "bounds"] = "weights"  # type: ignore[misc]
    merges: bool = False  # whether each unit that leaves is merged into one that stays
    wrong: Callable[[Mapping[str, Any]], str] | None = None  # why options do not fit each other, or ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def known_options(self) -> dict[str, Option]:
        return options_in(self.choose)

    @property
    def options_set(self) -> dict[str, Any]:
        return dict(self.options)

    def with_options(self, options: Mapping[str, Any]) -> Self:
        given = checked_options(self.name, self.known_options, options)
        defaults = {name: option.default for name, option in self.known_options.items()}
        if self.wrong is not None and (said := self.wrong(defaults | given)):
            raise InputError(f"options: {self.name}: {said}")
        return replace(self, options=given)

    def most(self, task: Task) -> Mapping[str, int] | None:
        """Half of a group, if each unit takes part in one merge at most."""
        if task.recursive or not self.merges:
            return None
        return {group.name: group.units // 2 for group in task.groups}

    def step(self, task: Task, state: Any, goal: Goal) -> list[Edit]:
        return self.advance(task, task.groups, goal)

    def advance(self, task: Task, groups: Sequence[Group], goal: Goal) -> list[Edit]:
        """Remove units until `groups` are at their goals; the edits in order."""
        return [edit for group in groups for edit in self._reduced(task, group, goal)]

    def _check(self, removal: Any, group: Group, need: int) -> None:
        """Raise `SecateurError` for what is no removal of at most `need` units of the group."""
        where = f"{group.name}: the method {self.name} returned"
        if not isinstance(removal, Removal):
            raise SecateurError(f"{where} a {type(removal).__name__}; give a secateur.methods.Removal")
        if removal.group != group.name:
            raise SecateurError(
                f"{where} a removal of {removal.group!r}; give the units of the group it was asked for"
            )
        for name in ("units", "into"):
            value = getattr(removal, name)
            if not isinstance(value, Tensor) or value.dtype != torch.int64 or value.ndim != 1:
                raise SecateurError(f"{where} {name}={shown(value)}; give an int64 tensor of shape (k,)")
        if len(removal.units) > need:
            raise SecateurError(f"{where} {len(removal.units)} units where at most {need} were asked for")

    def _reduced(self, task: Task, group: Group, goal: Goal) -> list[Edit]:
        run, edits = task.run, list[Edit]()
        while (need := goal.gone[group.name] - run.gone(group)) > 0:
            context = Context(
                graph=run.graph,
                weights=run.weights,
                box=task.box,
                generator=task.generator,
                alive=run.alive,
                used=run.used,
                recursive=task.recursive,
                progress=run.gone(group) / goal.planned[group.name],
                norms=task.norms,
            )
            before = {name: weight._version for name, weight in run.weights.items()}
            removal = self.choose(context, group, need, **self.options)
            self._check(removal, group, need)
            changed = [name for name, weight in run.weights.items() if weight._version != before[name]]
            if changed:
                raise SecateurError(
                    f"the method {self.name} changed {few(changed)} of context.weights in place; return new "
                    "values "
                    "in Removal.weights"
                )
            if not len(removal.units):
                raise TargetMissedError(
                    f"{group.name}: {self.name} finds {len(removal.units)} units to remove where {need} are "
                    f"needed, with {run.gone(group)} of {group.units} units gone; use recursive=True or "
                    "remove less"
                )
            edits.append(run.apply(group, removal))
        return edits
