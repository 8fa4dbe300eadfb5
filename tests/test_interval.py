"""Interval propagation holds every value it says it holds, for every op with a rule."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bound_cases import CASES, captured
from secateur.bounds.arithmetic import extremes
from secateur.bounds.box import input_box
from secateur.bounds.interval import RULES, propagate
from secateur.errors import InputError, UnsupportedOpError
from secateur.graph import functions
from secateur.graph.capture import capture
from secateur.graph.graph import Graph
from secateur.graph.interpret import run
from secateur.graph.node import kind
from secateur.types import Interval

NAMES = sorted(CASES)


def outputs(graph: Graph, box: tuple[Interval, ...]) -> list[Interval]:
    """Bounds of the outputs that are numbers; of those that are positions, nothing is claimed but their
    range.
    """
    values = propagate(graph, box)
    return [values[node] for node in graph.outputs]


def points(box: tuple[Interval, ...], count: int) -> list[Tensor]:
    """Random points of a box, its corners among them; ids of a small vocabulary."""
    found = []
    for x in box:
        shape = (count, *x.lower.shape[1:])
        if x.lower.is_floating_point():
            share = torch.rand(shape, dtype=x.lower.dtype)
            share[::3] = share[::3].round()
            found.append(
                torch.maximum(x.lower, torch.minimum(x.upper, x.lower + (x.upper - x.lower) * share))
            )
        else:
            found.append(torch.randint(0, 7, shape))
    return found


def holds(bound: Interval, values: Tensor, tolerance: float = 1e-9) -> bool:
    return bool((values >= bound.lower - tolerance).all() and (values <= bound.upper + tolerance).all())


def box_around(graph: Graph, radius: float) -> tuple[Interval, ...]:
    torch.manual_seed(1)
    centre = torch.rand(1, *graph.example[0].shape[1:], dtype=torch.float64) * 2 - 1
    return input_box(graph, [(centre - radius, centre + radius)] * len(graph.inputs))


def run_each(graph: Graph, inputs: list[Tensor]) -> list[Tensor]:
    """Outputs for each point alone, stacked: batches may stand on any axis of an output."""
    each = [run(graph, [x[i : i + 1] for x in inputs]) for i in range(len(inputs[0]))]
    return [torch.stack(column) for column in zip(*each, strict=True)]


@pytest.mark.sweep
@pytest.mark.parametrize("radius", [0.05, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_points_of_the_box_land_inside(name: str, radius: float) -> None:
    graph = captured(name)
    box = box_around(graph, radius)
    bounds = outputs(graph, box)
    for bound, values in zip(bounds, run_each(graph, points(box, 25)), strict=True):
        assert (bound.lower <= bound.upper).all()
        assert torch.isfinite(bound.lower).all() and torch.isfinite(bound.upper).all()
        assert holds(bound, values)


@pytest.mark.sweep
@pytest.mark.parametrize("name", [name for name in NAMES if CASES[name].exact])
def test_a_box_of_one_point_is_the_forward_pass(name: str) -> None:
    graph = captured(name)
    box = tuple(
        x
        if x.lower.is_floating_point()
        else Interval(torch.full_like(x.lower, 3), torch.full_like(x.lower, 3))
        for x in box_around(graph, 0.0)
    )
    for bound, value in zip(outputs(graph, box), run(graph, [x.lower for x in box]), strict=True):
        if value.is_floating_point():
            torch.testing.assert_close(bound.lower, value, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(bound.upper, value, rtol=1e-12, atol=1e-12)


@pytest.mark.sweep
@pytest.mark.parametrize("name", NAMES)
def test_smaller_boxes_nest(name: str) -> None:
    graph = captured(name)
    for small, large in zip(
        outputs(graph, box_around(graph, 0.1)), outputs(graph, box_around(graph, 0.3)), strict=True
    ):
        assert holds(large, small.lower) and holds(large, small.upper)


@pytest.mark.slow
def test_every_rule_has_a_case() -> None:
    seen = {kind(node) for name in NAMES for node in captured(name).nodes if node.op == "call_function"}
    assert set(RULES) - seen == set()


def test_linear_and_relu_by_hand() -> None:
    """W = [[1, −2], [−1, −1]], b = (0.5, −3), x ∈ [0, 1] × [−1, 2]: W x + b ∈ [−3.5, 3.5] × [−6, −2]."""
    linear = nn.Linear(2, 2)
    linear.weight.data, linear.bias.data = (
        torch.tensor([[1.0, -2.0], [-1.0, -1.0]]),
        torch.tensor([0.5, -3.0]),
    )
    graph = capture(nn.Sequential(linear, nn.ReLU()).eval(), torch.zeros(2, 2))
    box = input_box(graph, (torch.tensor([0.0, -1.0]), torch.tensor([1.0, 2.0])))
    values = propagate(graph, box, keep=lambda node: kind(node) == "linear")
    before = next(value for node, value in values.items() if kind(node) == "linear")
    assert before.lower.tolist() == [[-3.5, -6.0]] and before.upper.tolist() == [[3.5, -2.0]]
    (out,) = (values[node] for node in graph.outputs)
    assert out.lower.tolist() == [[0.0, 0.0]] and out.upper.tolist() == [[3.5, 0.0]]


def test_softmax_is_tight() -> None:
    graph = capture(nn.Softmax(1).eval(), torch.zeros(2, 3))
    (bound,) = outputs(
        graph, input_box(graph, (torch.tensor([-60.0, 0, 0]), torch.tensor([0.0, -46.0, -46.0]).abs()))
    )
    least = 1 / (1 + 2 * math.exp(106.0))
    assert bound.lower[0, 0].item() == pytest.approx(least, rel=1e-9)
    assert bound.upper[0, 0].item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_layer_norm_stays_within_its_sphere(scale: float) -> None:
    graph = capture(nn.LayerNorm(8, elementwise_affine=False).eval(), torch.zeros(2, 8))
    (bound,) = outputs(graph, input_box(graph, (-scale, scale)))
    assert bound.upper.max().item() <= math.sqrt(7) and bound.lower.min().item() >= -math.sqrt(7)


def test_weights_can_be_overridden_and_dtype_chosen() -> None:
    graph = capture(nn.Linear(3, 2).eval(), torch.zeros(2, 3))
    zeros = {name: torch.zeros_like(value) for name, value in graph.tensors.items()}
    (node,) = graph.outputs
    assert propagate(graph, input_box(graph, (0.0, 1.0)), zeros)[node].upper.abs().max() == 0
    assert propagate(graph, input_box(graph, (0.0, 1.0), torch.float32))[node].lower.dtype == torch.float32


def test_an_embedding_of_any_id_is_the_hull_of_its_rows() -> None:
    table = nn.Embedding(5, 3)
    graph = capture(table.eval(), torch.zeros(2, 4, dtype=torch.long))
    (bound,) = outputs(graph, input_box(graph, (0.0, 1.0)))
    torch.testing.assert_close(bound.lower, table.weight.double().detach().amin(0).expand(1, 4, 3))
    torch.testing.assert_close(bound.upper, table.weight.double().detach().amax(0).expand(1, 4, 3))


def test_ops_without_a_rule_are_all_named_before_any_work() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.atan2(torch.sin(x), x).sort(1)[0] + torch.arange(3).cos()

    graph = capture(Odd().eval(), torch.zeros(2, 3))
    with pytest.raises(UnsupportedOpError) as error:
        propagate(graph, input_box(graph, (0.0, 1.0)))
    message = str(error.value)
    assert message.startswith("sin: there is no rule to bound aten.sin.default")
    assert "aten.atan2.default, aten.sin.default, aten.sort.default" in message
    assert "aten.cos.default" not in message and "RULES" in message


def refuse(message: str, body: object, *inputs: Tensor) -> None:
    graph = capture(CaseModule(body).eval(), inputs)
    with pytest.raises(UnsupportedOpError, match=message):
        propagate(graph, input_box(graph, (0.5, 1.0)))


class CaseModule(nn.Module):
    def __init__(self, body: object) -> None:
        super().__init__()
        self.body = body

    def forward(self, *inputs: Tensor) -> object:
        return self.body(*inputs)  # type: ignore[operator]


@pytest.mark.slow
def test_cases_that_a_rule_cannot_bound_are_refused() -> None:
    x, ids = torch.rand(2, 4), torch.zeros(2, 4, dtype=torch.long)
    refuse("constant exponent", lambda x: 2**x, x)
    refuse("rounding", lambda x: torch.div(x, 2, rounding_mode="floor"), x)
    refuse("more than two tensors", lambda x: torch.einsum("ab,ab,ab->ab", x, x, x), x)
    refuse("dropout is active", lambda x: F.dropout(x, 0.5, True), x)
    refuse("batch statistics", lambda x: F.batch_norm(x, None, None, training=True), x)
    refuse("whole numbers", lambda ids: ids * 0.5, ids)
    refuse("whole number made from a fraction", lambda x: x.to(torch.long).to(torch.float32), x)
    refuse("which entries are read", lambda ids: torch.eye(4)[ids], ids)
    refuse("truth value", lambda x: x.to(torch.bool), x)
    refuse("drops out", lambda x: F.scaled_dot_product_attention(*[x.unsqueeze(1)] * 3, dropout_p=0.5), x)
    refuse(
        "grouped queries",
        lambda x: F.scaled_dot_product_attention(*[x[:, None, None]] * 3, enable_gqa=True),
        x,
    )


def test_input_bounds_that_make_no_box_are_refused() -> None:
    graph = capture(nn.Linear(3, 2).eval(), torch.zeros(2, 3))
    with pytest.raises(InputError, match="lower bound is above"):
        input_box(graph, (1.0, 0.0))
    with pytest.raises(InputError, match="upper bound is not finite"):
        input_box(graph, (0.0, math.inf))
    with pytest.raises(
        InputError, match=r"lower bound of shape \(2,\) does not broadcast to one input of shape \(3,\)"
    ):
        input_box(graph, (torch.zeros(2), 1.0))
    with pytest.raises(InputError, match="has 3 pairs but the model has 1 inputs"):
        input_box(graph, [(0.0, 1.0)] * 3)
    with pytest.raises(InputError, match="expected a pair"):
        input_box(graph, [(0.0, 0.5, 1.0)])


@pytest.mark.parametrize(
    ("function", "at"),
    [
        (F.gelu, functions.GELU_MIN),
        (lambda x: F.gelu(x, approximate="tanh"), functions.GELU_TANH_MIN),
        (F.silu, functions.SILU_MIN),
        (F.mish, functions.MISH_MIN),
        (F.hardswish, -1.5),
    ],
)
def test_minimisers_are_minimisers(function: object, at: float) -> None:
    grid = torch.linspace(at - 3, at + 3, 200_001, dtype=torch.float64)
    least = function(torch.tensor(at, dtype=torch.float64))  # type: ignore[operator]
    assert (function(grid) >= least - 1e-16).all()  # type: ignore[operator]
    falls = function(grid).diff() <= 1e-16  # type: ignore[operator]
    assert falls[:99_000].all() and not falls[101_000:].any()


def test_extremes_meet_where_the_function_turns() -> None:
    value = Interval(torch.tensor([-2.0, 1.0]), torch.tensor([1.0, 3.0]))
    found = extremes(torch.abs, value, (0.0,))
    assert found.lower.tolist() == [0.0, 1.0] and found.upper.tolist() == [2.0, 3.0]
