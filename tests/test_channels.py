"""Rounding to numbers of channels that runtimes compute fast: which groups, to what, and how far from the
request.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import secateur
from helpers import same_bits, snapshot
from secateur.channels import aligned_units, block_units, kept_counts
from secateur.errors import InputError, TargetMissedError
from secateur.graph.capture import capture
from secateur.graph.coupling import Coupling, couple
from secateur.graph.graph import Graph
from secateur.plan import AUTO, Target, make_plan, schedule
from secateur.rounded import SLACK, SLACK_OF_ALL, rounded_removal
from secateur.types import Group

# --- which groups are rounded -------------------------------------------------------------------------------


class Grouped(nn.Sequential):
    def __init__(self, groups: int, per_group: int) -> None:
        wide = groups * per_group
        super().__init__(
            nn.Conv2d(3, wide, 1), nn.Conv2d(wide, wide, 3, padding=1, groups=groups), nn.Conv2d(wide, 4, 1)
        )


class Concatenated(nn.Module):
    """Three narrow values, read together by a convolution of 24 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Conv2d(3, 8, 1) for _ in range(3))
        self.out = nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Any:
        return self.out(torch.cat([part(x) for part in self.parts], dim=1))


class Shuffled(nn.Sequential):
    """A unit after the pixel shuffle is four channels before it."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 64, 1), nn.PixelShuffle(2), nn.Conv2d(16, 4, 1))


IMAGE = torch.rand(2, 3, 4, 4)
BLOCKS = {
    "plain": (lambda: nn.Sequential(nn.Conv2d(3, 64, 1), nn.Conv2d(64, 32, 1), nn.Conv2d(32, 4, 1)), IMAGE, [16, 16]),
    "depthwise": (
        lambda: nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 3, groups=32), nn.Conv2d(32, 4, 1)), IMAGE, [16],
    ),
    "groups as wide as blocks": (lambda: Grouped(2, 32), IMAGE, [16, 16]),
    "many narrow groups: every unit is 32 channels": (lambda: Grouped(32, 4), IMAGE, [1, 1]),
    "concatenated": (Concatenated, IMAGE, [16, 16, 16]),
    "pixel shuffle": (Shuffled, IMAGE, [16]),
    "narrower than a block": (lambda: nn.Sequential(nn.Conv2d(3, 15, 1), nn.Conv2d(15, 4, 1)), IMAGE, [1]),
    "flattened, then dense": (
        lambda: nn.Sequential(nn.Conv2d(3, 16, 1), nn.Flatten(), nn.Linear(256, 40), nn.Linear(40, 4)), IMAGE, [16, 1],
    ),
    "dense": (lambda: nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4)), torch.rand(2, 8), [1]),
    "one dimension": (lambda: nn.Sequential(nn.Conv1d(3, 32, 1), nn.Conv1d(32, 4, 1)), torch.rand(2, 3, 5), [1]),
}  # fmt: skip


@pytest.mark.parametrize("name", BLOCKS)
def test_units_that_fill_a_block(name: str) -> None:
    build, example, blocks = BLOCKS[name]
    graph = capture(build().eval(), example)
    coupling = couple(graph)
    found = block_units(graph, coupling)
    assert [found[group.name] for group in coupling.prunable] == blocks


@pytest.mark.parametrize(
    ("units", "block", "counts"),
    [
        (64, 16, [64, 48, 32, 16, 8, 4, 2, 1]),
        (50, 16, [50, 48, 32, 16, 8, 4, 2, 1]),
        (32, 16, [32, 16, 8, 4, 2, 1]),
        (24, 16, [24, 16, 8, 4, 2, 1]),
        (16, 16, [16, 8, 4, 2, 1]),
        (12, 16, [12, 8, 4, 2, 1]),
        (8, 16, [8, 4, 2, 1]),
        (3, 16, [3, 2, 1]),
        (9, 4, [9, 8, 4, 2, 1]),
        (5, 1, [5, 4, 3, 2, 1]),
    ],
)
def test_numbers_that_a_group_may_keep(units: int, block: int, counts: list[int]) -> None:
    assert kept_counts(units, block) == counts


# --- how many units leave -----------------------------------------------------------------------------------


def removal(
    units: list[int],
    wanted: float,
    blocks: list[int] | None = None,
    gone: dict[str, int] | None = None,
    most: dict[str, int] | None = None,
) -> dict[str, int]:
    """The removal of a share of the units of groups of these sizes, in blocks of 16 unless told."""
    groups = [Group(str(i), n, ()) for i, n in enumerate(units)]
    sizes = dict(zip((g.name for g in groups), blocks or [16] * len(units), strict=True))
    prices = {g.name: torch.arange(1, g.units, dtype=torch.float64) / g.units for g in groups}
    return rounded_removal(
        groups, sizes, prices, lambda r: sum(r.values()) / sum(units), wanted, gone or {}, most or {}
    )


def kept(units: list[int], wanted: float, **more: Any) -> list[int]:
    return [n - gone for n, gone in zip(units, removal(units, wanted, **more).values(), strict=True)]


@pytest.mark.parametrize(
    ("units", "wanted", "counts"),
    [
        ([64] * 5, 0.3, [32, 48, 48, 48, 48]),  # 30 % exactly, where each alone would have kept 48: 25 %
        ([64, 64], 0.25, [48, 48]),
        ([64], 0.25, [48]),
        ([64], 0.3, [40]),  # 32 would be 50 %: too much more; 40 is rounder than 44 and 41
        ([64], 0.01, [63]),  # half as much again as asked would be one unit, if units were so small
        ([8, 16, 32, 64], 0.5, [4, 8, 16, 32]),
        ([8], 0.5, [4]),
        ([16], 0.5, [8]),
        ([48], 0.5, [24]),
        ([64], 0.99, [1]),
        ([64], 0.999, [1]),
    ],
)
def test_by_hand(units: list[int], wanted: float, counts: list[int]) -> None:
    assert kept(units, wanted) == counts


def test_dense_units_make_up_for_what_blocks_leave() -> None:
    assert kept([64, 128], 0.3, blocks=[16, 1]) == [
        48,
        86,
    ]  # 58 of 192; 0.3 of the dense ones alone would be 38


def test_units_that_are_gone_count() -> None:
    assert removal([64, 64], 0.25, gone={"0": 20}) == {"0": 20, "1": 16}
    assert removal([64], 0.25, gone={"0": 30}) == {"0": 30}


few = settings(derandomize=True, deadline=None, max_examples=60, database=None)
sizes = st.lists(st.tuples(st.integers(2, 200), st.sampled_from([1, 4, 16])), min_size=1, max_size=6)


@pytest.mark.slow
@few
@given(groups=sizes, wanted=st.floats(0.01, 0.95))
def test_reaches_the_request_and_not_much_more(groups: list[tuple[int, int]], wanted: float) -> None:
    """At most half as much again, and a tenth of the whole, unless a unit less would not reach."""
    units, blocks = map(list, zip(*groups, strict=True))
    removed = removal(units, wanted, blocks).values()
    share = sum(removed) / sum(units)
    if share < wanted - 1e-9:
        assert list(removed) == [n - 1 for n in units]
    else:
        assert share <= wanted + min(SLACK * wanted, SLACK_OF_ALL) + 1e-6 or share - 1 / sum(units) < wanted


@few
@given(groups=sizes, one=st.floats(0.01, 0.95), other=st.floats(0.01, 0.95))
def test_a_larger_request_never_leaves_a_group_larger(
    groups: list[tuple[int, int]], one: float, other: float
) -> None:
    units, blocks = map(list, zip(*groups, strict=True))
    less, more = (removal(units, wanted, blocks) for wanted in sorted((one, other)))
    assert all(more[name] >= less[name] for name in less)


@few
@given(groups=sizes, wanted=st.floats(0.05, 0.9))
def test_all_groups_but_one_keep_what_they_may(groups: list[tuple[int, int]], wanted: float) -> None:
    units, blocks = map(list, zip(*groups, strict=True))
    odd = [
        count not in kept_counts(n, block)
        for n, block, count in zip(units, blocks, kept(units, wanted, blocks=blocks), strict=True)
    ]
    assert sum(odd) <= 1


# --- whole runs ---------------------------------------------------------------------------------------------


def wide(width: int = 64, blocks: int = 4) -> nn.Sequential:
    """Depthwise and 1×1 convolutions of one width."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
    for _ in range(blocks):
        layers += [
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4)).eval()


