"""The formats of `.keras` files, and of whole models in HDF5 (`.h5`)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from secateur.formats.content import Content
from secateur.formats.format import Format, PathLike

if TYPE_CHECKING:
    from secateur.formats.format import Model
    from secateur.graph.example import ExampleInputs


def _is_archive(content: Content) -> bool:
    return {"config.json", "metadata.json"} <= content.names


def _is_hdf5(content: Content) -> bool:
    return content.starts(b"\x89HDF\r\n\x1a\n")


def _load(path: str) -> Model:
    from secateur.formats.keras.files import load_keras

    return load_keras(path)


def _save(path: PathLike, model: Model, example_inputs: ExampleInputs | None) -> None:
    from secateur.formats.keras.files import save_keras

    save_keras(path, model)


def _check_packages(name: str, source: str) -> None:
    """Only models that came from the same kind of file are written to it."""
    from secateur.errors import InputError
    from secateur.formats.keras.hdf5 import require_h5py

    require_h5py()
    if source != name:
        suffix = ".keras" if name == "keras" else ".h5"
        raise InputError(
            f"only a model that was read from a {suffix} file is written as one; write .onnx, .pt2 or the "
            "kind of file that it came from"
        )


def _came_from(kind: str, model: object) -> bool:
    from secateur.formats.keras.imported import KerasModel

    return isinstance(model, KerasModel) and model.source.kind == kind


KERAS = Format(
    name="keras",
    suffixes=(".keras",),
    matches=_is_archive,
    magic=(0, b"PK\x03\x04"),
    load=_load,
    save=_save,
    check_packages=partial(_check_packages, "keras"),
    came_from=partial(_came_from, "keras"),
)
KERAS_HDF5 = Format(
    name="keras_hdf5",
    suffixes=(".h5", ".hdf5"),
    matches=_is_hdf5,
    magic=(0, b"\x89HDF"),
    load=_load,
    save=_save,
    check_packages=partial(_check_packages, "keras_hdf5"),
    came_from=partial(_came_from, "h5"),
)
