"""Bounds on the drift between two networks hold every drift, and merges that change nothing have none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bound_cases import CASES, captured
from secateur.bounds import difference as module
from secateur.bounds import interval
from secateur.bounds.activations import SLOPES, slope_over
from secateur.bounds.box import input_box
from secateur.bounds.drift import difference, merge_difference
from secateur.bounds.interval import propagate
from secateur.errors import UnsupportedOpError
from secateur.graph.capture import capture
from secateur.graph.graph import Graph
from secateur.graph.interpret import run
from secateur.graph.ops import OPS
from secateur.types import Group, Interval, Slot
from test_interval import CaseModule, box_around, holds, points, run_each

NAMES = sorted(CASES)


def perturbed(graph: Graph, size: float) -> dict[str, Tensor]:
    """Every parameter moved by noise; variances stay positive."""
    torch.manual_seed(2)
    return {
        name: value.double() * (1 + size * torch.rand_like(value.double()))
        + size * torch.rand(value.shape) * 0.1
        for name, value in graph.tensors.items()
        if value.is_floating_point()
    }


@pytest.mark.sweep
@pytest.mark.parametrize("size", [0.02, 0.4])
@pytest.mark.parametrize("name", NAMES)
def test_drift_of_changed_weights_lands_inside(name: str, size: float) -> None:
    graph = captured(name)
    box, theirs = box_around(graph, 0.3), perturbed(graph, size)
    bounds = difference(graph, box, theirs)
    inputs = points(box, 25)
    ours = run_each(graph, inputs)
    changed = [run(graph, [x[i : i + 1] for x in inputs], theirs) for i in range(25)]
    for bound, f, g in zip(bounds, ours, map(torch.stack, zip(*changed, strict=True)), strict=True):
        assert (bound.lower <= bound.upper).all()
        if f.is_floating_point():
            assert torch.isfinite(bound.lower).all() and torch.isfinite(bound.upper).all()
            assert holds(bound, g - f)


@pytest.mark.sweep
@pytest.mark.parametrize("name", NAMES)
def test_drift_is_never_wider_than_two_boxes_and_vanishes_with_the_change(name: str) -> None:
    graph = captured(name)
    box, theirs = box_around(graph, 0.3), perturbed(graph, 0.1)
    f, g = propagate(graph, box), propagate(graph, box, theirs)
    for node, bound in zip(graph.outputs, difference(graph, box, theirs), strict=True):
        if bound.lower.is_floating_point():
            assert holds(Interval(g[node].lower - f[node].upper, g[node].upper - f[node].lower), bound.lower)
            assert holds(Interval(g[node].lower - f[node].upper, g[node].upper - f[node].lower), bound.upper)
    for bound in difference(graph, box, dict(graph.tensors)):
        assert not bound.lower.any() and not bound.upper.any()


def test_every_interval_rule_has_a_difference_rule() -> None:
    assert set(interval.RULES) - set(module.RULES) == module.UNCHANGED
    assert set(module.RULES) <= set(interval.RULES)


@pytest.mark.parametrize("op", sorted(SLOPES))
def test_slopes_hold_the_secants(op: str) -> None:
    """(φ(x′) − φ(x)) / (x′ − x) is in the range of slopes over the hull of x and x′."""
    options = {
        "alpha": 1.3, "scale": 1.1, "input_scale": 0.9, "min": -0.5, "max": 0.7, "min_val": -0.5, "max_val": 0.7,
        "beta": 2, "threshold": 20, "negative_slope": 0.2, "exponent": 3, "approximate": "none", "lambd": 0.4,
    }  # fmt: skip
    target = getattr(torch.ops.aten, op)
    overload = target.Tensor_Scalar if op == "pow" else target.default
    named = {a.name: options[a.name] for a in overload._schema.arguments[1:] if a.name in options}
    ends = torch.rand(2, 20_000, dtype=torch.float64) * 8 - 4
    if not OPS[op].everywhere and op != "pow":
        ends = ends.abs() + 0.1
    x = Interval(ends.amin(0), ends.amax(0))
    secant = (overload(x.upper, **named) - overload(x.lower, **named)) / (x.upper - x.lower)
    assert holds(slope_over(SLOPES[op](named), x), secant, 1e-8)


# --- merges -------------------------------------------------------------------------------------------------


def slot(tensor: str, role: str, units: int, width: int = 1, axis: int = 0, stride: int = 1) -> Slot:
    """Unit u owns `width` indices: u·width, u·width + 1, … or, with a stride, u, u + stride, …"""
    u, j = torch.arange(units).unsqueeze(1), torch.arange(width)
    return Slot(tensor, axis, u * width + j if stride == 1 else u + j * stride, role)


def group(units: int, *slots: Slot) -> Group:
    return Group(slots[0].tensor, units, slots)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = (
            nn.Conv2d(2, 4, 3),
            nn.Conv2d(4, 5, 3, padding=1),
            nn.Conv2d(5, 4, 3, padding=1),
        )
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.outer(torch.relu(self.inner(x))))
        return self.head(x.mean((2, 3)))


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.down, self.up, self.out = (
            nn.Conv2d(2, 4, 3),
            nn.Conv2d(4, 2, 1),
            nn.Conv2d(2, 4, 1),
            nn.Conv2d(4, 3, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(self.conv(x))
        x = x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.out(x).amax((2, 3))


class FusedBlock(nn.Module):
    """Pre-norm attention with one matrix for queries, keys and values, and a GELU perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, 3, 6))
        self.qkv, self.proj, self.up, self.down = (
            nn.Linear(6, 18),
            nn.Linear(6, 6),
            nn.Linear(6, 8),
            nn.Linear(8, 6),
        )
        self.norm1, self.norm2 = nn.LayerNorm(6), nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.place
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, t, 3, 3, 2).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * 0.7).softmax(-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(b, t, c))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Tokens(nn.Module):
    """An embedding whose columns are units, a transposed matrix, and a parameter joined to both."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.w, self.scale, self.head = (
            nn.Embedding(7, 4),
            nn.Parameter(torch.randn(3, 4)),
            nn.Parameter(torch.randn(4)),
            nn.Linear(4, 2),
        )

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.head(torch.tanh((self.table(ids).mean(1) + x @ self.w) * self.scale))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(6, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x)[0]


def both(name: str, role: str, units: int, width: int = 1, stride: int = 1) -> tuple[Slot, Slot]:
    return slot(f"{name}.weight", role, units, width, 0, stride), slot(
        f"{name}.bias", role, units, width, 0, stride
    )


def norm(name: str, units: int, role: str = "through") -> tuple[Slot, ...]:
    return (*both(name, role, units), *(slot(f"{name}.running_{s}", role, units) for s in ("mean", "var")))


def heads(tensor: str, axis: int = 0) -> Slot:
    """Three heads of width 2 own rows of queries, keys and values in a matrix of 18 rows."""
    u, part, j = torch.arange(3)[:, None, None], torch.arange(3)[None, :, None], torch.arange(2)[None, None]
    return Slot(tensor, axis, (part * 6 + u * 2 + j).flatten(1), "producer")


MERGES: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...], Callable[[], Group]]] = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.Sigmoid(), nn.Linear(4, 3)),
        ((2, 5),),
        lambda: group(6, *both("0", "producer", 6)),
    ),
    "conv_bn_pool_flatten": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
        ),
        ((2, 2, 6, 6),),
        lambda: group(4, *both("0", "producer", 4), *norm("1", 4)),
    ),
    "residual_stream": (
        Residual,
        ((2, 2, 6, 6),),
        lambda: group(4, *both("stem", "producer", 4), *norm("norm", 4), *both("outer", "producer", 4)),
    ),
    "residual_inside": (Residual, ((2, 2, 6, 6),), lambda: group(5, *both("inner", "producer", 5))),
    "depthwise": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 1), nn.Hardswish(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU6(), nn.Conv2d(4, 3, 1)
        ),
        ((2, 2, 5, 5),),
        lambda: group(4, *both("0", "producer", 4), *both("2", "through", 4)),
    ),
    "depthwise_multiplied": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 2, 1)),
        ((2, 2, 5, 5),),
        lambda: group(3, *both("0", "producer", 3), *both("2", "through", 3, width=2)),
    ),
    "grouped": (
        lambda: nn.Sequential(nn.Conv2d(2, 6, 3, groups=2), nn.GELU(), nn.Conv2d(6, 4, 1, groups=2), nn.Flatten()),
        ((2, 2, 5, 5),),
        lambda: group(3, *both("0", "producer", 3, width=2, stride=3)),
    ),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 4, 2, 2), nn.SiLU(), nn.Conv2d(4, 3, 1), nn.AvgPool2d(2)),
        ((2, 2, 3, 3),),
        lambda: group(4, slot("0.weight", "producer", 4, axis=1), slot("0.bias", "producer", 4)),
    ),
    "squeeze_excite": (
        SqueezeExcite,
        ((2, 2, 5, 5),),
        lambda: group(4, *both("conv", "producer", 4), *both("up", "producer", 4)),
    ),
    "attention_heads": (FusedBlock, ((2, 3, 6),), lambda: group(3, heads("qkv.weight"), heads("qkv.bias"))),
    "transformer_perceptron": (FusedBlock, ((2, 3, 6),), lambda: group(8, *both("up", "producer", 8))),
    "transformer_stream": (
        FusedBlock,
        ((2, 3, 6),),
        lambda: group(
            6, slot("place", "through", 6, axis=2), *both("proj", "producer", 6), *both("down", "producer", 6),
            *both("norm1", "through", 6), *both("norm2", "through", 6),
        ),
    ),
    "multihead_module": (
        Attention,
        ((2, 3, 6),),
        lambda: group(3, heads("inner.in_proj_weight"), heads("inner.in_proj_bias")),
    ),
    "tokens": (
        Tokens,
        ((2, 3), (2, 5)),
        lambda: group(
            4, slot("table.weight", "producer", 4, axis=1), slot("w", "producer", 4, axis=1),
            slot("scale", "through", 4),
        ),
    ),
}  # fmt: skip


def swapped(graph: Graph, merged: Group, a: int, b: int) -> dict[str, Tensor]:
    """The weights with which unit a computes what unit b computes, written out plainly."""
    changed: dict[str, Tensor] = {}
    for s in (*merged.having("producer"), *merged.having("through")):
        value = changed.get(s.tensor, graph.tensors[s.tensor])
        copies = graph.tensors[s.tensor].index_select(s.axis, s.positions[b])
        changed[s.tensor] = value.index_copy(s.axis, s.positions[a], copies)
    return changed


def merge_setting(name: str) -> tuple[Graph, Group, tuple[Interval, ...], Tensor, Tensor]:
    torch.manual_seed(3)
    make, shapes, make_group = MERGES[name]
    net = make().eval()
    for value in (*net.parameters(), *net.buffers()):
        if value.is_floating_point():
            value.data.copy_(
                torch.rand_like(value) + 0.2 if value.min() == 1 else torch.randn_like(value) * 0.5
            )
            value.data.copy_(value.abs() + 0.1 if value.ndim == 1 else value)
    inputs = (torch.rand(shapes[0]), *(torch.randint(0, 7, s) for s in shapes[1:]))
    graph, merged = capture(net, inputs), make_group()
    pairs = [(a, b) for a in range(merged.units) for b in range(merged.units) if a != b][::2]
    removed, into = torch.tensor(pairs).T
    return graph, merged, box_around(graph, 0.2), removed, into


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MERGES))
def test_drift_of_each_merge_lands_inside(name: str) -> None:
    graph, merged, box, removed, into = merge_setting(name)
    values = propagate(graph, box, keep=lambda node: True)
    bounds = merge_difference(graph, values, merged, removed, into)
    blocks = merge_difference(graph, values, merged, removed, into, block_bytes=1)
    inputs = points(box, 20)
    ours = run(graph, inputs)
    for k, (a, b) in enumerate(zip(removed.tolist(), into.tolist(), strict=True)):
        changed = swapped(graph, merged, a, b)
        tight = difference(graph, box, changed)
        for bound, block, f, g, t in zip(
            bounds, blocks, ours, run(graph, inputs, changed), tight, strict=True
        ):
            one = Interval(bound.lower[k], bound.upper[k])
            assert one.lower.shape == f.shape[1:] and torch.isfinite(one.lower).all()
            assert (one.lower <= one.upper).all() and holds(one, g - f)
            assert (torch.maximum(one.lower, t.lower[0]) <= torch.minimum(one.upper, t.upper[0]) + 1e-9).all()
            torch.testing.assert_close(block.lower[k], one.lower)
            assert one.upper.any()


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", sorted(MERGES))
def test_merging_a_duplicate_changes_nothing_at_all(name: str, dtype: torch.dtype) -> None:
    graph, merged, box, _, _ = merge_setting(name)
    graph = Graph(
        graph.module, {**graph.tensors, **swapped(graph, merged, 1, 0)}, graph.aliases, graph.example
    )
    box = tuple(
        Interval(x.lower.to(dtype), x.upper.to(dtype)) if x.lower.is_floating_point() else x for x in box
    )
    values = propagate(graph, box, keep=lambda node: True)
    for bound in merge_difference(graph, values, merged, torch.tensor([1, 0, 2]), torch.tensor([0, 1, 0])):
        assert bound.lower.dtype == dtype
        assert not bound.lower[:2].any() and not bound.upper[:2].any() and bound.upper[2].any()


def test_a_linear_network_is_bounded_exactly() -> None:
    """δ = W[:, a] (w_b − w_a)·x + …: each output's extremes over the box are at its corners."""
    torch.manual_seed(4)
    graph = capture(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)).eval(), torch.zeros(2, 4))
    box = input_box(graph, (-1.0, 2.0))
    removed, into = torch.tensor([0, 3]), torch.tensor([2, 1])
    merged = group(5, *both("0", "producer", 5))
    (bound,) = merge_difference(graph, propagate(graph, box, keep=lambda node: True), merged, removed, into)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 2.0], dtype=torch.float64)] * 4)
    for k in range(2):
        (f,), (g,) = (
            run(graph, [corners]),
            run(graph, [corners], swapped(graph, merged, int(removed[k]), int(into[k]))),
        )
        torch.testing.assert_close(bound.lower[k], (g - f).amin(0))
        torch.testing.assert_close(bound.upper[k], (g - f).amax(0))


