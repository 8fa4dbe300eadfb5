"""A folder of image files."""

from __future__ import annotations

import os
import warnings
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.budget import budget
from secateur.data.pictures import FORMATS, decode, reason, require_pillow
from secateur.errors import InputError, SecateurWarning


def read_folder(
    path: str | os.PathLike[str], shape: tuple[int, ...] | None = None, limit: int | None = None
) -> dict[str, Tensor]:
    """`images` of the files in and below the folder, or of `limit` of them, evenly over the list."""
    require_pillow()
    folder = Path(path)
    names = _names(folder)
    pictures = [name for name in names if Path(name).suffix.lower() in FORMATS]
    others = [name for name in names if Path(name).suffix.lower() not in FORMATS]
    skipped = {name: f"its name ends in none of {', '.join(FORMATS)}" for name in others}
    chosen = _evenly(pictures, limit)
    if shape is not None:
        _check_total(folder, len(chosen), shape)
    found = list[NDArray[np.uint8]]()
    for name in chosen:
        try:
            found.append(decode(folder / name, shape))
        except (InputError, MemoryError):
            raise
        except Exception as error:  # each decoder fails in its own way
            skipped[name] = reason(error)
            continue
        if len(found) == 1:
            _check_total(folder, len(chosen), found[0].shape)
        elif found[-1].shape != found[0].shape:
            raise InputError(
                f"{folder}: images of shapes {found[0].shape} and {found[-1].shape} ({name}); give the shape "
                "that the model takes (--example-shape 3,224,224), to which they are scaled and cropped"
            )
    if not found:
        raise InputError(
            f"{folder} holds no image that can be read{_first(skipped)}; give {', '.join(FORMATS)} files"
        )
    if skipped:
        warnings.warn(
            f"{folder}: {len(skipped)} of {len(skipped) + len(found)} files are no images and are "
            f"skipped{_first(skipped)}",
            SecateurWarning,
            stacklevel=2,
        )
    return {"images": torch.from_numpy(np.stack(found))}


def _names(folder: Path) -> list[str]:
    """Paths of all files below the folder, sorted; without hidden ones and linked folders."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(parent, name) for name in files if not name.startswith("."))
        found += [path.relative_to(folder).as_posix() for path in paths if path.is_file()]  # a pipe is none
    return sorted(found)


def _evenly(names: list[str], limit: int | None) -> list[str]:
    if limit is None or len(names) <= limit:
        return names
    return [names[i * len(names) // limit] for i in range(limit)]


def _check_total(folder: Path, count: int, shape: tuple[int, ...]) -> None:
    size = 4 * count * prod(shape)  # pixels become float32
    if size > budget():
        raise InputError(
            f"{folder}: {count:,} images of shape {shape} take {size:,} bytes; at most {budget():,}, a "
            "quarter of this machine's memory, are. Take fewer (--samples)"
        )


def _first(skipped: dict[str, str]) -> str:
    return next((f"; the first is {name} ({why})" for name, why in sorted(skipped.items())), "")
