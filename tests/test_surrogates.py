"""Surrogates: always in the box, the same bits by seed, for inputs of any rank, and nearer to data than noise
is.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur.bounds.box import input_box
from secateur.errors import InputError
from secateur.graph.capture import capture
from secateur.graph.example import ExampleInputs
from secateur.surrogates import SURROGATES, Source, batch_norm, choice
from secateur.surrogates.batch_norm import match_batch_norm, mismatch
from secateur.surrogates.evidence import agreement, draw_probes
from secateur.surrogates.families import _drawings, families
from secateur.surrogates.layout import Layout, layouts
from secateur.surrogates.photographs import photographs
from secateur.surrogates.shapes import _to_curve, _topmost, points
from secateur.types import Samples

pytestmark = pytest.mark.judged  # as many drawings as for users

OF_NUMBERS = [name for name in SURROGATES if name not in ("ranks", "written")]
PLAIN = [name for name in OF_NUMBERS if not name.startswith("bn_")]


def source_of(model: nn.Module, example: ExampleInputs, bounds: Any = (0.0, 1.0), seed: int = 0) -> Source:
    graph = capture(model.eval(), example)
    return Source(graph, input_box(graph, bounds, dtype=torch.float32), torch.Generator().manual_seed(seed))


def inputs_of(source: Source, name: str, count: int) -> tuple[Tensor, ...]:
    found = SURROGATES[name](source, count)
    return found.inputs if isinstance(found, Samples) else found


def classifier(shape: tuple[int, ...], norm: bool = False) -> nn.Module:
    """A small network for inputs of any rank."""
    torch.manual_seed(0)
    layers, channels = list[nn.Module](), shape[0]
    if norm:
        layers = [nn.Conv2d(shape[0], 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()]
        shape = (6, *shape[1:])
    size = int(torch.tensor(shape).prod())
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(size, 12), nn.ReLU(), nn.Linear(12, 4))
    if norm:  # running statistics of dim flat pictures, as training on them would leave
        seen = layers[0](0.2 * torch.rand(300, channels, 1, 1).expand(-1, -1, *shape[1:]))
        layers[1].running_var, layers[1].running_mean = torch.var_mean(seen.detach(), (0, 2, 3))  # type: ignore[assignment]
    return model


SHAPES = [(7,), (30,), (1, 8, 8), (3, 6, 9), (2, 12), (5, 4), (1, 3, 4, 5)]


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAIN)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=st.sampled_from(SHAPES),
    bounds=st.sampled_from([(0.0, 1.0), (-2.5, -0.5), (-1.0, 300.0), (0.0, 0.0)]),
    count=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_in_the_box_finite_and_the_same_by_seed(
    name: str, shape: tuple[int, ...], bounds: tuple[float, float], count: int, seed: int
) -> None:
    model, example = classifier(shape), torch.zeros(2, *shape)
    (x,) = inputs_of(source_of(model, example, bounds, seed), name, count)
    assert x.shape == (count, *shape) and x.dtype == torch.float32 and bool(torch.isfinite(x).all())
    assert bool((x >= bounds[0]).all() and (x <= bounds[1]).all())
    (again,) = inputs_of(source_of(model, example, bounds, seed), name, count)
    assert torch.equal(x, again)


@pytest.mark.sweep
@pytest.mark.parametrize("name", OF_NUMBERS)
def test_bounds_of_each_channel_are_kept(name: str) -> None:
    low, high = (
        torch.tensor([0.0, -1.0, 5.0]).reshape(3, 1, 1),
        torch.tensor([1.0, 1.0, 6.0]).reshape(3, 1, 1),
    )
    (x,) = inputs_of(
        source_of(classifier((3, 8, 8), norm=True), torch.zeros(2, 3, 8, 8), (low, high)), name, 20
    )
    assert bool((x >= low).all() and (x <= high).all()) and len(x) == 20
    assert float(x.std()) > 0.0


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(11, 4), nn.Linear(9, 3)

    def forward(self, tokens: Tensor, numbers: Tensor) -> Tensor:
        return self.layer(torch.cat([self.embedding(tokens).mean(1), numbers], 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", PLAIN)
def test_several_inputs_and_tokens(name: str) -> None:
    torch.manual_seed(0)
    example = (torch.randint(0, 11, (2, 6)), torch.rand(2, 5))
    tokens, numbers = inputs_of(source_of(TwoInputs(), example), name, 25)
    assert tokens.shape == (25, 6) and tokens.dtype == torch.int64 and numbers.shape == (25, 5)
    assert bool(torch.isin(tokens, example[0]).all() or ((tokens >= 0) & (tokens < 11)).all())


def test_integers_alone_are_drawn_from_the_vocabulary() -> None:
    """Families differ in how frequent they take the tokens to be; all tokens come up in all of them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 4), nn.Flatten(), nn.Linear(24, 3))
    source = source_of(model, torch.randint(0, 11, (2, 6)))
    assert all(family.name.startswith("tokens by ") for family in families(source))
    (ids,) = inputs_of(source, "auto", 400)
    assert not ids.is_floating_point() and set(ids.unique().tolist()) == set(range(11))


