"""Pruning end to end: one contract for every method, requests and their limits, recipes and replay."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import Dim, export

import secateur
from architectures import ARCHITECTURES
from helpers import batch_of, coupled, outputs, same_bits, snapshot
from secateur.cli.printing import print_json
from secateur.cost import macs_after, parameters_after
from secateur.errors import InputError, NothingToPruneError, RecipeError, TargetMissedError
from secateur.graph.capture import capture
from secateur.graph.graph import Graph
from secateur.graph.interpret import run
from secateur.graph.widths import not_widths
from secateur.methods import METHODS, PerGroup, options_of
from secateur.methods.batch_norm import fold, following_norms
from secateur.methods.context import Context
from secateur.methods.impact import interval_entropy, ranking
from secateur.methods.pairs import least_pairs
from secateur.plan import Target, make_plan, schedule, selected
from secateur.report.recipe import Edit, Recipe, seal_of
from secateur.types import Group, Slot

RATIOS = tuple(
    name for name, method in METHODS.items() if not method.lossless
)  # the methods that reach any ratio; for the other see test_exact.py
NETWORKS = ("mlp_relu", "cnn_batch_norm", "resnet_basic", "mobilenet", "vision_transformer", "densenet")
CONTRACT = [pytest.param(method, name, id=f"{method}-{name}") for method in RATIOS for name in NETWORKS]


def pruned(name: str, **request: Any) -> secateur.Result:
    architecture = ARCHITECTURES[name]
    return secateur.prune(architecture.build(), architecture.example(), **{"remove": 0.5, **request})


@cache
def standard(method: str, name: str) -> secateur.Result:
    """40 % of the units of every group, in two steps."""
    return pruned(name, method=method, remove=0.4, step=0.2, round_to=1, attention="heads")


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# --- the contract of every method ---------------------------------------------------------------------------


@pytest.mark.sweep
@pytest.mark.parametrize(("method", "name"), CONTRACT)
def test_reaches_the_ratio(method: str, name: str) -> None:
    result = standard(method, name)
    prunable = {group.name: group.units for group in not_widths(coupled(name)[1].prunable)}
    assert {g.group: g.units for g in result.recipe.groups} == prunable
    for group in result.recipe.groups:
        assert len(group.kept) == group.units - math.floor(0.4 * group.units)
        assert list(group.kept) == sorted(set(group.kept))
    assert parameters(result.model) == result.history[-1].parameters < parameters(ARCHITECTURES[name].build())


@pytest.mark.sweep
@pytest.mark.parametrize(("method", "name"), CONTRACT)
def test_history_has_a_row_for_each_step(method: str, name: str) -> None:
    history = standard(method, name).history
    assert [row.step for row in history] == [1, 2]
    for before, after in pairwise(history):
        assert after.parameters < before.parameters and after.macs < before.macs
        assert after.units_removed > before.units_removed and after.seconds >= before.seconds
    steps = standard(method, name).recipe.steps
    assert [(s.units_removed, s.parameters) for s in steps] == [
        (r.units_removed, r.parameters) for r in history
    ]


@pytest.mark.sweep
@pytest.mark.parametrize(("method", "name"), CONTRACT)
def test_at_most_a_step_of_a_group_leaves_at_a_time(method: str, name: str) -> None:
    units = {group.name: group.units for group in coupled(name)[1].prunable}
    for step in standard(method, name).recipe.steps:
        gone: dict[str, int] = {}
        for edit in step.edits:
            gone[edit.group] = gone.get(edit.group, 0) + len(edit.units)
        assert all(count <= math.ceil(0.2 * units[name]) for name, count in gone.items())


@pytest.mark.sweep
@pytest.mark.parametrize(("method", "name"), CONTRACT)
def test_recipe_goes_to_a_file_and_back_to_the_same_bits(method: str, name: str, tmp_path: Path) -> None:
    result = standard(method, name)
    result.recipe.save(tmp_path / "recipe.json")
    recipe = Recipe.load(tmp_path / "recipe.json")
    assert recipe == result.recipe
    model = ARCHITECTURES[name].build()
    rebuilt = secateur.replay(model, recipe)
    assert type(rebuilt).__name__ == type(result.model).__name__
    assert same_bits(snapshot(rebuilt), snapshot(result.model))


@pytest.mark.sweep
@pytest.mark.parametrize(("method", "name"), CONTRACT)
def test_same_seed_same_bits(method: str, name: str) -> None:
    again = pruned(name, method=method, remove=0.4, step=0.2, round_to=1, attention="heads")
    assert again.recipe == standard(method, name).recipe
    assert same_bits(snapshot(again.model), snapshot(standard(method, name).model))


@pytest.mark.slow
@pytest.mark.parametrize("method", RATIOS)
def test_stand_ins_are_there_when_they_are_needed(method: str) -> None:
    """Whoever leaves is present until then, and whoever stands in does not leave in the same edit."""
    for step in standard(method, "resnet_basic").recipe.steps:
        gone: dict[str, set[int]] = {}
        for edit in step.edits:
            left = gone.setdefault(edit.group, set())
            assert not left & set(edit.units) and not left & set(edit.into)
            assert not set(edit.units) & set(edit.into)
            left |= set(edit.units)
            assert -1 not in edit.into or not getattr(METHODS[method], "merges", False)


@pytest.mark.slow
def test_caller_keeps_the_model() -> None:
    model = ARCHITECTURES["resnet_basic"].build()
    before = snapshot(model)
    secateur.prune(model, ARCHITECTURES["resnet_basic"].example(), remove=0.5, method="impact", step=0.5)
    assert same_bits(before, snapshot(model)) and not model.training


@pytest.mark.slow
def test_other_seeds_may_choose_otherwise() -> None:
    options = {"temperature": 0.02, "pool": 4.0}
    chosen = {
        pruned("mlp_relu", method="stochastic", remove=0.3, step=0.3, options=options, seed=seed).recipe.steps
        for seed in range(4)
    }
    assert len(chosen) > 1


@pytest.mark.parametrize("method", ["saliency", "impact", "scale"])
def test_seeds_do_not_matter_where_nothing_is_drawn(method: str) -> None:
    assert len({pruned("mlp_relu", method=method, step=0.5, seed=seed).recipe.steps for seed in (0, 1)}) == 1


def test_cold_stochastic_takes_no_worse_pair_unless_it_must() -> None:
    """At temperature 0 a pair is accepted only where it is no worse than the last; the best of the rest fill
    up.
    """
    cold = pruned("mlp_relu", method="stochastic", remove=0.3, step=0.3, options={"temperature": 0.0}, seed=1)
    also = pruned("mlp_relu", method="stochastic", remove=0.3, step=0.3, options={"temperature": 0.0}, seed=2)
    assert cold.recipe.steps == also.recipe.steps


# --- requests -----------------------------------------------------------------------------------------------


@pytest.mark.sweep
@pytest.mark.parametrize("quantity", ["params", "macs"])
@pytest.mark.parametrize("name", ["mlp_relu", "resnet_basic", "densenet", "vgg_batch_norm"])
def test_reaches_a_size_and_not_more_than_needed(name: str, quantity: str) -> None:
    """Half of it goes, and at the next lower ratio it would not."""
    graph, coupling = coupled(name)
    groups = list(coupling.prunable)
    measure = parameters_after if quantity == "params" else macs_after

    def gone(removed: dict[str, int]) -> float:
        alive = {g.name: torch.arange(g.units) >= removed[g.name] for g in groups}
        return 1 - measure(graph, coupling, alive) / measure(graph, coupling, {})

    ratios = sorted({k / g.units for g in groups for k in range(g.units)})
    counts = [{g.name: min(math.floor(r * g.units + 1e-9), g.units - 1) for g in groups} for r in ratios]
    plan = make_plan(graph, coupling, groups, Target.parse(f"{quantity}=50%"), 1)
    least = counts.index(plan.removed)
    assert gone(counts[least]) == pytest.approx(plan.achieved) and plan.achieved >= 0.5
    assert gone(counts[least - 1]) < 0.5

    result = pruned(name, remove=f"{quantity}=50%", method="scale", step=1.0)
    assert result.history[-1].parameters == parameters(result.model)
    if quantity == "params":
        assert parameters(result.model) <= 0.5 * parameters(ARCHITECTURES[name].build())
    assert result.recipe.achieved >= 0.5 and not result.shortfall


@pytest.mark.slow
@pytest.mark.parametrize("round_to", [2, 4, 8])
def test_round_to_keeps_multiples(round_to: int) -> None:
    sizes = []
    for ratio in (0.3, 0.5, 0.7):
        result = pruned("resnet_basic", remove=ratio, method="scale", step=1.0, round_to=round_to)
        for group in result.recipe.groups:
            kept = len(group.kept)
            assert kept == group.units or kept % round_to == 0
            assert group.units - kept <= math.floor(ratio * group.units)
        sizes.append(parameters(result.model))
    assert sizes == sorted(sizes, reverse=True)


def test_shortfall_is_said() -> None:
    result = pruned("mlp_relu", remove=0.5, method="scale", round_to=8)
    assert (
        "units removed where 50.00% was asked" in result.shortfall and "a multiple of 8" in result.shortfall
    )
    assert result.recipe.shortfall == result.shortfall and result.recipe.achieved < 0.5


@pytest.mark.parametrize("pattern", ["2", "2.weight", "[23]"])
def test_ignored_layers_stay_whole(pattern: str) -> None:
    result = pruned("mlp_relu", remove=0.5, method="saliency", step=0.5, ignore=[pattern])
    assert [layer.out_features for layer in result.model[::2]] == [10, 14, 5, 5]
    assert "left whole" in result.explain()


@pytest.mark.slow
def test_ignoring_one_layer_of_a_stream_keeps_the_stream() -> None:
    result = pruned("resnet_basic", remove=0.5, method="scale", step=1.0, ignore=["1.conv2.*"])
    kept = {group.group for group in result.recipe.groups}
    assert "0.0" not in kept and "2.conv2.0" in kept
    assert result.model[0][0].out_channels == 8


@pytest.mark.parametrize(
    ("remove", "share"),
    [(0.5, 0.5), ("50%", 0.5), ("units=0.25", 0.25), (" params = 12.5 % ", 0.125), ("macs=.9", 0.9)],
)
def test_ways_to_say_how_much(remove: float | str, share: float) -> None:
    assert Target.parse(remove).share == share


@pytest.mark.parametrize(
    "remove", [0, 1, 1.5, -0.1, "0%", "100%", "half", "watts=50%", "", "params=", math.nan, True]
)
def test_no_share_at_all(remove: Any) -> None:
    with pytest.raises(InputError, match=r"give the share that goes, between 0 and 1: 0\.5, '50%'"):
        Target.parse(remove)


@pytest.mark.parametrize(
    ("request_", "error", "text"),
    [
        ({"step": 0}, InputError, "step=0: give the share of a group's units"),
        ({"step": 1.5}, InputError, "step=1.5: give the share"),
        ({"round_to": 0}, InputError, "round_to=0: give a whole number"),
        ({"method": "magic"}, InputError, "method='magic': there are reconstruct, saliency, impact"),
        (
            {"method": "saliency", "options": {"alpha": 1}},
            InputError,
            "options: saliency has no 'alpha'; it has none",
        ),
        (
            {"method": "impact", "options": {"gamma": 1}},
            InputError,
            "options: impact has no 'gamma'; it has alpha, beta, pool, bounded",
        ),
        (
            {"method": "impact", "options": {"alpha": "much"}},
            InputError,
            "options: impact: alpha='much': give a number from 0 to 1",
        ),
        (
            {"method": "impact", "options": {"alpha": 0.5}},
            InputError,
            "alpha=0.5, beta=0.25: give two weights that add up to 1",
        ),
        (
            {"method": "impact", "options": {"pool": 0.5}},
            InputError,
            "impact: pool=0.5: give a number of at least 1",
        ),
        ({"method": "scale", "options": {"norm": 3}}, InputError, "scale: norm=3: give 1 or 2"),
        ({"ignore": ["3"]}, InputError, "ignore: '3' matches no layer; `secateur inspect` lists the names"),
        ({"ignore": ["*"]}, NothingToPruneError, "no group can lose a unit: 6 \\(an output of the model\\)"),
        ({"remove": 0.01}, NothingToPruneError, "leaves no whole unit to remove in any group \\(0: 20 units"),
        ({"remove": 0.2, "round_to": 32}, NothingToPruneError, "with round_to=32 leaves no whole unit"),
        ({"remove": "params=99%"}, TargetMissedError, "99.00% of params cannot go: with one unit .* is gone"),
        (
            {"remove": 0.6, "method": "saliency", "recursive": False},
            TargetMissedError,
            "0: 12 of 20 units cannot go .* at most 10",
        ),
    ],
)
def test_refused(request_: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        pruned("mlp_relu", **request_)


def test_nothing_to_prune_names_the_reasons() -> None:
    model = nn.Sequential(nn.Linear(4, 3)).eval()
    with pytest.raises(NothingToPruneError, match=r"no group can lose a unit: 0 \(an output of the model\)"):
        secateur.prune(model, torch.randn(2, 4), remove=0.5)


@pytest.mark.slow
def test_missed_target_names_what_is_pinned() -> None:
    with pytest.raises(
        TargetMissedError, match=r"Pinned: conv, rnn\.weight_ih_l0.* \(recurrent layers stay whole \(rnn\)\)"
    ):
        pruned("lstm", remove="params=90%", method="scale")


def test_without_recursion_each_unit_takes_part_once() -> None:
    result = pruned("mlp_relu", remove=0.5, method="saliency", step=0.25, recursive=False)
    taking_part: dict[str, list[int]] = {}
    for step in result.recipe.steps:
        for edit in step.edits:
            taking_part.setdefault(edit.group, []).extend([*edit.units, *edit.into])
    for group, units in taking_part.items():
        assert len(units) == len(set(units)), group


def test_scale_knows_no_stand_ins_and_so_no_limit() -> None:
    result = pruned("mlp_relu", remove=0.8, method="scale", recursive=False)
    assert len(result.recipe.groups[0].kept) == 4


def test_callbacks_see_each_row() -> None:
    rows: list[secateur.HistoryRow] = []
    result = pruned("mlp_relu", method="saliency", step=0.125, callbacks=[rows.append])
    assert tuple(rows) == result.history and len(rows) == 4


def stopping(at: int, says: str = "") -> Callable[[secateur.HistoryRow], None]:
    def callback(row: secateur.HistoryRow) -> None:
        if row.step == at:
            raise secateur.StopPruning(says)

    return callback


@pytest.mark.sweep
@pytest.mark.parametrize("method", ["reconstruct", "saliency"])
def test_a_callback_may_stop_the_run(method: str) -> None:
    """The result is that of the step it was called for, and all callbacks hear of that step."""
    rows: list[secateur.HistoryRow] = []
    callbacks = [stopping(2, "time is up"), rows.append]
    result = pruned("mlp_relu", method=method, step=0.125, callbacks=callbacks)
    whole = pruned("mlp_relu", method=method, step=0.125)
    assert result.stopped == "by a callback: time is up"
    assert result.shortfall == "stopped after step 2: by a callback: time is up" and "time is up" in repr(
        result
    )
    assert len(rows) == 2 and tuple(rows) == result.history
    assert result.recipe.steps == whole.recipe.steps[:2]
    assert sum(p.numel() for p in result.model.parameters()) == result.after.parameters
    model = ARCHITECTURES["mlp_relu"].build()
    again = secateur.replay(model, result.recipe)
    assert all(map(torch.equal, again.parameters(), result.model.parameters()))


def test_a_stop_after_the_last_step_changes_nothing() -> None:
    result = pruned("mlp_relu", method="saliency", step=0.125, callbacks=stopping(4))
    assert result.stopped == "" and "stopped" not in result.shortfall and len(result.history) == 4
    assert pruned("mlp_relu", method="saliency", step=0.125, callbacks=stopping(3)).stopped == "by a callback"


def test_other_errors_of_callbacks_come_through() -> None:
    with pytest.raises(ZeroDivisionError):
        pruned("mlp_relu", method="saliency", callbacks=lambda row: 1 / 0)


def test_progress_is_silent_away_from_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    pruned("mlp_relu", method="saliency", progress=True)
    assert capfd.readouterr() == ("", "")


def test_one_unit_is_the_floor() -> None:
    result = pruned("mlp_relu", remove=0.999, method="saliency", step=0.3)
    assert [len(group.kept) for group in result.recipe.groups] == [1, 1, 1]


@given(
    units=st.lists(st.integers(2, 70), min_size=1, max_size=5),
    share=st.floats(0.02, 0.98),
    step=st.sampled_from([0.015625, 0.0625, 0.3, 1.0]),
)
@settings(derandomize=True, deadline=None, max_examples=60, database=None)
def test_schedule_ends_at_the_plan_and_never_jumps(units: list[int], share: float, step: float) -> None:
    groups = [Group(str(i), n, ()) for i, n in enumerate(units)]
    goal = {g.name: min(math.floor(share * g.units), g.units - 1) for g in groups}
    if not any(goal.values()):
        return
    rows = schedule(groups, goal, step)
    assert rows[-1] == goal
    for before, after in zip([dict.fromkeys(goal, 0), *rows[:-1]], rows, strict=True):
        for group in groups:
            assert 0 <= after[group.name] - before[group.name] <= math.ceil(step * group.units - 1e-9)


@pytest.mark.slow
def test_selected_leaves_out_the_pinned() -> None:
    _, coupling = coupled("vision_transformer")
    assert selected(coupling, []) == not_widths(coupling.prunable)
    assert [g.name for g in selected(coupling, ["blocks.0.*"])] == ["blocks.1.attn.qkv", "blocks.1.mlp.0"]


# --- inputs of every kind -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_exported_program() -> None:
    model, example = ARCHITECTURES["cnn_batch_norm"].build(), ARCHITECTURES["cnn_batch_norm"].example()
    program = export(model, example, dynamic_shapes=({0: Dim.AUTO},))
    result = secateur.prune(program, remove=0.4, method="saliency", step=0.2, round_to=1)
    assert isinstance(result.model, torch.fx.GraphModule)
    wanted = standard("saliency", "cnn_batch_norm").model
    inputs = batch_of(example, 3)
    torch.testing.assert_close(outputs(result.model, inputs), outputs(wanted, inputs), rtol=1e-4, atol=1e-5)
    rebuilt = secateur.replay(program, result.recipe)
    assert same_bits(snapshot(rebuilt), snapshot(result.model))


@pytest.mark.slow
@pytest.mark.parametrize("names", [("image", "table"), ("table", "image")])
def test_inputs_by_name(names: tuple[str, str]) -> None:
    model = ARCHITECTURES["two_inputs"].build()
    inputs = dict(zip(("image", "table"), ARCHITECTURES["two_inputs"].example(), strict=True))
    example = {name: inputs[name] for name in names}
    result = secateur.prune(model, example, remove=0.5, method="impact", step=0.5)
    assert result.model(**inputs).shape == (2, 5)
    assert same_bits(snapshot(secateur.replay(model, result.recipe, example)), snapshot(result.model))


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if isinstance(method, PerGroup)])
@pytest.mark.parametrize(("name", "bounds"), [("two_inputs", [(0, 1), (-2, 2)]), ("tied_embedding", (0, 18))])
def test_several_inputs_and_tokens(method: str, name: str, bounds: Any) -> None:
    result = pruned(name, method=method, step=0.5, input_bounds=bounds)
    inputs = batch_of(ARCHITECTURES[name].example(), 3)
    assert outputs(result.model, inputs)[0].shape == outputs(ARCHITECTURES[name].build(), inputs)[0].shape
    assert same_bits(
        snapshot(secateur.replay(ARCHITECTURES[name].build(), result.recipe)), snapshot(result.model)
    )


@pytest.mark.slow
def test_box_for_each_input_as_tensors() -> None:
    bounds = (torch.zeros(12), torch.ones(12))
    result = pruned("mlp_relu", step=0.5, input_bounds=bounds)
    assert result.recipe.request.input_bounds == [[0.0] * 12, [1.0] * 12]
    assert result.recipe.steps == pruned("mlp_relu", step=0.5, input_bounds=(0, 1)).recipe.steps


@pytest.mark.slow
def test_inspect_and_explain() -> None:
    coupling = secateur.inspect(
        ARCHITECTURES["vision_transformer"].build(), ARCHITECTURES["vision_transformer"].example()
    )
    assert {group.name for group in coupling.groups if group.pinned} == {"patch_embed", "head"}
    text = standard("scale", "vision_transformer").explain()
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert "pinned: layer-normed by layer_norm" in lines["patch_embed"]
    assert "pinned: an output of the model" in lines["head"]
    assert "22 → 14" in lines["blocks.0.mlp.0"] and lines["blocks.0.mlp.0"].endswith("prunable")
    assert "blocks.0.attn.qkv.weight[0]×12 | blocks.0.attn.proj.weight[1]×4" in lines["blocks.0.attn.qkv"]


@pytest.mark.slow
def test_explain_names_what_no_rule_could_label() -> None:
    text = pruned("lstm", method="scale").explain()
    assert "rnn.weight_ih_l0" in text and "pinned: recurrent layers stay whole (rnn)" in text


# --- methods by hand ----------------------------------------------------------------------------------------


def layer(incoming: list[list[float]], outgoing: list[list[float]], **state: Any) -> tuple[Context, Group]:
    """A group of units with the given incoming rows (bias last) and outgoing weights (consumer's rows)."""
    rows, readers = torch.tensor(incoming, dtype=torch.float64), torch.tensor(outgoing, dtype=torch.float64)
    index = torch.arange(len(rows))[:, None]
    slots = (
        Slot("w", 0, index, "producer"),
        Slot("b", 0, index, "producer"),
        Slot("next", 1, index, "consumer"),
    )
    group = Group("g", len(rows), slots)
    alive = state.get("alive", torch.ones(len(rows), dtype=torch.bool))
    context = Context(
        graph=coupled("mlp_relu")[0],
        weights={"w": rows[:, :-1], "b": rows[:, -1], "next": readers},
        box=(),
        generator=torch.Generator().manual_seed(0),
        alive={"g": alive},
        used={"g": state.get("used", torch.zeros(len(rows), dtype=torch.bool))},
        recursive=state.get("recursive", True),
    )
    return context, group


def test_saliency_by_hand() -> None:
    """‖W[:, a]‖² = 5, 1, 1; squared distances 1 (0–1), 13 (0–2), 14 (1–2), the bias among them."""
    context, group = layer([[0, 0, 0], [1, 0, 0], [0, 3, 2]], [[2, 0, 1], [1, 1, 0]])
    a, b, scores = least_pairs(context, group, 2)
    assert list(zip(a.tolist(), b.tolist(), scores.tolist(), strict=True)) == [(1, 0, 1.0), (2, 0, 13.0)]
    assert least_pairs(context, group, 1)[0].tolist() == [1]
    chosen = METHODS["saliency"].choose(context, group, 2)
    assert (chosen.units.tolist(), chosen.into.tolist()) == ([1, 2], [0, 0])


def twin_channels(factor: float) -> tuple[nn.Module, Tensor]:
    """Channel 3 is `factor` times channel 1, and its norm takes that back."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4, eps=0.0), nn.ReLU(), nn.Conv2d(4, 2, 1)
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in (*model.parameters(), model[1].running_mean):
            value.normal_(generator=generator)
        model[0].weight[3] = factor * model[0].weight[1]
        model[1].running_mean[3] = factor * model[1].running_mean[1]
        model[1].running_var[3] = factor**2 * model[1].running_var[1]
        for tensor in (model[1].weight, model[1].bias):
            tensor[3] = tensor[1].clone()
    return model.eval(), torch.randn(3, 2, 6, 6, generator=generator)


@pytest.mark.parametrize(("method", "factor"), [("saliency", 1.0), ("saliency", 4.0), ("impact", 1.0)])
def test_twin_channels_merge_first_at_no_loss(method: str, factor: float) -> None:
    """Saliency folds the batch norm, and so knows twins whose filters differ by a factor."""
    model, x = twin_channels(factor)
    result = secateur.prune(model, x, remove=0.25, method=method, step=1.0)
    ((edit,),) = (step.edits for step in result.recipe.steps)
    assert {*edit.units, *edit.into} == {1, 3}
    torch.testing.assert_close(outputs(result.model, (x,)), outputs(model, (x,)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["saliency", "impact"])
def test_copies_merge_first_at_no_loss(method: str) -> None:
    model = ARCHITECTURES["mlp_relu"].build()
    with torch.no_grad():
        for i, (a, b) in zip((0, 2, 4), ((3, 17), (0, 13), (4, 5)), strict=True):
            model[i].weight[a], model[i].bias[a] = model[i].weight[b].clone(), model[i].bias[b].clone()
    result = secateur.prune(model, torch.randn(2, 12), remove=0.12, method=method, step=0.05)
    first = {
        edit.group: {*edit.units, *edit.into} for step in reversed(result.recipe.steps) for edit in step.edits
    }
    assert first == {"0": {3, 17}, "2": {0, 13}, "4": {4, 5}}
    once = secateur.prune(model, torch.randn(2, 12), remove=0.05, method=method)
    x = torch.rand(50, 12)
    torch.testing.assert_close(outputs(once.model, (x,)), outputs(model, (x,)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("norm", "first"), [(1, 0), (2, 1)])
def test_scale_by_hand(norm: int, first: int) -> None:
    """L1 norms 3, 4, 9; L2 norms 3, √8, √27; biases do not count."""
    context, group = layer([[3, 0, 0, 50], [2, 2, 0, 60], [3, 3, 3, 0]], [[1, 1, 1]])
    chosen = METHODS["scale"].choose(context, group, 2, norm=norm)
    assert chosen.units.tolist() == [first, 1 - first] and chosen.into.tolist() == [-1, -1]


def test_scale_passes_over_those_that_are_gone() -> None:
    context, group = layer([[1, 0], [2, 0], [3, 0]], [[1, 1, 1]], alive=torch.tensor([False, True, True]))
    assert METHODS["scale"].choose(context, group, 1).units.tolist() == [1]


def test_interval_entropy_by_hand() -> None:
    """S₁₂ = 1, S₁₃ = S₂₃ = 1 − 5/6: shares ⅔, ⅔, ⅓. Alike: one class. Points: alike if equal."""
    lower = torch.tensor([[0.0, 0.0, 5.0], [0.0, 0.0, 0.0], [2.0, 2.0, 2.0]])
    upper = torch.tensor([[1.0, 1.0, 6.0], [10.0, 11.0, 10.5], [2.0, 2.0, 2.0]])
    wanted = -(2 * 2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    torch.testing.assert_close(
        interval_entropy(lower, upper), torch.tensor([wanted, 0.0, 0.0], dtype=torch.float64)
    )


def test_interval_entropy_is_largest_where_none_are_alike() -> None:
    lower = torch.arange(4.0)[None] * 10
    entropy = interval_entropy(lower, lower + 1)
    torch.testing.assert_close(entropy, torch.tensor([math.log(4)], dtype=torch.float64))


def test_ties_go_to_the_narrower_drift_and_then_to_the_less_salient() -> None:
    score, length = torch.tensor([1.0, 0.5, 0.5, 0.5]), torch.tensor([0.0, 3.0, 2.0, 2.0])
    assert ranking(score, length).tolist() == [2, 3, 1, 0]


def test_options_are_those_of_the_function() -> None:
    assert options_of("impact") == {"alpha": 0.75, "beta": 0.25, "pool": 2.0, "bounded": 256}
    assert options_of("saliency") == {}


# --- pairs --------------------------------------------------------------------------------------------------


def brute_force(context: Context, group: Group, count: int) -> list[tuple[int, int]]:
    """The least of all pairs that are still allowed, again and again."""
    features = torch.cat([context.weights["w"], context.weights["b"][:, None]], dim=1)
    distance = (features[:, None] - features[None]).square().sum(2)
    saliency = context.weights["next"].square().sum(0)[:, None] * distance
    alive, used = context.alive["g"], context.used["g"]
    sources = set((alive if context.recursive else alive & ~used).nonzero().flatten().tolist())
    targets = set(sources)
    chosen: list[tuple[int, int]] = []
    while len(chosen) < count:
        pairs = [(float(saliency[a, b]), a, b) for a in sources for b in targets if a != b]
        if not pairs:
            break
        _, a, b = min(pairs)
        chosen.append((a, b))
        sources -= {a, b}
        targets -= {a} if context.recursive else {a, b}
    return chosen


@given(
    seed=st.integers(0, 10_000),
    units=st.integers(1, 9),
    count=st.integers(1, 9),
    recursive=st.booleans(),
    gone=st.integers(0, 3),
    stood_in=st.integers(0, 3),
)
@settings(derandomize=True, deadline=None, max_examples=150, database=None)
def test_pairs_are_those_of_the_greedy_search(
    seed: int, units: int, count: int, recursive: bool, gone: int, stood_in: int
) -> None:
    """Nobody leaves twice, stand-ins stay, without recursion nobody takes part twice; and the search is
    exact.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator).tolist()  # noqa: E731
    order = torch.randperm(units, generator=generator)
    alive, used = torch.ones(units, dtype=torch.bool), torch.zeros(units, dtype=torch.bool)
    alive[order[:gone]] = False
    used[order[gone : gone + stood_in]] = True
    context, group = layer(draw(units, 4), draw(2, units), alive=alive, used=used, recursive=recursive)
    a, b, scores = least_pairs(context, group, count)
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == brute_force(context, group, count)
    assert scores.tolist() == sorted(scores.tolist())
    assert len(set(a.tolist())) == len(a) and not set(a.tolist()) & set(b.tolist())
    assert alive[a].all() and alive[b].all()
    if not recursive:
        assert len(set(b.tolist())) == len(b) and not used[a].any() and not used[b].any()


