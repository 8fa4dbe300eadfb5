"""A zip file of a user's opened; all that can be wrong with it as a whole is one error."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from secateur.errors import InputError
from secateur.graph.export import first_line


@contextmanager
def opened_zip(
    path: str | os.PathLike[str], kind: str, again: str
) -> Iterator[tuple[zipfile.ZipFile, BinaryIO]]:
    """The archive and its file, while the block runs; faults of the archive in the block count, too.

    `kind` is the ending of its name, `again` what to do with a damaged one, both for the message of the
    `InputError` that is raised.
    """
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as source:
            yield source, file
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        UnicodeDecodeError,
    ) as error:
        raise InputError(
            f"{path} is not a {kind} archive, or is cut short or damaged ({first_line(error)}); fetch or "
            f"{again} it again"
        ) from error


def records_of(source: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """All records but folders. Raises `BadZipFile` where something stands before the first."""
    infos = [info for info in source.infolist() if not info.is_dir()]
    # The only complete archive in a file that was cut short may be one of its records.
    if min((info.header_offset for info in infos), default=0) != 0:
        raise zipfile.BadZipFile("something stands before the first record")
    return infos