def test_without_classes_the_families_are_there_and_inversion_says_so() -> None:
    class Picture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)))  # type: ignore[no-any-return]

    source = source_of(Picture(), torch.zeros(2, 1, 8, 8))
    for name in ("auto", "mixture"):
        assert inputs_of(source, name, 16)[0].shape == (16, 1, 8, 8)
    with pytest.raises(InputError, match="inversion"):
        SURROGATES["inversion"](source, 4)


@pytest.mark.parametrize("name", ["bn_inversion", "bn_moments"])
def test_without_batch_norm_nothing_is_remembered(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} needs a model with batch norm.*such as auto"):
        SURROGATES[name](source_of(classifier((9,)), torch.zeros(2, 9)), 4)


def test_inversion_finds_the_running_statistics() -> None:
    source = source_of(classifier((2, 8, 8), norm=True), torch.zeros(2, 2, 8, 8))
    noise = inputs_of(source, "uniform", 64)
    before, after = (mismatch(source, x) for x in (noise, match_batch_norm(source, noise)))
    assert after < 0.5 * before


def test_the_gradient_of_the_mismatch_is_that_of_all_inputs_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches, against one differentiable pass: (μ − μ₀)²/σ₀² + ½ log²(σ²/σ₀²), the mean over channels."""
    monkeypatch.setattr(batch_norm, "gradient_batch", lambda *given: 5)
    model = classifier((2, 8, 8), norm=True)
    source = source_of(model, torch.zeros(2, 2, 8, 8))
    (x,) = inputs_of(source, "uniform", 16)
    leaf = x.clone().requires_grad_()
    variance, mean = torch.var_mean(model[0](leaf), (0, 2, 3), correction=0)
    known = model[1].running_var + 1e-6
    ratio = (variance / known + 1e-6).log()
    distance = ((mean - model[1].running_mean).square() / known + 0.5 * ratio.square()).mean()
    distance.backward()
    assert mismatch(source, (x,)) == pytest.approx(distance.item(), rel=1e-4)
    torch.testing.assert_close(batch_norm._slopes(source, (x,))[0], leaf.grad, rtol=1e-4, atol=1e-7)


def test_inversion_makes_the_model_surer() -> None:
    torch.manual_seed(1)
    model = classifier((1, 8, 8))
    source = source_of(model, torch.zeros(2, 1, 8, 8))

    def sureness(x: Tensor) -> float:
        with torch.no_grad():
            return float(model(x).softmax(1).amax(1).mean())

    assert (
        sureness(inputs_of(source, "inversion", 64)[0]) > sureness(inputs_of(source, "uniform", 64)[0]) + 0.02
    )


def test_evidence_prefers_the_inputs_that_a_model_was_trained_on() -> None:
    """A network trained on inputs in which three of twenty numbers matter and vary: noise explains its
    weights less.
    """
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(3, 20, generator=generator)

    def data(n: int) -> tuple[Tensor, Tensor]:
        z = torch.randn(n, 3, generator=generator)
        return z @ mix / 3, (z[:, 0] > 0).long() + 2 * (z[:, 1] * z[:, 2] > 0).long()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    adam = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)
    for _ in range(300):
        x, y = data(128)
        adam.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        adam.step()
    source = source_of(model, torch.zeros(2, 20), (-4.0, 4.0))
    real, noise = (data(200)[0].clamp(-4, 4),), inputs_of(source, "uniform", 200)
    probes = draw_probes(source, real)
    assert agreement(source, real, probes) > agreement(source, noise, probes)


class Last(nn.Module):
    """A convolution over an input whose channels are last, as in models of Keras."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(6, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv((2 * x - 1).movedim(-1, 1)).flatten(1)  # type: ignore[no-any-return]


