"""Reconstruction: the algebra against brute force, layers as matrices against the layers, exact cases,
networks.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import secateur
from architectures import ARCHITECTURES
from helpers import outputs, same_bits, snapshot
from secateur.bounds.box import input_box
from secateur.errors import InputError, RecipeError, TargetMissedError
from secateur.graph.capture import capture
from secateur.graph.interpret import run
from secateur.reconstruct.elimination import DenseInverse, Problem, eliminate
from secateur.reconstruct.few_rows import FewRows
from secateur.reconstruct.layers import Consumer, blocks_of_rows, find_consumers
from secateur.reconstruct.moments import Moments
from secateur.reconstruct.prior import with_prior
from secateur.reconstruct.robust import perturbed
from secateur.reconstruct.sensitivity import Root, _Sum
from secateur.reconstruct.solve import best_weights, mean_error, repaired, system
from secateur.reconstruct.sweep import Reading, Rows, sweep
from secateur.report.recipe import Recipe
from secateur.surrogates import Source
from secateur.surrogates.bn_moments import bn_moments
from secateur.types import Samples
from secateur.validation import split

# Inputs here are drawn from a Gaussian, not from the box.
NORMAL = (-32.0, 32.0)  # bounds in which all normal draws here lie


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=drawn(seed), dtype=torch.float64)


# --- elimination --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    curvature: Tensor
    weight: Tensor
    features: Tensor

    @property
    def problem(self) -> Problem:
        return Problem(DenseInverse(torch.linalg.inv(self.curvature)), self.weight, self.features)


def case(units: int, width: int, outputs: int, blocks: int, seed: int) -> Case:
    """Features in shuffled order, so that a unit's do not stand side by side."""
    size = units * width
    x = normal(blocks, 3 * size, size, seed=seed)
    order = torch.randperm(size, generator=drawn(seed)).reshape(units, width)
    return Case(
        x.mT @ x / len(x[0]) + 0.05 * torch.eye(size), normal(blocks, outputs, size, seed=seed + 1), order
    )


def loss_without(p: Case, gone: list[int]) -> float:
    """min tr (W′ − W)A(W′ − W)ᵀ over W′ that are 0 on the features of `gone`, solved from scratch."""
    left = torch.ones(p.curvature.shape[1], dtype=torch.bool)
    left[p.features[gone].flatten()] = False
    new = torch.zeros_like(p.weight)
    goal = (p.weight @ p.curvature)[:, :, left]
    new[:, :, left] = torch.linalg.solve(p.curvature[:, left][:, :, left], goal.mT).mT
    miss = new - p.weight
    return float(((miss @ p.curvature) * miss).sum())


