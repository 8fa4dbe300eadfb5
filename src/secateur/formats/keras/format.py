"""The format of `.keras` files, and of whole models in HDF5 (`.h5`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.formats.content import Content
from secateur.formats.format import Format, PathLike

if TYPE_CHECKING:
    from secateur.formats.format import Model
    from secateur.graph.example import ExampleInputs


def _matches(content: Content) -> bool:
    return content.starts(b"\x89HDF\r\n\x1a\n") or {"config.json", "metadata.json"} <= content.names


def _load(path: str) -> Model:
    from secateur.formats.keras.files import load_keras

    return load_keras(path)


def _save(path: PathLike, model: Model, example_inputs: ExampleInputs | None) -> None:
    from secateur.formats.keras.files import save_keras

    save_keras(path, model)


def _check_packages(source: str) -> None:
    from secateur.formats.keras.hdf5 import require_h5py

    require_h5py()


def _came_from(model: object) -> bool:
    from secateur.formats.keras.imported import KerasModel

    return isinstance(model, KerasModel)


KERAS = Format(
    name="keras",
    suffixes=(".keras", ".h5", ".hdf5"),
    matches=_matches,
    load=_load,
    save=_save,
    check_packages=_check_packages,
    came_from=_came_from,
)
