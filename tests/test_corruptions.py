"""Corruptions by hand: what they do to images, and what a report says of models under them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.evaluate.box import input_box
from secateur.evaluate.corruptions import CORRUPTIONS, Corruption, resolve, severities
from secateur.evaluate.measure import evaluate
from secateur.evaluate.report import Evaluation

UNIT = (0.0, 1.0)


def corrupted(images: Tensor, kind: str, strength: float, bounds: Any = UNIT, seed: int = 0) -> Tensor:
    return Corruption(kind, strength, seed).apply(
        images, input_box(images, bounds), torch.arange(len(images))
    )


def pictures(n: int = 12) -> Tensor:
    return torch.rand(n, 3, 9, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_every_corruption_is_the_identity_at_zero_and_worse_with_strength(kind: str) -> None:
    x = pictures()
    torch.testing.assert_close(corrupted(x, kind, 0.0), x)
    moves = [float((c.apply(x, input_box(x, UNIT), torch.arange(12)) - x).norm()) for c in severities(kind)]
    assert 0 < moves[0] < moves[1] < moves[2]


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_every_corruption_stays_in_the_box_and_repeats_itself(kind: str) -> None:
    lower, upper = torch.tensor([0.0, -2.0, 5.0]), torch.tensor([1.0, 2.0, 6.0])
    x = pictures() * (upper - lower).view(3, 1, 1) + lower.view(3, 1, 1)
    worse = corrupted(x, kind, 0.5, (lower, upper))
    assert bool((worse >= lower.view(3, 1, 1)).all()) and bool((worse <= upper.view(3, 1, 1)).all())
    assert torch.equal(worse, corrupted(x, kind, 0.5, (lower, upper)))


def test_noise_is_a_share_of_the_box_and_belongs_to_the_seed_and_the_place() -> None:
    x = torch.zeros(50, 40)
    x[:, 20:] = 100
    box = (torch.full((40,), -50.0), torch.cat([torch.full((20,), 50.0), torch.full((20,), 1050.0)]))
    noise = corrupted(x, "gaussian_noise", 0.01, box) - x
    assert float(noise[:, :20].std()) == pytest.approx(1.0, rel=0.1)
    assert float(noise[:, 20:].std()) == pytest.approx(11.0, rel=0.1)
    assert not torch.allclose(noise, corrupted(x, "gaussian_noise", 0.01, box, seed=1) - x)
    part = Corruption("gaussian_noise", 0.01).apply(x[30:], input_box(x, box), torch.arange(30, 50))
    assert torch.equal(part, (x + noise)[30:])


def test_blur_of_a_point_is_the_gaussian() -> None:
    x = torch.zeros(1, 2, 21, 31)
    x[0, 0, 10, 12] = 1
    blurred = corrupted(x, "gaussian_blur", 1.5)
    weights = torch.tensor([math.exp(-(t**2) / 4.5) for t in range(-6, 7)])
    weights /= weights.sum()
    torch.testing.assert_close(blurred[0, 0, 4:17, 6:19], weights[:, None] * weights)
    assert float(blurred[0, 1].abs().max()) == 0
    flat = torch.full((1, 1, 3, 3), 0.25)
    torch.testing.assert_close(
        corrupted(flat, "gaussian_blur", 3.0), flat
    )  # wider than the image: its border goes on


@pytest.mark.parametrize("kind", ["gaussian_blur", "contrast"])
def test_images_with_colours_last_are_corrupted_alike(kind: str) -> None:
    images, rows = torch.rand(2, 3, 9, 8), torch.arange(2)
    corruption = Corruption(kind, 0.6)
    expected = corruption.apply(images, input_box(images, (0.0, 1.0)), rows)
    last = images.movedim(1, -1)
    found = corruption.apply(last, input_box(last, (0.0, 1.0)), rows)
    torch.testing.assert_close(found, expected.movedim(1, -1))


def test_contrast_moves_each_channel_toward_its_mean() -> None:
    x = torch.tensor([[[[0.0, 1.0]], [[0.5, 0.75]]]])
    torch.testing.assert_close(
        corrupted(x, "contrast", 0.5), torch.tensor([[[[0.25, 0.75]], [[0.5625, 0.6875]]]])
    )
    torch.testing.assert_close(corrupted(x, "contrast", 1.0), x.mean(dim=3, keepdim=True).expand_as(x))


class Bright(nn.Module):
    """Class 1 where the brightest pixel passes a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.full((len(x),), self.threshold), x.flatten(1).amax(dim=1)], dim=1)


def test_report_has_the_accuracy_of_both_models_under_each() -> None:
    x = torch.zeros(4, 1, 2, 2)
    x[2:, 0, 0, 0] = 1  # contrast of 0.5 leaves 0.625
    labels = torch.tensor([0, 0, 1, 1])
    wanted = [Corruption("contrast", 0.5), "gaussian_noise"]
    reports = [
        evaluate(
            Bright(0.7).eval(), x, labels, original=Bright(0.6).eval(), corruptions=wanted, batch_size=size
        )
        for size in (3, 4)
    ]
    assert reports[0] == reports[1]
    contrast, *noise = reports[0].corruptions
    assert (contrast.kind, contrast.strength, contrast.accuracy, contrast.original_accuracy) == (
        "contrast",
        0.5,
        0.5,
        1,
    )
    assert [row.strength for row in noise] == [c.strength for c in severities("gaussian_noise")]
    assert Evaluation.model_validate_json(reports[0].model_dump_json()) == reports[0]
    alone = evaluate(Bright(0.7).eval(), x, labels, corruptions=["contrast"])
    assert [row.original_accuracy for row in alone.corruptions] == [None] * 3


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: Corruption("fog", 1.0),
            "no corruption 'fog'; there are gaussian_noise, gaussian_blur, contrast",
        ),
        (lambda: Corruption("contrast", 1.5), "at least 0 and at most 1"),
        (lambda: Corruption("gaussian_blur", -1.0), "at least 0"),
        (lambda: Corruption("gaussian_blur", math.nan), "at least 0"),
        (lambda: Corruption("gaussian_noise", math.inf), "at least 0"),
        (lambda: resolve(["contrast", Corruption("contrast", 0.5)]), "two corruptions are the same"),
        (lambda: resolve("contrast"), "give a list of names"),
        (
            lambda: corrupted(torch.rand(3, 4), "gaussian_blur", 1.0),
            r"inputs have shape \(3, 4\); leave it out",
        ),
        (
            lambda: corrupted(torch.rand(3, 4), "gaussian_noise", 1.0, (0.0, math.inf)),
            "give finite input_bounds",
        ),
        (
            lambda: corrupted(torch.ones(3, 4).long(), "gaussian_noise", 1.0),
            "cannot be attacked or corrupted",
        ),
    ],
)
def test_corruption_without_sense_is_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()
