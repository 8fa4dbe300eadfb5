"""Exact debloating: by hand, what must be refused, planted units and no others, and before other methods."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from architectures import ARCHITECTURES
from helpers import batch_of, coupled, outputs, same_bits, snapshot
from secateur.errors import InputError, NothingToPruneError
from secateur.methods import METHODS
from secateur.methods.exact.alike import first_equal
from secateur.methods.exact.finding import Finding, plain
from secateur.methods.exact.problem import ExactProblem, remaining
from secateur.report.recipe import Recipe, seal_of
from secateur.types import Group

# streams, norms before and behind, maps, depthwise and grouped layers, heads, gates, ties, half precision
KINDS = (
    "mlp_residual mlp_float16 highway tied_linear bare_parameters swiglu_fused cnn_view cnn_prelu "
    "cnn_instance_norm "
    "vgg_batch_norm resnet_preactivation resnext mobilenet densenet unet_transposed attention_fused "
    "vision_transformer"
).split()


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def exact(model: nn.Module, *shape: int, **request: Any) -> secateur.Result:
    return secateur.prune(
        model, torch.zeros(2, *shape, dtype=next(model.parameters()).dtype), method="exact", **request
    )


def gone(result: secateur.Result) -> dict[str, set[int]]:
    """Group name → the units that left."""
    return {g.group: set(range(g.units)) - set(g.kept) for g in result.recipe.groups}


def corners_and_samples(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    inside, corners = (
        torch.rand(40, *shape, generator=generator),
        torch.randint(2, (40, *shape), generator=generator),
    )
    ends = torch.stack([torch.zeros(shape), torch.ones(shape)])
    return low + (high - low) * torch.cat([inside, corners.float(), ends])


def assert_same(model: nn.Module, small: nn.Module, x: Tensor) -> None:
    """Outputs agree to 1e-5 of the largest, 1e-9 in float64."""
    x = x.to(next(model.parameters()).dtype)
    for f, g in zip(outputs(model, [x]), outputs(small, [x]), strict=True):
        tolerance = 1e-9 if x.dtype == torch.float64 else 1e-5
        assert float((f - g).abs().max()) <= tolerance * float(f.abs().max())


def set_linear(layer: nn.Module, weight: Any, bias: Any = None) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight, dtype=torch.float64))  # type: ignore[operator, union-attr]
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias, dtype=torch.float64))  # type: ignore[operator, union-attr]


def dense(
    rows: Any, bias: Any, outgoing: Any, offset: Any = None, activation: nn.Module | None = None
) -> nn.Sequential:
    """One layer of units and one that reads them, in float64; without `offset` the reader has no bias."""
    first, second = (
        nn.Linear(len(rows[0]), len(rows)),
        nn.Linear(len(rows), len(outgoing), bias=offset is not None),
    )
    model = nn.Sequential(first, activation or nn.ReLU(), second).double().eval()
    set_linear(first, rows, bias)
    set_linear(second, outgoing, offset)
    return model


def random_network(
    seed: int, convolutional: bool = False, dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    """Generic weights: over [0, 1] every unit bends."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if convolutional:
            first = [
                nn.Conv2d(3, 12, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(12, 10, 3, padding=1),
                nn.BatchNorm2d(10),
            ]
            layers = [
                *first,
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Flatten(),
                nn.Linear(90, 11),
                nn.ReLU(),
                nn.Linear(11, 4),
            ]
        else:
            layers = [nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 10), nn.LeakyReLU(), nn.Linear(10, 4)]
        model = nn.Sequential(*layers)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
    return model.to(dtype).eval()


# --- constant units -----------------------------------------------------------------------------------------


