"""Drawn pictures of four classes, and a CNN trained on them as they are or normalised."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from secateur.presets import PRESETS
from secateur.surrogates.shapes import strokes, things

IMAGENET = PRESETS["imagenet"]
SIZE, IMAGES = 16, 1200


@cache
def pictures() -> tuple[Tensor, Tensor]:
    """Coloured strokes, things and their negatives, (n, 3, 16, 16) in [0, 1], and which of the four each
    is.
    """
    generator = torch.Generator().manual_seed(1)
    each = IMAGES // 4
    drawn = [drawing(each, 3, (SIZE, SIZE), generator) for drawing in (strokes, things) for _ in range(2)]
    return torch.cat([1 - x if i % 2 else x for i, x in enumerate(drawn)]), torch.arange(4).repeat_interleave(
        each
    )


@cache
def trained(name: str) -> nn.Sequential:
    """A small CNN with batch norm that was trained on pictures normalised as the preset of that name."""
    preset, (images, labels) = PRESETS[name], pictures()
    x = normalised(images, preset.mean or (0.0,), preset.std or (1.0,))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 24, 3, 2, padding=1),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(24 * 16, 4),
        )
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(4):
            for batch in torch.randperm(IMAGES).split(60):
                optimizer.zero_grad()
                F.cross_entropy(model(x[batch]), labels[batch]).backward()
                optimizer.step()
    return model.eval()


def normalised(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (images - torch.tensor(mean).reshape(-1, 1, 1)) / torch.tensor(std).reshape(-1, 1, 1)


def folded(model: nn.Sequential) -> nn.Sequential:
    """As exporters leave it."""
    conv, norm, relu, second, last, *rest = model
    return nn.Sequential(fuse_conv_bn_eval(conv, norm), relu, fuse_conv_bn_eval(second, last), *rest).eval()
