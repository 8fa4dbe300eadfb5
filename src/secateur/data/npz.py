"""Images and labels of an `.npz` file."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from secateur.data.arrays import check_size, first_rows, images_of, labels_of, read_header, unreadable
from secateur.errors import InputError

IMAGE_NAMES = ("images", "test_images", "x")
LABEL_NAMES = ("labels", "test_labels", "y")


def read_npz(
    path: str | os.PathLike[str], shape: tuple[int, ...] | None = None, limit: int | None = None
) -> dict[str, Tensor]:
    """`images` (and `labels`, where there are any) of an `.npz` file; at most the first `limit`.

    Images stand under `images`, `test_images` or `x`, or under any name where the file holds one array alone.
    uint8 stays so; (n, h, w) becomes (n, 1, h, w) and (n, h, w, c) with 1, 3 or 4 channels (n, c, h, w),
    unless the array has the `shape` of the model's input as it is. Floating-point arrays become float32, and
    change their layout only where `shape` asks for it. Labels stand under `labels`, `test_labels` or `y`:
    whole numbers (n,) or (n, 1), as int64.
    """
    arrays = _read(path)
    image_name = _image_name(arrays)
    if image_name is None:
        raise InputError(
            f"{path} holds no images: store them under one of the names {', '.join(IMAGE_NAMES)}, or as the "
            "only array"
        )
    found = {"images": images_of(arrays[image_name], f"{image_name} in {path}", shape)}
    label_name = _first_of(LABEL_NAMES, arrays)
    if label_name is not None:
        found["labels"] = labels_of(arrays[label_name], f"{label_name} in {path}")
    return first_rows(found, limit)


def read_arrays(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """All arrays of an `.npz` file, by their names."""
    return _read(path, every=True)


def _first_of(names: Sequence[str], arrays: Iterable[str]) -> str | None:
    return next((name for name in names if name in arrays), None)


def _image_name(names: Iterable[str]) -> str | None:
    return _first_of(IMAGE_NAMES, names) or next((name for name in names if name not in LABEL_NAMES), None)


def _wanted(names: Sequence[str]) -> list[str]:
    """Those that are read: the known ones, or the only one."""
    return (
        list(names) if len(names) == 1 else [name for name in (*IMAGE_NAMES, *LABEL_NAMES) if name in names]
    )


def _read(path: str | os.PathLike[str], every: bool = False) -> dict[str, NDArray[Any]]:
    if Path(path).exists() and not Path(path).is_file():  # a pipe would wait for ever
        raise InputError(f"cannot read {path}: it is no regular file; give the path of an .npz file")
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise InputError(
                    f"{path} is not an .npz file (or is cut short): write it with numpy.savez_compressed"
                )
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                wanted = archive.files if every else _wanted(archive.files)
                _check_headers(path, archive.zip, wanted)
                return {name: archive[name] for name in wanted}
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (
        ValueError,
        EOFError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        KeyError,
    ) as error:
        raise unreadable(path, error, "savez_compressed") from error


def _check_headers(path: str | os.PathLike[str], archive: zipfile.ZipFile, names: Sequence[str]) -> None:
    """Refuse, before anything is unpacked, what is too large, and too few or too many labels."""
    shapes = {}
    for name in names:
        with archive.open(f"{name}.npy") as member:
            shapes[name], dtype = read_header(member)
        check_size(shapes[name], dtype, f"{name} in {path}")
    image_name, label_name = _image_name(shapes), _first_of(LABEL_NAMES, shapes)
    if image_name and label_name and shapes[image_name][:1] != shapes[label_name][:1]:
        images, labels = (shapes[name][0] if shapes[name] else 0 for name in (image_name, label_name))
        raise InputError(f"{path} holds {images} images but {labels} labels")
