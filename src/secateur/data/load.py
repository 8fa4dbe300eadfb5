"""Images, and labels where there are any, from a path."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur import arguments as may
from secateur.data.folder import read_folder
from secateur.data.npy import read_npy
from secateur.data.npz import read_npz
from secateur.data.pictures import FORMATS, read_picture
from secateur.data.pixels import spread
from secateur.errors import InputError

Reader = Callable[[str | os.PathLike[str], tuple[int, ...] | None, int | None], dict[str, Tensor]]

SOURCES: dict[str, Reader] = {
    ".npz": read_npz,
    ".npy": read_npy,
    **dict.fromkeys(FORMATS, read_picture),
    "folder": read_folder,
}


def load_data(
    path: str | os.PathLike[str],
    *,
    image_shape: tuple[int, ...] | None,
    bounds: tuple[float, float] = (0.0, 1.0),
    limit: int | None = None,
    whole: bool | None = False,
) -> dict[str, Tensor]:
    """The inputs at a path: `images` (n, …), float32, and `labels` (n,), int64, where the file holds any.

    uint8 pixels v become v / 255 · (high − low) + low, for `bounds` (low, high): (0, 1) divides by 255, (0,
    255) leaves the values as they are. Floating-point arrays are taken to be in the model's units already.

    Args:
        path: one of
            - a folder of images, read with what is below it, sorted by path. Sub-folders are never taken for
              classes: there are no labels. Files that are no images are skipped with one warning; hidden
              files, and links to folders, are left out.
            - an image: .jpg, .png, .bmp, .webp, .gif (its first frame) or .tiff.
            - an .npz file, images under `images`, `test_images` or `x` (or its only array), labels under
              `labels`, `test_labels` or `y`.
            - an .npy file of images.
        image_shape: shape of one input of the model, (c, h, w), (h, w, c) or (h, w), without its batch axis.
            Image files are turned upright (EXIF), put on white where they are transparent, converted to RGB
            or grey by c, scaled (bicubic, antialiased) until the shorter side fits, and cropped in the
            middle. Arrays are not scaled; (n, h, w) and (n, h, w, c) become (n, c, h, w) where the model
            takes that. None: image files must have one size and keep it, uint8 arrays become (n, c, h, w),
            others stay as they are.
        bounds: the legal range of the images, before any normalisation.
        limit: at most so many. Of arrays these are the first; of a folder of n images those of number
            ⌊i·n/limit⌋ in the sorted list, i = 0, 1, …, since folders are often sorted by class.
        whole: whether the model takes whole numbers, such as those of words: arrays of them stay as they are.
            None where that is not known: then those of 8 bits are pixels, and others stay.

    Raises `InputError` for paths that cannot be read, hold Python objects, shapes or types that are no
    images, or more than memory holds, and where Pillow is needed and not installed.
    """
    may.parsed("path", path, _PATH)
    low, high = may.parsed("bounds", bounds, _BOUNDS)
    found = read_data(path, image_shape, may.parsed("limit", limit, _LIMIT), whole)
    if found["images"].dtype == torch.uint8 and not whole:
        found["images"] = spread(found["images"], low, high)
    return found


def read_data(
    path: str | os.PathLike[str],
    image_shape: tuple[int, ...] | None = None,
    limit: int | None = None,
    whole: bool | None = False,
) -> dict[str, Tensor]:
    """As `load_data`, with pixels as uint8."""
    place = Path(path)
    read = SOURCES.get("folder" if place.is_dir() else place.suffix.lower())
    if read is None:
        raise InputError(f"cannot read {path} as data: {_problem(place)}")
    found = read(path, None if image_shape is None else tuple(image_shape), limit)
    images = found["images"]
    if not (whole or whole is None or images.is_floating_point() or images.dtype == torch.uint8):
        raise InputError(
            f"the images in {path} are of type {str(images.dtype).removeprefix('torch.')}: give uint8 pixels "
            "or floating-point numbers"
        )
    return found


def _problem(path: Path) -> str:
    if not path.exists():
        return "No such file or directory"
    suffixes = ", ".join(suffix for suffix in SOURCES if suffix[0] == ".")
    return f"give a folder of images, or a file whose name ends in {suffixes}"


def _as_path(value: Any) -> str:
    text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError
    return text


def _as_bounds(value: Any) -> tuple[float, float]:
    low, high = (may.number("").parse(end) for end in value)
    if not low < high:
        raise ValueError
    return low, high


_PATH = may.Rule("the path of a file or a folder", _as_path)
_BOUNDS = may.Rule("two finite numbers, the lower below the upper", _as_bounds)
_LIMIT = may.optional(may.whole(1, "a whole number of images, at least 1"))
