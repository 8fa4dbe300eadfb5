"""Linear bounds on two networks hold every value, every change and every row that can be asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from bound_cases import CASES, captured
from secateur.bounds import tighten
from secateur.bounds.activations import SLOPES
from secateur.bounds.arithmetic import as_interval
from secateur.bounds.backward import lower
from secateur.bounds.box import input_box
from secateur.bounds.engine import Backward, varies
from secateur.bounds.joint import Networks
from secateur.bounds.linear import is_linear
from secateur.bounds.lines import (
    Lines,
    Planes,
    relu_lines,
    relu_planes,
    relu_slope,
    slope_range,
    smooth_lines,
    smooth_planes,
)
from secateur.bounds.pairs import Pair
from secateur.bounds.table import OPEN, Table, below
from secateur.bounds.tighten import bounded
from secateur.bounds.windows import Everywhere
from secateur.graph.capture import capture
from secateur.graph.graph import Graph
from secateur.graph.node import kind
from secateur.graph.ops import OPS
from secateur.types import Interval
from test_interval import CaseModule
from walks import LIKE, excess, extreme_points, values

NAMES = sorted(CASES)
Weights = Mapping[str, Tensor]


def changed(graph: Graph, size: float) -> dict[str, Tensor]:
    """Every parameter moved by up to `size` of itself, or of 0.1; variances stay positive."""

    def moved(value: Tensor) -> Tensor:
        if not value.is_floating_point() or not size:
            return value
        noise = torch.rand(2, *value.shape, dtype=torch.float64) * 2 - 1
        found = value.double() * (1 + size * noise[0]) + 0.1 * size * noise[1]
        return found if value.min() < 0 else found.abs()

    return {name: moved(value) for name, value in graph.tensors.items()}


def boxes_of(graph: Graph, radii: Sequence[float]) -> list[Interval]:
    """One box of each radius, stacked."""
    found = []
    for _ in radii:
        centres = [torch.rand(1, *x.shape[1:], dtype=torch.float64) * 2 - 1 for x in graph.example]
        pairs = [(c - radii[len(found)], c + radii[len(found)]) for c in centres]
        found.append(input_box(graph, pairs if len(pairs) > 1 else pairs[0]))
    columns = zip(*found, strict=True)
    return [Interval(torch.stack([x.lower for x in c]), torch.stack([x.upper for x in c])) for c in columns]


def box_at(boxes: Any, k: int) -> Any:
    """One of stacked boxes (or bounds)."""
    if isinstance(boxes, Interval):
        return Interval(boxes.lower[k], boxes.upper[k])
    return [box_at(x, k) for x in boxes]


def rows(engine: Backward, count: int) -> list[tuple[Any, Tensor, Tensor, Tensor, Tensor]]:
    """For every output and box: random a and b, among them drifts (b = −a) and rows of g alone, and their
    bounds.
    """
    found = []
    for node in dict.fromkeys(engine.networks.graph.outputs):
        value = engine.bounds[node]
        x = as_interval(value.before if isinstance(value, Pair) else value).lower
        if not x.is_floating_point():
            continue
        a, b = torch.randn(2, count * len(x), *x.shape[1:], dtype=torch.float64)
        b[::3] = -a[::3]
        a[1::6] = 0
        box = torch.arange(len(x)).repeat(count)
        found.append((node, a, b, box, lower(engine, {node: (a, b)}, Everywhere(box))))
    return found


def check(graph: Graph, first: Weights, second: Weights, radii: Sequence[float], rounds: int) -> Backward:
    """No random point or corner, and none that gradients lead to, lies outside of any bound of any node."""
    boxes = boxes_of(graph, radii)
    engine = bounded(Networks.of(graph, first, second, LIKE), boxes)
    asked = rows(engine, 6)
    for k in range(len(radii)):
        for inputs in extreme_points(graph, first, box_at(boxes, k), rounds, second):
            f, g = values(graph, first, inputs), values(graph, second, inputs)
            for node, bound in engine.bounds.items():
                if isinstance(bound, Interval):
                    assert max(excess(box_at(bound, k), side[node]) for side in (f, g)) <= 1e-12, node
                elif isinstance(bound, Pair) and isinstance(bound.before, Interval):
                    assert excess(box_at(bound.before, k), f[node]) <= 1e-12, node
                    assert excess(box_at(bound.after, k), g[node]) <= 1e-12, node
                    drift = g[node] - f[node]
                    size = 1 + f[node].abs() + g[node].abs()
                    assert excess(box_at(bound.change, k), drift) <= 1e-12 * float(size.max()), node
            for node, a, b, box, least in asked:
                of_box = box == k
                terms = torch.cat([(a[of_box] * f[node]).flatten(1), (b[of_box] * g[node]).flatten(1)], 1)
                over = (least[of_box] - terms.sum(1)) / (1 + terms.abs().sum(1))
                assert not least.isnan().any() and over.nan_to_num().max() <= 1e-12, node
    return engine


@pytest.mark.sweep
@pytest.mark.parametrize("size", [0.0, 1e-6, 0.3])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_lies_outside_of_its_bounds(name: str, size: float) -> None:
    torch.manual_seed(2)
    graph = captured(name)
    check(graph, graph.tensors, changed(graph, size), (0.0, 1e-9, 0.2, 20.0), 2)


LINEAR = (
    "add_sub", "addmm", "average_pools", "average_pools_3d", "batch_norm", "batch_norm_plain", "cat_stack",
    "clone_alias_to", "conv1d", "conv2d", "conv2d_depthwise", "conv2d_grouped", "conv3d", "conv_transpose1d",
    "conv_transpose2d", "conv_transpose3d", "dropouts", "expand_squeeze", "flatten_unflatten", "flip_roll_repeat",
    "index", "linear", "linear_no_bias", "matrix_transposes", "mean_sum", "neg", "pads", "select_slice_narrow",
    "shape_only", "shuffles", "split_chunk_unbind", "triangles", "upsample", "upsample_3d", "view_as",
    "view_transpose_permute", "where_masked_fill",
)  # fmt: skip


@pytest.mark.parametrize("name", LINEAR)
def test_linear_ops_and_their_transposes_agree(name: str) -> None:
    """⟨c, W x⟩ = ⟨Wᵀ c, x⟩: of a whole network, exact where every op is linear (a box of one point)."""
    torch.manual_seed(2)
    graph = captured(name)
    boxes = boxes_of(graph, (0.0,))
    engine = bounded(Networks.of(graph, graph.tensors, changed(graph, 0.1), LIKE), boxes)
    moving = [
        n for n in graph.nodes if n.op == "call_function" and n in engine.bounds and varies(engine.bounds[n])
    ]
    assert all(is_linear(node, engine.bounds) for node in moving if kind(node) != "sym_size")
    inputs = [x.lower[0] for x in boxes]
    f, g = values(graph, engine.networks.first, inputs), values(graph, engine.networks.second, inputs)
    for node, a, b, _, least in rows(engine, 4):
        exact = (a * f[node]).flatten(1).sum(1) + (b * g[node]).flatten(1).sum(1)
        torch.testing.assert_close(least, exact, rtol=1e-9, atol=1e-9)


# --- networks at random -------------------------------------------------------------------------------------

ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.relu, torch.relu, torch.tanh, torch.sigmoid, F.gelu, F.silu, F.elu, F.softplus, F.hardswish, F.leaky_relu,
    torch.abs, F.relu6, F.mish, torch.square, torch.exp, lambda x: F.softplus(x, 1.0, 0.5), lambda x: x.clamp_min(0.1),
    lambda x: F.gelu(x, approximate="tanh"),
)  # fmt: skip


class Block(nn.Module):
    """One step of a random network on maps of shape (batch, channels, 4, 4)."""

    def __init__(self, form: str, channels: int, which: int) -> None:
        super().__init__()
        self.form, self.act = form, ACTIVATIONS[which % len(ACTIVATIONS)]
        groups = channels if form == "depthwise" else 1
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=groups)
        self.more = nn.Conv2d(channels, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        self.group = nn.GroupNorm(1, channels)
        self.scale = nn.Parameter(torch.randn(channels, 1, 1))
        self.norm.running_mean.copy_(torch.randn(channels) * 0.3)
        self.norm.running_var.copy_(torch.rand(channels) + 0.2)

    def forward(self, x: Tensor) -> Tensor:
        match self.form:
            case "residual":
                return x + self.more(self.act(self.conv(x)))
            case "concat":
                return torch.cat([self.act(self.conv(x)), x], 1)[:, ::2] - 0.1
            case "split":
                a, b = self.act(self.conv(x)).chunk(2, 1)
                return torch.cat([b, self.act(a) - b], 1)
            case "pool":
                return F.interpolate(F.avg_pool2d(self.act(x), 2), scale_factor=2) + F.max_pool2d(x, 3, 1, 1)
            case "norm":
                return self.act(self.norm(self.conv(x)))
            case "group":
                return self.group(self.act(x))
            case "gate":
                return x * torch.sigmoid(self.more(x.mean((2, 3), keepdim=True))) + self.act(x) * self.scale
            case "three":
                y = self.act(x)
                return self.conv(y) + self.more(y) - y / 3 + y.detach()
        return self.act(self.conv(x))


class Random(nn.Module):
    def __init__(self, forms: Sequence[tuple[str, int]], channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, channels, 1)
        self.blocks = nn.Sequential(*(Block(form, channels, which) for form, which in forms))
        self.head = nn.Linear(16 * channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).flatten(1))


FORMS = ("plain", "depthwise", "residual", "concat", "split", "pool", "norm", "group", "gate", "three")


def masked(graph: Graph, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Pruned as pruning does it: half of the rows of every kernel are 0."""
    return {name: value.index_fill(0, torch.arange(len(value))[::2], 0.0) if value.ndim == 4 else value
            for name, value in weights.items()}  # fmt: skip


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(FORMS), st.integers(0, 17)), min_size=1, max_size=4),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 1e-12, 1e-3, 0.1, 3.0]),
    st.booleans(),
)
def test_random_networks(forms: list[tuple[str, int]], seed: int, size: float, prune: bool) -> None:
    torch.manual_seed(seed)
    graph = capture(Random(forms, 2).eval(), torch.zeros(2, 2, 4, 4))
    second = changed(graph, size)
    check(graph, graph.tensors, masked(graph, second) if prune else second, (0.0, 0.02, 0.5), 2)


