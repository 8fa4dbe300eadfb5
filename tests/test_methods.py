"""Methods as objects: a user's own, as an object, a function or an entry point; what the framework checks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur
from secateur import methods
from secateur.errors import InputError, SecateurError
from secateur.methods import METHODS, Context, Goal, Method, PerGroup, Removal, Task
from secateur.options import Share
from secateur.report.recipe import Edit, Recipe, refitted_path, seal_of
from secateur.types import Group


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


def pruned(**settings: Any) -> secateur.Result:
    settings = {"normalize": "none", "remove": 0.5} | settings
    return secateur.prune(network(), torch.zeros(2, 6), **settings)


def first(context: Context, group: Group, count: int, *, skip: int = 0) -> Removal:
    """The first units that are left, without compensation."""
    units = context.alive[group.name].nonzero().flatten()[skip : skip + count]
    return Removal(group.name, units, torch.full_like(units, -1))


@dataclass(frozen=True)
class Last(Method):
    """The last units go; `share` of what was asked, to see that the framework notices."""

    share: Share = 1.0
    name = "last"

    def prepare(self, task: Task) -> list[str]:
        return [group.name for group in task.groups]

    def step(self, task: Task, state: list[str], goal: Goal) -> list[Edit]:
        assert state == [group.name for group in task.groups]
        edits = []
        for group in task.groups:
            need = round(self.share * (goal.gone[group.name] - task.run.gone(group)))
            units = task.run.alive[group.name].nonzero().flatten().flip(0)[:need]
            edits.append(task.run.apply(group, Removal(group.name, units, torch.full_like(units, -1))))
        return edits


def test_a_function_is_a_method() -> None:
    result = pruned(method=first, remove=0.25)
    assert result.recipe.groups[0].kept == tuple(range(4, 16)) and len(result.history) == 4
    assert result.recipe.request.method == "first" and result.recipe.request.options == {}
    skipped = pruned(method=first, options={"skip": 1}, remove=0.25)
    assert skipped.recipe.groups[0].kept == (0, *range(5, 16)) and skipped.recipe.request.options == {
        "skip": 1
    }


@pytest.mark.parametrize("method", [Last(), Last])
def test_an_object_or_its_class_is_a_method(method: Any) -> None:
    result = pruned(method=method, remove=0.5, step=0.25)
    assert result.recipe.groups[0].kept == tuple(range(8)) and len(result.history) == 2
    assert torch.equal(
        secateur.replay(network(), result.recipe)(torch.ones(1, 6)), result.model(torch.ones(1, 6))
    )


def test_options_of_an_object_are_recorded_and_checked() -> None:
    assert pruned(
        method=METHODS["reconstruct"].with_options({"ridge": 0.1}), samples=32
    ).recipe.request.options == {"ridge": 0.1}
    with pytest.raises(InputError, match="options: last: share=2: give a number from 0 to 1"):
        pruned(method=Last(), options={"share": 2})
    with pytest.raises(InputError, match="options: last has no 'sheer'; it has share"):
        pruned(method=Last(), options={"sheer": 2})


def test_a_method_that_misses_its_goal_is_named() -> None:
    with pytest.raises(SecateurError, match=r"0: the method last has removed 4 units .* goal was 8"):
        pruned(method=Last(), options={"share": 0.5}, step=1.0)
    with pytest.raises(SecateurError, match=r"first finds 0 units to remove where 8 are needed"):
        pruned(method=first, options={"skip": 99}, step=1.0)


def test_an_installed_package_may_declare_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = (EntryPoint("last", f"{__name__}:Last", methods.ENTRY_POINTS),)
    monkeypatch.setattr(methods, "_declared", lambda: declared)
    assert methods.method_names()[-1] == "last" and isinstance(methods.method_named("last"), Last)
    assert pruned(method="last", remove=0.5).recipe.groups[0].kept == tuple(range(8))


@pytest.mark.parametrize("method", ["nope", 3, None, len, nn.ReLU])
def test_what_is_no_method_is_refused(method: Any) -> None:
    with pytest.raises(InputError, match=r"method=.*(there are|give one of) reconstruct, saliency"):
        pruned(method=method)


@pytest.mark.parametrize("name", ["", "my method", "a\x1b[2J", "a\nb", "Größe", "-o", "9", "x" * 65, 3, None])
def test_a_name_of_a_method_is_a_plain_word(name: Any) -> None:
    with pytest.raises(InputError, match=r"method: the name of the PerGroup is .*; it must have up to 64"):
        pruned(method=PerGroup(name, first))


def test_a_method_needs_a_name() -> None:
    class Nameless(Last):
        name = None  # type: ignore[assignment]

    with pytest.raises(InputError, match="the name of the Nameless is None"):
        pruned(method=Nameless)


def test_names_of_our_own_methods_are_taken() -> None:
    with pytest.raises(InputError, match="'saliency' is the name of a method of secateur itself"):
        pruned(method=PerGroup("saliency", first))
    own = METHODS["saliency"]
    assert isinstance(own, PerGroup)
    for method in (own, own.choose):
        assert pruned(method=method, remove=0.25).recipe.request.method == "saliency"


def test_a_lambda_is_a_custom_method() -> None:
    result = pruned(method=lambda context, group, count: first(context, group, count), remove=0.25)
    assert result.recipe.request.method == "custom"


@pytest.mark.parametrize(
    "name", [n for n, m in METHODS.items() if isinstance(m, PerGroup) and m.needs == "weights"]
)
def test_a_method_that_needs_weights_alone_looks_at_no_bounds(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(context: Context) -> None:
        raise AssertionError("bounds")

    monkeypatch.setattr(Context, "values", property(refuse))
    pruned(method=name, remove=0.25, step=1.0)


def test_the_request_is_what_the_recipe_records() -> None:
    given = {"remove": "50%", "samples": 64, "seed": 3, "options": {"ridge": 0.5}, "round_to": 2}
    recorded = pruned(**given).recipe.request
    assert (recorded.remove, recorded.samples, recorded.seed) == ("50%", 64, 3)
    assert (recorded.method, recorded.options, recorded.step) == ("reconstruct", {"ridge": 0.5}, 1.0)


def test_a_recipe_of_version_1_is_read(tmp_path: Path) -> None:
    recipe = pruned(samples=32).recipe
    content = recipe.model_dump(mode="json")
    used = content.pop("used")
    old = {**content, "schema_version": 1, "request": {**content["request"], **used}}
    path = tmp_path / "old.recipe.json"
    path.write_text(json.dumps({**old, "seal": seal_of(old)}))
    refitted_path(path).write_bytes(recipe.tensors)
    read = Recipe.load(path)
    assert read.used == recipe.used and read.steps == recipe.steps
    assert torch.equal(
        secateur.replay(network(), read)(torch.ones(1, 6)),
        secateur.replay(network(), recipe)(torch.ones(1, 6)),
    )


RETURNED: dict[str, tuple[Any, str]] = {
    "nothing": (lambda c, g, n: None, "returned a NoneType; give a secateur.methods.Removal"),
    "a list": (lambda c, g, n: [], "returned a list"),
    "another group": (lambda c, g, n: Removal("2", torch.tensor([0]), torch.tensor([-1])), "removal of '2'"),
    "no tensor": (lambda c, g, n: Removal(g.name, [0], torch.tensor([-1])), r"returned units=\[0\]"),
    "floats": (lambda c, g, n: Removal(g.name, torch.zeros(1), torch.tensor([-1])), "give an int64 tensor"),
    "too many": (lambda c, g, n: first(c, g, n + 3), "units where at most"),
    "changed weights": (
        lambda c, g, n: (c.weights["2.weight"].zero_(), first(c, g, n))[1],
        r"changed 2\.weight of context\.weights in place",
    ),
}


@pytest.mark.parametrize("case", RETURNED)
def test_what_a_function_returns_is_checked(case: str) -> None:
    function, message = RETURNED[case]
    with pytest.raises(SecateurError, match=message):
        pruned(method=function)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (lambda edits: [], "returned edits of 0 units but removed 8"),
        (lambda edits: edits + edits, "returned edits of 16 units but removed 8"),
        (lambda edits: None, "returned a NoneType"),
    ],
)
def test_edits_that_a_step_returns_are_those_that_it_applied(told: Any, message: str) -> None:
    class Teller(Last):
        def step(self, task: Task, state: list[str], goal: Goal) -> Any:
            return told(super().step(task, state, goal))

    with pytest.raises(SecateurError, match=message):
        pruned(method=Teller(), step=1.0)