def test_constants_go_into_the_bias_by_hand() -> None:
    """Unit 0 is dead on [0, 1]² (at most 1 + 1 − 2.1), unit 2 is always 3: b += 3·W[:, 2]."""
    model = dense([[1, 1], [1, -1], [0, 0]], [-2.1, 0, 3], [[5, 1, 2], [7, 1, -1]], [0.5, 0])
    small = exact(model, 2).model
    assert small[0].weight.tolist() == [[1, -1]]
    assert small[2].weight.tolist() == [[1], [1]] and small[2].bias.tolist() == [6.5, -3]
    wider = exact(model, 2, input_bounds=(0.0, 1.1))
    assert gone(wider)["0"] == {2}


@pytest.mark.parametrize("value", [0.5, -1.0])
def test_constant_behind_a_sigmoid(value: float) -> None:
    model = dense([[1, 1], [0, 0]], [0, value], [[5, 2]], [0.5], nn.Sigmoid())
    small = exact(model, 2).model
    assert small[2].bias.item() == pytest.approx(
        0.5 + 2 * torch.tensor(value).double().sigmoid().item(), rel=1e-12
    )


def test_a_reader_without_a_bias_keeps_constants_but_not_dead_units() -> None:
    model = dense([[1, 1], [1, -1], [0, 0]], [-2.1, 0, 3], [[5, 1, 2], [7, 1, -1]])
    assert gone(exact(model, 2))["0"] == {0}


def convolutions(padding: int, last: nn.Module) -> nn.Sequential:
    """Two maps of a 1×1 convolution: one that depends on the input, one that is always 3."""
    model = nn.Sequential(
        nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 4, 3, padding=padding), nn.ReLU(), last
    ).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 0.0, -1.0]).reshape(3, 1, 1, 1))
        model[0].bias.copy_(torch.tensor([0.0, 3.0, -0.1]))
    return model.eval()


def test_zero_padding_keeps_constants_that_are_not_zero() -> None:
    """The padded reader sees a 3 inside of the map and a 0 around it; without padding it sees 3 alone."""
    assert gone(exact(convolutions(1, nn.Conv2d(4, 2, 1)), 1, 6, 6))["0"] == {2}  # the dead one
    unpadded = convolutions(0, nn.Conv2d(4, 2, 1))
    result = exact(unpadded, 1, 6, 6)
    assert gone(result)["0"] == {1, 2}
    expected = unpadded[2].bias + 3 * unpadded[2].weight[:, 1].sum((1, 2))
    torch.testing.assert_close(result.model[2].bias, expected[list(result.recipe.groups[1].kept)])
    assert_same(unpadded, result.model, corners_and_samples(1, 6, 6))


@pytest.mark.parametrize("flat", [True, False])
def test_a_border_unlike_the_inside_can_be_read_by_position_alone(flat: bool) -> None:
    """A unit that reads nothing but the constant map, with padding: one value at every position, another at
    the rim.
    """
    last = nn.Sequential(nn.Flatten(), nn.Linear(144, 2)) if flat else nn.Conv2d(4, 2, 1)
    model = convolutions(1, last)
    with torch.no_grad():
        model[2].weight[2] = 0.0
        model[2].weight[2, 1] = 0.25
    left = gone(exact(model, 1, 6, 6))
    assert (2 in left["2"]) == flat
    assert_same(model, exact(model, 1, 6, 6).model, corners_and_samples(1, 6, 6))


def test_a_batch_norm_takes_up_constants_of_a_reader_without_bias() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 1),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3, bias=False),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Conv2d(5, 2, 1),
    ).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 0.0, -1.0, 1.0]).reshape(4, 1, 1, 1))
        model[0].bias.copy_(torch.tensor([0.2, 3.0, 0.5, -0.5]))
        model[3].running_mean.normal_()
    result = exact(model, 1, 5, 5)
    assert gone(result)["0"] == {1}
    expected = model[3].running_mean - 3 * model[2].weight[:, 1].sum((1, 2))
    kept = list(result.recipe.groups[1].kept)
    torch.testing.assert_close(result.model[3].running_mean, expected.detach()[kept])
    assert_same(model, result.model, corners_and_samples(1, 5, 5))


