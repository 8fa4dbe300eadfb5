"""Images and labels from `.npz` files, without pickle."""

from __future__ import annotations

import os

from torch import Tensor

from secateur.data.npz import read_npz
from secateur.data.pixels import spread


def load_arrays(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Images and labels of an `.npz` file: uint8 pixels in [0, 1], floats as they are.

    As `secateur.data.load_data` without a shape. Raises `InputError` for a file that cannot be read or holds
    other shapes or types.
    """
    found = read_npz(path)
    if not found["images"].is_floating_point():
        found["images"] = spread(found["images"], 0.0, 1.0)
    return found
