"""Images of an `.npy` file, of which only the rows that are wanted are read."""

from __future__ import annotations

import os
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from secateur.data.arrays import check_size, images_of, read_header, unreadable
from secateur.errors import InputError


def read_npy(
    path: str | os.PathLike[str], shape: tuple[int, ...] | None = None, limit: int | None = None
) -> dict[str, Tensor]:
    """`images`, at most the first `limit`; types and layouts as in an `.npz` file."""
    if Path(path).exists() and not Path(path).is_file():
        raise InputError(f"cannot read {path}: it is no regular file; give the path of an .npy file")
    try:
        rows = _mapped(path, limit)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, EOFError, OverflowError) as error:
        raise unreadable(path, error, "save") from error
    return {"images": images_of(rows, os.fspath(path), shape)}


def _mapped(path: str | os.PathLike[str], limit: int | None) -> NDArray[Any]:
    """The rows, read; of the header's claims nothing is believed that the file is too short for."""
    with open(path, "rb") as file:
        sizes, dtype = read_header(file)
        length = os.fstat(file.fileno()).st_size - file.tell()
    if dtype.hasobject:
        raise ValueError(f"it holds {dtype}")
    if any(size < 0 for size in sizes) or prod(sizes) * dtype.itemsize > length:
        raise ValueError(
            f"its header tells of shape {sizes}, {dtype}, and the file has {length:,} bytes after that"
        )
    check_size(
        (*(min(n, n if limit is None else limit) for n in sizes[:1]), *sizes[1:]), dtype, os.fspath(path)
    )
    if not prod(sizes):
        return np.empty(sizes, dtype)  # nothing to map
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    return np.array(mapped[:limit] if mapped.ndim else mapped)
