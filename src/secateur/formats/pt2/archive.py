"""A `.pt2` archive opened, with every record known to be of a kind that is plain data."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from secateur.errors import InputError
from secateur.formats.zipped import opened_zip, records_of
from secateur.graph.export import first_line

JSON_LIMIT = 128 << 20  # bytes of one JSON record; a 100-layer network needs less than 2 MiB

REEXPORT = (
    "If you trust the model, load it where it was made and export it again: "
    "torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2')"
)

MODEL = "models/model.json"
WEIGHTS, CONSTANTS = "data/weights/", "data/constants/"
WEIGHTS_CONFIG = WEIGHTS + "model_weights_config.json"
CONSTANTS_CONFIG = CONSTANTS + "model_constants_config.json"
INPUTS = "data/sample_inputs/model.pt"
FORMAT, VERSION, ZIP_VERSION = "archive_format", "archive_version", ".data/version"
BYTE_ORDER = "byteorder"
_NEEDED = (FORMAT, VERSION, ZIP_VERSION, MODEL, WEIGHTS_CONFIG, CONSTANTS_CONFIG, INPUTS)

PLAIN_RECORD = re.compile(r"data/weights/weight_\d+|data/constants/tensor_\d+")
_IGNORED_RECORD = re.compile(r"\.data/serialization_id|extra/.*")
_REFUSED_RECORDS: tuple[tuple[str, str], ...] = (
    (r"data/aotinductor/", "compiled code, which would run on loading"),
    (r"data/constants/(custom_obj|opaque_obj)_", "a pickled Python object, which can run code on loading"),
    (r"data/(weights|constants)/.*\.pt$", "pickled tensors of an older layout, which run code on loading"),
    (r"serialized_\w+\.(pt|json)$", "the layout of torch 2.7 and older, whose weights are pickled"),
    (r"data\.pkl$|.*/data\.pkl$|code/", "TorchScript or pickled weights, which can run code on loading"),
    (r"models/", "a second model; only one named 'model' is read"),
)


class Archive:
    """The records of a zip file, by their names below its one root folder."""

    def __init__(self, path: str | os.PathLike[str], source: zipfile.ZipFile, length: int) -> None:
        self.path, self.source = path, source
        infos = records_of(source)
        self.records = {self._below_root(info): info for info in infos}
        if len({name.lower() for name in self.records}) != len(infos):
            self.refuse("the list of records", "holds the same name twice")
        if sum(info.file_size for info in infos) > length:
            self.refuse("the list of records", f"declares more bytes than the file has ({length})")

    def _below_root(self, info: zipfile.ZipInfo) -> str:
        parts = info.filename.split("/")
        if "\\" in info.filename or info.filename.startswith("/") or {"", ".", ".."} & set(parts):
            self.refuse(info.filename, "has an absolute name or steps out of the archive")
        if (
            info.compress_type != zipfile.ZIP_STORED
            or info.compress_size != info.file_size
            or info.flag_bits & 1
        ):
            self.refuse(info.filename, "is compressed or encrypted; torch stores records as they are")
        return info.filename.split("/", 1)[-1]

    def refuse(self, part: str, why: str) -> NoReturn:
        raise InputError(f"{self.path}: {part} {why}. {REEXPORT}")

    def read(self, name: str, limit: int) -> bytes:
        if self.records[name].file_size > limit:
            self.refuse(name, f"is larger than {limit} bytes")
        return self.source.read(self.records[name])

    def json(self, name: str) -> Any:
        try:
            return json.loads(self.read(name, JSON_LIMIT).decode())
        except (ValueError, RecursionError) as error:
            self.refuse(name, f"is not the JSON that torch writes ({first_line(error)})")


@contextmanager
def opened_archive(path: str | os.PathLike[str]) -> Iterator[Archive]:
    with opened_zip(path, ".pt2", "export") as (source, file):
        yield Archive(path, source, os.fstat(file.fileno()).st_size)


def check_records(archive: Archive) -> list[str]:
    """The names of the raw tensors, once every record is known to be of a kind that is plain data."""
    plain = []
    for name in archive.records:
        reason = next(
            (why for pattern, why in _REFUSED_RECORDS if name != MODEL and re.match(pattern, name)), None
        )
        if reason is not None:
            archive.refuse(name, f"is {reason}")
        if PLAIN_RECORD.fullmatch(name):
            plain.append(name)
        elif name not in (*_NEEDED, BYTE_ORDER) and not _IGNORED_RECORD.fullmatch(name):
            archive.refuse(name, "is not a record that a plain export writes")
    missing = [name for name in _NEEDED if name not in archive.records]
    if missing:
        archive.refuse(
            missing[0], "is missing: this is not what torch.export.save of torch 2.9 or newer writes"
        )
    if archive.read(FORMAT, limit=16) != b"pt2":
        archive.refuse(FORMAT, "does not say pt2")
    if BYTE_ORDER in archive.records and archive.read(BYTE_ORDER, limit=16) != b"little":
        archive.refuse(BYTE_ORDER, "is not little; the weights are those of another kind of machine")
    return plain