class Stream(nn.Module):
    """x + block(relu(x)), then a head: two layers make every unit of the stream, and two read it."""

    def __init__(self, units: int = 6) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(9, units), nn.Linear(units, units), nn.Linear(units, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.block(torch.relu(x))
        return self.head(torch.relu(x))  # type: ignore[no-any-return]


def stream(change: Callable[[Stream], None]) -> Stream:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Stream().double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
            change(model)
    return model


def zero(layer: nn.Linear, unit: int) -> None:
    layer.weight[unit] = 0.0


def copy(layer: nn.Linear, a: int, b: int, scale: float = 1.0) -> None:
    layer.weight[a], layer.bias[a] = scale * layer.weight[b], scale * layer.bias[b]


@pytest.mark.parametrize(
    "change",
    [
        lambda m: zero(m.stem, 2),
        lambda m: zero(m.block, 2),
        lambda m: copy(m.stem, 2, 1),
        lambda m: copy(m.block, 2, 1),
    ],
)
def test_units_of_a_stream_stay_where_one_maker_differs(change: Callable[[Stream], None]) -> None:
    with pytest.raises(NothingToPruneError):
        exact(stream(change), 9)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: (zero(m.stem, 2), zero(m.block, 2)),
        lambda m: (copy(m.stem, 2, 1), copy(m.block, 2, 1)),
        lambda m: (copy(m.stem, 2, 1, 3.0), copy(m.block, 2, 1, 3.0)),
    ],
)
def test_units_of_a_stream_go_where_all_makers_agree(change: Callable[[Stream], None]) -> None:
    model = stream(change)
    result = exact(model, 9)
    assert gone(result)["stem"] == {2}
    assert_same(model, result.model, corners_and_samples(9))


def test_units_of_a_stream_stay_where_makers_scale_differently() -> None:
    with pytest.raises(NothingToPruneError):
        exact(stream(lambda m: (copy(m.stem, 2, 1, 3.0), copy(m.block, 2, 1, 2.0))), 9)


# --- copies and multiples -----------------------------------------------------------------------------------


def test_copies_add_up_by_hand() -> None:
    model = dense([[1, -1], [2, -5], [1, -1]], [0.5, 1, 0.5], [[1, 2, 3]], [0.0], nn.Tanh())
    result = exact(model, 2)
    (edit,) = result.recipe.steps[0].edits
    assert (edit.units, edit.into) == ((2,), (0,))
    assert result.model[2].weight.tolist() == [[4, 2]]
    assert not result.recipe.solved  # the edit tells all


def test_an_equal_row_with_another_bias_is_no_copy() -> None:
    with pytest.raises(NothingToPruneError):
        exact(dense([[1, -1], [2, -5], [1, -1]], [0.5, 1, 0.4], [[1, 2, 3]], [0.0], nn.Tanh()), 2)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.1), nn.PReLU()])
