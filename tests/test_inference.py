"""Rounding of models as they are run stays within its bounds, for every op with a rule."""

from __future__ import annotations

import copy
import json
from fractions import Fraction
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import secateur
from bound_cases import CASES, captured
from secateur.bounds.inference import Format, NoRuleError, format_of
from secateur.bounds.inference_rows import Inference
from secateur.bounds.inference_rules import MADE, RULES
from secateur.bounds.interval import RULES as BOUNDED
from secateur.bounds.joint import Networks
from secateur.bounds.maxima import without_max_pools
from secateur.bounds.tighten import bounded
from secateur.certify.checking import check_certificate
from secateur.errors import InputError, VerificationError
from secateur.graph.capture import capture
from secateur.graph.graph import Graph
from secateur.graph.interpret import call_op, run
from secateur.graph.node import kind
from secateur.types import Interval
from trained import blobs

UNIT, POINTS = 2.0**-24, 4
# a root at 0, a norm of values that may be equal
INFINITE = {("pow", 0.05), ("transformer", 0.05)}
# whose rounding is not bounded, and why: a row for each is left out of RULES, or refused by its rule
WITHOUT = {
    "gru": "recurrent",
    "lstm": "recurrent",
    "rms_norm": "eps of the format",
    "shrinks": "hardshrink jumps",
    "steps": "they jump",
    "upsample": "places are rounded",
    "upsample_3d": "places are rounded",
}


def networks_of(graph: Graph, seed: int = 0) -> Networks:
    """A network and one whose parameters are a little off."""
    generator = torch.Generator().manual_seed(seed)
    second = {
        name: x + 0.01 * torch.rand(x.shape, generator=generator) if x.is_floating_point() else x
        for name, x in graph.tensors.items()
    }
    like = torch.empty(0, dtype=torch.float64)
    return Networks.of(without_max_pools(graph), graph.tensors, second, like)


def balls(graph: Graph, radius: float, count: int = 2, seed: int = 1) -> tuple[list[Interval], list[Tensor]]:
    """Boxes (count, 1, …) round float32 inputs, and float32 points of each, (count, POINTS, …)."""
    generator = torch.Generator().manual_seed(seed)
    boxes, points = [], []
    for x in graph.example:
        if not x.is_floating_point():
            ids = torch.randint(0, 7, (count, 1, *x.shape[1:]), generator=generator)
            boxes.append(Interval(ids, ids))
            points.append(ids.expand(count, POINTS, *x.shape[1:]))
            continue
        centre = torch.rand((count, 1, *x.shape[1:]), generator=generator) * 2 - 1
        inside = centre + radius * (torch.rand((count, POINTS, *x.shape[1:]), generator=generator) * 2 - 1)
        points.append(inside)
        low, high = inside.amin(1, keepdim=True).double(), inside.amax(1, keepdim=True).double()
        boxes.append(Interval(low - radius / 4, high + radius / 4))
    return boxes, points


def inference(graph: Graph, networks: Networks, boxes: list[Interval], second: bool) -> Inference:
    return Inference.of(bounded(networks, boxes, linear=False), second, format_of(graph))


@pytest.mark.sweep
@pytest.mark.parametrize("radius", [0.0, 0.05])
@pytest.mark.parametrize("name", sorted(CASES.keys() - WITHOUT.keys()))
def test_float32_is_within_its_bounds(name: str, radius: float) -> None:
    graph = captured(name)
    networks = networks_of(graph)
    boxes, points = balls(graph, radius)
    for second, tensors in enumerate((networks.first, networks.second)):
        of_run = inference(graph, networks, boxes, bool(second))
        stored = {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}
        bounds = [of_run.errors_at(node, 2) for node in networks.graph.outputs]
        for box, point in product(range(2), range(POINTS)):
            inputs = [p[box, point : point + 1] for p in points]
            ours, exact = (
                run(graph, inputs, stored, dtype=dtype) for dtype in (torch.float32, torch.float64)
            )
            for bound, a, b in zip(bounds, ours, exact, strict=True):
                if a.is_floating_point():
                    assert ((a.double() - b).flatten().abs() <= bound[box] * (1 + 1e-9)).all()
                    assert (name, radius) in INFINITE or torch.isfinite(bound).all()


