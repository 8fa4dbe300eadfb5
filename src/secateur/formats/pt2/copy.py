"""Check a `.pt2` archive, and rewrite the parts that were checked, before torch sees any of it.

torch's own loader trusts the file. It unpickles without `weights_only` (weights marked `use_pickle`, `.pt`
weight files of older layouts, `custom_obj_*` and `opaque_obj_*` constants, and sample inputs where the
weights-only unpickler fails); it loads compiled code (`data/aotinductor/`); it hands `expr_str` to
`sympy.sympify`, which evaluates; it looks a node's `target` up with `getattr` from `torch` (`torch.os.system`
is one); it imports modules named in tree specs; and it pastes `guards_code`, node names, argument names and
string constants into Python source that is then executed.

So the rule is default-deny. Every record must be one that a plain export writes; every string in the JSON
must match the narrow pattern of its place; sample inputs pass torch's weights-only unpickler. torch then
reads a copy that this file has written from what it has read, so that two zip readers cannot disagree on what
the archive holds.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from contextlib import suppress
from typing import IO

from secateur.files import refusals_named
from secateur.formats.pt2.archive import (
    BYTE_ORDER,
    CONSTANTS,
    CONSTANTS_CONFIG,
    FORMAT,
    INPUTS,
    MODEL,
    VERSION,
    WEIGHTS,
    WEIGHTS_CONFIG,
    ZIP_VERSION,
    Archive,
    check_records,
    opened_archive,
)
from secateur.formats.pt2.graph import clean_model
from secateur.formats.pt2.payloads import check_payloads, clean_inputs


def clean_copy(path: str | os.PathLike[str]) -> IO[bytes]:
    """A temporary file with the parts of the `.pt2` at `path` that are plain data, ready for torch.

    Raises `InputError` naming the part at fault, why it is refused, and how to export the model again.
    """
    with refusals_named(f"cannot copy {path} to the folder for temporary files, {tempfile.gettempdir()}"):
        copy = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
        try:
            with opened_archive(path) as archive:
                _rewrite(archive, copy)
            copy.seek(0)
        except BaseException:
            with suppress(OSError):  # what could not be written cannot be flushed
                copy.close()
            raise
    return copy


def _rewrite(archive: Archive, copy: IO[bytes]) -> None:
    payloads = check_records(archive)
    model, weights, constants = (archive.json(name) for name in (MODEL, WEIGHTS_CONFIG, CONSTANTS_CONFIG))
    check_payloads(archive, WEIGHTS_CONFIG, weights, WEIGHTS)
    check_payloads(archive, CONSTANTS_CONFIG, constants, CONSTANTS)
    model = clean_model(archive, model)
    inputs = clean_inputs(archive)
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as target:
        for name, content in (
            (FORMAT, b"pt2"),
            (VERSION, archive.read(VERSION, limit=16)),
            (ZIP_VERSION, archive.read(ZIP_VERSION, limit=16)),
            (BYTE_ORDER, b"little"),
            (MODEL, json.dumps(model).encode()),
            (WEIGHTS_CONFIG, json.dumps(weights).encode()),
            (CONSTANTS_CONFIG, json.dumps(constants).encode()),
            (INPUTS, inputs),
        ):
            target.writestr(f"model/{name}", content)
        for name in payloads:
            into = zipfile.ZipInfo(f"model/{name}")
            into.file_size = archive.records[name].file_size
            with archive.source.open(archive.records[name]) as reader, target.open(into, "w") as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)