def test_positive_multiples_are_scaled_by_hand(activation: nn.Module) -> None:
    model = dense([[1, -1], [2, -5], [4, -4]], [0.5, 1, 2], [[1, 2, 3]], [0.0], activation)
    result = exact(model, 2)
    (edit,) = result.recipe.steps[0].edits
    assert (edit.units, edit.into) == ((2,), (0,))
    torch.testing.assert_close(result.model[2].weight, torch.tensor([[13.0, 2]]).double(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("activation", "factor"), [(nn.Sigmoid(), 4.0), (nn.GELU(), 4.0), (nn.ReLU(), -1.0), (nn.ReLU6(), 4.0)]
)
def test_multiples_stay_where_the_activation_does_not_scale(activation: nn.Module, factor: float) -> None:
    rows = [[1, -1], [2, -5], [factor, -factor]]
    with pytest.raises(NothingToPruneError):
        exact(dense(rows, [0.5, 1, 0.5 * factor], [[1, 2, 3]], [0.0], activation), 2)


def test_norms_of_a_copy_may_differ_as_long_as_the_function_does_not() -> None:
    """Twice the filter, twice the mean, four times the variance: the same map."""
    model = random_network(0, convolutional=True, dtype=torch.float64)
    norm = model[3]
    with torch.no_grad():
        model[2].weight[7], model[2].bias[7] = 2 * model[2].weight[1], 2 * model[2].bias[1]
        norm.weight[7], norm.bias[7] = norm.weight[1], norm.bias[1]
        norm.running_mean[7] = 2 * norm.running_mean[1]
        norm.running_var[7] = 4 * (norm.running_var[1] + norm.eps) - norm.eps
    result = exact(model, 3, 6, 6)
    assert gone(result) == {"0": set(), "2": {7}, "7": set()}
    assert_same(model, result.model, corners_and_samples(3, 6, 6))


def test_first_equal_by_hand() -> None:
    points = torch.tensor([[0.0, 1], [1, 0], [0, 1], [1, 0], [1, 1], [0, 1]]).double()
    assert first_equal(points, 1e-9).tolist() == [-1, -1, 0, 1, -1, 0]
    assert first_equal(points + 1e-7 * torch.arange(6)[:, None], 1e-9).tolist() == [-1] * 6


# --- combinations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Identity(), nn.Hardtanh(0.0, 100.0)])
def test_combinations_go_into_the_others_by_hand(activation: nn.Module) -> None:
    """All units are ≥ 0 on [0, 1]²: v₂ = ½v₀ + ½v₁ + 2, so W = [1 + 4/2, 2 + 4/2] and b = 1 + 4·2."""
    model = dense([[2, 0], [0, 2], [1, 1]], [1, 1, 3], [[1, 2, 4]], [1.0], activation)
    result = exact(model, 2)
    assert gone(result)["0"] == {2}
    torch.testing.assert_close(result.model[2].weight, torch.tensor([[3.0, 4]]).double(), rtol=1e-12, atol=0)
    assert result.model[2].bias.item() == pytest.approx(9, rel=1e-12)


def test_combinations_without_a_place_for_their_constant_stay() -> None:
    rows = [[2, 0], [0, 2], [1, 1]]
    with pytest.raises(NothingToPruneError):
        exact(dense(rows, [1, 1, 3], [[1, 2, 4]]), 2)
    assert len(gone(exact(dense(rows, [1, 1, 1], [[1, 2, 4]]), 2))["0"]) == 1  # ½v₀ + ½v₁, no constant


def test_a_unit_that_bends_is_no_combination() -> None:
    rows = [[2, 0], [0, 2], [1, -1]]
    with pytest.raises(NothingToPruneError):
        exact(dense(rows, [1, 1, 0.5], [[1, 2, 4]], [1.0]), 2)
    assert gone(exact(dense(rows, [1, 1, 0.5], [[1, 2, 4]], [1.0]), 2, input_bounds=(0.0, 0.4)))["0"]


def test_of_more_linear_units_than_inputs_the_surplus_goes() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, outgoing = torch.rand(20, 6, generator=generator), torch.randn(3, 20, generator=generator)
    model = dense(rows.tolist(), torch.rand(20, generator=generator).tolist(), outgoing.tolist(), [0.0] * 3)
    for net in (model, model.float()):
        result = exact(net, 6)
        assert len(gone(result)["0"]) == 14
        assert_same(net, result.model, corners_and_samples(6))


def test_filters_that_combine_others() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 4, 2, padding=1)
    )
    with torch.no_grad():
        model[0].weight[:4].abs_()
        model[0].weight[3], model[0].bias[:4] = model[0].weight[0] + 0.5 * model[0].weight[1], 0.1
        model[0].bias[3] = 0.15
    result = exact(model.eval(), 2, 8, 8)
    assert len(gone(result)["0"] & {0, 1, 3}) == 1 == len(gone(result)["0"])
    assert_same(model, result.model, corners_and_samples(2, 8, 8))


# --- units that nothing reads -------------------------------------------------------------------------------