@cache
def graph_of_wide() -> tuple[Graph, Coupling]:
    graph = capture(wide(), IMAGE)
    return graph, couple(graph)


@pytest.mark.parametrize("quantity", ["units", "params", "macs"])
def test_plans_reach_and_never_fall_back(quantity: str) -> None:
    graph, coupling = graph_of_wide()
    groups = list(coupling.prunable)
    before = dict.fromkeys((g.name for g in groups), 0)
    for share in (0.02, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9):
        plan = make_plan(graph, coupling, groups, Target(quantity, share), AUTO)
        assert share <= plan.achieved + 1e-9 and plan.achieved <= share + min(share / 2, 0.1) + 1e-9
        assert all(plan.removed[name] >= before[name] for name in before) and not plan.shortfall
        before = plan.removed


def test_what_cannot_be_met() -> None:
    graph, coupling = graph_of_wide()
    groups = list(coupling.prunable)
    with pytest.raises(
        TargetMissedError, match=r"99\.99% of params cannot go: with one unit .* in every group"
    ):
        make_plan(graph, coupling, groups, Target("params", 0.9999), AUTO)
    plan = make_plan(graph, coupling, groups, Target("units", 0.999), AUTO)
    assert (
        set(plan.removed.values()) == {63} and "each group keeps whole units, at least one" in plan.shortfall
    )


