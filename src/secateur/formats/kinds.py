"""Which format a file is of: by its content, else by its name."""

from __future__ import annotations

import os
from pathlib import Path

from secateur.errors import InputError
from secateur.formats.content import Content
from secateur.formats.foreign import BY_SUFFIX, FOREIGN, Foreign, way_out
from secateur.formats.format import Format
from secateur.formats.registry import FORMATS, by_suffix


def kind_by_content(path: str | os.PathLike[str]) -> str:
    """A key of `FORMATS` or `FOREIGN`; empty where the file is absent or not known."""
    path = Path(path)
    try:
        if path.is_dir():
            return _kind(Content(path, None))
        with open(path, "rb") as file:
            return _kind(Content(path, file))
    except (OSError, ValueError):  # absent, or no path at all
        return ""


def _kind(content: Content) -> str:
    rows: dict[str, Format | Foreign] = {**FORMATS, **FOREIGN}
    return next((kind for kind, row in rows.items() if row.matches(content)), "")


def kind_of(path: str | os.PathLike[str]) -> str:
    """A key of `FORMATS` or `FOREIGN`: by content, else by name; empty where neither is known."""
    path = Path(path)
    suffix, content = path.suffix.lower(), kind_by_content(path)
    if suffix == ".bin" and not content and path.with_suffix(".xml").is_file():
        return "openvino"
    if path.name == "saved_model.pb":
        return "savedmodel"
    if content == "archive" and suffix in BY_SUFFIX:
        return BY_SUFFIX[suffix]  # a package of its own kind
    named = by_suffix(path)
    return content or (named.name if named else BY_SUFFIX.get(suffix, ""))


def refuse_foreign(path: str | os.PathLike[str]) -> str:
    """`kind_of` the file; `InputError` that says what to do for formats that are not read."""
    kind = kind_of(path)
    if kind in FOREIGN:
        raise InputError(way_out(kind, Path(path)))
    return kind
