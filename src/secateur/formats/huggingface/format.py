"""The format of Hugging Face folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.formats.content import Content
from secateur.formats.format import Format, PathLike

if TYPE_CHECKING:
    from secateur.formats.format import Model
    from secateur.graph.example import ExampleInputs


def _matches(content: Content) -> bool:
    return content.in_folder("config.json")


def _load(path: str) -> Model:
    from secateur.formats.huggingface.load import load_folder

    return load_folder(path)


def _save(path: PathLike, model: Model, example_inputs: ExampleInputs | None) -> None:
    from secateur.formats.huggingface.save import save_folder

    save_folder(path, model, example_inputs)


def _check_packages(source: str) -> None:
    """Only models that came from a folder are written to one."""
    from secateur.errors import InputError
    from secateur.formats.huggingface.classes import require_transformers

    if source != "huggingface":
        raise InputError(
            "only a model that was read from a Hugging Face folder is written as one; give a name that ends "
            "in .onnx or .pt2"
        )
    require_transformers()


def _came_from(model: object) -> bool:
    from secateur.formats.huggingface.model import FromFolder

    return isinstance(model, FromFolder)


HUGGINGFACE = Format(
    name="huggingface",
    suffixes=(),
    holds="a folder with config.json and .safetensors files",
    matches=_matches,
    folder=True,
    load=_load,
    save=_save,
    check_packages=_check_packages,
    came_from=_came_from,
)