def test_tiles_give_the_same_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator).tolist()  # noqa: E731
    context, group = layer(draw(40, 6), draw(3, 40))
    whole = least_pairs(context, group, 20)
    monkeypatch.setattr("secateur.methods.pairs.TILE", 7)
    for mine, wanted in zip(least_pairs(context, group, 20), whole, strict=True):
        torch.testing.assert_close(mine, wanted)


# --- recipes ------------------------------------------------------------------------------------------------


def recipe() -> Recipe:
    return standard("saliency", "mlp_relu").recipe


def test_recipe_says_what_was_asked_and_what_became_of_it() -> None:
    record = json.loads(recipe().model_dump_json())
    assert record["schema_version"] == 2
    assert record["versions"].keys() == {"secateur", "torch", "python", "arithmetic"}
    assert record["inputs"] == [{"shape": [2, 12], "dtype": "float32"}]
    assert (record["request"]["remove"], record["request"]["method"]) == ("0.4", "saliency")
    assert record["model"]["parameters"] == parameters(ARCHITECTURES["mlp_relu"].build())
    assert record["groups"][0]["slots"] == ["0.weight:0", "0.bias:0", "2.weight:1"]


def test_recipe_for_other_weights_is_refused() -> None:
    model = ARCHITECTURES["mlp_relu"].build()
    with torch.no_grad():
        model[0].weight[0, 0] += 1e-6
    with pytest.raises(RecipeError, match="belongs to another model: its weights differ"):
        secateur.replay(model, recipe())


