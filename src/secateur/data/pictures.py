"""One image file as uint8 pixels, by Pillow, which is an optional package."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.budget import budget
from secateur.errors import InputError

# Suffix → the only decoder that Pillow may try; others, such as that of PostScript, start programs.
FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
_DECODERS = tuple(dict.fromkeys(FORMATS.values()))  # a wrong suffix is common
_CHANNELS = {1: "L", 3: "RGB"}
_GREY = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L")


def read_picture(
    path: str | os.PathLike[str], shape: tuple[int, ...] | None = None, limit: int | None = None
) -> dict[str, Tensor]:
    """`images` (1, …): that of one file. `InputError` where it cannot be read."""
    require_pillow()
    if Path(path).exists() and not Path(path).is_file():
        raise InputError(f"cannot read {path}: it is no regular file; give the path of an image")
    try:
        pixels = decode(path, shape)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # each decoder fails in its own way
        raise InputError(f"cannot read the image {path}: {reason(error)}") from error
    return {"images": torch.from_numpy(pixels)[None]}


def require_pillow() -> None:
    if importlib.util.find_spec("PIL") is None:
        raise InputError(
            "image files need Pillow, which is not installed: pip install 'secateur[images]' (or pillow)"
        )


def reason(error: Exception) -> str:
    """Why a file is no image, in a few words."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return f"it is none of {', '.join(_DECODERS)}"
    return (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__


def decode(path: str | os.PathLike[str], shape: tuple[int, ...] | None) -> NDArray[np.uint8]:
    """Pixels of `shape`, or, without one, all of them, (1 or 3, h, w).

    Raises `InputError` for images too large to be decoded, and whatever Pillow raises for files that are no
    image.
    """
    from PIL import Image

    layout = None if shape is None else _layout(shape)
    try:
        opened = Image.open(path, formats=_DECODERS)
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: {error}; make the image smaller, or leave it out") from error
    with opened as image:
        _check_pixels(path, image)
        channels, size = (1 if image.mode in _GREY else 3, None) if layout is None else layout
        found = np.array(_fitted(_plain(image, _CHANNELS[channels]), size))
    found = found.reshape(*found.shape[:2], channels)
    if shape is None:
        return np.ascontiguousarray(found.transpose(2, 0, 1))
    if shape[0] == channels and len(shape) == 3:
        found = found.transpose(2, 0, 1)
    return np.ascontiguousarray(found.reshape(shape))


def _layout(shape: tuple[int, ...]) -> tuple[int, tuple[int, int]]:
    """Channels, and (width, height), for inputs of this shape: (c, h, w), (h, w, c), or (h, w) of grey."""
    if len(shape) == 3 and shape[0] in _CHANNELS:
        return shape[0], (shape[2], shape[1])
    if len(shape) == 3 and shape[2] in _CHANNELS:
        return shape[2], (shape[1], shape[0])
    if len(shape) == 2:
        return 1, (shape[1], shape[0])
    raise InputError(
        f"the model takes inputs of shape {shape}, and images have 1 or 3 channels, (c, h, w); give arrays "
        "of that shape (.npz, .npy)"
    )


def _check_pixels(path: str | os.PathLike[str], image: Any) -> None:
    """Before anything is decoded: as many pixels as Pillow and the memory allow."""
    from PIL import Image

    most = min(Image.MAX_IMAGE_PIXELS or budget(), budget() // 4)  # up to four bytes each
    if image.width * image.height > most:
        raise InputError(
            f"{path}: the image claims {image.width:,} × {image.height:,} pixels, more than the {most:,} "
            "that are decoded; make it smaller, or leave it out"
        )


def _plain(image: Any, mode: str) -> Any:
    """The first frame, upright, without alpha, in this mode."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode.startswith("I;16"):  # Pillow's own conversion cuts these at 255
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are of mode {image.mode}, not of 8 or 16 bits")
    return image.convert(mode)


def _fitted(image: Any, size: tuple[int, int] | None) -> Any:
    """The middle of the image, scaled to (width, height)."""
    if size is None or image.size == size:
        return image
    from PIL import Image

    scale = max(new / old for new, old in zip(size, image.size, strict=True))
    kept = [min(old, new / scale) for new, old in zip(size, image.size, strict=True)]
    left, top = ((old - part) / 2 for old, part in zip(image.size, kept, strict=True))
    box = (left, top, min(image.width, left + kept[0]), min(image.height, top + kept[1]))
    return image.resize(size, Image.Resampling.BICUBIC, box=box)
