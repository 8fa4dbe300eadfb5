"""Tangents of products, softmax and norms hold over their boxes, and attention is bounded far within intervals."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur.bounds.arithmetic import as_interval
from secateur.bounds.attention import with_attention_in_steps
from secateur.bounds.certified import Certified
from secateur.bounds.engine import Backward
from secateur.bounds.joint import Networks
from secateur.bounds.pairs import Pair
from secateur.bounds.tighten import bounded
from secateur.graph.capture import capture
from secateur.graph.graph import Graph
from secateur.graph.interpret import run
from secateur.graph.node import kind
from secateur.types import Interval
from test_backward import changed, check
from walks import LIKE, values

SHAPE = (1, 2, 4)


class Op(nn.Module):
    def __init__(self, body: Callable[..., Tensor], part: nn.Module | None) -> None:
        super().__init__()
        self.body, self.part = body, part

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) if self.part is None else self.part(x)


def parts(norm: nn.Module) -> nn.Module:
    """A norm with parameters of either sign."""
    torch.manual_seed(3)
    for value in norm.parameters():
        value.data = torch.randn_like(value)
    return norm


OPS: dict[str, tuple[Callable[..., Tensor], nn.Module | None]] = {
    "softmax": (lambda x: F.softmax(x, -1), None),
    "softmax_over_an_inner_axis": (lambda x: F.softmax(x, 1), None),
    "layer_norm": (torch.clone, parts(nn.LayerNorm(4))),
    "layer_norm_of_all": (torch.clone, parts(nn.LayerNorm((2, 4)))),
    "layer_norm_plain": (lambda x: F.layer_norm(x, (4,)), None),
    "rms_norm": (torch.clone, parts(nn.RMSNorm(4))),
    "group_norm": (torch.clone, parts(nn.GroupNorm(2, 2))),
    "instance_norm": (lambda x: F.instance_norm(x), None),
    "square": (lambda x: x * x, None),
    "product": (lambda x: x * x.flip(-1), None),
    "product_with_broadcasting": (lambda x: x * x.sum(-1, keepdim=True), None),
    "product_of_fewer_axes": (lambda x: x.sum(1) * x[:, 0].sum(-1, keepdim=True), None),
    "matrices": (lambda x: x @ x.transpose(1, 2), None),
    "stacks": (lambda x: torch.bmm(x.transpose(1, 2), x.flip(1)), None),
}  # fmt: skip


def points_of(box: Interval, count: int) -> Tensor:
    """Corners, points inside and points on edges of a box (1, 1, *shape): (count, *shape)."""
    share = torch.rand(count, *box.lower.shape[2:], dtype=torch.float64)
    share[::3] = share[::3].round()
    share[1::3] = torch.where(torch.rand_like(share[1::3]) < 0.5, share[1::3].round(), share[1::3])
    return (box.lower + share[:, None] * (box.upper - box.lower)).clamp(box.lower, box.upper)[:, 0]


def of_one(name: str, centre: Tensor, radius: Tensor) -> tuple[Backward, Interval]:
    graph = capture(Op(*OPS[name]).eval(), torch.zeros(2, *SHAPE[1:]))
    box = Interval((centre - radius)[None], (centre + radius)[None])
    return bounded(Networks.of(graph, graph.tensors, graph.tensors, LIKE), [box]), box


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(OPS)),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e4]),
    st.sampled_from([0.0, 1e-9, 1e-3, 0.05, 0.3, 3.0, 1e3]),
    st.booleans(),
)
def test_a_tangent_holds_all_over_its_box(
    name: str, seed: int, size: float, radius: float, alike: bool
) -> None:
    """|op(x) − J x − offset| ≤ gap, at every element where the tangent is used."""
    torch.manual_seed(seed)
    centre = size * torch.randn(SHAPE, dtype=torch.float64) - size
    radii = radius * (torch.ones_like(centre) if alike else torch.rand_like(centre).round())
    engine, box = of_one(name, centre, radii)
    points = points_of(box, 300)
    for node, (tangent, _) in engine.tangents.items():
        found = values(engine.networks.graph, engine.networks.first, [points])
        wanted = found[node].reshape(len(points), -1)
        n = wanted.shape[1]
        unit = torch.eye(n, dtype=torch.float64).reshape(n, *engine.shape(node))
        line: Any = 0.0
        size_of_terms: Any = 1.0
        for source, rows in tangent.transpose(unit, torch.zeros(n, dtype=torch.long)):
            x = found[source].reshape(len(points), -1)
            line = line + x @ rows.reshape(n, -1).T
            size_of_terms = size_of_terms + x.abs() @ rows.reshape(n, -1).abs().T
        excess = (wanted - line - tangent.offset.flatten()).abs() - tangent.gap.flatten()
        slack = 1e-13 * (size_of_terms + wanted.abs())
        assert ((excess <= slack) | ~tangent.used.flatten()).all(), (name, float(excess.max()))


@pytest.mark.parametrize("name", sorted(OPS))
def test_a_tangent_is_of_second_order(name: str) -> None:
    """Its gap falls with the square of the radius, and is far below the room that the value has."""
    torch.manual_seed(0)
    centre, gaps = torch.randn(SHAPE, dtype=torch.float64), []
    for radius in (1e-3, 1e-4):
        engine, _ = of_one(name, centre, torch.full_like(centre, radius))
        ((node, (tangent, _)),) = engine.tangents.items()
        bound = as_interval(engine.bounds[node])
        assert tangent.used.all() and (tangent.gap < 0.05 * (bound.upper - bound.lower)).all()
        gaps.append(tangent.gap.max())
    assert 80 < gaps[0] / gaps[1] < 125


def test_softmax_of_two_by_hand() -> None:
    """At (0, 0), p = ½ each, u = ±(x₁ − x₂)/2: the line is ½ + (x₁ − x₂)/4."""
    engine, _ = of_one("softmax", torch.zeros(SHAPE, dtype=torch.float64), torch.tensor(1e-3).double())
    ((node, (tangent, _)),) = engine.tangents.items()
    unit = torch.zeros(1, *SHAPE, dtype=torch.float64)
    unit[0, 0, 0, 0] = 1.0
    ((_, row),) = tangent.transpose(unit, torch.zeros(1, dtype=torch.long))
    torch.testing.assert_close(row[0, 0, 0], torch.tensor([3.0, -1.0, -1.0, -1.0]).double() / 16)
    bound = as_interval(engine.bounds[node])
    assert (bound.lower <= 0.25).all() and (bound.upper >= 0.25 + 3e-3 * 0.25 * 0.49).all()


# --- whole networks -----------------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(n, tokens, width))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, form: str) -> None:
        super().__init__()
        norm = nn.RMSNorm if form == "rms" else nn.LayerNorm
        self.form, self.norms = form, nn.ModuleList(norm(width) for _ in range(2))
        self.attention, self.up = Attention(width, heads), nn.Linear(width, 2 * width)
        self.gate, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norms[0](x))
        y = self.norms[1](x)
        hidden = F.gelu(self.up(y)) if self.form == "gelu" else F.silu(self.gate(y)) * self.up(y)
        return x + self.down(hidden)


class Vit(nn.Module):
    """Pictures of 8 × 8 in four patches."""

    def __init__(self, width: int, heads: int, depth: int, form: str = "gelu") -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.blocks = nn.Sequential(*(Block(width, heads, form) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(1))


def vit(*arguments: Any) -> Graph:
    torch.manual_seed(0)
    return with_attention_in_steps(capture(Vit(*arguments).eval(), torch.zeros(2, 1, 8, 8)))


@pytest.mark.sweep
@pytest.mark.parametrize("form", ["gelu", "gated", "rms"])
@pytest.mark.parametrize("size", [0.0, 1e-6, 0.3])
def test_no_point_of_attention_lies_outside(form: str, size: float) -> None:
    graph = vit(4, 2, 1, form)
    engine = check(graph, graph.tensors, changed(graph, size), (0.0, 0.01, 0.3), 2)
    kinds = {kind(node) for node in engine.tangents}
    assert {"softmax", "matmul", "rms_norm" if form == "rms" else "layer_norm"} <= kinds
    assert form == "gelu" or "mul" in kinds


def test_linear_bounds_of_a_vision_transformer_are_far_within_intervals() -> None:
    """At ε = 0.002: the change by at least a hundred times, and no more than five times what corners show."""
    graph = vit(8, 2, 2)
    second = changed(graph, 0.05)
    networks = Networks.of(graph, graph.tensors, second, LIKE)
    centre = torch.rand(1, 1, 1, 8, 8, dtype=torch.float64)
    box = Interval(centre - 0.002, centre + 0.002)
    linear, interval = (Certified.of(networks, [box], way).drift() for way in (True, False))
    points = torch.cat([points_of(box, 300), corners(networks, centre[0], 0.002)])
    f, g = (run(graph, [points], t, dtype=torch.float64)[0] for t in (networks.first, networks.second))
    low, high = (g - f).amin(0), (g - f).amax(0)
    assert (linear.lower[0] <= low).all() and (linear.upper[0] >= high).all()
    width = linear.upper - linear.lower
    assert (width * 100 < interval.upper - interval.lower).all()
    assert (width < 5 * (high - low)).all()


def corners(networks: Networks, centre: Tensor, eps: float) -> Tensor:
    """Where the gradient at the centre has each change rise and fall most."""
    x = centre.clone().requires_grad_()
    tensors = (networks.first, networks.second)
    f, g = (run(networks.graph, [x], t, dtype=torch.float64, gradients=True)[0] for t in tensors)
    slopes = [torch.autograd.grad(d, x, retain_graph=True)[0] for d in (g - f)[0]]
    return torch.cat([centre + sign * eps * slope.sign() for slope in slopes for sign in (-1, 1)])


def test_a_mean_of_values_stays_between_them() -> None:
    """Where softmax may be anything, the product with it is a mean all the same."""
    graph = vit(4, 2, 1)
    box = Interval(torch.full((1, 1, 1, 8, 8), -1e3).double(), torch.full((1, 1, 1, 8, 8), 1e3).double())
    bounds = bounded(Networks.of(graph, graph.tensors, graph.tensors, LIKE), [box]).bounds
    (mixed,) = (n for n in graph.nodes if kind(n) == "matmul" and kind(n.args[0]) == "softmax")
    v, found = bounds[mixed.args[1]], bounds[mixed]
    assert (found.upper <= v.upper.amax(-2, keepdim=True)).all()
    assert (found.lower >= v.lower.amin(-2, keepdim=True)).all()


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.block, self.head = nn.Embedding(9, 4), Block(4, 2, "gelu"), nn.Linear(4, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.after(self.tokens(ids))

    def after(self, x: Tensor) -> Tensor:
        return self.head(self.block(x).mean(1))


class After(nn.Module):
    """A model of tokens from its embeddings on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.after(x)