# --- known answers ------------------------------------------------------------------------------------------


def dense(*widths: int, act: Callable[[], nn.Module] = nn.ReLU) -> Graph:
    torch.manual_seed(7)
    layers = [m for i, o in pairwise(widths) for m in (nn.Linear(i, o), act())]
    return capture(nn.Sequential(*layers[:-1]).eval(), torch.zeros(2, widths[0]))


def output_of(engine: Backward) -> Any:
    return engine.bounds[engine.networks.graph.outputs[0]]


def test_two_neurons_by_hand() -> None:
    """f = relu(x₁ + x₂) − relu(x₁ − x₂) on [−1, 1]², g = f + x₂-part halved.

    Both neurons range over [−2, 2]: relu(z) ≤ z/2 + 1, and ≥ 0 (as its upper end is not above −its lower
    end). So f ≥ 0 − ((x₁ − x₂)/2 + 1) ≥ −2. In g the second is scaled by 2: g ≥ −4; and g − f = −relu(x₁ −
    x₂) ∈ [−2, 0].
    """
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)).eval()
    net[0].weight.data = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    net[2].weight.data = torch.tensor([[1.0, -1.0]])
    graph = capture(net, torch.zeros(2, 2))
    second = {**graph.tensors, "2.weight": torch.tensor([[1.0, -2.0]])}
    box = Interval(-torch.ones(1, 1, 2, dtype=torch.float64), torch.ones(1, 1, 2, dtype=torch.float64))
    engine = bounded(Networks.of(graph, graph.tensors, second, LIKE), [box])
    (node,), one = graph.outputs, torch.ones(1, 1, 1, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.long)
    for a, b, least in ((1.0, None, -2.0), (None, 1.0, -4.0), (-1.0, 1.0, -2.0), (1.0, -1.0, 0.0)):
        seed = (None if a is None else a * one, None if b is None else b * one)
        assert lower(engine, {node: seed}, Everywhere(zero)).item() == pytest.approx(least, abs=1e-12)


