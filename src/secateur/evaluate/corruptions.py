"""Inputs made worse as cameras and sensors do, not by an adversary: noise, blur, loss of contrast.

Kinds as in the benchmarks of Hendrycks & Dietterich (https://arxiv.org/abs/1903.12261), made on the spot from
any data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.errors import InputError
from secateur.evaluate.box import Box
from secateur.evaluate.draws import normal

_REACH = 4  # deviations of a Gaussian after which its tail is cut


@dataclass(frozen=True)
class _Kind:
    apply: Callable[[Tensor, float, Box, Tensor, int], Tensor]  # of images, strength, box, rows and seed
    severities: tuple[float, ...]  # mild, medium, strong
    images_only: bool
    largest: float = math.inf  # strength


@dataclass(frozen=True)
class Corruption:
    """One corruption of one strength; the larger, the worse.

    `gaussian_noise`: standard deviation, as a share of the width of the input box. `gaussian_blur`: standard
    deviation in pixels. `contrast`: the share of the contrast that is lost, up to 1. Blur and contrast are
    for images (n, channels, height, width). The noise of an input depends on `seed` and its place in the
    data.
    """

    kind: str
    strength: float
    seed: int = 0

    def __post_init__(self) -> None:
        largest = _kind(self.kind).largest
        if not 0 <= self.strength <= largest or math.isinf(self.strength):
            most = "" if math.isinf(largest) else f" and at most {largest:g}"
            raise InputError(f"{self.kind} of strength {self.strength}: give a number of at least 0{most}")

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.strength:g}"

    def apply(self, images: Tensor, box: Box, rows: Tensor) -> Tensor:
        """The corrupted `images` (b, …) inside the box; `rows` (b,) are their places in the data."""
        kind = _kind(self.kind)
        if kind.images_only and images.ndim != 4:
            raise InputError(
                f"{self.kind} is for images (n, channels, height, width), these inputs have shape "
                f"{tuple(images.shape)}; leave it out, or use gaussian_noise"
            )
        return kind.apply(images, self.strength, box, rows, self.seed).clamp(*box)


def severities(kind: str, seed: int = 0) -> tuple[Corruption, ...]:
    """The mild, medium and strong version of a kind of corruption."""
    return tuple(Corruption(kind, strength, seed) for strength in _kind(kind).severities)


def resolve(wanted: Sequence[str | Corruption]) -> tuple[Corruption, ...]:
    """A name stands for its `severities`. Raises `InputError` for unknown names, and where one stands
    twice.
    """
    if isinstance(wanted, str):
        raise InputError(f"corruptions={wanted!r}: give a list of names or Corruption objects")
    found = [c for item in wanted for c in (severities(item) if isinstance(item, str) else (item,))]
    names = [c.name for c in found]
    if len(set(names)) != len(names):
        raise InputError(f"two corruptions are the same ({', '.join(names)}); leave one out")
    return tuple(found)


def _kind(name: str) -> _Kind:
    if name not in CORRUPTIONS:
        raise InputError(f"no corruption {name!r}; there are {', '.join(CORRUPTIONS)}")
    return CORRUPTIONS[name]


def _noise(x: Tensor, strength: float, box: Box, rows: Tensor, seed: int) -> Tensor:
    width = box[1] - box[0]
    if not bool(torch.isfinite(width).all()):
        raise InputError("gaussian_noise is a share of the width of the input box; give finite input_bounds")
    return x + strength * width * normal(x, rows, seed)


def _blur(x: Tensor, strength: float, box: Box, rows: Tensor, seed: int) -> Tensor:
    """Convolution with exp(−t²/2σ²), along rows and then columns; the border's pixels go on beyond it."""
    if strength == 0:
        return x
    reach = math.ceil(_REACH * strength)
    t = torch.arange(-reach, reach + 1, dtype=x.dtype)
    kernel = torch.exp(-(t**2) / (2 * strength**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    for _ in range(2):
        x = F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="replicate"), kernel, groups=x.shape[1]).mT
    return x


def _contrast(x: Tensor, strength: float, box: Box, rows: Tensor, seed: int) -> Tensor:
    """Every channel moved toward its mean over the image."""
    mean = x.mean(dim=(2, 3), keepdim=True)
    return mean + (1 - strength) * (x - mean)


CORRUPTIONS = {
    "gaussian_noise": _Kind(_noise, (0.05, 0.1, 0.2), images_only=False),
    "gaussian_blur": _Kind(_blur, (0.5, 1.0, 2.0), images_only=True),
    "contrast": _Kind(_contrast, (0.25, 0.5, 0.75), images_only=True, largest=1.0),
}
