"""The input box: where images may lie, and where attacks and corruptions must leave them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.data.pixels import colours_last, spread
from secateur.data.within import check_within, range_problem
from secateur.errors import InputError

End = float | Sequence[float] | Tensor
Bounds = tuple[End, End]
Box = tuple[Tensor, Tensor]


def input_box(images: Tensor, bounds: Bounds) -> Box:
    """The lower and upper end of the box, which broadcast over images (n, …).

    The images must lie inside.

    Ends are numbers, one value per channel, of shape (channels,), or whatever broadcasts to one image, as
    `prune` takes it. Where one axis could be read as both, it is the channels. Raises `InputError`.
    """
    if not images.is_floating_point():
        raise InputError(
            f"images of type {images.dtype} cannot be attacked or corrupted; both need floating-point inputs"
        )
    if len(bounds) != 2:
        raise InputError(f"input_bounds holds {len(bounds)} values; give a pair (lower, upper)")
    lower, upper = (_end(end, images) for end in bounds)
    if not bool((lower <= upper).all()) or not bool((lower < upper).any()):
        raise InputError(f"input_bounds={bounds}: the lower end must lie below the upper one")
    check_within(images, (lower, upper), "the images")
    return lower, upper


def pixels_in(images: Tensor, bounds: Bounds) -> Tensor:
    """uint8 `images` (n, …) as float32, spread over the box."""
    lower, upper = (_end(end, torch.empty(0, *images.shape[1:])) for end in bounds)
    if not bool(torch.isfinite(upper - lower).all()):
        raise InputError(
            f"input_bounds={bounds}: uint8 images are spread over the bounds, which must be finite for that"
        )
    return spread(images, lower, upper)


def range_warning(images: Tensor, bounds: Bounds) -> str:
    """A text that images lie outside of the box; empty where they do not, or the box does not fit."""
    try:
        lower, upper = (_end(end, images) for end in bounds)
    except InputError:
        return ""
    return range_problem(images, (lower, upper), "the images")


def _end(end: End, images: Tensor) -> Tensor:
    value = torch.as_tensor(end, dtype=images.dtype).cpu()
    shape = images.shape[1:]
    given = tuple(value.shape)
    if value.ndim == len(shape) + 1 and len(value) == 1:  # a batch axis
        value = value[0]
    if (
        value.ndim == 1
        and len(shape) > 1
        and len(value) in (1, shape[-1] if colours_last(shape) else shape[0])
    ):
        value = value if colours_last(shape) else value.reshape(-1, *[1] * (len(shape) - 1))
    try:
        torch.broadcast_to(value, shape)
    except RuntimeError as error:
        raise InputError(
            f"input_bounds of shape {given} do not fit images of shape {tuple(shape)}; give a number, one "
            "value per channel, or a tensor that broadcasts to one image"
        ) from error
    return value