@pytest.mark.parametrize("name", sorted(WITHOUT))
def test_ops_without_a_bound_say_so(name: str) -> None:
    graph = captured(name)
    networks = networks_of(graph)
    boxes, _ = balls(graph, 0.0)
    with pytest.raises(NoRuleError, match=r"the rounding of .* has no bound: "):
        inference(graph, networks, boxes, False)


# --- by hand, and in any order ------------------------------------------------------------------------------


def of_linear(weight: Tensor, bias: Tensor) -> tuple[Graph, Networks]:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data, layer.bias.data = weight, bias
    graph = capture(layer.eval(), torch.zeros(2, weight.shape[1]))
    return graph, networks_of(graph)


def at(x: Tensor) -> list[Interval]:
    return [Interval(x[None, None].double(), x[None, None].double())]


def test_a_sum_errs_by_gamma_of_its_terms() -> None:
    graph, networks = of_linear(torch.tensor([[1.0, -2.0, 0.0]]), torch.tensor([3.0]))
    found = inference(graph, networks, at(torch.tensor([1.0, 0.5, 7.0])), False)
    (node,) = networks.graph.outputs
    gamma = 8 * UNIT / (1 - 8 * UNIT)  # two weights that are not 0, and six more
    assert float(found.errors_at(node, 1)) == pytest.approx(gamma * (1 + 1 + 3), rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60))
def test_every_order_of_a_sum_is_covered(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(1, count, generator=generator) * 10 ** (
        4 * torch.rand(1, count, generator=generator)
    )
    bias, x = torch.randn(1, generator=generator), torch.randn(count, generator=generator)
    graph, networks = of_linear(weight, bias)
    bound = float(inference(graph, networks, at(x), False).errors_at(networks.graph.outputs[0], 1))
    exact = sum(
        (Fraction(w) * Fraction(v) for w, v in zip(weight[0].tolist(), x.tolist(), strict=True)),
        start=Fraction(float(bias)),
    )
    products = np.append((weight[0] * x).numpy(), bias.numpy())
    for order in (np.sort(products), np.sort(products)[::-1], products):
        total = np.float32(0)
        for term in order:
            total = np.float32(total + term)
        assert abs(Fraction(float(total)) - exact) <= Fraction(bound)


# --- whole networks in coarse arithmetic --------------------------------------------------------------------

COARSE = Format(2.0**-11, 2.0**-126, 2.0**127)
EXACT = {"relu", "max_pool2d", "flatten", "reshape", "view", "getitem", "t", "permute"}


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)
        self.inner, self.out = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn(self.stem(x)))
        y = torch.nn.functional.max_pool2d(y + torch.tanh(self.inner(y)), 2)
        return self.out(y.flatten(1)) * 0.5


@pytest.mark.parametrize("linear", [False, True])
def test_coarse_arithmetic_is_within_the_bounds_of_a_whole_network(linear: bool) -> None:
    """Each op off by half a unit, at random: signs and choices change, which float32 hardly shows."""
    torch.manual_seed(0)
    graph = capture(Residual().eval(), torch.rand(2, 1, 6, 6))
    networks = networks_of(graph)
    boxes, points = balls(graph, 0.02)
    engine = bounded(networks, boxes, linear)
    (node,) = networks.graph.outputs
    generator = torch.Generator().manual_seed(0)

    def coarse(op: fx.Node, args: Any, kwargs: Any, *, like: Tensor) -> Any:
        value = call_op(op, args, kwargs, like=like)
        if kind(op) in EXACT:
            return value
        signs = torch.randint(0, 2, value.shape, generator=generator) * 2 - 1
        return value * (1 + COARSE.unit * signs)

    most = 0.0
    for second, tensors in enumerate((networks.first, networks.second)):
        bound = Inference.of(engine, bool(second), COARSE).errors_at(node, 2)
        carried = Inference.of(engine, bool(second), COARSE).errors[node].upper.reshape(2, 3)
        assert torch.isfinite(bound).all() and (bound < 0.9 * carried).any()
        for box in range(2):
            x = [points[0][box].double()]
            (exact,) = run(graph, x, tensors, dtype=torch.float64)
            for _ in range(20):
                (found,) = run(graph, x, tensors, dtype=torch.float64, call=coarse)
                assert ((found - exact).abs() <= bound[box]).all()
                most = max(most, float(((found - exact).abs() / bound[box]).max()))
    assert most > 0.01  # the test is one


