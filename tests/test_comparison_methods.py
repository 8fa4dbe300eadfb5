"""Comparison methods from the literature: by hand, exact where they must be, and on every kind of group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from architectures import ARCHITECTURES
from helpers import batch_of, coupled, doubled, outputs, same_bits, snapshot
from secateur.compensate import combined, merged
from secateur.errors import InputError
from secateur.graph.graph import Graph
from secateur.graph.interpret import run as forward
from secateur.methods import METHODS
from secateur.methods.batch_norm import Norm, following_norms
from secateur.methods.context import Context
from secateur.methods.folding import gain, k_means
from secateur.run import Run
from secateur.types import Group, Removal, Slot

OURS = ("scaled_merging", "folding", "ridge")
EXACT: dict[str, dict[str, float]] = {"scaled_merging": {}, "folding": {}, "ridge": {"lambda2": 0.0}}
# residual streams, norms before and behind, maps, depthwise and grouped layers, heads, ties, half precision
KINDS = (
    "mlp_residual mlp_float16 highway tied_linear swiglu_fused cnn_view cnn_instance_norm vgg_batch_norm "
    "resnet_preactivation resnext mobilenet densenet unet_transposed attention_fused vision_transformer"
).split()


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer(
    filters: Sequence[Any],
    bias: Sequence[float] | None = None,
    outgoing: Any = None,
    norm: Mapping[str, Sequence[float]] | None = None,
    alive: Sequence[bool] | None = None,
    seed: int = 0,
) -> tuple[Context, Group]:
    """One layer of units, with a batch norm behind it or none, and one layer that reads it."""
    weights = {"w": torch.tensor(filters, dtype=torch.float64)}
    units = len(filters)
    if bias is not None:
        weights["b"] = torch.tensor(bias, dtype=torch.float64)
    weights |= {name: torch.tensor(value, dtype=torch.float64) for name, value in (norm or {}).items()}
    roles = {name: "producer" if name in ("w", "b") else "through" for name in weights}
    weights["next"] = (
        torch.eye(units, dtype=torch.float64) if outgoing is None else torch.as_tensor(outgoing).double()
    )
    index = torch.arange(units)[:, None]
    slots = [Slot(name, 0, index, role) for name, role in roles.items()] + [
        Slot("next", 1, index, "consumer")
    ]
    found = Norm(0, "b" if bias is not None else None, "scale", "shift", "mean", "variance", 0.0)
    context = Context(
        graph=coupled("tied_linear")[0],
        weights=weights,
        box=(),
        generator=drawn(seed),
        alive={"g": torch.tensor(alive or [True] * units)},
        used={"g": torch.zeros(units, dtype=torch.bool)},
        recursive=True,
        norms={"w": found} if norm else {},
    )
    return context, Group("g", units, tuple(slots))


def after(context: Context, group: Group, removal: Removal) -> dict[str, Tensor]:
    """All tensors once the removal is applied."""
    tensors = {**context.weights, **removal.weights}
    return tensors | merged(tensors, group, removal)


# --- coefficients for consumers -----------------------------------------------------------------------------


def test_combination_by_hand() -> None:
    """Two units go, two take over; each has two positions, and a second consumer is a convolution with
    taps.
    """
    flat = torch.arange(8.0, dtype=torch.float64)[None]  # unit u has columns 2u and 2u + 1
    taps = torch.arange(4.0, dtype=torch.float64)[None, :, None] + torch.tensor([0.0, 0.5])
    slots = (
        Slot("flat", 1, torch.arange(8).reshape(4, 2), "consumer"),
        Slot("taps", 1, torch.arange(4)[:, None], "consumer"),
        Slot("own", 0, torch.arange(4)[:, None], "producer"),
    )
    tensors = {"flat": flat, "taps": taps, "own": torch.ones(4)}
    c = torch.tensor([[1.0, -1.0], [0.0, 2.0]], dtype=torch.float64)  # of units 0 and 3, to units 1 and 2
    new = combined(tensors, Group("g", 4, slots), torch.tensor([0, 3]), torch.tensor([1, 2]), c)
    assert new.keys() == {"flat", "taps"}
    assert new["flat"].tolist() == [[0, 1, 2 + 0, 3 + 1, 4 - 0 + 12, 5 - 1 + 14, 6, 7]]
    assert new["taps"][0].tolist() == [[0, 0.5], [1 + 0, 1.5 + 0.5], [2 - 0 + 6, 2.5 - 0.5 + 7], [3, 3.5]]
    assert flat.tolist() == [list(range(8))]


def test_one_to_one_combination_is_a_merge() -> None:
    graph, coupling = coupled("vgg_batch_norm")
    for group in coupling.prunable:
        units, kept = torch.tensor([0, 2]), torch.tensor([1, 1])
        shares = torch.ones(2, 1, dtype=torch.float32)
        tensors = combined(graph.tensors, group, units, kept[:1], shares)
        new = merged({**graph.tensors, **tensors}, group, Removal(group.name, units, torch.full((2,), -1)))
        torch.testing.assert_close(new, merged(graph.tensors, group, Removal(group.name, units, kept)))


# --- scaled merging -----------------------------------------------------------------------------------------


def test_scaled_merging_by_hand() -> None:
    """Unit 1 is a tenth of unit 0, bias included; W[:, 0] += 0.1·W[:, 1]."""
    context, group = layer([[3, 4], [0.3, 0.4], [0, 9]], [1, 0.1, 0], [[5, 20, 7]])
    removal = METHODS["scaled_merging"].choose(context, group, 1)
    assert (removal.units.tolist(), removal.into.tolist()) == ([1], [0])
    torch.testing.assert_close(after(context, group, removal)["next"], torch.tensor([[7, 0, 7.0]]).double())


@pytest.mark.parametrize(
    ("options", "shape", "into"),
    [
        ({}, (2,), -1),  # a cosine of 0.28, below 0.45
        ({"threshold": 0.25}, (2,), 0),
        ({}, (2, 1, 1), 0),  # above 0.1
        ({"threshold_conv": 0.3}, (2, 1, 1), -1),
    ],
)
def test_nothing_stands_in_below_the_threshold(
    options: dict[str, float], shape: tuple[int, ...], into: int
) -> None:
    filters = torch.tensor([[4.0, 0], [0.28, 0.96]]).reshape(2, *shape)
    context, group = layer(filters.tolist(), [0, 0], [[3, 8]])
    removal = METHODS["scaled_merging"].choose(context, group, 1, **options)
    assert (removal.units.tolist(), removal.into.tolist()) == ([1], [into])
    wanted = [[3 + 0.25 * 8 if into == 0 else 3, 0]]
    torch.testing.assert_close(after(context, group, removal)["next"], torch.tensor(wanted).double())


@pytest.mark.parametrize(
    ("lam", "into", "scale"), [(1.0, 0, 2 * 1 / 10), (0.0, 1, 2 * 1 / 10), (0.85, 1, 2 * 1 / 10)]
)
def test_batch_norm_weighs_direction_against_what_it_adds(lam: float, into: int, scale: float) -> None:
    """w_a = (1, 0) with γ/σ = 2: w′_a = (2, 0), c′_a = 0. Unit 0 points the same way and adds 10; unit 1, at
    a cosine of 0.96, adds nothing. |B| brought to [0, 1]: 1 and 0. Score at λ = 0.85: 0.85 − 0.15 <
    0.85·0.96.
    """
    norm = {"scale": [1, 1, 4], "shift": [10, 0, 0], "mean": [0, 0, 0], "variance": [1, 1, 4]}
    context, group = layer([[10, 0], [9.6, 2.8], [1, 0]], None, [[1, 1, 1]], norm)
    removal = METHODS["scaled_merging"].choose(context, group, 1, lam=lam)
    assert (removal.units.tolist(), removal.into.tolist()) == ([2], [into])
    wanted = torch.ones(1, 3).double()
    wanted[0, into], wanted[0, 2] = 1 + scale, 0
    torch.testing.assert_close(after(context, group, removal)["next"], wanted)


def test_opposite_norm_scales_do_not_stand_in_for_each_other() -> None:
    """The filters point the same way, but γ of one is negative."""
    norm = {"scale": [1, -1], "shift": [0, 0], "mean": [0, 0], "variance": [1, 1]}
    context, group = layer([[3, 0], [1, 0]], None, None, norm)
    assert METHODS["scaled_merging"].choose(context, group, 1).into.tolist() == [-1]


# --- ridge --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lambda1", "lambda2"), [(0.0, 0.0), (0.0, 0.5), (1.0, 0.25), (4.0, 0.0)])
def test_ridge_by_hand(lambda1: float, lambda2: float) -> None:
    """One kept unit: s = (w_a·w_b + λ₁·c_a·c_b) / ((‖w_b‖² + λ₁·c_b²)(1 + λ₂))."""
    context, group = layer([[3, 4], [1, 2]], [2, 1], [[10, 100]])
    removal = METHODS["ridge"].choose(context, group, 1, lambda1=lambda1, lambda2=lambda2)
    assert (removal.units.tolist(), removal.into.tolist()) == ([1], [-1])
    s = (11 + 2 * lambda1) / ((25 + 4 * lambda1) * (1 + lambda2))
    torch.testing.assert_close(
        after(context, group, removal)["next"], torch.tensor([[10 + 100 * s, 0]]).double()
    )


def test_ridge_takes_the_normal_equations_solution() -> None:
    filters = torch.randn(9, 20, generator=drawn(), dtype=torch.float64)
    context, group = layer(filters.tolist(), [0.0] * 9)
    removal = METHODS["ridge"].choose(context, group, 3, lambda2=0.2)
    kept = torch.tensor([u for u in range(9) if u not in removal.units.tolist()])
    a, s = filters[removal.units], filters[kept]
    lam = 0.2 * s.square().sum(1).mean()
    wanted = torch.linalg.solve(s @ s.T + lam * torch.eye(6), s @ a.T)
    torch.testing.assert_close(after(context, group, removal)["next"][kept][:, kept], torch.eye(6).double())
    torch.testing.assert_close(removal.weights["next"][removal.units][:, kept], wanted.T)


def test_linearly_dependent_units_leave_at_no_loss() -> None:
    """No activation, so that sums of units are sums of what they make; two of them leave."""
    model = nn.Sequential(nn.Linear(6, 7), nn.Linear(7, 3)).double().eval()
    with torch.no_grad():
        for value in (model[0].weight, model[0].bias):
            value.normal_(generator=drawn())
            value[2], value[5] = 0.2 * value[0] - 0.1 * value[1], 0.1 * value[3] + 0.05 * value[4]
    x = torch.randn(20, 6, dtype=torch.float64)
    options = {"lambda1": 1.0, "lambda2": 0.0}
    result = secateur.prune(model, x[:2], remove=0.3, method="ridge", step=1.0, options=options)
    assert {u for e in result.recipe.steps[0].edits for u in e.units} == {2, 5}
    torch.testing.assert_close(outputs(result.model, (x,)), outputs(model, (x,)))


# --- folding ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repair", [0.0, 0.5, 1.0])
def test_folding_by_hand(repair: float) -> None:
    """Units 0 and 2 are 60° apart: ρ = ½, r = 2/√(2 + 2·½) = 2/√3, and their mean is r times too short."""
    root = 3**0.5
    context, group = layer([[2, 0], [-9, 9], [1, root]], [4, 5, 6], [[1, 2, 3]])
    removal = METHODS["folding"].choose(context, group, 1, repair=repair)
    assert (removal.units.tolist(), removal.into.tolist()) == ([2], [0])
    new = after(context, group, removal)
    r = (2 / root) ** repair
    torch.testing.assert_close(new["w"], torch.tensor([[1.5 * r, root / 2 * r], [-9, 9], [1, root]]).double())
    assert new["b"].tolist() == [5, 5, 6]  # the mean of 4 and 6
    assert new["next"].tolist() == [[4, 2, 0]]


def test_folding_repairs_through_the_batch_norm() -> None:
    """W/σ are (1, 0) and (½, √¾): the mean is r = 2/√3 times them; (μ − b)/σ are 3 and 1; the variance
    becomes 1.
    """
    norm = {"scale": [3, 1, 5], "shift": [4, 1, 8], "mean": [6, 7, 4], "variance": [4, 1, 9]}
    context, group = layer([[2, 0], [50, 50], [1.5, 3 * 0.75**0.5]], [0, 0, 1], None, norm)
    removal = METHODS["folding"].choose(context, group, 1)
    new, r = after(context, group, removal), 2 / 3**0.5
    assert (removal.units.tolist(), removal.into.tolist()) == ([2], [0])
    torch.testing.assert_close(new["w"][0], torch.tensor([0.75, 0.75**0.5 / 2]).double() * r)
    wanted = {"b": 0, "scale": 4, "shift": 6, "mean": 2 * r, "variance": 1}
    assert {name: float(new[name][0]) for name in wanted} == pytest.approx(wanted)
    assert all(torch.equal(new[name][1:], context.weights[name][1:]) for name in wanted)


def test_gain_restores_the_variance_of_a_mean() -> None:
    """Unit vectors of isotropic inputs make variance 1; so does r times their mean."""
    vectors = torch.randn(12, 5, generator=drawn(), dtype=torch.float64) + 2
    vectors /= vectors.norm(dim=1, keepdim=True)
    r = gain(vectors, torch.zeros(12, dtype=torch.int64))[0]
    torch.testing.assert_close((r * vectors.mean(0)).square().sum(), torch.tensor(1.0).double())
    rho = (vectors @ vectors.T).fill_diagonal_(0).sum() / (12 * 11)
    torch.testing.assert_close(r, 12 / (12 + (144 - 12) * rho).sqrt())


def test_gain_is_bounded_where_the_mean_vanishes() -> None:
    vectors = torch.tensor([[1.0, 0], [-1, 0], [2, 2], [0, 0], [0, 0]], dtype=torch.float64)
    heads = torch.tensor([0, 0, 2, 3, 3])
    torch.testing.assert_close(gain(vectors, heads)[[0, 2, 3]], torch.tensor([2**0.5, 1, 2**0.5]).double())


@pytest.mark.parametrize("seed", range(3))
def test_k_means_finds_what_is_apart(seed: int) -> None:
    labels = torch.randint(6, (60,), generator=drawn(seed))
    labels[:6] = torch.arange(6)
    points = 20 * torch.eye(6, 9)[labels] + torch.randn(60, 9, generator=drawn(seed + 1))
    found = k_means(points.double(), 6, drawn(seed), restarts=4)
    same = found[:, None] == found[None]
    assert torch.equal(same, labels[:, None] == labels[None])


@pytest.mark.parametrize(
    "points", [torch.zeros(9, 3), torch.ones(9, 3), torch.tensor([[0.0, 1]] * 5 + [[2, 3]] * 4)]
)
@pytest.mark.parametrize("k", [1, 2, 5, 8, 9])
def test_no_cluster_is_empty(points: Tensor, k: int) -> None:
    assert k_means(points.double(), k, drawn(), restarts=2).unique().tolist() == list(range(k))


# --- all of them --------------------------------------------------------------------------------------------


def with_norm(seed: int = 0) -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6, eps=0.0), nn.ReLU(), nn.Conv2d(6, 3, 1)
    ).double()
    with torch.no_grad():
        for value in (*model.parameters(), model[1].running_mean):
            value.normal_(generator=drawn(seed))
        model[1].running_var.uniform_(0.5, 2, generator=drawn(seed))
    return model.eval()


@pytest.mark.parametrize("method", ["scaled_merging", "ridge"])
@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_what_is_a_positive_multiple_behind_its_norm_leaves_at_no_loss(method: str, flip: float) -> None:
    """Unit 4 is made 0.3 times unit 1 behind the norm, by other filters and statistics. Signs may cancel
    out.
    """
    model = with_norm()
    conv, norm = model[0], model[1]
    with torch.no_grad():
        s, t = flip * 0.1, norm.running_var[4].sqrt()
        conv.weight[4], conv.bias[4] = s * conv.weight[1], 0.7
        norm.running_mean[4] = 0.7 + s * (norm.running_mean[1] - conv.bias[1])
        norm.weight[4] = 0.3 * norm.weight[1] / norm.running_var[1].sqrt() * t / s
        norm.bias[4] = 0.3 * norm.bias[1]
    x = torch.randn(4, 2, 8, 8, dtype=torch.float64)
    options = {"lambda1": 1.0, "lambda2": 0.0} if method == "ridge" else {}
    result = secateur.prune(model, x[:2], remove=0.17, method=method, step=1.0, options=options)
    assert [edit.units for edit in result.recipe.steps[0].edits] == [(4,)]
    torch.testing.assert_close(outputs(result.model, (x,)), outputs(model, (x,)))


def contexts(run: Run, generator: torch.Generator) -> Context:
    return Context(
        run.graph, run.weights, (), generator, run.alive, run.used, True, 0.0, following_norms(run.graph)
    )


def answers(graph: Graph, name: str, weights: Mapping[str, Tensor]) -> list[Tensor]:
    inputs = doubled(batch_of(ARCHITECTURES[name].example(), 2))
    return forward(graph, inputs, weights)


@pytest.mark.sweep
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("method", OURS)
def test_every_kind_of_group_loses_units(method: str, name: str) -> None:
    """In two steps: as many as asked, of those that are left; nothing but the group's own tensors changes."""
    graph, coupling = coupled(name)
    run, generator = Run(graph, coupling), drawn()
    for group in (*coupling.prunable, *coupling.prunable):
        count = max(1, group.units // 4)
        if run.gone(group) + count >= group.units:
            continue
        removal = METHODS[method].choose(contexts(run, generator), group, count)
        assert len(removal.units) == count
        assert removal.weights.keys() <= {slot.tensor for slot in group.slots}
        assert all(value.shape == run.weights[n].shape for n, value in removal.weights.items())
        run.apply(group, removal)
    assert all(value.isfinite().all() for value in run.weights.values())
    assert all(value.isfinite().all() for value in answers(graph, name, run.weights))


@pytest.mark.sweep
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("method", OURS)
def test_one_of_two_equal_units_leaves_at_no_loss(method: str, name: str) -> None:
    """Of every group two units are left, and they are equal."""
    graph, coupling = coupled(name)
    run, generator = Run(graph, coupling), drawn()
    groups = [group for group in coupling.prunable if group.units > 2]
    for group in groups:
        for slot in group.slots:
            if slot.role != "consumer":
                rows = run.weights[slot.tensor].clone().movedim(slot.axis, 0)
                rows[slot.positions[1]] = rows[slot.positions[0]]
                run.weights[slot.tensor] = rows.movedim(0, slot.axis)
        others = torch.arange(2, group.units)
        run.apply(group, Removal(group.name, others, torch.full_like(others, -1)))
    before = answers(graph, name, run.weights)
    for group in groups:
        run.apply(group, METHODS[method].choose(contexts(run, generator), group, 1, **EXACT[method]))
    torch.testing.assert_close(answers(graph, name, run.weights), before, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("method", OURS)
@pytest.mark.parametrize(
    "filters",
    [
        [[0, 0]] * 4,
        [[1, 2]] * 4,
        [[0, 0], [0, 0], [1, 1], [-1, -1]],
        [[1e-40, 0], [1e-30, 0], [0, 1e38], [0, 1e-45]],
    ],
    ids=["zero", "equal", "opposite", "extreme"],
)
@pytest.mark.parametrize("normed", [False, True])
def test_degenerate_filters_leave_no_nan(method: str, filters: list[list[float]], normed: bool) -> None:
    norm = {"scale": [0, 1, -1, 2], "shift": [0, 0, 1, 0], "mean": [0, 0, 0, 1], "variance": [1, 1, 1e-9, 1]}
    for bias in ([0, 0, 0, 0], [1, 0, 0, -1]):
        for count in (1, 3):
            context, group = layer(filters, bias, None, norm if normed else None)
            for options in ({}, EXACT[method]):
                removal = METHODS[method].choose(context, group, count, **options)
                assert len(removal.units.unique()) == count
                assert all(value.isfinite().all() for value in after(context, group, removal).values())


@pytest.mark.parametrize("method", OURS)
@pytest.mark.parametrize("role", ["producer", "consumer"])
def test_groups_with_one_side_only(method: str, role: str) -> None:
    context, group = layer([[1, 2], [3, 4], [5, 7]], [0, 0, 0])
    group = replace(group, slots=group.having(role))
    removal = METHODS[method].choose(context, group, 2)
    assert len(removal.units) == 2
    assert all(value.isfinite().all() for value in after(context, group, removal).values())


@pytest.mark.parametrize("method", OURS)
def test_passes_over_those_that_are_gone(method: str) -> None:
    context, group = layer([[1, 0], [2, 0], [3, 0], [0, 9]], [0] * 4, alive=[False, True, True, True])
    removal = METHODS[method].choose(context, group, 1)
    assert {*removal.units.tolist(), *removal.into.tolist()} <= {1, 2, -1}
    new = after(context, group, removal)
    assert torch.equal(new["w"][0], context.weights["w"][0]) and torch.equal(
        new["next"][:, 0], torch.eye(4)[0]
    )


@pytest.mark.parametrize("method", ["scaled_merging", "ridge"])
@pytest.mark.parametrize(("norm", "first"), [(1, 0), (2, 1)])
def test_the_smallest_leave_first(method: str, norm: int, first: int) -> None:
    """L1 norms 3, 4, 9; L2 norms 3, √8, √27; biases do not count."""
    context, group = layer([[3, 0, 0], [2, 2, 0], [3, 3, 3]], [50, 60, 0])
    assert METHODS[method].choose(context, group, 2, norm=norm).units.tolist() == [first, 1 - first]


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("scaled_merging", {"norm": 3}, "scaled_merging: norm=3: give 1 or 2"),
        ("ridge", {"norm": 0}, "ridge: norm=0: give 1 or 2"),
        ("scaled_merging", {"lam": 1.5}, "lam=1.5: give a number from 0 to 1"),
        ("ridge", {"lambda1": -1}, "ridge: lambda1=-1: give a number of at least 0"),
        ("ridge", {"lambda2": -0.1}, "ridge: lambda2=-0.1: give a number of at least 0"),
        ("folding", {"repair": -1}, "folding: repair=-1: give a number of at least 0"),
        ("folding", {"restarts": 0}, "folding: restarts=0: give a whole number of at least 1"),
    ],
)
def test_wrong_options_are_named(method: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        METHODS[method].with_options(options)


def test_same_seed_same_bits() -> None:
    model = with_norm()
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    first, second = (
        secateur.prune(model, x, remove=0.5, method="folding", step=0.2, seed=7) for _ in range(2)
    )
    assert first.recipe.steps == second.recipe.steps
    assert same_bits(snapshot(first.model), snapshot(second.model))


def test_only_folding_draws() -> None:
    filters = torch.randn(30, 4, generator=drawn()).tolist()
    for method in OURS:
        context, group = layer(filters, [0] * 30)
        METHODS[method].choose(context, group, 15)
        assert torch.equal(context.generator.get_state(), drawn().get_state()) == (method != "folding")
    chosen = [
        METHODS["folding"].choose(*layer(filters, [0] * 30, seed=s), 15, restarts=1).units.tolist()
        for s in range(4)
    ]
    assert len({tuple(units) for units in chosen}) > 1
