"""Normalisations of images that many models were trained with, by name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """Images between `bounds`, of which the model takes (images − mean) / std; empty where it takes them raw.

    `mean` and `std` hold one number, or one for each channel.
    """

    bounds: tuple[float, float]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


PRESETS: dict[str, Preset] = {
    "imagenet": Preset((0.0, 1.0), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": Preset((0.0, 1.0), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "minus1to1": Preset((0.0, 1.0), (0.5,), (0.5,)),
    "none": Preset((0.0, 1.0)),
}
