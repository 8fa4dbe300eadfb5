"""Bounds that are rounded outward hold in real arithmetic, for every op with a rule."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from bound_cases import CASES, captured
from secateur.bounds import interval
from secateur.bounds.box import input_box
from secateur.bounds.interval import propagate
from secateur.bounds.rounding import ERRORS, OUTWARD
from secateur.errors import InputError
from secateur.graph.capture import capture
from secateur.graph.graph import Graph
from secateur.types import Interval
from test_interval import CaseModule
from walks import excess, extreme_points, values

NAMES = sorted(CASES)
RADII = (0.0, 1e-9, 0.3, 40.0)


def box_of(graph: Graph, radius: float) -> tuple[Interval, ...]:
    torch.manual_seed(1)
    centre = torch.rand(1, *graph.example[0].shape[1:], dtype=torch.float64) * 2 - 1
    return input_box(graph, [(centre - radius, centre + radius)] * len(graph.inputs))


def outward(graph: Graph, box: tuple[Interval, ...]) -> list[Interval]:
    found = propagate(graph, box, rounding=OUTWARD)
    return [found[node] for node in graph.outputs]


def test_every_rule_has_an_error() -> None:
    assert interval.RULES.keys() - ERRORS.keys() == set()
    assert ERRORS.keys() - interval.RULES.keys() == set()


@pytest.mark.sweep
@pytest.mark.parametrize("name", NAMES)
def test_points_of_the_box_land_inside(name: str) -> None:
    graph = captured(name)
    for radius in RADII:
        box = box_of(graph, radius)
        bounds = outward(graph, box)
        for inputs in extreme_points(graph, graph.tensors, box, rounds=6):
            found = values(graph, graph.tensors, inputs)
            for node, bound in zip(graph.outputs, bounds, strict=True):
                assert excess(bound, found[node]) <= 1e-12


@pytest.mark.sweep
@pytest.mark.parametrize("name", NAMES)
def test_smaller_boxes_nest_and_outward_is_wider(name: str) -> None:
    graph = captured(name)
    bounds = [outward(graph, box_of(graph, radius)) for radius in RADII]
    for small, large in pairwise(bounds):
        for inner, outer in zip(small, large, strict=True):
            assert (outer.lower <= inner.lower).all() and (inner.upper <= outer.upper).all()
    nearest = propagate(graph, box_of(graph, 0.3))
    for node, wide in zip(graph.outputs, bounds[2], strict=True):
        assert (wide.lower <= nearest[node].lower).all() and (nearest[node].upper <= wide.upper).all()


# --- exact arithmetic ---------------------------------------------------------------------------------------


def exactly(weight: Tensor, bias: Tensor, x: Tensor) -> list[Fraction]:
    """W x + b in rational numbers."""
    rows = zip(weight.tolist(), bias.tolist(), strict=True)
    return [
        sum((Fraction(w) * Fraction(v) for w, v in zip(row, x.tolist(), strict=True)), Fraction(b))
        for row, b in rows
    ]


def holds_exactly(bound: Interval, exact: list[Fraction]) -> bool:
    ends = zip(bound.lower.flatten().tolist(), exact, bound.upper.flatten().tolist(), strict=True)
    return all(Fraction(low) <= value <= Fraction(high) for low, value, high in ends)


def affine(weight: Tensor, bias: Tensor) -> Graph:
    layer = nn.Linear(weight.shape[1], weight.shape[0]).double()
    layer.weight.data, layer.bias.data = weight, bias
    return capture(layer.eval(), torch.zeros(2, weight.shape[1], dtype=torch.float64))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.sampled_from([1e-300, 1e-8, 1.0, 1e8]))
def test_sums_hold_their_exact_value(seed: int, inputs: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, inputs, generator=generator, dtype=torch.float64) * scale
    bias, x = (torch.randn(n, generator=generator, dtype=torch.float64) for n in (3, inputs))
    weight[:, ::2] *= 1e6  # much cancels
    (bound,) = outward(affine(weight, bias), (Interval(x[None], x[None]),))
    assert holds_exactly(bound, exactly(weight, bias, x))


def test_sums_to_nearest_do_not_hold_their_exact_value() -> None:
    """A thousand numbers of very different sizes, so that no order of the sum is exact, whatever the
    processor does.
    """
    weight, bias = torch.ones(1, 1000, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x * 10.0 ** torch.linspace(-8, 8, 1000, dtype=torch.float64)
    graph, box = affine(weight, bias), (Interval(x[None], x[None]),)
    (node,) = graph.outputs
    assert not holds_exactly(propagate(graph, box)[node], exactly(weight, bias, x))
    assert holds_exactly(outward(graph, box)[0], exactly(weight, bias, x))


def test_convolutions_hold_their_exact_value() -> None:
    torch.manual_seed(3)
    conv = nn.Conv2d(3, 2, 2).double().eval()
    conv.weight.data[:, 0] *= 1e9
    graph = capture(conv, torch.zeros(2, 3, 4, 4, dtype=torch.float64))
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    patches = F.unfold(x, 2)[0].T
    weight = conv.weight.detach().flatten(1)
    exact = [exactly(weight, conv.bias.detach(), patch) for patch in patches]
    (bound,) = outward(graph, (Interval(x, x),))
    assert holds_exactly(bound, [value for column in zip(*exact, strict=True) for value in column])
    (node,) = graph.outputs
    assert not holds_exactly(
        propagate(graph, (Interval(x, x),))[node], [v for c in zip(*exact, strict=True) for v in c]
    )


@pytest.mark.parametrize(
    ("body", "exact"),
    [
        (lambda x: torch.rsub(x, 1e-30, alpha=3e9), lambda v: Fraction(1e-30) - Fraction(3e9) * v),
        (lambda x: torch.sub(x * 0.0, x, alpha=3e9), lambda v: -Fraction(3e9) * v),
        (lambda x: torch.addmm(0 * W[0], x, W, alpha=-0.3), lambda v: -Fraction(0.3) * v * Fraction(0.7)),
        (lambda x: x * 0.7, lambda v: Fraction(0.7) * v),
        (lambda x: x / 0.7, lambda v: v / Fraction(0.7)),
    ],
)
def test_factors_count_in_the_error(body: object, exact: object) -> None:
    graph = capture(CaseModule(body).eval(), torch.zeros(2, 1, dtype=torch.float64))
    for number in torch.rand(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist():
        x = torch.full((1, 1), number, dtype=torch.float64)
        (bound,) = outward(graph, (Interval(x, x + 1),))
        for end in (x, x + 1):
            assert holds_exactly(bound, [exact(Fraction(end.item()))])  # type: ignore[operator]


W = torch.full((1, 1), 0.7, dtype=torch.float64)


# --- what has no bound, and what needs a wide one -----------------------------------------------------------


def test_softplus_may_jump() -> None:
    """torch takes softplus(x) = x above the threshold: here a fall of 0.31 at 1."""
    graph = capture(CaseModule(lambda x: F.softplus(x, threshold=1.0)).eval(), torch.zeros(2, 1))
    (bound,) = outward(graph, input_box(graph, (0.9, 1.1)))
    assert bound.lower.item() <= 1.0001 and bound.upper.item() >= math.log1p(math.exp(1.0))


def test_a_bound_is_never_nan() -> None:
    """0 · ∞ may be anything."""
    layer = nn.Linear(2, 2)
    layer.weight.data = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    graph = capture(CaseModule(lambda x: layer(1 / x)).eval(), torch.ones(2, 2))
    for bound in outward(graph, input_box(graph, (-1.0, 1.0))):
        assert bound.lower.isneginf().all() and bound.upper.isposinf().all()


def test_only_float64_is_rounded_outward() -> None:
    graph = capture(nn.Linear(2, 2).eval(), torch.zeros(2, 2))
    with pytest.raises(InputError, match=r"in float64, not in torch\.float32"):
        outward(graph, input_box(graph, (0.0, 1.0), torch.float32))


def test_layer_norm_of_values_that_hardly_differ() -> None:
    """x = 10⁶ + small: the mean and the deviation lose ten digits, and the bound says so."""
    norm = nn.LayerNorm(64, elementwise_affine=False, eps=1e-12).double()
    graph = capture(norm.eval(), torch.zeros(2, 64, dtype=torch.float64))
    parts = torch.randint(-50, 50, (1, 64), generator=torch.Generator().manual_seed(1)).double() / 2**20
    x = 1e6 + parts
    mean = sum(map(Fraction, x[0].tolist())) / 64
    centred = [Fraction(v) - mean for v in x[0].tolist()]
    deviation = Fraction(math.sqrt(sum(z * z for z in centred) / 64 + Fraction(1e-12)))
    (bound,) = outward(graph, (Interval(x, x),))
    assert holds_exactly(bound, [z / deviation for z in centred])
