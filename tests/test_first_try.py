"""What a first user may get wrong with a file from a stranger: a CNN with folded norms that takes normalised
images.
"""

from __future__ import annotations

import warnings
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import secateur
from pictures import IMAGENET, folded, normalised, pictures, trained
from secateur.errors import InputError, SecateurWarning

pytestmark = pytest.mark.judged


@cache
def model() -> nn.Sequential:
    return folded(trained("imagenet"))


def photographs() -> tuple[Tensor, Tensor]:
    """50 of the pictures, and the others, which no run sees."""
    images, _ = pictures()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order[:50]], images[order[50:]]


def prune(**settings: object) -> secateur.Result:
    mine, _ = photographs()
    return secateur.prune(model(), mine[:2], remove=0.5, samples=512, **settings)  # type: ignore[arg-type]


def unseen_agreement(small: nn.Module) -> float:
    x = normalised(photographs()[1], IMAGENET.mean, IMAGENET.std)
    with torch.no_grad():
        return float((model()(x).argmax(1) == small(x).argmax(1)).float().mean())


@pytest.mark.sweep
@pytest.mark.parametrize("own", [False, True], ids=["surrogates", "photographs"])
def test_a_forgotten_mean_is_warned_of(own: bool) -> None:
    settings = {"calibration": photographs()[0]} if own else {}
    with pytest.warns(
        SecateurWarning, match="taken as they are, but the model seems to take images normalised as"
    ):
        verdict = prune(**settings).verdict
    assert verdict is not None and verdict.word != "fine"
    assert any("--normalize" in reason for reason in verdict.reasons)


@pytest.mark.sweep
@pytest.mark.parametrize("own", [False, True], ids=["surrogates", "photographs"])
@pytest.mark.parametrize(
    "settings", [{"normalize": "imagenet"}, {"mean": IMAGENET.mean, "std": IMAGENET.std}]
)
def test_the_right_mean_gives_an_interval_that_holds(own: bool, settings: dict[str, object]) -> None:
    given = {"calibration": photographs()[0]} if own else {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = prune(**settings, **given)
    verdict = result.verdict
    assert verdict is not None and verdict.interval is not None
    assert verdict.interval[0] <= unseen_agreement(result.model) <= verdict.interval[1]


@pytest.mark.sweep
@pytest.mark.parametrize("settings", [{"normalize": "none"}, {"mean": 127.5, "std": 63.75}])
def test_a_wrong_mean_is_warned_of(settings: dict[str, object]) -> None:
    with pytest.warns(SecateurWarning, match="the model seems to take images"):
        verdict = prune(calibration=photographs()[0], **settings).verdict
    assert verdict is not None and verdict.word != "fine"


def test_photographs_of_bytes_are_refused() -> None:
    with pytest.raises(InputError, match="0–255"):
        prune(normalize="imagenet", calibration=255 * photographs()[0])


def test_photographs_that_are_normalised_already_are_refused() -> None:
    mine = normalised(photographs()[0], IMAGENET.mean, IMAGENET.std)
    with pytest.raises(InputError, match="already normalised"):
        prune(calibration=mine)


def test_a_mean_alone_is_refused() -> None:
    with pytest.raises(InputError, match="mean is given without std"):
        prune(mean=0.5)
    with pytest.raises(InputError, match="stands for a mean and std of its own"):
        prune(normalize="cifar10", mean=0.5, std=0.5)