@pytest.mark.parametrize(("width", "blocks"), [(1, 1), (3, 1), (2, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_costs_are_those_of_solving_from_scratch(width: int, blocks: int, seed: int) -> None:
    problems = [case(6, width, 4, blocks, seed), case(6, 1, 3, 1, seed + 10)]
    order, costs = eliminate([p.problem for p in problems], torch.ones(6, dtype=torch.bool), 5)
    before = 0.0
    for k in range(5):
        total = sum(loss_without(p, order[: k + 1].tolist()) for p in problems)
        torch.testing.assert_close(float(costs[k]), total - before, rtol=1e-8, atol=1e-10)
        others = [u for u in range(6) if u not in order[:k].tolist()]
        best = min(others, key=lambda u: sum(loss_without(p, [*order[:k].tolist(), u]) for p in problems))
        assert int(order[k]) == best
        before = total
    assert bool((costs >= 0).all()) and len(set(order.tolist())) == 5


def test_first_choice_is_the_best_of_all_and_pairs_come_close() -> None:
    """Greedy is exact for one unit; the best pair costs no more than what greedy finds."""
    p = case(6, 2, 4, 1, 7)
    _, costs = eliminate([p.problem], torch.ones(6, dtype=torch.bool), 2)
    assert float(costs[0]) == pytest.approx(min(loss_without(p, [u]) for u in range(6)))
    best = min(loss_without(p, list(pair)) for pair in itertools.combinations(range(6), 2))
    assert best <= float(costs.sum()) * (1 + 1e-9)


def test_the_dead_stay_out() -> None:
    alive = torch.tensor([True, False, True, True])
    assert 1 not in eliminate([case(4, 2, 3, 1, 0).problem], alive, 2)[0].tolist()


def test_best_weights_solve_the_ridge_regression() -> None:
    x, y, present = normal(1, 200, 5), normal(1, 200, 3, seed=1) + 2.0, normal(1, 3, 5, seed=2)
    alive = torch.tensor([True, True, False, True, True])
    found = best_weights(Moments.of(x, y), present, alive, 0.1, True)
    x0, y0 = x[0] - x[0].mean(0), y[0] - y[0].mean(0)
    lam = 0.1 * float(x0[:, alive].square().mean(0).mean())
    stacked = torch.cat([x0[:, alive] / 200**0.5, lam**0.5 * torch.eye(4)])
    goal = torch.cat([y0 / 200**0.5, lam**0.5 * present[0][:, alive].T])
    torch.testing.assert_close(found[0][:, alive], torch.linalg.lstsq(stacked, goal).solution.T)
    assert bool((found[0][:, 2] == 0).all())


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(("blocks", "width"), [(1, 1), (2, 3)])
def test_few_rows_give_what_their_moments_give(blocks: int, width: int, intercept: bool) -> None:
    size = 6 * width
    x, y, present = (
        normal(blocks, 4, size),
        normal(blocks, 4, 3, seed=1) + 2.0,
        normal(blocks, 3, size, seed=2),
    )
    rows, moments = FewRows(x, y), Moments.of(x, y)
    left = torch.ones(size, dtype=torch.bool)
    features = torch.randperm(size, generator=drawn()).reshape(6, width)
    left[features[2]] = False
    alive = torch.arange(6) != 2
    bias = normal(blocks, 3, seed=5)
    for few, dense in ((rows, moments), (rows.without(bias), moments.without(bias))):
        found, wanted = (best_weights(m, present, left, 0.1, intercept) for m in (few, dense))
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(mean_error(few, found), mean_error(dense, wanted))
        torch.testing.assert_close(repaired(few, found, 0.5), repaired(dense, wanted, 0.5))
        orders, costs = zip(
            *(
                eliminate([Problem(inverse, weight, features)], alive, 4)
                for inverse, weight in (system(m, present, left, 0.1, intercept) for m in (few, dense))
            ),
            strict=True,
        )
        torch.testing.assert_close(costs[0], costs[1])
        assert orders[0].tolist() == orders[1].tolist()


def test_the_prior_adds_rows_that_correlate_as_the_weights_do() -> None:
    x, weight = normal(1, 500, 4), normal(1, 3, 4, seed=1)
    y = x @ weight.mT
    moments = Moments.of(x, y)
    nothing = torch.zeros_like(weight)  # a refit that misses all
    more = with_prior(moments, weight, nothing, 0.1, False)
    added = (more.xx - moments.xx)[0] / (0.1 * 500)
    alike = weight[0].T @ weight[0]
    alike = alike / alike.diagonal().mean() + 0.05 * torch.eye(4)
    scale = ((moments.xx[0] / 500).diagonal() / alike.diagonal()).sqrt()
    torch.testing.assert_close(added, alike * scale * scale[:, None])
    torch.testing.assert_close((more.yx - moments.yx)[0] / 50, weight[0] @ added)
    torch.testing.assert_close(added.diagonal(), (moments.xx[0] / 500).diagonal())
    exact = with_prior(moments, weight, weight, 0.1, False)  # a refit that misses nothing
    torch.testing.assert_close(exact.xx, moments.xx)


# --- layers as matrices -------------------------------------------------------------------------------------


class Product(nn.Module):
    def __init__(self, op: str) -> None:
        super().__init__()
        self.op, self.weight, self.bias = op, nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        if self.op == "addmm":
            return torch.addmm(self.bias, x, self.weight)
        return torch.mm(x, self.weight) if self.op == "mm" else x @ self.weight


LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 4), (6,)),
    "linear on a sequence": (lambda: nn.Linear(6, 4), (5, 6)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1), (3, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (3, 8, 9)),
    "conv2d same": (lambda: nn.Conv2d(3, 4, 4, padding="same"), (3, 6, 5)),
    "conv2d valid": (lambda: nn.Conv2d(3, 4, 3, padding="valid", bias=False), (3, 6, 5)),
    "conv2d grouped": (lambda: nn.Conv2d(6, 4, 3, groups=2), (6, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, stride=(1, 2, 1)), (2, 4, 5, 3)),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(3, 4, 3, stride=2, padding=1, output_padding=1), (3, 5)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(3, 4, (3, 2), stride=2, dilation=(2, 1)), (3, 4, 5)),
    **{op: (lambda op=op: Product(op), (6,)) for op in ("addmm", "mm", "matmul")},
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch's own, for even kernels
@pytest.mark.parametrize("name", LAYERS)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 999), share=st.sampled_from([1, 8, 2_000]))
def test_rows_times_matrix_is_what_the_layer_gives(name: str, seed: int, share: int) -> None:
    torch.manual_seed(seed)
    make, shape = LAYERS[name]
    graph = capture(make().eval(), torch.randn(3, *shape))
    ((consumer,),) = find_consumers(graph).values()
    weight = graph.tensors[consumer.weight]
    matrix = consumer.view.matrix(weight, consumer.blocks)
    assert torch.equal(consumer.view.tensor(matrix, weight), weight)
    seen = []

    class Visit:
        def wants(self, consumer: Consumer, differs: bool) -> bool:
            return not differs

        def measure(self, reading: Reading) -> Rows:
            blocks = blocks_of_rows(
                consumer, reading.arguments, reading.pruned, reading.target, share, drawn(seed)
            )
            bias = 0.0 if consumer.bias is None else graph.tensors[consumer.bias]
            bias = bias if consumer.bias is None else bias.reshape(consumer.blocks, 1, -1)
            found = list(blocks)
            for rows, y in found:
                torch.testing.assert_close(rows @ matrix.mT + bias, y, rtol=1e-4, atol=1e-5)
            return found

        def finish(self, consumer: Consumer, moments: Moments | FewRows) -> None:
            seen.append(moments.count)

    x = torch.randn(5, *shape)
    sweep(graph, {consumer.node: consumer}, graph.tensors, graph.tensors, [x], Visit(), 2**20)
    assert len(seen) == 1 and seen[0] >= 5


