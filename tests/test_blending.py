"""A few own inputs beside surrogates: their shares, and what is asked for without samples."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import secateur
from secateur.blending import blended, enough_own
from secateur.errors import InputError
from secateur.graph.capture import capture
from secateur.graph.coupling import couple
from secateur.types import Samples


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)).eval()


@pytest.mark.parametrize(("own", "share"), [(3, 0.2), (64, 0.25), (128, 0.5)])
def test_own_inputs_count_by_their_number(own: int, share: float) -> None:
    graph = capture(dense(), torch.rand(2, 4))
    mine, drawn = Samples((2 + torch.rand(own, 4),)), Samples((torch.rand(512, 4),), prior=0.1)
    found = blended(mine, drawn, 256, graph, 2**20)
    (x,) = found.inputs
    is_own = x[:, 0] >= 2
    assert float(is_own.double().mean()) == pytest.approx(share, abs=0.02)
    counts = [int((x == row).all(1).sum()) for row in mine.inputs[0]]
    assert max(counts) - min(counts) <= 1 and found.prior == 0.0


def test_as_many_as_the_widest_layer_needs_are_used_alone() -> None:
    model = dense()
    graph = capture(model, torch.rand(2, 4))
    assert enough_own(graph, couple(graph)) == 4 * 64
    used = [
        secateur.prune(
            model, torch.rand(1, 4), calibration=torch.rand(n, 4), remove=0.25, samples=300
        ).recipe.used
        for n in (60, 400)
    ]
    assert (used[0].own, used[0].surrogate) == (40, "auto") and used[0].samples > 250
    assert (used[1].own, used[1].surrogate, used[1].samples) == (0, "", 267)


def test_no_surrogate_needs_own_inputs() -> None:
    x = torch.rand(30, 4)
    used = secateur.prune(dense(), x[:1], remove=0.5, calibration=x, surrogate="none").recipe.used
    assert (used.samples, used.own, used.surrogate) == (20, 0, "")
    with pytest.raises(InputError, match="surrogate='none' leaves no samples; give inputs of your own"):
        secateur.prune(dense(), x[:1], remove=0.5, surrogate="none")
