"""Inputs made worse as cameras and sensors do, not by an adversary: noise, blur, loss of contrast.

Kinds as in the benchmarks of Hendrycks & Dietterich (https://arxiv.org/abs/1903.12261), made on the spot from
any data. Torch is imported inside of functions: the command line makes its help from `CORRUPTIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from secateur.errors import InputError
from secateur.evaluate.options import Number, check_option

if TYPE_CHECKING:
    from torch import Tensor

    from secateur.evaluate.box import Box

_REACH = 4  # deviations of a Gaussian after which its tail is cut


@dataclass(frozen=True)
class Kind:
    """A kind of corruption. `CORRUPTIONS` has a row for each."""

    apply: Callable[[Tensor, float, Box, Tensor, int], Tensor]  # of images, strength, box, rows and seed
    strength: Number  # its meaning and range; the larger, the worse, and 0 leaves the images as they are
    severities: tuple[float, float, float]  # mild, medium, strong
    images_only: bool  # whether it needs images (n, channels, height, width)


@dataclass(frozen=True)
class Corruption:
    """One corruption of one strength; the larger, the worse.

    `gaussian_noise`: standard deviation, as a share of the width of the input box. `gaussian_blur`: standard
    deviation in pixels. `contrast`: the share of the contrast that is lost, up to 1. Blur and contrast are
    for images (n, channels, height, width), or (n, height, width, colours). The noise of an input depends
    on `seed` and its place in the data.

    Examples:
        >>> import torch, secateur
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
        >>> images, labels = torch.rand(20, 1, 4, 4), torch.zeros(20, dtype=torch.long)
        >>> noise = secateur.Corruption("gaussian_noise", 0.1)
        >>> report = secateur.evaluate(net, images, labels, corruptions=[noise, "contrast"])
        >>> [f"{row.kind}:{row.strength:g}" for row in report.corruptions]
        ['gaussian_noise:0.1', 'contrast:0.25', 'contrast:0.5', 'contrast:0.75']
    """

    kind: str
    strength: float
    seed: int = 0

    def __post_init__(self) -> None:
        check_option(f"{self.kind}: strength", self.strength, kind_named(self.kind).strength)

    @property
    def name(self) -> str:
        """Kind and strength, as reports show them."""
        return f"{self.kind}:{self.strength:g}"

    def apply(self, images: Tensor, box: Box, rows: Tensor) -> Tensor:
        """The corrupted `images` (b, …) inside the box; `rows` (b,) are their places in the data.

        Raises `InputError`, naming the kind, for images that it is not for, and where what it returns is of
        another shape or type, or not finite.
        """
        kind = kind_named(self.kind)
        if kind.images_only and images.ndim != 4:
            raise InputError(
                f"{self.kind} is for images of four axes, these inputs have shape "
                f"{tuple(images.shape)}; leave it out, or use gaussian_noise"
            )
        found = _applied(kind, images, self, box, rows)
        if (found.shape, found.dtype) != (images.shape, images.dtype) or not bool(found.isfinite().all()):
            raise InputError(
                f"{self.name}: returned shape {tuple(found.shape)} and type {found.dtype} for shape "
                f"{tuple(images.shape)} and type {images.dtype}, or values that are not finite"
            )
        return found.clamp(*box)


def _applied(kind: Kind, images: Tensor, told: Corruption, box: Box, rows: Tensor) -> Tensor:
    """The corrupted images, in the order of axes that they have."""
    from secateur.data.pixels import colours_last

    last = kind.images_only and colours_last(images.shape[1:])
    found = kind.apply(images.movedim(-1, 1) if last else images, told.strength, box, rows, told.seed)
    return found.movedim(1, -1) if last else found


def severities(kind: str, seed: int = 0) -> tuple[Corruption, ...]:
    """The mild, medium and strong version of a kind of corruption."""
    return tuple(Corruption(kind, strength, seed) for strength in kind_named(kind).severities)


def resolve(wanted: Sequence[str | Corruption]) -> tuple[Corruption, ...]:
    """A name stands for its `severities`. Raises `InputError` for unknown names and repeated corruptions."""
    if isinstance(wanted, str):
        raise InputError(f"corruptions={wanted!r}: give a list of names or Corruption objects")
    found = [c for item in wanted for c in (severities(item) if isinstance(item, str) else (item,))]
    names = [c.name for c in found]
    if len(set(names)) != len(names):
        raise InputError(f"two corruptions are the same ({', '.join(names)}); leave one out")
    return tuple(found)


def corruptions_from(text: str, seed: int) -> tuple[Corruption, ...]:
    """`KIND` for its three severities, or `KIND:STRENGTH`, as on the command line."""
    kind, colon, strength = text.partition(":")
    if not colon:
        return severities(kind, seed)
    try:
        number = float(strength)
    except ValueError:
        raise InputError(f"{text}: write the strength as a number, e.g. {kind}:0.1") from None
    return (Corruption(kind, number, seed),)


def kind_named(name: str) -> Kind:
    if name not in CORRUPTIONS:
        raise InputError(f"no corruption {name!r}; there are {', '.join(CORRUPTIONS)}")
    return CORRUPTIONS[name]


def _noise(x: Tensor, strength: float, box: Box, rows: Tensor, seed: int) -> Tensor:
    from secateur.evaluate.draws import normal

    width = box[1] - box[0]
    if not bool(width.isfinite().all()):
        raise InputError("gaussian_noise is a share of the width of the input box; give finite input_bounds")
    return x + strength * width * normal(x, rows, seed)


def _blur(x: Tensor, strength: float, box: Box, rows: Tensor, seed: int) -> Tensor:
    """Convolution with exp(−t²/2σ²), along rows and then columns; the border's pixels go on beyond it."""
    import torch
    from torch.nn import functional as F

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


_DEVIATION = "standard deviation of the noise, a share of the input range"
CORRUPTIONS: dict[str, Kind] = {
    "gaussian_noise": Kind(_noise, Number(_DEVIATION, low=0), (0.05, 0.1, 0.2), images_only=False),
    "gaussian_blur": Kind(
        _blur, Number("standard deviation in pixels", low=0), (0.5, 1.0, 2.0), images_only=True
    ),
    "contrast": Kind(
        _contrast,
        Number("share of the contrast that is lost", low=0, high=1),
        (0.25, 0.5, 0.75),
        images_only=True,
    ),
}
