"""Whether inputs lie in the range that was said to be theirs, and what is likely wrong where they do not."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from secateur.errors import InputError

_TOLERANCE = 1e-6  # share of the width of the bounds

# Where [0, 1] is meant: whether values from the least to the greatest look so, and the likely cause.
_CAUSES: tuple[tuple[Callable[[float, float], bool], str], ...] = (
    (
        lambda least, greatest: least >= 0 and 16 < greatest <= 255,
        "0–255? divide by 255, or give --input-bounds 0,255 (input_bounds=(0, 255))",
    ),
    (
        lambda least, greatest: -4 <= least < 0 and greatest <= 4,
        "already normalised? give images before normalisation with mean and std, or bounds of what the model "
        "takes, e.g. --input-bounds=-2.2,2.7 (input_bounds=(-2.2, 2.7))",
    ),
)
_UNKNOWN = "are they in the units that the model takes? (input_bounds, mean, std)"


def check_within(images: Tensor, bounds: tuple[float | Tensor, float | Tensor], name: str) -> None:
    """Raise `InputError` where floating-point `images` (n, …) lie outside of `bounds` by more than rounding.

    Args:
        images: the inputs, in the units of `bounds`.
        bounds: (lower, upper), numbers or tensors that broadcast to `images`.
        name: begins the message, e.g. "the images".
    """
    if said := range_problem(images, bounds, name):
        raise InputError(said)


def range_problem(images: Tensor, bounds: tuple[float | Tensor, float | Tensor], name: str) -> str:
    """What `check_within` would say; empty where all values lie inside."""
    if not images.is_floating_point() or not images.numel():
        return ""
    lower, upper = (torch.as_tensor(end, dtype=images.dtype, device=images.device) for end in bounds)
    if not bool(outside(images, lower, upper).any()):
        return ""
    least, greatest, low, high = (float(x) for x in (images.min(), images.max(), lower.min(), upper.max()))
    unit = bool((lower == 0).all() and (upper == 1).all())
    causes = (text for holds, text in _CAUSES if unit and holds(least, greatest))
    return (
        f"{name} range from {least:g} to {greatest:g}, outside of input_bounds {low:g} to {high:g}: "
        f"{next(causes, _UNKNOWN)}"
    )


def outside(x: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Which values lie outside of the ends, by more than 1e-6 of their distance and rounding."""
    width, largest = upper - lower, torch.maximum(lower.abs(), upper.abs())
    slack = _TOLERANCE * width + 2 * torch.finfo(x.dtype).eps * largest
    slack = slack.where(torch.isfinite(slack), 0.0)
    return (x < lower - slack) | (x > upper + slack)