def test_the_graph_tells_that_channels_are_last() -> None:
    (found,) = layouts(source_of(Last().eval(), torch.zeros(2, 20, 6)), 0)
    assert (found.channels, found.space, found.last) == (6, (20,), True)
    first, second = layouts(source_of(nn.Conv1d(20, 4, 3).eval(), torch.zeros(2, 20, 6)), 0)
    assert not first.last and second.last


def test_photographs_are_for_pictures_alone() -> None:
    """In the unit cube, the same by seed, of as many channels as asked, no two alike."""
    for channels, space in ((1, (28, 28)), (3, (40, 64)), (4, (16, 16))):
        x, again = (photographs(40, channels, space, torch.Generator().manual_seed(0)) for _ in range(2))
        assert x.shape == (40, channels, *space) and torch.equal(x, again)
        assert float(x.min()) >= 0 and float(x.max()) <= 1 and len(x.flatten(1).unique(dim=0)) == 40
        assert float(x.flatten(1).std(1).median()) > 0.05
    picture, series = (Layout(3, (32, 32), (3, 32, 32)), Layout(3, (64,), (3, 64)))
    assert "photographs" in _drawings([picture])
    assert "photographs" not in _drawings([series]) and "photographs" not in _drawings([picture, series])
    assert "photographs" not in _drawings([Layout(1, (8, 8), (1, 8, 8))])


def test_families_are_judged_with_gradients_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of numbers follow the model's gradients, whatever judges them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    seen = list[bool]()
    draw = choice.Family.draw

    def watched(family: choice.Family, source: Source, count: int) -> Any:
        seen.append(torch.is_grad_enabled())
        return draw(family, source, count)

    monkeypatch.setattr(choice.Family, "draw", watched)
    SURROGATES["auto"](source_of(net.eval(), torch.rand(2, 6)), 32)
    assert len(seen) > 1 and all(seen)


@pytest.mark.parametrize("space", [(9,), (7, 5), (4, 3, 5)])
def test_distances_to_curves_are_those_to_the_nearest_of_their_points(space: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    where, curve = points(space), torch.rand(4, 6, len(space)) * 2 - 1
    curve[2, 0] = curve[1, 0]  # a piece without length
    share = torch.linspace(0, 1, 2001)[:, None, None]
    dense = [(a + share * (b - a) - p).square().sum(2) for a, b in pairwise(curve) for p in where]
    nearest = torch.stack([d.amin(0) for d in dense]).reshape(3, len(where), 6).amin(0).T
    torch.testing.assert_close(_to_curve(where, curve), nearest, atol=1e-5, rtol=0)


@pytest.mark.parametrize("space", [(9,), (7, 5), (4, 3, 5)])
def test_the_last_leaf_over_a_point_is_on_top(space: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    where, leaves = points(space), torch.randn(5, len(space), 6, len(space) + 1)
    elliptic = (torch.rand(5, 6, 1) < 0.5).float()
    expected = torch.zeros(6, len(where))
    for number in range(5):
        for n in range(6):
            place = where @ leaves[number, :, n, :-1].T + leaves[number, :, n, -1]
            inside = place.norm(dim=1) < 1 if elliptic[number, n] else place.abs().amax(1) < 1
            expected[n, inside] = number + 1
    assert torch.equal(_topmost(where, leaves, elliptic), expected) and len(expected.unique()) > 2