def test_a_merge_is_the_swap_of_rows() -> None:
    """W_next[:, b] += W_next[:, a] without unit a is the network in which a computes what b does."""
    torch.manual_seed(5)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).eval()
    graph, x = capture(net, torch.zeros(2, 4)), torch.rand(6, 4)
    consumer = graph.tensors["2.weight"].clone()
    consumer[:, 1] += consumer[:, 3]
    consumer[:, 3] = 0
    (merged,) = run(graph, [x], {"2.weight": consumer})
    (swap,) = run(graph, [x], swapped(graph, group(5, *both("0", "producer", 5)), 3, 1))
    torch.testing.assert_close(merged, swap)


def test_two_axes_of_one_tensor_change_together() -> None:
    """A square matrix whose rows and columns are units of one group."""
    torch.manual_seed(6)

    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(3, 3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x @ self.w.T) @ self.w

    graph = capture(Square().eval(), torch.zeros(2, 3))
    box = input_box(graph, (0.0, 1.0))
    merged = group(3, slot("w", "producer", 3), slot("w", "through", 3, axis=1))
    values = propagate(graph, box, keep=lambda node: True)
    (bound,) = merge_difference(graph, values, merged, torch.tensor([0]), torch.tensor([2]))
    w = graph.tensors["w"].clone()
    w[0] = w[2]
    w[:, 0] = w[:, 2]
    inputs = points(box, 50)
    (f,), (g,) = run(graph, inputs), run(graph, inputs, {"w": w})
    assert holds(Interval(bound.lower[0], bound.upper[0]), g - f)


def test_reading_rows_that_changed_weights_decide_is_refused() -> None:
    table = nn.Embedding(3, 2)
    gain = nn.Parameter(torch.ones(1))

    class Chooser(CaseModule):
        def __init__(self) -> None:
            super().__init__(lambda x: self.table((x * self.gain).max(1)[1]))
            self.table, self.gain = table, gain

    graph = capture(Chooser().eval(), torch.rand(2, 3))
    with pytest.raises(UnsupportedOpError, match="decide which row is read"):
        difference(graph, input_box(graph, (0.0, 1.0)), {"gain": torch.tensor([-1.0])})