# --- exact cases --------------------------------------------------------------------------------------------

TIGHT = {"ridge": 1e-9, "repair": 0.0}


def largest_change(model: nn.Module, small: nn.Module, x: Tensor) -> float:
    (before,), (after,) = outputs(model, [x]), outputs(small, [x])
    return float((before - after).abs().max() / before.abs().max())


def dense() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)).eval()


def with_duplicates() -> nn.Module:
    model = dense()
    with torch.no_grad():
        for tensor in (model[0].weight, model[0].bias):
            tensor[6:] = tensor[:2]
    return model


def with_scaled_copies() -> nn.Module:
    model = dense()
    with torch.no_grad():
        for tensor in (model[0].weight, model[0].bias):
            tensor[6:] = torch.tensor([0.5, 3.0]).reshape(2, *[1] * (tensor.ndim - 1)) * tensor[:2]
    return model


def with_dead_units() -> nn.Module:
    model = dense()
    with torch.no_grad():
        model[0].weight[3:5] = 0.0
        model[0].bias[3:5] = -1.0
    return model


def with_linear_combinations() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)).eval()


def convolutions(norm: bool) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU(), nn.Conv2d(8, 4, 3)]
    model = nn.Sequential(
        *layers, nn.BatchNorm2d(4) if norm else nn.Identity(), nn.Flatten(), nn.Linear(64, 3)
    ).eval()
    with torch.no_grad():
        for tensor in (model[0].weight, model[0].bias):
            tensor[6:] = tensor[:2]
    return model


EXACT = {
    "duplicates": (with_duplicates, (6,)),
    "scaled copies": (with_scaled_copies, (6,)),
    "dead units": (with_dead_units, (6,)),
    "linear combinations": (with_linear_combinations, (6,)),
    "convolution": (lambda: convolutions(False), (2, 8, 8)),
    "convolution with batch norm": (lambda: convolutions(True), (2, 8, 8)),
}


