"""Small pictures of inputs, as PNG in data URIs."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from secateur.data.pixels import colours_last

SIDE = 64  # pixels of the longer side; smaller pictures stay as they are
_GREY, _COLOUR = 0, 2  # colour types of PNG


def thumbnails(inputs: Tensor, rows: Sequence[int]) -> list[str]:
    """A data URI for each of the rows of `inputs` (n, …); none at all where they are no images.

    Images have one or three channels, first or last. The smallest value of these rows is black, the largest
    white.
    """
    chosen = inputs[list(rows)].detach().cpu()
    if not rows or not is_pictures(chosen):
        return []
    if colours_last(chosen.shape[1:]):
        chosen = chosen.movedim(3, 1)
    values = chosen.double()
    low, high = float(values.amin()), float(values.amax())
    grey = ((values - low) / (high - low if high > low else 1.0)).clamp(0, 1)
    return [_data_uri(_pixels(picture)) for picture in grey]


def is_pictures(inputs: Tensor) -> bool:
    """Whether inputs (n, …) are images: two axes of at least 4 pixels, with one or three colours."""
    if inputs.ndim != 4 or not (inputs.is_floating_point() or inputs.dtype == torch.uint8):
        return False
    height, width, colours = (
        inputs.shape[1:] if colours_last(inputs.shape[1:]) else (*inputs.shape[2:], inputs.shape[1])
    )
    return colours in (1, 3) and height >= 4 and width >= 4 and bool(torch.isfinite(inputs.double()).all())


def _pixels(picture: Tensor) -> Tensor:
    """(c, h, w) in [0, 1] as uint8 (h, w, c), at most `SIDE` pixels wide and high."""
    height, width = picture.shape[1:]
    scale = min(1.0, SIDE / max(height, width))
    if scale < 1:
        picture = adaptive_avg_pool2d(picture, (max(1, round(scale * height)), max(1, round(scale * width))))
    return (255 * picture).round().to(torch.uint8).movedim(0, 2).contiguous()


def _data_uri(pixels: Tensor) -> str:
    return f"data:image/png;base64,{base64.b64encode(_png(pixels)).decode('ascii')}"


def _png(pixels: Tensor) -> bytes:
    """A PNG file of pixels (h, w, 1 or 3), uint8."""
    height, width, colours = pixels.shape
    kind = _GREY if colours == 1 else _COLOUR
    rows = b"".join(b"\0" + row.numpy().tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
