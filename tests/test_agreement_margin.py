"""Margins above which both models decide alike: no point contradicts them, and they are not vacuous."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import secateur
from secateur.bounds import certified
from secateur.certify import Certificate, certify
from secateur.certify.checking import check_certificate
from secateur.errors import VerificationError
from trained import blobs


def scores(rows: list[list[float]], bias: list[float]) -> nn.Module:
    """x ↦ W x + b, through a hidden layer that copies its inputs, so that there is a unit to prune."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, len(rows))).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[1].weight.copy_(torch.tensor(rows))
        model[1].bias.copy_(torch.tensor(bias))
    return model


def test_by_hand() -> None:
    """g − f = (0.1 x₀, −0.2 x₁, 0): each class may gain on another by what both move."""
    f = scores([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], [0.0, 0.0, 0.2])
    g = scores([[1.1, 0.0], [0.0, 0.8], [0.0, 0.0]], [0.0, 0.0, 0.2])
    box = certify(f, g, torch.rand(2, 2), arithmetic="real")
    assert box.agreement_margin is not None
    (delta,) = box.agreement_margin.proved
    # class 0 gains 0.1 x₀ + 0.2 x₁ ≤ 0.3 on class 1, which f may decide for
    assert delta == pytest.approx(0.3, abs=1e-6) and delta >= 0.3
    # near (0.9, 0.1) f decides for class 0, on which nothing gains
    near = torch.tensor([[0.9, 0.1]])
    ball = certify(f, g, inputs=near, eps=0.05, arithmetic="real").agreement_margin
    assert ball is not None and ball.proved[0] <= 1e-9 and ball.above == 1.0 and ball.found == (0.0,)


def test_yes_or_no_by_hand() -> None:
    f, g = scores([[1.0, 0.0]], [-0.5]), scores([[1.0, 0.25]], [-0.5])
    found = certify(f, g, torch.rand(2, 2), arithmetic="real").agreement_margin
    assert found is not None and found.proved[0] == pytest.approx(0.25, abs=1e-6) and found.found is not None
    assert 0 < found.found[0] <= 0.25


def test_one_network_needs_no_margin() -> None:
    model, x, _ = blobs()
    found = certify(model, model, inputs=x[:5], eps=0.1, attack_steps=3).agreement_margin
    assert found is not None and max(found.proved) <= 1e-9 and found.above == 1.0


def test_without_decisions_there_is_none() -> None:
    model, x, _ = blobs()
    assert certify(model, model, x[:2], head="none", attack_steps=0).agreement_margin is None


@torch.no_grad()
def contradicted(model: nn.Module, small: nn.Module, points: Tensor, delta: Tensor) -> int:
    """Points (n, m, …) of n sets whose margin is above δ (n,) and whose decision changes."""
    f, g = (copy.deepcopy(m).double()(points.flatten(0, 1)) for m in (model, small))
    top = f.topk(2, -1).values
    margin = (top[:, 0] - top[:, 1]).reshape(points.shape[:2])
    differs = (f.argmax(-1) != g.argmax(-1)).reshape(points.shape[:2])
    return int((differs & (margin > delta[:, None])).sum())


def points_in(centres: Tensor, eps: float, seed: int, count: int = 60) -> Tensor:
    """Random points and corners of the balls, (n, m, …)."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(len(centres), count, *centres.shape[1:], generator=generator, dtype=torch.float64)
    share[:, ::2] = share[:, ::2].round()
    return (centres.double()[:, None] + eps * (2 * share - 1)).clamp(0, 1)


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(
    st.integers(0, 10**6),
    st.floats(0.0, 0.4),
    st.sampled_from(["linear", "interval"]),
    st.booleans(),
    st.booleans(),
)
def test_no_point_above_the_margin_changes_its_decision(
    seed: int, eps: float, method: str, pairs: bool, soft: bool
) -> None:
    """Random networks, pruned at random, trained by nobody: margins are small, and decisions change."""
    torch.manual_seed(seed)
    act = [nn.ReLU(), nn.Tanh(), nn.GELU()][seed % 3]
    end = [nn.Softmax(-1)] if soft else []
    layers = [nn.Linear(5, 10), act, nn.Linear(10, 8), act, nn.Linear(8, 4), *end]
    model, x = nn.Sequential(*layers).eval(), torch.rand(6, 5)
    small = secateur.prune(model, x[:2], remove=0.4, method="saliency").model
    before = certified._PAIRS
    try:
        certified._PAIRS = before if pairs else 0
        found = certify(model, small, inputs=x, eps=eps, method=method, attack_steps=5)
        box = certify(model, small, x[:2], method=method, attack_steps=5)
    finally:
        certified._PAIRS = before
    ends: Any = (lambda m: m[:-1]) if soft else (lambda m: m)  # margins are those of the scores
    for certificate, points in (
        (found, points_in(x, eps, seed)),
        (box, points_in(x[:1] * 0 + 0.5, 0.5, seed)),
    ):
        about = certificate.agreement_margin
        assert about is not None and about.found is not None
        assert all(a <= b for a, b in zip(about.found, about.proved, strict=True))
        delta = torch.tensor(about.proved, dtype=torch.float64)
        assert contradicted(ends(model), ends(small), points, delta) == 0


@pytest.mark.slow
@pytest.mark.judged
def test_it_is_tighter_than_the_drift_of_two_classes_and_covers_what_agreement_does_not() -> None:
    model, x, _ = blobs()
    small = secateur.prune(model, x[:2], remove=0.3).model
    found = certify(model, small, inputs=x[:60], eps=0.05, attack_steps=5)
    about = found.agreement_margin
    assert about is not None and about.above is not None and found.agreement is not None
    assert sum(about.proved) < 1.8 * sum(found.drift)  # of two scores that move against each other: 2
    assert about.above >= found.agreement.certified
    box = certify(model, small, x[:2], attack_steps=20).agreement_margin
    assert box is not None and box.above is None and max(about.proved) <= box.proved[0] + 1e-9


def test_it_is_recorded_and_checked(tmp_path: Any) -> None:
    model, x, _ = blobs()
    small = secateur.prune(model, x[:2], remove=0.3, method="scale").model
    found = certify(model, small, inputs=x[:3], eps=0.02, attack_steps=2)
    found.save(tmp_path / "c.json")
    assert Certificate.load(tmp_path / "c.json") == found and found.agreement_margin is not None
    assert "margin above which both models decide alike" in str(found)
    check_certificate(found, model, small, inputs=x[:3], prove=True)
    smaller = found.agreement_margin.model_copy(update={"proved": (0.0, 0.0, 0.0)})
    forged = found.model_copy(update={"agreement_margin": smaller})
    with pytest.raises(VerificationError, match="smaller margins are claimed than can be proved"):
        check_certificate(forged, model, small, inputs=x[:3], prove=True)
    older = found.model_copy(update={"agreement_margin": None})
    check_certificate(older, model, small, inputs=x[:3], prove=True)