def test_recipe_for_another_graph_is_refused() -> None:
    with pytest.raises(RecipeError, match="belongs to another model: its graph differ"):
        secateur.replay(ARCHITECTURES["mlp_tanh"].build(), recipe())


def test_recipe_for_other_constants_is_refused() -> None:
    """The slope of an activation is part of the graph, though no tensor holds it."""
    layers = nn.Linear(4, 8), nn.Linear(8, 3)
    one, other = (nn.Sequential(layers[0], nn.LeakyReLU(slope), layers[1]).eval() for slope in (0.1, 0.3))
    result = secateur.prune(one, torch.randn(2, 4), remove=0.5, method="saliency")
    with pytest.raises(RecipeError, match="belongs to another model"):
        secateur.replay(other, result.recipe)


def changed(**fields: Any) -> bytes:
    return json.dumps(json.loads(recipe().model_dump_json()) | fields).encode()


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def test_numbers_that_are_not_finite_are_texts_in_a_recipe(tmp_path: Path) -> None:
    found = recipe()
    assert found.verdict is not None
    request = found.request.model_copy(
        update={"input_bounds": [-math.inf, 1.0], "guard": {"drift": math.inf}}
    )
    update = {"verdict": found.verdict.model_copy(update={"drift": math.inf}), "request": request}
    infinite = found.model_copy(update=update)
    infinite.save(tmp_path / "a.json")
    record = json.loads((tmp_path / "a.json").read_text(), parse_constant=no_constant)
    assert record["verdict"]["drift"] == "Infinity" and record["request"]["input_bounds"] == ["-Infinity", 1]
    again = Recipe.load(tmp_path / "a.json")
    assert again.verdict == infinite.verdict and again.request == request

    content = infinite.model_dump(mode="json")  # as earlier versions have written it
    content["request"]["input_bounds"] = [None, 1.0]
    old = json.dumps({**content, "seal": seal_of(content)})
    assert "Infinity," in old
    (tmp_path / "b.json").write_text(old)
    assert Recipe.load(tmp_path / "b.json").verdict == infinite.verdict