def test_balls_round_embeddings() -> None:
    torch.manual_seed(4)
    model, ids = Words().eval(), torch.tensor([[1, 2, 3], [8, 0, 5]])
    small = copy.deepcopy(model)  # without two hidden units
    small.block.up, small.block.down = nn.Linear(4, 6), nn.Linear(6, 4)
    small.block.up.load_state_dict({k: v[:6] for k, v in model.block.up.state_dict().items()})
    down = model.block.down
    small.block.down.load_state_dict({"weight": down.weight[:, :6], "bias": down.bias})
    centres, room = model.tokens(ids).detach(), {}
    for method in ("linear", "interval"):
        found = secateur.certify(
            After(model).eval(), After(small).eval(), inputs=centres, eps=0.002, input_bounds=(-4.0, 4.0),
            method=method, attack_steps=3,
        )  # fmt: skip
        assert found.found is not None and all(f <= d for f, d in zip(found.found, found.drift, strict=True))
        room[method] = torch.tensor(found.upper) - torch.tensor(found.lower)
    assert (10 * room["linear"] < room["interval"]).all()


# --- attention in steps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [None, "float"])
def test_attention_in_steps_is_the_same_function(mask: str | None) -> None:
    torch.manual_seed(1)
    added = None if mask is None else torch.randn(3, 3)

    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x.flip(1), x * 2, attn_mask=added, scale=0.7)

    x = torch.randn(2, 3, 4)
    graph = capture(Module().eval(), x)
    steps = with_attention_in_steps(graph)
    assert all(kind(node) != "scaled_dot_product_attention" for node in steps.nodes)
    assert any(kind(node) == "scaled_dot_product_attention" for node in graph.nodes)
    torch.testing.assert_close(run(steps, [x])[0], run(graph, [x])[0])


def test_causal_attention_stays_whole() -> None:
    graph = capture(Op(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), None).eval(),
                    torch.randn(2, 3, 4))  # fmt: skip
    steps = with_attention_in_steps(graph)
    assert [kind(node) for node in steps.nodes] == [kind(node) for node in graph.nodes]


def test_a_graph_without_attention_is_returned_as_it_is() -> None:
    graph = capture(nn.Linear(3, 2).eval(), torch.zeros(2, 3))
    assert with_attention_in_steps(graph) is graph


def test_shared_values_have_one_tangent() -> None:
    graph = vit(4, 2, 1)
    box = Interval(torch.zeros(1, 1, 1, 8, 8).double(), torch.full((1, 1, 1, 8, 8), 0.1).double())
    engine = bounded(Networks.of(graph, graph.tensors, graph.tensors, LIKE), [box])
    assert engine.tangents and all(f is g for f, g in engine.tangents.values())
    assert not any(isinstance(engine.bounds[node], Pair) for node in engine.tangents)