@pytest.mark.sweep
@pytest.mark.parametrize("case", EXACT)
def test_what_is_redundant_leaves_at_no_loss(case: str) -> None:
    make, shape = EXACT[case]
    model, x = make(), torch.randn(400, *shape, generator=drawn(1))
    ignore = [name for name, m in model.named_modules() if name and isinstance(m, nn.Linear | nn.Conv2d)][1:]
    result = secateur.prune(
        model, x[:2], remove=0.25, calibration=x, input_bounds=NORMAL, options=TIGHT, ignore=ignore
    )
    assert result.recipe.groups[0].units - len(result.recipe.groups[0].kept) == 2
    fresh = torch.randn(50, *shape, generator=drawn(2))
    assert largest_change(model, result.model, fresh) < 1e-4


@pytest.mark.parametrize("seed", range(4))
def test_it_moves_the_outputs_less_than_plain_removal(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 4)).eval()
    mix = torch.randn(20, 20, generator=drawn(seed)) * torch.logspace(0, -2, 20)
    seen, fresh = (torch.randn(600, 20, generator=drawn(s)) @ mix.T for s in (seed, seed + 100))
    ours = secateur.prune(model, seen[:2], remove=0.5, calibration=seen, input_bounds=NORMAL).model
    plain = secateur.prune(model, seen[:2], remove=0.5, method="scale").model
    error = [
        float((outputs(m, [fresh])[0] - outputs(model, [fresh])[0]).square().mean()) for m in (ours, plain)
    ]
    assert error[0] < 0.5 * error[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn_batch_norm", "resnet_basic", "vgg_batch_norm"])
def test_means_of_the_outputs_are_kept(name: str) -> None:
    """What takes up the means, a bias or a running mean, does."""
    architecture = ARCHITECTURES[name]
    (example,) = architecture.example()
    x = torch.randn(256, *example.shape[1:], generator=drawn(3))
    model = architecture.build()
    own: dict[str, Any] = {"calibration": x, "surrogate": "none", "input_bounds": NORMAL}
    small = secateur.prune(model, example, remove=0.3, **own).model
    solved_on = list(split(Samples((x,)), seed=0)[0].inputs)
    before, after = (outputs(m, solved_on)[0] for m in (model, small))
    torch.testing.assert_close(before.mean(0), after.mean(0), rtol=1e-3, atol=1e-3)


# --- whole networks -----------------------------------------------------------------------------------------

SETTINGS: dict[str, Any] = {"surrogate": "uniform", "samples": 48, "remove": 0.4, "input_bounds": (-1.0, 1.0)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp_relu", "resnet_basic", "mobilenet", "densenet", "vision_transformer"])
def test_recipe_and_its_tensors_rebuild_the_same_bits(name: str, tmp_path: Path) -> None:
    architecture = ARCHITECTURES[name]
    model, example = architecture.build(), architecture.example()
    result = secateur.prune(model, example, **SETTINGS)
    result.recipe.save(tmp_path / "small.recipe.json")
    read = Recipe.load(tmp_path / "small.recipe.json")
    assert read == result.recipe
    assert same_bits(snapshot(secateur.replay(model, read, example)), snapshot(result.model))
    again = secateur.prune(model, example, **SETTINGS)
    assert same_bits(snapshot(again.model), snapshot(result.model))


def test_a_recipe_without_its_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.recipe.json"
    secateur.prune(dense(), torch.randn(2, 6), **SETTINGS).recipe.save(path)
    beside = tmp_path / "small.recipe.solved.safetensors"
    found = beside.read_bytes()
    beside.write_bytes(found[:-1] + bytes([found[-1] ^ 1]))
    with pytest.raises(RecipeError, match="is not the file that was written with the recipe"):
        Recipe.load(path)
    beside.unlink()
    with pytest.raises(
        RecipeError, match=r"needs the solved tensors in .*small\.recipe\.solved\.safetensors"
    ):
        Recipe.load(path)


@pytest.mark.slow
def test_units_that_cost_nothing_go_first_in_global_allocation() -> None:
    model = with_dead_units()
    x = torch.randn(300, 6, generator=drawn(0))
    settings: dict[str, Any] = {"calibration": x, "input_bounds": NORMAL, "allocation": "global"}
    kept = {}
    for share in (0.15, 0.4, 0.7):
        result = secateur.prune(model, x[:2], remove=f"params={share}", **settings)
        kept[share] = sum(p.numel() for p in result.model.parameters())
        assert result.recipe.achieved >= share
    assert kept[0.15] > kept[0.4] > kept[0.7]
    first = secateur.prune(model, x[:2], remove=0.15, options=TIGHT, **settings)
    gone = set(range(8)) - set(first.recipe.groups[0].kept)
    assert gone == {3, 4} and len(first.recipe.groups[1].kept) == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet_basic", "densenet", "mobilenet", "mlp_residual", "vision_transformer"]
)
def test_global_allocation_meets_its_target_on_shared_streams(name: str) -> None:
    """Groups with several readers at different depths are priced too, and more is never less."""
    architecture = ARCHITECTURES[name]
    settings = SETTINGS | {"allocation": "global"}
    sizes = []
    for share in ("macs=20%", "macs=40%"):
        result = secateur.prune(
            architecture.build(), architecture.example(), **(settings | {"remove": share})
        )
        assert 1 - result.history[-1].macs / result.before.macs >= int(share[5:7]) / 100
        sizes.append(result.history[-1].macs)
    assert sizes[0] > sizes[1]


def test_a_guard_stops_and_goes_back() -> None:
    x = torch.randn(300, 6, generator=drawn(0))
    settings: dict[str, Any] = {"calibration": x, "input_bounds": NORMAL, "step": 0.125}
    result = secateur.prune(dense(), x[:2], remove=0.7, guard={"drift": 0.12}, **settings)
    assert "drift on samples rose to" in result.stopped and "stopped after step" in result.shortfall
    steps = len(result.history)
    row = result.history[-1]
    assert row.units_removed < int(0.7 * 8) + int(0.7 * 5)
    free = secateur.prune(dense(), x[:2], remove=0.7, **settings)
    assert free.recipe.steps[:steps] == result.recipe.steps and len(free.recipe.steps) > steps
    drift = float((outputs(dense(), [x])[0] - outputs(result.model, [x])[0]).abs().max())
    assert drift <= 0.12 + 1e-5
    with pytest.raises(TargetMissedError, match=r"the guard stopped the first step: (agreement|drift)"):
        secateur.prune(dense(), x[:2], remove=0.7, guard={"agreement": 1.0, "drift": 0.0}, **settings)


def batches() -> Any:
    yield from torch.randn(6, 50, 6, generator=drawn(0))


@pytest.mark.parametrize("kind", ["tensor", "batches", "generator", "path"])
def test_calibration_comes_in_any_form(kind: str, tmp_path: Path) -> None:
    import numpy as np

    x = torch.cat(list(batches()))
    np.savez(tmp_path / "x.npz", images=x.numpy())
    forms = {"tensor": x, "batches": list(batches()), "generator": batches(), "path": tmp_path / "x.npz"}
    found, plain = (
        secateur.prune(dense(), x[:2], remove=0.5, calibration=c, input_bounds=NORMAL)
        for c in (forms[kind], x)
    )
    assert same_bits(snapshot(found.model), snapshot(plain.model))
    used = found.recipe.used
    assert len(used.calibration) == 64 and (used.samples, used.judged_on) == (200, 100)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "shape": (
        {"calibration": torch.randn(9, 7)},
        r"calibration: shape \(9, 7\) for the input .* expected \(samples, 6\)",
    ),
    "type": ({"calibration": torch.ones(9, 6, dtype=torch.int64)}, "type torch.int64 for the input"),
    "NaN": ({"calibration": torch.full((9, 6), torch.nan)}, "holds NaN or infinite values"),
    "no batches": ({"calibration": []}, "gives no batches"),
    "a number": ({"calibration": 3}, "calibration=3: give a tensor of inputs, batches of them, or the path"),
    "outside": (
        {"surrogate": lambda source, count: torch.full((count, 6), 2.0)},
        "are outside of input_bounds",
    ),
    "unknown surrogate": ({"surrogate": "dreams"}, "surrogate='dreams': there are uniform, pink"),
    "allocation": ({"allocation": "fair"}, "allocation='fair': give uniform or global"),
    "budget": ({"guard": {"harm": 1}}, "no budget 'harm'; there are agreement, drift, certified_agreement"),
    "agreement": ({"guard": {"agreement": 2}}, "agreement=2; give a number from 0 to 1"),
    "samples": ({"samples": 0}, "samples=0: give a whole number of inputs, at least 1"),
    "option": ({"options": {"gamma": 1}}, "reconstruct has no 'gamma'; it has ridge, repair, robust, rows"),
    "no norm": ({"surrogate": "bn_moments"}, "bn_moments needs a model with batch norm"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    settings, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        secateur.prune(dense(), torch.rand(2, 6), **{"remove": 0.5, **settings})


def test_perturbed_samples_stay_in_the_box_and_disagree_more() -> None:
    model, x = dense(), torch.rand(100, 6, generator=drawn(0))
    graph = capture(model, x[:2])
    other = {name: w + 0.1 * normal(*w.shape, seed=1).float() for name, w in graph.tensors.items()}
    box = input_box(graph, (0.0, 1.0), dtype=torch.float32)
    (moved,) = perturbed(graph, graph.tensors, other, Samples((x,)), box, 0.05).inputs
    assert bool((moved >= 0).all() and (moved <= 1).all()) and float((moved - x).abs().max()) <= 0.05 + 1e-6

    def gap(inputs: Tensor) -> float:
        return float((run(graph, [inputs])[0] - run(graph, [inputs], other)[0]).square().sum(1).mean())

    assert gap(moved) > 1.1 * gap(x)
    robust = secateur.prune(model, x[:2], remove=0.5, calibration=x, options={"robust": 0.05})
    assert not same_bits(
        snapshot(robust.model), snapshot(secateur.prune(model, x[:2], remove=0.5, calibration=x).model)
    )


def test_bn_moments_give_every_norm_its_mean_and_deviation() -> None:
    model, x = convolutions(True), torch.rand(2, 2, 8, 8)
    with torch.no_grad():
        for norm in (model[1], model[4]):
            norm.weight.copy_(torch.linspace(0.5, -2.0, len(norm.weight)))
            norm.bias.copy_(torch.linspace(-1.0, 1.0, len(norm.bias)))
    graph = capture(model, x)
    samples = bn_moments(Source(graph, input_box(graph, (0.0, 1.0), dtype=torch.float32), drawn()), 200)
    seen: list[Tensor] = []
    run(graph, samples.inputs, samples.tensors, observe=lambda node, args, value: seen.append(value))
    normed = [v for v, node in zip(seen, (n for n in graph.nodes if n.op == "call_function"), strict=True)
              if "batch_norm" in str(node.target)]  # fmt: skip
    for value, norm in zip(normed, (model[1], model[4]), strict=True):
        torch.testing.assert_close(value.mean((0, 2, 3)), norm.bias.detach(), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(value.std((0, 2, 3)), norm.weight.detach().abs(), rtol=1e-2, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_a_gpu_chooses_the_same_units(name: str) -> None:
    architecture = ARCHITECTURES[name]
    example = architecture.example()
    results = [
        secateur.prune(architecture.build(), example, device=device, **SETTINGS) for device in ("cpu", "cuda")
    ]
    assert results[0].recipe.groups == results[1].recipe.groups
    ours, theirs = ([*outputs(result.model, example)] for result in results)
    for value, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-3, atol=1e-4)


def test_shared_weights_stay_shared() -> None:
    architecture = ARCHITECTURES["tied_linear"]
    result = secateur.prune(architecture.build(), architecture.example(), **SETTINGS)
    assert result.history[-1].parameters < result.before.parameters


def test_a_root_of_many_outputs_gives_the_costs_of_the_whole_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer rows of gradients than outputs: no matrix of all outputs is made, and the same units go."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 300)).eval()
    settings = {"samples": 64, "remove": 0.5}
    whole = secateur.prune(model, torch.zeros(2, 12), **settings).recipe
    monkeypatch.setattr("secateur.reconstruct.sensitivity._WIDE", 16)
    assert secateur.prune(model, torch.zeros(2, 12), **settings).recipe.groups == whole.groups

    rows, weight = torch.randn(2, 7, 300, dtype=torch.float64), torch.randn(2, 300, 5, dtype=torch.float64)

    def root() -> Root:
        total = _Sum(300, 7)
        total.add(rows)
        return total.root(3)

    narrow = root().times(weight)
    monkeypatch.setattr("secateur.reconstruct.sensitivity._WIDE", 1000)
    expected = root().times(weight)
    torch.testing.assert_close(narrow.mT @ narrow, expected.mT @ expected)
    assert narrow.shape == (2, 5, 5)