def test_what_only_removed_units_read_goes_too() -> None:
    """Unit 1 of the second layer is dead; unit 0 of the first is read by it alone."""
    model = (
        nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double().eval()
    )
    set_linear(model[0], [[1, 2, 3], [3, 1, -2]], [0, 0])
    set_linear(model[2], [[0, 1], [1, 1], [0, -1]], [0, -3, 0.5])
    result = exact(model, 3)
    assert gone(result) == {"0": {0}, "2": {1}}
    assert_same(model, result.model, corners_and_samples(3))


# --- planted units, and no others ---------------------------------------------------------------------------


@pytest.mark.parametrize("convolutional", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_nothing_of_a_random_network_goes(seed: int, convolutional: bool) -> None:
    shape = (3, 6, 6) if convolutional else (16,)
    with pytest.raises(
        NothingToPruneError, match="none is constant, a copy or a multiple of another, a combination"
    ):
        exact(random_network(seed, convolutional), *shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(4))
def test_exactly_the_planted_units_of_a_dense_network_go(seed: int, dtype: torch.dtype) -> None:
    """In the first layer: dead, constant, copied, three times another, and three of which each combines the
    others.
    """
    model = random_network(seed, dtype=dtype)
    with torch.no_grad():
        model[0].bias[4] = -1000.0
        model[0].weight[9] = 0.0
        copy(model[0], 7, 3)
        copy(model[0], 5, 2, 3.0)
        model[0].weight[10:].abs_()
        model[0].weight[0] = model[0].weight[10] + 0.5 * model[0].weight[11]
        model[0].bias[[0, 10, 11]] = 0.25
        copy(model[2], 8, 6, 0.5)
    result = exact(model, 16)
    assert gone(result)["0"] - {0, 10, 11} == {4, 9, 7, 5} and len(gone(result)["0"]) == 5
    assert gone(result)["2"] == {8}
    assert_same(model, result.model, corners_and_samples(16))


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(4))
def test_exactly_the_planted_units_of_a_convolutional_network_go(seed: int, dtype: torch.dtype) -> None:
    model = random_network(seed, convolutional=True, dtype=dtype)
    with torch.no_grad():
        model[0].bias[4] = -1000.0
        copy(model[0], 7, 3)
        copy(model[0], 5, 2, 3.0)
        model[3].weight[6], model[3].bias[6] = (
            0.0,
            2.0,
        )  # a map that is 2 everywhere, read position by position
        copy(model[7], 10, 1)
    result = exact(model, 3, 6, 6)
    assert gone(result) == {"0": {4, 5, 7}, "2": {6}, "7": {10}}
    assert_same(model, result.model, corners_and_samples(3, 6, 6))


def plant_copies(name: str) -> nn.Module:
    """The architecture with the first unit of every group made a copy of the second."""
    model = ARCHITECTURES[name].build()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for group in coupled(name)[1].prunable:
            for slot in group.slots:
                if slot.role != "consumer":
                    rows = tensors[slot.tensor].movedim(slot.axis, 0)
                    rows[slot.positions[0]] = rows[slot.positions[1]].clone()
    return model


@pytest.mark.sweep
@pytest.mark.parametrize("name", KINDS)
def test_copies_go_from_every_kind_of_group(name: str) -> None:
    model, example = plant_copies(name), ARCHITECTURES[name].example()
    result = secateur.prune(model, example, method="exact", input_bounds=(-3.0, 3.0))
    assert all(units & {0, 1} for units in gone(result).values())
    x = batch_of(example, 8)
    tolerance = 1e-5 if x[0].dtype == torch.float32 else 3e-3
    for f, g in zip(outputs(model, x), outputs(result.model, x), strict=True):
        torch.testing.assert_close(f, g, rtol=tolerance, atol=tolerance * float(f.abs().max()))