def test_half_precision_has_no_bound() -> None:
    graph = capture(nn.Linear(2, 2).to(torch.bfloat16).eval(), torch.zeros(2, 2, dtype=torch.bfloat16))
    with pytest.raises(NoRuleError, match="float32 or float64 alone; the model holds bfloat16"):
        format_of(graph)


def test_what_overflows_has_no_bound() -> None:
    graph, networks = of_linear(torch.full((1, 2), 3e38), torch.zeros(1))
    found = inference(graph, networks, at(torch.tensor([1.0, -1.0])), False)
    assert torch.isinf(found.errors_at(networks.graph.outputs[0], 1)).all()


def test_every_op_with_a_rule_has_bounds() -> None:
    assert RULES.keys() - {*MADE} <= BOUNDED.keys()


# --- certificates -------------------------------------------------------------------------------------------


@cache
def certified(arithmetic: Any = "float", **settings: Any) -> secateur.Certificate:
    model, x, _ = blobs()
    return secateur.certify(model, smaller(), inputs=x[:3], eps=0.02, attack_steps=0, arithmetic=arithmetic)


@cache
def smaller() -> nn.Module:
    model, x, _ = blobs()
    return secateur.prune(model, x[:2], remove=0.4, method="scale").model


def test_claims_with_rounding_are_wider_by_it() -> None:
    real, run_in = certified("real"), certified("float")
    assert (real.arithmetic, run_in.arithmetic) == ("real", "float32") and real.inference_rounding is None
    assert run_in.inference_rounding is not None and real.agreement_margin and run_in.agreement_margin
    rows = zip(real.drift, run_in.drift, run_in.inference_rounding, strict=True)
    assert all(0 < wide - narrow <= most * 1.001 for narrow, wide, most in rows)
    pairs = zip(real.agreement_margin.proved, run_in.agreement_margin.proved, strict=True)
    assert all(narrow < wide for narrow, wide in pairs)
    assert "run in float32" in run_in.assumptions[0] and len(run_in.assumptions) == 5


def test_rounding_is_included_by_itself_where_it_is_small() -> None:
    assert certified("auto").model_dump(exclude={"seconds", "date"}) == certified("float").model_dump(
        exclude={"seconds", "date"}
    )
    model, x, _ = blobs()
    same = secateur.certify(model, model, inputs=x[:3], eps=0.02, attack_steps=0)
    assert same.arithmetic == "real" and "more than 10% of the drift" in same.why_real


def test_a_certificate_with_rounding_is_proved_again() -> None:
    model, x, _ = blobs()
    found = certified("float")
    check_certificate(found, model, smaller(), inputs=x[:3], prove=True)
    real = certified("real")
    forged = found.model_copy(update={"lower": real.lower, "upper": real.upper})
    with pytest.raises(VerificationError, match="bounds cannot be proved"):
        check_certificate(forged, model, smaller(), inputs=x[:3], prove=True)
    claimed = real.model_copy(update={"arithmetic": "float32", "inference_rounding": (0.0,) * 3})
    with pytest.raises(VerificationError, match="bounds cannot be proved"):
        check_certificate(claimed, model, smaller(), inputs=x[:3], prove=True)


def test_older_certificates_are_about_real_arithmetic(tmp_path: Path) -> None:
    record = certified("real").model_dump(
        mode="json", exclude={"arithmetic", "inference_rounding", "why_real"}
    )
    (tmp_path / "old.json").write_text(json.dumps(record))
    model, x, _ = blobs()
    old = secateur.Certificate.load(tmp_path / "old.json")
    assert old.arithmetic == "real"
    check_certificate(old, model, smaller(), inputs=x[:3], prove=True)


