"""Keras files to torch modules and back."""

from __future__ import annotations

import os
import warnings
from typing import Any

from secateur.errors import InputError, SecateurError, SecateurWarning, UnsupportedOpError
from secateur.formats.keras.imported import KerasModel
from secateur.formats.keras.source import read_source, write_source
from secateur.formats.keras.write import array_of


def load_keras(path: str | os.PathLike[str]) -> KerasModel:
    """The model in a `.keras` or `.h5` file, as a torch module in eval mode.

    Raises `InputError` for a file that is no sound model, `UnsupportedOpError` naming a layer that has no
    rule.
    """
    source = read_source(path)
    try:
        return KerasModel(source)
    except UnsupportedOpError as error:
        way = f"keras.models.load_model({str(path)!r}).export('model.onnx', format='onnx')"
        raise UnsupportedOpError(
            f"{path}: {error}. Where you trust the file, ONNX is another way: {way}"
        ) from error
    except SecateurError as error:
        raise type(error)(f"{path}: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path}: its configuration is nested too deeply to be read") from error


def save_keras(path: str | os.PathLike[str], model: Any) -> None:
    """Write a model that was read from a Keras file, as that kind of file, whole or not at all.

    The state of an optimizer is left out, with a `SecateurWarning` where the file had one. Raises
    `InputError` for any other model.
    """
    if not isinstance(model, KerasModel):
        raise InputError(
            f"{path}: only a model that was read from a Keras file is written as one; give a name that ends "
            "in .onnx or .pt2"
        )
    write_source(path, model.source, array_of(model))
    if model.source.trained:
        warnings.warn(
            f"{path}: the state of the optimizer is not written, since it belongs to the full-size weights; "
            "training goes on with a new one",
            SecateurWarning,
            stacklevel=2,
        )