@pytest.mark.parametrize(
    "name", ["linear", "conv2d_grouped", "batch_norm", "mean_sum", "upsample", "split_chunk_unbind"]
)
def test_linear_networks_are_bounded_exactly(name: str) -> None:
    torch.manual_seed(8)
    graph = captured(name)
    boxes, second = boxes_of(graph, (0.4,)), changed(graph, 0.2)
    engine = bounded(Networks.of(graph, graph.tensors, second, LIKE), boxes)
    for node, a, b, _, least in rows(engine, 2):
        x = boxes[0].lower[0].clone().requires_grad_()
        out = (a * values(graph, engine.networks.first, [x])[node]).flatten(1).sum(1)
        out = out + (b * values(graph, engine.networks.second, [x])[node]).flatten(1).sum(1)
        for row, bound in zip(out, least, strict=True):
            (slope,) = torch.autograd.grad(row, x, retain_graph=True)
            exact = row + (slope.clamp(max=0) * (boxes[0].upper[0] - boxes[0].lower[0])).sum()
            assert bound.item() == pytest.approx(exact.item(), rel=1e-9, abs=1e-9)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1e-3, 1.0, 1e6]))
def test_rows_hold_in_exact_arithmetic(seed: int, scale: float) -> None:
    """a·f(x) + b·g(x) of three linear layers that cancel, in rational numbers."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 4), nn.Linear(4, 2)).double().eval()
    for layer in net:
        layer.weight.data *= scale
    for value in (net[0].weight.data, net[0].bias.data):  # neurons in pairs, of which next to nothing is left
        value[1::2] = value[::2]
    net[1].weight.data[:, 1::2] = -net[1].weight.data[:, ::2] * (1 + 1e-14)
    net[1].bias.data.zero_()
    graph = capture(net, torch.zeros(2, 3, dtype=torch.float64))
    second = {**graph.tensors, "2.weight": graph.tensors["2.weight"] * 0.9}
    x = torch.randn(1, 1, 3, dtype=torch.float64)
    engine = bounded(Networks.of(graph, graph.tensors, second, LIKE), [Interval(x, x)])
    f, g = (exact_output(tensors, x.flatten()) for tensors in (graph.tensors, second))
    a, b = torch.randn(2, 6, 1, 2, dtype=torch.float64)
    b[::2] = -a[::2]
    least = lower(engine, {graph.outputs[0]: (a, b)}, Everywhere(torch.zeros(6, dtype=torch.long)))
    for row, (p, q) in enumerate(zip(a.flatten(1).tolist(), b.flatten(1).tolist(), strict=True)):
        exact = sum(Fraction(c) * v for c, v in zip([*p, *q], [*f, *g], strict=True))
        assert Fraction(least[row].item()) <= exact


def exact_output(tensors: Weights, x: Tensor) -> list[Fraction]:
    values = [Fraction(v) for v in x.tolist()]
    for i in range(3):
        rows_of_layer = zip(tensors[f"{i}.weight"].tolist(), tensors[f"{i}.bias"].tolist(), strict=True)
        values = [
            sum((Fraction(w) * v for w, v in zip(row, values, strict=True)), Fraction(bias))
            for row, bias in rows_of_layer
        ]
    return values


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.GELU])
def test_linear_bounds_are_never_looser_than_intervals(act: Callable[[], nn.Module]) -> None:
    graph = dense(4, 8, 8, 3, act=act)
    networks, boxes = (
        Networks.of(graph, graph.tensors, changed(graph, 0.1), LIKE),
        boxes_of(graph, (0.01, 0.3, 2.0)),
    )
    tight, loose = output_of(bounded(networks, boxes)), output_of(bounded(networks, boxes, linear=False))
    for part in ("before", "after", "change"):
        near, far = getattr(tight, part), getattr(loose, part)
        assert (near.lower >= far.lower - 1e-12).all() and (near.upper <= far.upper + 1e-12).all()
        assert ((near.upper - near.lower)[1] < (far.upper - far.lower)[1]).any()


def test_equal_networks_do_not_drift() -> None:
    graph = dense(4, 8, 8, 3)
    networks, boxes = (
        Networks.of(graph, graph.tensors, dict(graph.tensors), LIKE),
        boxes_of(graph, (0.3, 2.0)),
    )
    engine, box = bounded(networks, boxes), torch.arange(2)
    one = torch.eye(3, dtype=torch.float64)[:2].reshape(2, 1, 3)
    least = lower(engine, {graph.outputs[0]: (-one, one)}, Everywhere(box))
    assert isinstance(output_of(engine), Interval) and (least <= 0).all() and (least >= -1e-9).all()


def test_hardly_different_networks_hardly_drift() -> None:
    graph = dense(4, 8, 8, 3)
    second = {n: v.double() * (1 + 1e-12) for n, v in graph.tensors.items()}
    drift = output_of(
        bounded(Networks.of(graph, graph.tensors, second, LIKE), boxes_of(graph, (0.3, 2.0)))
    ).change
    assert drift.lower.min() >= -1e-9 and drift.upper.max() <= 1e-9


@pytest.mark.sweep
@pytest.mark.parametrize("name", [name for name in NAMES if CASES[name].exact and name != "embedding"])
def test_boxes_of_one_point_give_the_forward_pass(name: str) -> None:
    torch.manual_seed(9)
    graph = captured(name)
    boxes, second = boxes_of(graph, (0.0,)), changed(graph, 0.1)
    engine = bounded(Networks.of(graph, graph.tensors, second, LIKE), boxes)
    inputs = [x.lower[0] for x in boxes]
    f, g = values(graph, graph.tensors, inputs), values(graph, second, inputs)
    slack = {"rtol": 1e-9, "atol": 1e-7 if name == "softplus" else 1e-9}  # softplus jumps
    for node in graph.outputs:
        if f[node].is_floating_point():
            found = engine.bounds[node]
            wanted = ((found.before, f[node]), (found.after, g[node]), (found.change, g[node] - f[node]))
            for bound, value in wanted:
                torch.testing.assert_close(bound.lower[0], value, **slack)
                torch.testing.assert_close(bound.upper[0], value, **slack)


@pytest.mark.sweep
@pytest.mark.parametrize(
    "name", ["relu", "gelu", "layer_norm", "transformer", "conv2d", "split_chunk_unbind"]
)
def test_a_box_of_many_is_as_if_alone(name: str) -> None:
    torch.manual_seed(10)
    graph = captured(name)
    boxes = boxes_of(graph, (0.1, 0.4, 1.0))
    networks = Networks.of(graph, graph.tensors, changed(graph, 0.1), LIKE)
    together, alone = (
        bounded(networks, boxes),
        bounded(networks, [Interval(x.lower[1:2], x.upper[1:2]) for x in boxes]),
    )
    for node in graph.outputs:
        for part in ("before", "after", "change"):
            many, one = getattr(together.bounds[node], part), getattr(alone.bounds[node], part)
            torch.testing.assert_close(many.lower[1:2], one.lower, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(many.upper[1:2], one.upper, rtol=1e-10, atol=1e-10)


def test_what_depends_on_no_input_can_be_asked_for() -> None:
    gain = nn.Parameter(torch.tensor([2.0]))

    class Constant(CaseModule):
        def __init__(self) -> None:
            super().__init__(lambda x: (x + 1, self.gain * 3))
            self.gain = gain

    graph = capture(Constant().eval(), torch.rand(2, 1))
    engine = bounded(
        Networks.of(graph, graph.tensors, {"gain": torch.tensor([5.0])}, LIKE), boxes_of(graph, (1.0,))
    )
    row = torch.ones(1, 1, dtype=torch.float64)
    assert lower(
        engine, {graph.outputs[1]: (-row, row)}, Everywhere(torch.zeros(1, dtype=torch.long))
    ).item() == pytest.approx(9.0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_end_that_settles_a_sign_is_enough(sign: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """±[relu(x + 2) − relu(x + 1.5)] = ±0.5 for |x| ≤ 1, where intervals say −1.5 to 2.5 (or −2.5 to 1.5)."""
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1, bias=False), nn.ReLU(), nn.Linear(1, 1))
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].bias.copy_(torch.tensor([2.0, 1.5]))
        net[2].weight.copy_(sign * torch.tensor([[1.0, -1.0]]))
    graph = capture(net.eval(), torch.zeros(2, 1))
    asked: list[float] = []
    inner = tighten.lower

    def spy(engine: Backward, seeds: Mapping[Any, Any], where: Any) -> Tensor:
        asked.extend(seed.item() for pair in seeds.values() for seed in pair if seed is not None)
        return inner(engine, seeds, where)

    monkeypatch.setattr(tighten, "lower", spy)
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    engine = bounded(Networks.of(graph, graph.tensors, graph.tensors, LIKE), [Interval(-one, one)])
    assert asked == [sign]
    relu = [node for node in graph.nodes if kind(node) == "relu"][1]
    found = engine.bounds[relu.all_input_nodes[0]]
    assert found.lower.item() == pytest.approx(0.5 if sign > 0 else -2.5)
    assert found.upper.item() == pytest.approx(2.5 if sign > 0 else -0.5)


# --- lines --------------------------------------------------------------------------------------------------

OPTIONS = {
    "alpha": 1.3, "scale": 1.1, "input_scale": 0.9, "min": -0.5, "max": 0.7, "min_val": -0.5, "max_val": 0.7,
    "beta": 2, "threshold": 1.0, "negative_slope": 0.2, "exponent": 3, "approximate": "none", "lambd": 0.5,
}  # fmt: skip
POSITIVE = {name for name in SLOPES if not OPS[name].everywhere} - {"pow"}


def function_of(op: str, **options: Any) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    target = getattr(torch.ops.aten, op)
    overload = target.Tensor_Scalar if op == "pow" else target.default
    given = OPTIONS | options
    named = {a.name: given[a.name] for a in overload._schema.arguments[1:] if a.name in given}
    return (lambda x: overload(x, **named)), named


def intervals(positive: bool) -> Interval:
    """Tiny, small, wide and huge ones, many of which straddle or begin at a kink."""
    generator = torch.Generator().manual_seed(11)
    width = torch.cat(
        [torch.full((300,), w, dtype=torch.float64) for w in (0.0, 1e-12, 1e-3, 1.0, 8.0, 60.0)]
    )
    width = width * torch.rand(len(width), generator=generator, dtype=torch.float64)
    centre = torch.randn(len(width), generator=generator, dtype=torch.float64) * 3
    kinks = torch.tensor([0.0, 0.5, -0.5, 0.7, 3.0, -3.0, 6.0])
    centre[::3] = kinks[torch.randint(len(kinks), (len(width[::3]),), generator=generator)].double()
    share = torch.rand(len(width), generator=generator, dtype=torch.float64)
    share[::6] = 0.0
    low = centre - share * width
    low = low.abs() + 0.05 if positive else low
    return Interval(low, low + width)


def grid(x: Interval, points: int = 401) -> Tensor:
    steps = torch.linspace(0, 1, points, dtype=torch.float64)[:, None]
    return torch.maximum(x.lower, torch.minimum(x.upper, x.lower + steps * (x.upper - x.lower)))


def between(lines: Lines, at: Tensor, wanted: Tensor) -> bool:
    """To 1e-13 of the sizes of the numbers that a line at a point is made of."""
    slack = 1e-13 * (1 + wanted.abs() + (lines.low_slope * at).abs() + (lines.high_slope * at).abs())
    below = lines.low_slope * at + lines.low_offset <= wanted + slack
    above = wanted <= lines.high_slope * at + lines.high_offset + slack
    return bool(below.all() and above.all())


@pytest.mark.parametrize("op", sorted(SLOPES))
def test_smooth_lines_keep_the_function_between_them(op: str) -> None:
    for options in ({}, {"approximate": "tanh", "negative_slope": -0.5, "exponent": 2, "threshold": 20}):
        function, named = function_of(op, **options)
        x = intervals(op in POSITIVE)
        fall = math.log1p(math.exp(-named["threshold"])) / named["beta"] if op == "softplus" else 0.0
        lines = smooth_lines(function, SLOPES[op](named), x, fall)
        at = grid(x)
        assert between(lines, at, function(at))
        narrow = x.upper - x.lower < 1e-2
        middle = (x.lower + x.upper) / 2
        gap = (lines.high_slope - lines.low_slope) * middle + lines.high_offset - lines.low_offset
        assert (gap[narrow] <= 2 * fall + 1.0).all()


def planes_of(op: str, named: dict[str, Any], x: Interval, y: Interval, d: Interval) -> Planes:
    if op == "relu":
        return relu_planes(x, y, d)
    fall = math.log1p(math.exp(-named["threshold"])) / named["beta"] if op == "softplus" else 0.0
    return smooth_planes(partial(slope_range, op, named), x, y, d, fall)


def between_planes(planes: Planes, x: Tensor, d: Tensor, wanted: Tensor) -> Tensor:
    low, high = (
        (tilt * x, slope * d, offset)
        for tilt, slope, offset in (
            (planes.low_tilt, planes.low_slope, planes.low_offset),
            (planes.high_tilt, planes.high_slope, planes.high_offset),
        )
    )
    slack = 1e-13 * (1 + wanted.abs() + sum(part.abs() for part in (*low, *high)))
    return (sum(low) <= wanted + slack) & (wanted <= sum(high) + slack)


@pytest.mark.parametrize("op", ["relu", *sorted(SLOPES)])
def test_planes_keep_the_change_between_them(op: str) -> None:
    """Where all that is known of the change follows from both intervals, and where more is known."""
    function, named = (torch.relu, {}) if op == "relu" else function_of(op)
    generator = torch.Generator().manual_seed(1)
    x = intervals(op in POSITIVE)
    y = Interval(x.lower[torch.randperm(len(x.lower), generator=generator)], x.upper)
    y = Interval(torch.minimum(y.lower, y.upper), y.upper)
    d = Interval(y.lower - x.upper, y.upper - x.lower)
    share = torch.rand((2, len(x.lower)), generator=generator, dtype=torch.float64).sort(0).values
    near = Interval(*(d.lower + part * (d.upper - d.lower) for part in share))
    wide, narrow = planes_of(op, named, x, y, d), planes_of(op, named, x, y, near)
    inside = 0
    for a in grid(x, 21):
        at = grid(y, 41)
        change, delta = function(at) - function(a), at - a
        assert between_planes(wide, a, delta, change).all()
        known = (delta >= near.lower) & (delta <= near.upper)
        assert (between_planes(narrow, a, delta, change) | ~known).all()
        inside += int(known.sum())
    assert inside > 100_000


def test_a_change_of_one_sign_is_followed_by_the_tilt() -> None:
    """Of x² on [0, 2], moved by 1: 2x + 1 with slopes from 0 to 6, and by a plane that is tilted."""
    one = torch.ones(1, dtype=torch.float64)
    x, y, d = Interval(0 * one, 2 * one), Interval(one, 3 * one), Interval(one, one)
    planes = planes_of("pow", {"exponent": 2}, x, y, d)
    assert planes.low_tilt.item() > 0 and planes.high_tilt.item() > 0
    assert (planes.low_gap + planes.high_gap).item() < 2.0  # by the range of slopes alone: 6


def test_relu_lines_keep_relu_between_them() -> None:
    x = intervals(False)
    lines, at = relu_lines(x), grid(x)
    assert between(lines, at, torch.relu(at))
    assert ((lines.low_slope == 0) | (lines.low_slope == 1)).all()


def test_a_table_holds_lines_of_open_neurons_alone() -> None:
    """On, off, open, off but for what rounding added, and open in g alone."""
    x = Interval(
        torch.tensor([0.0, -2.0, -1.0, -1e-300, 1.0], dtype=torch.float64),
        torch.tensor([1.0, -1.0, 3.0, 1e-300, 2.0], dtype=torch.float64),
    )
    y = Interval(x.lower - torch.tensor([0.0, 0.0, 0.0, 0.0, 3.0]), x.upper)
    f, g = relu_lines(x), relu_lines(y)
    size = x.upper.abs() + x.lower.abs() + y.lower.abs()
    table = Table.of(f, g, None, size)
    assert table.first.tolist() == [1.0, 0.0, OPEN, 0.0, OPEN + 1] and table.planes is None
    assert table.second.tolist() == table.first.tolist() and table.lines[0].shape == (3, 4)
    number = torch.tensor([0, 1, 0, 1])
    slope, offset, gap = below(table.lines[1], number, torch.tensor([1.0, 1.0, -1.0, -1.0]))
    assert slope.tolist() == [1.0, 0.0, 0.75, 0.5]  # of −1 to 3 and of −2 to 2
    assert offset.tolist() == pytest.approx([0.0, 0.0, 0.75, 1.0]) and gap[2] == 0.375
    assert below(table.lines[0], number[1:2], torch.tensor([-1.0]))[0].tolist() == [1.0]


def test_the_slope_of_relu() -> None:
    x = Interval(torch.tensor([0.0, -2.0, -1.0]), torch.tensor([1.0, -1.0, 2.0]))
    found = relu_slope(x, x)
    assert found.lower.tolist() == [1.0, 0.0, 0.0] and found.upper.tolist() == [1.0, 0.0, 1.0]


def test_lines_of_a_parameter_that_varies_are_not_drawn() -> None:
    """clamp_min with a tensor for a limit is no function of one value."""
    graph = capture(CaseModule(lambda x: torch.relu(x).clamp_min(x.flip(1)) * 2).eval(), torch.zeros(2, 3))
    assert any(kind(node) == "clamp_min" for node in graph.nodes)
    check(graph, graph.tensors, graph.tensors, (0.5,), 6)