def test_costs_decide_which_blocks_leave() -> None:
    """With a price for each unit, the group whose units cost nothing goes first; one without costs stays
    whole.
    """
    graph, coupling = graph_of_wide()
    groups = list(coupling.prunable)
    costs = {g.name: torch.full((63,), 1.0 + n, dtype=torch.float64) for n, g in enumerate(groups[:-1])}
    plan = make_plan(graph, coupling, groups, Target("units", 0.29), AUTO, costs)
    assert [64 - plan.removed[g.name] for g in groups] == [1, 32, 64, 64, 64]
    with pytest.raises(TargetMissedError):
        make_plan(graph, coupling, groups, Target("units", 0.9), AUTO, costs)


def test_half_of_a_group_is_the_most_where_units_stand_in_once() -> None:
    assert removal([12, 64], 0.5) == {"0": 8, "1": 32}
    assert removal([12, 64], 0.5, most={"0": 6, "1": 32}) == {"0": 6, "1": 32}
    graph, coupling = graph_of_wide()
    groups, half = list(coupling.prunable), {g.name: 32 for g in coupling.prunable}
    beyond = make_plan(graph, coupling, groups, Target("units", 0.6), AUTO, most=half)
    assert max(beyond.removed.values()) > 32  # then `prune` says that it cannot be


def test_steps_on_the_way_keep_multiples() -> None:
    assert [aligned_units(block) for block in (16, 8, 4, 2, 1)] == [4, 2, 1, 1, 1]
    groups = [Group("a", 64, ()), Group("b", 100, ()), Group("c", 10, ())]
    rows = schedule(groups, {"a": 32, "b": 52, "c": 5}, 0.125, {"a": 16, "b": 16})
    assert rows == [
        {"a": 0, "b": 4, "c": 1},
        {"a": 16, "b": 20, "c": 2},
        {"a": 16, "b": 36, "c": 3},
        {"a": 32, "b": 36, "c": 5},
        {"a": 32, "b": 52, "c": 5},
    ]


@cache
def third(round_to: Any = AUTO) -> secateur.Result:
    return secateur.prune(wide(), IMAGE, remove=0.3, method="scale", step=1.0, round_to=round_to)