def test_json_of_commands_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"drift": math.inf, "rows": [(math.nan, 1.0)]})
    assert json.loads(capsys.readouterr().out, parse_constant=no_constant) == {
        "drift": "Infinity",
        "rows": [["NaN", 1.0]],
    }


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            changed(schema_version=4, versions={"secateur": "9.1"}),
            r"this recipe is of version 4, which is newer than this secateur \S+ reads \(up to 3\); upgrade "
            "secateur to 9.1, which wrote it, or later",
        ),
        (changed(schema_version=10**400), "newer than .* upgrade secateur to"),
        (
            changed(schema_version=0),
            "is not a recipe of version 1 to 3: schema_version: Input should be 2 or 3",
        ),
        (changed(surprise=1), "is not a recipe of version 1 to 3: surprise: Extra inputs are not permitted"),
        (changed(steps="none"), "is not a recipe of version 1 to 3: steps"),
        (b"{", "is not a recipe of version 1 to 3: the file: Invalid JSON"),
        (b"\x80\x02", "is not a recipe of version 1"),
    ],
    ids=["newer", "much_newer", "version", "extra", "steps", "cut_off", "pickle"],
)
def test_no_recipe(content: bytes, text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=text):
        Recipe.load(path)


def test_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot read .*none\.json: No such file"):
        Recipe.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("units", "into"),
    [
        ((20,), (-1,)), ((-1,), (-1,)), ((0, 0), (-1, -1)), ((0,), (0,)), ((0,), (20,)), ((0,), (1, 2)),
        (range(20), [-1] * 20),
    ],
    ids=["beyond", "negative", "twice", "into_itself", "into_nobody", "uneven", "all"],
)  # fmt: skip
def test_decisions_that_make_no_sense_are_refused(units: Any, into: Any) -> None:
    edit = Edit.model_construct(group="0", units=tuple(units), into=tuple(into))
    steps = (recipe().steps[0].model_copy(update={"edits": (edit,)}),)
    with pytest.raises(RecipeError):
        secateur.replay(ARCHITECTURES["mlp_relu"].build(), recipe().model_copy(update={"steps": steps}))


