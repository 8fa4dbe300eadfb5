"""What a Keras file holds: the configuration of its model, its arrays, and what else is written again."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from secateur.errors import InputError
from secateur.files import write_atomically
from secateur.formats.keras.archive import CONFIG, JSON_LIMIT, METADATA, WEIGHTS, opened_archive
from secateur.formats.keras.hdf5 import Hdf5, opened_hdf5
from secateur.graph.export import first_line

Json = dict[str, Any]
Array = np.ndarray[Any, Any]
MODEL_CONFIG, MODEL_WEIGHTS = "model_config", "model_weights"
_PIECE = 1 << 20
_OPTIMIZER = ("optimizer", "_optimizer", "optimizer_weights")  # groups with the optimizer's state


@dataclass(frozen=True, eq=False)
class Source:
    """A file without its weights: `arrays` are those that no layer has taken yet."""

    kind: Literal["keras", "h5"]
    config: Json  # class and configuration of the model
    version: str  # of the Keras that wrote the file
    metadata: bytes  # the record of that name in a `.keras` file
    date: tuple[int, int, int, int, int, int]  # of its records
    groups: Mapping[str, Mapping[str, Any]]  # path → attributes
    datasets: Mapping[str, Mapping[str, Any]]  # the same, in the order of the file
    arrays: dict[str, Array]  # path → numbers
    trained: bool  # whether the file held the state of an optimizer

    @property
    def has_keras_2_meaning(self) -> bool:
        return self.version.split(".")[0] in ("0", "1", "2")

    def with_config(self, config: Json, arrays: dict[str, Array]) -> Source:
        return replace(self, config=config, arrays=arrays)


def read_source(path: str | os.PathLike[str]) -> Source:
    """Read a `.keras` archive or a whole model in HDF5. Cost: its bytes once, in memory and in time.

    Raises `InputError` for what is damaged, hostile, or no whole model.
    """
    with open_or_refuse(path) as file:
        is_hdf5 = file.read(8) == b"\x89HDF\r\n\x1a\n"
    return _from_hdf5(path) if is_hdf5 else _from_archive(path)


def open_or_refuse(path: str | os.PathLike[str]) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _from_archive(path: str | os.PathLike[str]) -> Source:
    with opened_archive(path) as archive:
        metadata, config = archive.json(METADATA), archive.json(CONFIG)
        if not isinstance(config, dict) or not isinstance(metadata, dict):
            archive.refuse(CONFIG, "does not describe a model")
        version = str(metadata.get("keras_version", "3"))
        raw, date = archive.read(METADATA, JSON_LIMIT), archive.records[CONFIG].date_time
        with opened_hdf5(f"{path}: {WEIGHTS}", archive.weights()) as file:
            return _source("keras", file, config, version, raw, date)


def _from_hdf5(path: str | os.PathLike[str]) -> Source:
    with open_or_refuse(path) as handle, opened_hdf5(str(path), handle) as file:
        text = file.text("", MODEL_CONFIG)
        if text is None or MODEL_WEIGHTS not in file.groups:
            raise InputError(
                f"{path} holds arrays and no model. Load them into the model that they belong to, and save "
                "that whole: model.load_weights(…); model.save('model.keras')"
            )
        version = file.text("", "keras_version") or file.text(MODEL_WEIGHTS, "keras_version") or "1"
        try:
            config = json.loads(text)
        except (ValueError, RecursionError) as error:
            file.refuse(MODEL_CONFIG, f"is not the JSON that Keras writes ({first_line(error)})")
        if not isinstance(config, dict):
            file.refuse(MODEL_CONFIG, "does not describe a model")
        return _source("h5", file, config, version, b"", (1980, 1, 1, 0, 0, 0))


def _source(
    kind: Literal["keras", "h5"], file: Hdf5, config: Json, version: str, metadata: bytes, date: Any
) -> Source:
    kept = [path for path in file.datasets if path.partition("/")[0] not in _OPTIMIZER]
    groups = [path for path in file.groups if path.partition("/")[0] not in _OPTIMIZER]
    return Source(
        kind=kind,
        config=config,
        version=version,
        metadata=metadata,
        date=date,
        groups={path: _attributes(file, path, file.groups[path]) for path in groups},
        datasets={path: _attributes(file, path, file.datasets[path]) for path in kept},
        arrays={path: file.array(path) for path in kept},
        # Two are the number of steps and the learning rate.
        trained=len(file.datasets) - len(kept) > 2,
    )


def _attributes(file: Hdf5, path: str, found: Any) -> dict[str, Any]:
    return {name: file.attribute(path, found, name) for name in found.attrs if name != MODEL_CONFIG}


# --- writing ------------------------------------------------------------------------------------------------


def write_source(path: str | os.PathLike[str], source: Source, array: Callable[[str], Array]) -> None:
    """Write the file again, with `array(path)` at each path and without the state of an optimizer.

    The file appears whole or not at all, and the same model gives the same bytes. Raises `InputError` for a
    name that does not fit the kind of file.
    """
    allowed = (".keras",) if source.kind == "keras" else (".h5", ".hdf5")
    if Path(path).suffix.lower() not in allowed:
        raise InputError(
            f"{path}: this model came from a {allowed[0]} file and is written as one; give a name that ends "
            f"in {allowed[0]}. Keras converts that: "
            f"keras.models.load_model('model{allowed[0]}').save({str(path)!r})"
        )
    write_atomically(path, lambda file: _write(file, source, array))


def _write(file: BinaryIO, source: Source, array: Callable[[str], Array]) -> None:
    if source.kind == "h5":
        _write_hdf5(file, source, array)
        return
    config = json.dumps(source.config).encode()
    with tempfile.TemporaryFile() as weights, zipfile.ZipFile(file, "w") as archive:
        _write_hdf5(weights, source, array)
        size = weights.seek(0, os.SEEK_END)
        weights.seek(0)
        for name, length, content in (
            (METADATA, len(source.metadata), io.BytesIO(source.metadata)),
            (CONFIG, len(config), io.BytesIO(config)),
            (WEIGHTS, size, weights),
        ):
            info = zipfile.ZipInfo(name, source.date)
            info.file_size = length  # above 4 GiB, the header must say so beforehand
            with archive.open(info, "w") as record:
                shutil.copyfileobj(content, record, _PIECE)


def _write_hdf5(file: BinaryIO, source: Source, array: Callable[[str], Array]) -> None:
    import h5py

    with h5py.File(file, "w") as root:
        for path, attributes in source.groups.items():
            group = root.require_group(path) if path else root
            group.attrs.update(attributes)
        if source.kind == "h5":
            root.attrs[MODEL_CONFIG] = json.dumps(source.config)
        for path, attributes in source.datasets.items():
            brain = attributes.get("dtype") == "bfloat16"
            data = array(path).view("V2") if brain else array(path)
            root.create_dataset(path, data=data).attrs.update(attributes)