def counts(result: secateur.Result) -> list[int]:
    return [len(group.kept) for group in result.recipe.groups]


@pytest.mark.slow
def test_rounding_is_the_default_and_its_recipe_replays(tmp_path: Path) -> None:
    result = secateur.prune(wide(), IMAGE, remove=0.3, method="scale", step=1.0)
    assert counts(result) == counts(third()) == [32, 48, 48, 48, 48]
    assert result.recipe.request.round_to == "auto" and not result.shortfall
    result.recipe.save(tmp_path / "recipe.json")
    recipe = secateur.Recipe.load(tmp_path / "recipe.json")
    assert recipe == result.recipe
    assert same_bits(snapshot(secateur.replay(wide(), recipe)), snapshot(result.model))


@pytest.mark.slow
def test_numbers_round_as_ever() -> None:
    assert counts(third(1)) == [45] * 5 and "29.69% of units removed" in third(1).shortfall
    assert counts(third(16)) == [48] * 5 and "a multiple of 16" in third(16).shortfall


@pytest.mark.parametrize(("round_to", "multiple"), [(AUTO, 4), (8, 8), (1, 1)])
def test_a_guard_stops_on_multiples(round_to: Any, multiple: int) -> None:
    """Wherever the budget ends the run: not off the blocked layout, and on multiples where those were
    asked.
    """
    looks: Any = {"samples": 16, "surrogate": "uniform", "guard": {"drift": 0.045}}
    result = secateur.prune(wide(), IMAGE, remove=0.9, step=0.05, method="scale", round_to=round_to, **looks)
    assert result.stopped and all(count % multiple == 0 for count in counts(result))
    assert (multiple == 1) == any(count % 4 for count in counts(result))


def test_exact_takes_all_that_is_free() -> None:
    model = wide(blocks=1)
    with torch.no_grad():
        model[0].bias[:5] = -100.0
    found = counts(secateur.prune(model, IMAGE, method="exact"))
    assert found == counts(secateur.prune(model, IMAGE, method="exact", round_to=1)) and found[0] <= 59


@pytest.mark.parametrize("round_to", ["often", "16", 0, -4, 2.5, True, None])
def test_no_way_to_round(round_to: Any) -> None:
    with pytest.raises(InputError, match=r"round_to=.*: give a whole number of units, at least 1, or 'auto'"):
        secateur.prune(wide(8, 1), IMAGE, remove=0.5, round_to=round_to)


def as_onnx(model: nn.Module) -> Any:
    """The convolutions of a chain, and what stands between them."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, value = [], [], "x"
    for number, layer in enumerate(m for m in model.children() if isinstance(m, nn.Conv2d | nn.ReLU)):
        inputs, attributes = [value], {}
        for name, tensor in layer.named_parameters():
            inputs.append(f"{name}{number}")
            weights.append(numpy_helper.from_array(tensor.detach().numpy(), inputs[-1]))
        if isinstance(layer, nn.Conv2d):
            attributes = {"group": layer.groups, "pads": [*layer.padding, *layer.padding]}
        value = f"y{number}"
        nodes.append(
            helper.make_node("Conv" if weights and attributes else "Relu", inputs, [value], **attributes)
        )
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, n, 4, 4])
        for name, n in (("x", 3), (value, None))
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def test_onnxruntime_keeps_its_blocked_layout(tmp_path: Path) -> None:
    """Off multiples of four it would run convolutions in the plain layout, two to four times as long."""
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")

    def plain(model: nn.Module) -> int:
        options, path = ort.SessionOptions(), str(tmp_path / "optimised.onnx")
        options.optimized_model_filepath, options.log_severity_level = path, 4
        ort.InferenceSession(as_onnx(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(path).graph.node
        return sum("Conv" in node.op_type and node.domain != "com.microsoft.nchwc" for node in nodes)

    if plain(wide()):
        pytest.skip("this processor has no blocked layout")
    assert plain(third().model) == 0
    assert plain(third(1).model) > 0