def test_a_group_that_the_model_does_not_have() -> None:
    edit = Edit(group="nowhere", units=(0,), into=(1,))
    steps = (recipe().steps[0].model_copy(update={"edits": (edit,)}),)
    with pytest.raises(RecipeError, match="names the group 'nowhere', which the model cannot prune"):
        secateur.replay(ARCHITECTURES["mlp_relu"].build(), recipe().model_copy(update={"steps": steps}))


def test_a_pinned_group_cannot_be_cut_by_a_recipe() -> None:
    edit = Edit(group="6", units=(0,), into=(1,))
    steps = (recipe().steps[0].model_copy(update={"edits": (edit,)}),)
    with pytest.raises(RecipeError):
        secateur.replay(ARCHITECTURES["mlp_relu"].build(), recipe().model_copy(update={"steps": steps}))


def normed_twins() -> tuple[nn.Module, Graph]:
    """Units 0 and 1 of the first layer are the same function, but for scales that the batch norm takes
    back.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).eval()
    linear, norm = model[0], model[1]
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
        norm.weight.uniform_(0.5, 2.0)
        norm.bias.normal_()
        linear.weight[1], linear.bias[1] = 4 * linear.weight[0], 4 * linear.bias[0]
        norm.running_mean[1], norm.running_var[1] = (
            4 * norm.running_mean[0],
            16 * (norm.running_var[0] + norm.eps),
        )
        norm.running_var[1] -= norm.eps
        norm.weight[1], norm.bias[1] = norm.weight[0], norm.bias[0]
    return model, capture(model, torch.rand(2, 6))


def test_folding_norms_leaves_the_function() -> None:
    _, graph = normed_twins()
    x = torch.randn(20, 6, dtype=torch.float64)
    tensors = {name: tensor.double() for name, tensor in graph.tensors.items() if tensor.is_floating_point()}
    (expected,), (found,) = run(graph, [x]), run(graph, [x], fold(tensors, following_norms(graph)))
    assert torch.allclose(expected, found, atol=1e-12)


@pytest.mark.parametrize("method", ["saliency", "impact"])
def test_twins_behind_a_norm_merge_first_and_cost_nothing(method: str) -> None:
    model, _ = normed_twins()
    result = secateur.prune(model, torch.rand(2, 6), remove=0.2, method=method)
    (edit,) = result.recipe.steps[0].edits
    assert {*edit.units, *edit.into} == {0, 1}
    x = torch.rand(50, 6)
    assert torch.allclose(result.model(x), model(x), atol=1e-5)


@pytest.mark.sweep
@pytest.mark.parametrize("method", ["reconstruct", "saliency", "impact"])
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_recurrent_networks_in_float64(name: str, method: str) -> None:
    architecture = ARCHITECTURES[name]
    model, (x,) = architecture.build().double(), architecture.example()
    result = secateur.prune(model, x.double(), method=method, remove=0.4, samples=48, surrogate="uniform")
    assert result.history[-1].parameters < result.before.parameters
    assert result.model(x.double()).dtype == torch.float64
