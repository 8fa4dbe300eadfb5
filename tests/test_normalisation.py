"""Which normalisation a model was trained with, told from the model alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pictures import IMAGENET, IMAGES, SIZE, folded, pictures, trained
from secateur.errors import InputError
from secateur.graph.capture import capture
from secateur.graph.graph import Graph
from secateur.normalisation import CANDIDATES, GIVEN, likely_normalisation
from secateur.presets import PRESETS


def graph_of(model: nn.Module, *shape: int) -> Graph:
    return capture(model, torch.rand(2, *(shape or (3, SIZE, SIZE))))


@pytest.mark.parametrize("as_exported", [False, True], ids=["batch norm", "folded"])
def test_a_forgotten_normalisation_is_told_and_the_right_one_is_not_doubted(as_exported: bool) -> None:
    model = trained("imagenet")
    graph = graph_of(folded(model) if as_exported else model)
    forgotten = likely_normalisation(graph, (0.0, 1.0))
    assert forgotten.clear and forgotten.preset is not None
    assert forgotten.preset.std, "normalised in some way"
    assert "as given" in forgotten.evidence and "normalised as" in forgotten.evidence
    right = likely_normalisation(graph, (0.0, 1.0), IMAGENET.mean, IMAGENET.std)
    assert not right.clear
    assert "imagenet" not in right.scores, "it is the one that was given"


def test_batch_norm_names_the_normalisation() -> None:
    finding = likely_normalisation(graph_of(trained("imagenet")), (0.0, 1.0))
    assert finding.likeliest == "imagenet"
    assert finding.likeliest == min(finding.scores, key=finding.scores.__getitem__)
    assert "the statistics of batch norm are" in finding.evidence


@pytest.mark.sweep
@pytest.mark.parametrize("as_exported", [False, True], ids=["batch norm", "folded"])
def test_a_model_that_takes_images_as_they_are_is_not_doubted(as_exported: bool) -> None:
    model = trained("none")
    graph = graph_of(folded(model) if as_exported else model)
    assert not likely_normalisation(graph, (0.0, 1.0)).clear
    assert likely_normalisation(graph, (0.0, 255.0)).clear, "numbers 255 times too large"


class ColoursLast(nn.Module):
    """The same model of images (n, height, width, colours)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x.movedim(-1, 1))  # type: ignore[no-any-return]


def test_colours_that_are_last_give_the_same_finding() -> None:
    model = trained("imagenet")
    first = likely_normalisation(graph_of(model), (0.0, 1.0))
    last = likely_normalisation(graph_of(ColoursLast(model).eval(), SIZE, SIZE, 3), (0.0, 1.0))
    assert (last.likeliest, last.clear, last.preset) == (first.likeliest, first.clear, first.preset)
    assert last.scores == pytest.approx(first.scores, rel=1e-3)


def test_close_normalisations_are_one_kind() -> None:
    preset = PRESETS["cifar10"]
    finding = likely_normalisation(graph_of(trained("imagenet")), (0.0, 1.0), preset.mean, preset.std)
    assert not finding.clear and "imagenet" not in finding.scores


def test_the_same_numbers_said_in_other_units_score_the_same() -> None:
    graph = graph_of(trained("imagenet"))
    small = likely_normalisation(graph, (0.0, 1.0), IMAGENET.mean, IMAGENET.std)
    mean, std = (tuple(255 * value for value in values) for values in (IMAGENET.mean, IMAGENET.std))
    large = likely_normalisation(graph, (0.0, 255.0), mean, std)
    assert large.scores[GIVEN] == pytest.approx(small.scores[GIVEN], rel=1e-4)
    assert large.clear == small.clear


def test_images_of_the_user_are_read_in_units_of_the_bounds() -> None:
    graph, (images, _) = graph_of(trained("imagenet")), pictures()
    spread = images[torch.randperm(IMAGES, generator=torch.Generator().manual_seed(0))[:100]]
    found = likely_normalisation(graph, (0.0, 255.0), images=255 * spread)
    assert found.clear and found.likeliest == "imagenet"
    assert found.scores[found.likeliest] < 0.2 < found.scores[GIVEN], "the pictures of the training"


def test_one_seed_gives_one_finding() -> None:
    graph = graph_of(trained("imagenet"))
    assert likely_normalisation(graph, (0.0, 1.0), seed=3) == likely_normalisation(graph, (0.0, 1.0), seed=3)


@pytest.mark.parametrize(
    ("model", "shape", "bounds", "why"),
    [
        (nn.Linear(6, 3), (6,), (0.0, 1.0), "one batch of images"),
        (nn.Conv2d(5, 3, 3), (5, 8, 8), (0.0, 1.0), "5 channels"),
        (nn.Conv2d(3, 3, 3), (3, 8, 8), (-math.inf, math.inf), "two finite numbers"),
        (nn.Conv2d(3, 3, 3), (3, 8, 8), (1.0, 1.0), "no width"),
        (nn.Conv2d(3, 3, 3), (3, 8, 8), (torch.zeros(3, 1, 1), torch.ones(3, 1, 1)), "two finite numbers"),
        (nn.Sequential(nn.MaxPool2d(2), nn.Flatten()), (3, 8, 8), (0.0, 1.0), "no layers to ask"),
    ],
    ids=["table", "channels", "infinite", "no width", "tensors", "nothing learnt"],
)
def test_where_it_does_not_apply_it_says_why(
    model: nn.Module, shape: tuple[int, ...], bounds: tuple[float, float], why: str
) -> None:
    finding = likely_normalisation(graph_of(model.eval(), *shape), bounds)
    assert not finding.clear and not finding.likeliest and why in finding.evidence


def test_a_mean_of_other_channels_is_an_error() -> None:
    graph = graph_of(nn.Conv2d(1, 3, 3).eval(), 1, 8, 8)
    with pytest.raises(InputError, match="mean has 3 values for images of 1 channels"):
        likely_normalisation(graph, (0.0, 1.0), IMAGENET.mean, (0.5,))


def test_presets_are_the_known_numbers() -> None:
    assert PRESETS["imagenet"].mean == (0.485, 0.456, 0.406) and PRESETS["imagenet"].std == (
        0.229,
        0.224,
        0.225,
    )
    assert PRESETS["cifar10"].mean == (0.4914, 0.4822, 0.4465) and PRESETS["cifar10"].std == (
        0.2470,
        0.2435,
        0.2616,
    )
    assert (PRESETS["minus1to1"].mean, PRESETS["minus1to1"].std) == ((0.5,), (0.5,))
    assert (PRESETS["none"].mean, PRESETS["none"].std) == ((), ())


def test_candidates_have_one_number_or_one_for_each_channel() -> None:
    for channels, known in CANDIDATES.items():
        for preset in known.values():
            assert len(preset.mean) == len(preset.std) and len(preset.mean) in (0, 1, channels)
