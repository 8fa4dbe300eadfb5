"""Hugging Face's `preprocessor_config.json`: how images become a model's inputs, as settings of ours."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from secateur.errors import InputError

NAME = "preprocessor_config.json"
_LARGEST = 2**16  # bytes
_BYTE = 1 / 255


def read_preprocessor(path: str | os.PathLike[str]) -> dict[str, Any]:
    """`input_bounds`, and `mean` and `std` where images are normalised; `normalize: none` where they are not.

    Pixels are bytes, which `rescale_factor` makes numbers between 0 and 1; without it, the bounds are 0 and
    255. Raises `InputError` for a file that is no such JSON.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST + 1)
        found = json.loads(content) if len(content) <= _LARGEST else None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is no JSON file: {error}. Move it away, or give --mean and --std"
        ) from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is no settings of a preprocessor. Move it away, or give --mean and --std")
    factor = found.get("rescale_factor", _BYTE) if found.get("do_rescale", True) else 1.0
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor <= 1:
        raise InputError(f"{path}: rescale_factor is {factor!r}; give --input-bounds, --mean and --std")
    bounds = [0.0, 1.0 if abs(factor - _BYTE) < 1e-6 else 255.0 * factor]
    if not found.get("do_normalize", "image_mean" in found):
        return {"input_bounds": bounds, "normalize": "none"}
    if "image_mean" not in found or "image_std" not in found:
        raise InputError(
            f"{path} normalises images but has no image_mean and image_std; give --mean and --std"
        )
    return {"input_bounds": bounds, "mean": found["image_mean"], "std": found["image_std"]}


def preprocessor_path(model: str | os.PathLike[str]) -> Path:
    """Where the settings of the preprocessor of the model in a file, or a folder, stand."""
    return Path(model) / NAME if Path(model).is_dir() else Path(model).with_name(NAME)