def test_models_with_other_ops_or_heads_say_why() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.out = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.cell(x)[0][:, -1])

    recurrent, x = Last().eval(), torch.rand(2, 5, 3)
    found = secateur.certify(recurrent, recurrent, inputs=x, eps=0.1, attack_steps=0)
    assert found.arithmetic == "real" and "aten.gru.input) has no bound" in found.why_real
    with pytest.raises(InputError, match=r"arithmetic='float': the rounding of gru .* choose 'real'"):
        secateur.certify(recurrent, recurrent, inputs=x, eps=0.1, attack_steps=0, arithmetic="float")
    head = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Tanh()).eval()
    found = secateur.certify(head, head, inputs=x[:, 0], eps=0.1, attack_steps=0, head="logits")
    assert "it is not known how tanh" in found.why_real


def test_attention_in_steps_is_about_real_arithmetic() -> None:
    """A runtime may work an op of attention out in blocks, for which the rules of its steps do not speak."""

    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(4, 12), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).chunk(3, -1)
            return self.out(nn.functional.scaled_dot_product_attention(q, k, v)[:, 0])

    torch.manual_seed(0)
    model, x = Attends().eval(), torch.rand(2, 3, 4)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.out.weight += 0.05
    how: dict[str, Any] = {"inputs": x, "eps": 0.01, "attack_steps": 0}
    found = secateur.certify(model, other, **how)
    assert found.arithmetic == "real" and "step by step" in found.why_real
    assert secateur.certify(model, other, method="interval", **how).arithmetic == "float32"
    with pytest.raises(InputError, match=r"arithmetic='float': attention was bounded step by step"):
        secateur.certify(model, other, arithmetic="float", **how)


def test_a_softmax_and_a_sigmoid_need_margins_above_their_rounding() -> None:
    torch.manual_seed(0)
    for head, name in (
        (nn.Softmax(1), "probabilities"),
        (nn.LogSoftmax(1), "logits"),
        (nn.Sigmoid(), "multi_label"),
    ):
        model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2), head).eval()
        found = secateur.certify(
            model, model, inputs=torch.rand(4, 3), eps=0.0, attack_steps=0, arithmetic="float"
        )
        assert found.head == name and found.agreement_margin is not None
        assert min(found.agreement_margin.proved) > 32 * UNIT


def test_the_box_in_parts_and_float64() -> None:
    model, x, _ = blobs()
    parts = secateur.certify(model, smaller(), x[:2], parts=20, attack_steps=0, arithmetic="float")
    assert parts.inference_rounding is not None and len(parts.inference_rounding) == 1
    first, second = (copy.deepcopy(m).double() for m in (model, smaller()))
    double = secateur.certify(first, second, inputs=x[:3].double(), eps=0.02, attack_steps=0)
    assert double.arithmetic == "float64" and double.inference_rounding is not None
    assert max(double.inference_rounding) < 1e-10


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.Softplus, nn.Hardswish]),
    st.sampled_from([0.0, 0.01, 0.1]),
)
def test_float32_does_not_violate_certificates(seed: int, activation: Any, eps: float) -> None:
    """At random points and corners; benchmarks/soundness.py looks harder."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(5, 12), activation(), nn.Linear(12, 8), activation(), nn.Linear(8, 3)
    ).eval()
    x = torch.rand(2, 5)
    small = secateur.prune(model, x, remove=0.3, method="scale", samples=32).model
    found = secateur.certify(model, small, inputs=x, eps=eps, attack_steps=0, arithmetic="float")
    assert found.agreement is not None and found.agreement_margin is not None
    disagreed = 0
    for ball, centre in enumerate(x.double()):
        ways = torch.rand(200, 5, dtype=torch.float64) * 2 - 1
        ways[:100] = ways[:100].sign()
        points = (centre + 0.999 * eps * ways).clamp(0, 1).float()
        with torch.no_grad():
            f, g = model(points).double(), small(points).double()
            start = model(x[ball : ball + 1]).argmax(1)
        low, high = (torch.tensor(end[ball], dtype=torch.float64) for end in (found.lower, found.upper))
        assert ((g - f >= low) & (g - f <= high)).all()
        best = f.topk(2, 1).values
        above = best[:, 0] - best[:, 1] > found.agreement_margin.proved[ball]
        assert (f.argmax(1) == g.argmax(1))[above].all()
        disagreed += bool(((f.argmax(1) != start) | (g.argmax(1) != start)).any())
    assert disagreed <= 2 - 2 * found.agreement.certified