def test_a_wrong_claim_is_taken_back_down_to_the_units_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finder that takes every unit but one for free: the dead ones go, and what the others compute
    stays.
    """
    model = random_network(0, dtype=torch.float64)
    with torch.no_grad():
        model[0].bias[[3, 8]] = -1000.0

    def careless(problem: ExactProblem, group: Group) -> Finding | None:
        return plain(remaining(problem, group)[:-1])

    monkeypatch.setattr("secateur.methods.exact.debloat.FINDERS", (careless,))
    result = exact(model, 16)
    assert gone(result) == {"0": {3, 8}, "2": set()}
    assert_same(model, result.model, corners_and_samples(16))


# --- boxes, requests, recipes -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_narrower_box_frees_no_fewer_units() -> None:
    """Nested sets in one layer of at most as many units as inputs; in two layers, at least as many in all."""
    generator = torch.Generator().manual_seed(3)
    rows, bias, outgoing = (torch.randn(*s, generator=generator).tolist() for s in ((14, 16), (14,), (3, 14)))
    one, two = dense(rows, bias, outgoing, [0.0] * 3), random_network(3)
    before, count = set[int](), 0
    for high in (1.0, 0.3, 0.1, 0.03, 0.01):
        found = units_free(one, 16, high)["0"] - {0}  # of a layer that has become all constant one unit stays
        assert before <= found
        before = found
        total = sum(map(len, units_free(two, 16, high).values()))
        assert total >= count
        count = total
    assert len(before) > 3 and count > 5


def units_free(model: nn.Module, inputs: int, high: float) -> dict[str, set[int]]:
    try:
        result = exact(model, inputs, input_bounds=(0.0, high))
    except NothingToPruneError:
        return {"0": set()}
    assert_same(model, result.model, corners_and_samples(inputs, high=high))
    return gone(result)


def planted() -> nn.Sequential:
    """Four of the twelve units of the first layer are free, one of the ten of the second."""
    model = random_network(0)
    with torch.no_grad():
        model[0].bias[4] = -1000.0
        model[0].weight[9] = 0.0
        copy(model[0], 7, 3)
        copy(model[0], 5, 2, 3.0)
        copy(model[2], 8, 6)
    return model


def counts(result: secateur.Result) -> list[int]:
    return [g.units - len(g.kept) for g in result.recipe.groups]


@pytest.mark.parametrize(
    ("request_", "removed", "shortfall"),
    [
        ({}, [4, 1], ""),
        ({"remove": 0.1}, [1, 1], "9.09% of units removed where 10.00% was asked: no more can go exactly"),
        (
            {"remove": "units=50%"},
            [4, 1],
            "22.73% of units removed where 50.00% was asked: no more can go exactly",
        ),
        ({"remove": "params=10%"}, [1, 1], ""),
        (
            {"remove": "params=90%"},
            [4, 1],
            "of params removed where 90.00% was asked: no more can go exactly",
        ),
        ({"round_to": 3}, [3, 1], ""),
        ({"round_to": 4}, [4, 0], ""),
        ({"ignore": ["0"]}, [1], ""),
    ],
)
def test_a_request_caps_what_goes(request_: dict[str, Any], removed: list[int], shortfall: str) -> None:
    result = exact(planted(), 16, **request_)
    assert counts(result) == removed
    assert shortfall in result.shortfall and bool(result.shortfall) == bool(shortfall)
    assert len(result.history) == 1 and result.history[0].units_removed == sum(removed)
    assert_same(planted(), result.model, corners_and_samples(16))


@pytest.mark.parametrize(
    ("request_", "error", "said"),
    [
        ({"remove": 0.01}, NothingToPruneError, "within remove and round_to"),
        ({"round_to": 12}, NothingToPruneError, "another method"),
        ({"remove": 0}, InputError, "between 0 and 1"),
        ({"options": {"alpha": 1}}, InputError, "options: exact has no 'alpha'; it has none"),
        ({"ignore": ["0", "2"]}, NothingToPruneError, "no group can lose a unit"),
    ],
)
def test_requests_that_cannot_be_met(request_: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        exact(planted(), 16, **request_)


def test_a_group_keeps_one_unit() -> None:
    model = dense([[0, 0]] * 3, [1, 2, 3], [[1, 2, 4]], [1.0])
    result = exact(model, 2)
    assert len(gone(result)["0"]) == 2 and "3 → 1" in result.explain()
    assert_same(model, result.model, corners_and_samples(2))


def test_the_model_stays_as_it_is() -> None:
    model = planted()
    before = snapshot(model)
    exact(model, 16)
    assert same_bits(before, snapshot(model))


@pytest.mark.sweep
@pytest.mark.parametrize("method", METHODS)
def test_recipes_replay_to_the_same_bits(method: str, tmp_path: Path) -> None:
    more = {} if method == "exact" else {"exact_first": True, "remove": 0.5, "step": 0.25}
    result = secateur.prune(planted(), torch.zeros(2, 16), method=method, samples=256, **more)
    result.recipe.save(tmp_path / "small.recipe.json")
    recipe = Recipe.load(tmp_path / "small.recipe.json")
    assert recipe == result.recipe
    assert same_bits(snapshot(secateur.replay(planted(), recipe)), snapshot(result.model))
    assert recipe.request.remove == ("all" if method == "exact" else "0.5")
    assert recipe.request.exact_first == (method != "exact")


# --- before another method ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", ["reconstruct", "saliency", "scale", "folding"])
def test_what_is_free_counts_towards_the_request(method: str) -> None:
    result = secateur.prune(
        planted(), torch.zeros(2, 16), method=method, remove=0.5, step=0.25, exact_first=True
    )
    assert [row.units_removed for row in result.history] == [5, 6, 11]  # a quarter is 3 of 12 and 2 of 10
    assert counts(result) == [6, 5] and result.recipe.achieved == pytest.approx(0.5)
    first = result.recipe.steps[0]
    assert {unit for edit in first.edits for unit in edit.units} == {4, 5, 7, 8, 9}


def test_what_is_free_goes_even_beyond_the_request() -> None:
    result = secateur.prune(planted(), torch.zeros(2, 16), method="scale", remove=0.1, exact_first=True)
    assert counts(result) == [4, 1] and len(result.history) == 1
    assert_same(planted(), result.model, corners_and_samples(16))


@pytest.mark.parametrize("remove", ["params=60%", "macs=60%", 0.6])
def test_global_allocation_takes_free_units_first(remove: float | str) -> None:
    settings: dict[str, Any] = {"remove": remove, "allocation": "global", "samples": 256}
    result = secateur.prune(planted(), torch.zeros(2, 16), exact_first=True, **settings)
    assert result.recipe.achieved >= 0.6 - 1e-9
    assert gone(result)["0"] >= {4, 5, 7, 9} and 8 in gone(result)["2"]


def test_nothing_free_is_no_step() -> None:
    settings: dict[str, Any] = {"method": "saliency", "remove": 0.5, "step": 1.0}
    plain, first = (
        secateur.prune(random_network(0), torch.zeros(2, 16), exact_first=e, **settings)
        for e in (False, True)
    )
    assert first.recipe.steps == plain.recipe.steps
    assert same_bits(snapshot(first.model), snapshot(plain.model))


def test_free_units_cost_nothing_that_a_method_could_have_kept() -> None:
    """Half of the units are copies: with exact_first, any method that may take half leaves the function as it
    is.
    """
    model = random_network(5)
    with torch.no_grad():
        for layer, half in ((model[0], 6), (model[2], 5)):
            layer.weight[half:], layer.bias[half:] = 2 * layer.weight[:half], 2 * layer.bias[:half]
    result = secateur.prune(model, torch.zeros(2, 16), method="scale", remove=0.5, exact_first=True)
    assert counts(result) == [6, 5]
    assert_same(model, result.model, corners_and_samples(16))


def test_older_recipes_load(tmp_path: Path) -> None:
    path = tmp_path / "old.recipe.json"
    secateur.prune(planted(), torch.zeros(2, 16), remove=0.5, method="scale").recipe.save(path)
    old = json.loads(path.read_text())
    del old["request"]["exact_first"]
    old["seal"] = seal_of(old)
    path.write_text(json.dumps(old))
    assert Recipe.load(path).request.exact_first is False
