"""A model that begins with the scaling of pixels is not pruned on inputs between 0 and 1 without a warning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.errors import SecateurWarning
from secateur.graph.capture import capture
from secateur.inputs import Normalisation
from secateur.pixel_range import pixel_evidence

NONE = Normalisation.named(None, (0.0, 1.0), (), ())
MEAN = torch.tensor([123.7, 116.3, 103.5]).reshape(3, 1, 1)
FACTORS = torch.tensor([0.0039, 0.0041, 0.004]).reshape(3, 1, 1)


class Scaled(nn.Module):
    def __init__(self, scale: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("mean", MEAN)
        self.register_buffer("factors", FACTORS)
        self.first, self.last = nn.Conv2d(3, 6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(self.scale(self, x))).mean((2, 3)))


@pytest.mark.parametrize(
    ("scale", "told"),
    [
        (lambda m, x: x * (1 / 127.5) - 1.0, "divides it by 127.5"),
        (lambda m, x: x / 255, "divides it by 255"),
        (lambda m, x: x.permute(0, 1, 3, 2).contiguous() / 255.0, "divides it by 255"),
        (lambda m, x: (x - m.mean) / 58.0, "subtracts 123.7, 116.3, 103.5 from it"),
        (lambda m, x: x * m.factors, "divides it by 256.4, 243.9, 250"),
        (lambda m, x: x / 2 - 0.5, ""),  # of inputs between 0 and 1, as all the others
        (lambda m, x: (x - 0.45) / 0.225, ""),
        (lambda m, x: x, ""),
        (lambda m, x: torch.sigmoid(x) / 255, ""),  # the first op tells nothing
        (lambda m, x: x / 255 + x, ""),
        (lambda m, x: x * 255, ""),
    ],
)
def test_the_first_op_tells(scale: Callable[[Any, Tensor], Tensor], told: str) -> None:
    graph = capture(Scaled(scale).eval(), torch.zeros(2, 3, 8, 8))
    assert pixel_evidence(graph, (0.0, 1.0), NONE) == told
    assert pixel_evidence(graph, (0, 255), NONE) == ""


def test_the_warning_and_the_verdict() -> None:
    torch.manual_seed(0)
    model = Scaled(lambda m, x: x / 255).eval()
    given: dict[str, Any] = {"remove": 0.3, "method": "saliency", "samples": 8}
    with pytest.warns(SecateurWarning, match=r"divides it by 255, .* say input_bounds=\(0, 255\)"):
        result = secateur.prune(model, torch.zeros(1, 3, 8, 8), **given)
    assert result.verdict is not None and "as pixels from 0 to 255" in str(result.verdict)
    told = secateur.prune(model, torch.zeros(1, 3, 8, 8), input_bounds=(0, 255), **given)
    assert "pixels" not in str(told.verdict)


def test_quantising_warns_too() -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = Scaled(lambda m, x: x / 255).eval()
    given: dict[str, Any] = {"scheme": "fp16-weights", "samples": 8, "surrogate": "uniform", "latency": False}
    with pytest.warns(SecateurWarning, match="divides it by 255"):
        secateur.quantize(model, torch.zeros(1, 3, 8, 8), **given)
