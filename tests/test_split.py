"""Splitting the input box: sound whenever it stops, and narrower for it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.certify import Certificate, certify
from secateur.certify.checking import check_certificate
from secateur.certify.split import until
from secateur.errors import InputError


def pair(seed: int, inputs: int = 2) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(seed)
    act = [nn.ReLU(), nn.Tanh()][seed % 2]
    model = nn.Sequential(nn.Linear(inputs, 12), act, nn.Linear(12, 8), act, nn.Linear(8, 3)).eval()
    with torch.no_grad():
        model[0].weight.mul_(3)
    return model, secateur.prune(model, torch.rand(2, inputs), remove=0.4, method="saliency").model


@torch.no_grad()
def drift_at(model: nn.Module, small: nn.Module, x: Tensor) -> Tensor:
    return copy.deepcopy(small).double()(x) - copy.deepcopy(model).double()(x)


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(4))
def test_it_is_sound_whenever_it_stops_and_never_wider_for_going_on(seed: int) -> None:
    model, small = pair(seed)
    axis = torch.linspace(0, 1, 41, dtype=torch.float64)
    drift = drift_at(model, small, torch.cartesian_prod(axis, axis))
    low, high, before = drift.amin(0), drift.amax(0), torch.inf
    whole = certify(model, small, torch.rand(2, 2), attack_steps=0)
    for parts in (1, 8, 60, 300):
        found = certify(model, small, torch.rand(2, 2), parts=parts, attack_steps=10)
        assert bool((torch.tensor(found.lower[0], dtype=torch.float64) <= low + 1e-12).all())
        assert bool((torch.tensor(found.upper[0], dtype=torch.float64) >= high - 1e-12).all())
        assert found.boxes is not None and found.boxes >= parts and max(found.drift) <= before + 1e-12
        before = max(found.drift)
        if parts == 1:
            assert found.drift == whole.drift and found.agreement_margin is not None
    assert before < 0.9 * max(whole.drift) and before < 1.25 * float(drift.abs().max())
    assert found.agreement_margin is not None and whole.agreement_margin is not None
    assert found.agreement_margin.proved[0] < whole.agreement_margin.proved[0]


def test_two_inputs_and_whole_numbers_are_split_where_they_can_be() -> None:
    class Two(nn.Module):
        def __init__(self, units: int) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c = nn.Linear(1, units), nn.Linear(2, units), nn.Linear(units, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.c(torch.relu(self.a(x)) + torch.relu(self.b(y)))  # type: ignore[no-any-return]

    model, x = Two(6).eval(), (torch.zeros(2, 1), torch.zeros(2, 2))
    small = secateur.prune(model, x, method="scale", remove=0.5).model
    found = certify(model, small, x, input_bounds=(-1.0, 1.0), parts=100, attack_steps=20)
    whole = certify(model, small, x, input_bounds=(-1.0, 1.0), attack_steps=0)
    assert found.found is not None and found.found[0] <= found.drift[0] < whole.drift[0]


def test_a_model_beside_itself_has_nothing_to_split() -> None:
    model, _ = pair(0)
    assert certify(model, model, torch.rand(2, 2), parts=10**6, attack_steps=0).drift[0] <= 1e-9


def test_time_or_boxes_end_it() -> None:
    assert not until(0.0, None)(1) and until(60.0, None)(10**9)
    assert until(None, 5)(4) and not until(None, 5)(5) and not until(0.0, 5)(1)
    model, small = pair(1)
    quick = certify(model, small, torch.rand(2, 2), budget="0.01s", attack_steps=0)
    assert quick.boxes is not None


def test_it_is_recorded_and_proved_again(tmp_path: Any) -> None:
    model, small = pair(1)
    found = certify(model, small, torch.rand(2, 2), parts=60, attack_steps=0)
    found.save(tmp_path / "c.json")
    assert Certificate.load(tmp_path / "c.json") == found
    assert f"the input box, split ({found.boxes} boxes)" in str(found)
    check_certificate(found, model, small, torch.rand(2, 2), prove=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": "soon"}, "budget='soon': give"),
        ({"parts": 0}, "parts=0: give a whole number of boxes"),
        ({"budget": 1, "inputs": torch.rand(2, 2), "eps": 0.1}, "budget and parts split the input box"),
    ],
)
def test_refused(settings: dict[str, Any], message: str) -> None:
    model, small = pair(0)
    with pytest.raises(InputError, match=message):
        certify(model, small, torch.rand(2, 2), **settings)
