"""The format of `.pt2` files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.formats.content import Content
from secateur.formats.format import Format, PathLike

if TYPE_CHECKING:
    from secateur.formats.format import Model
    from secateur.graph.example import ExampleInputs


def _matches(content: Content) -> bool:
    names = content.names
    records = {"archive_format", "models/model.json"}
    return bool(records & names) or any("serialized_exported_program" in name for name in names)


def _load(path: str) -> Model:
    from secateur.formats.pt2.program import load_program

    return load_program(path)


def _save(path: PathLike, model: Model, example_inputs: ExampleInputs | None) -> None:
    from secateur.formats.pt2.program import save_program

    save_program(path, model, example_inputs)


PT2 = Format(
    name="pt2",
    suffixes=(".pt2",),
    holds="torch.export",
    matches=_matches,
    magic=(0, b"PK\x03\x04"),
    load=_load,
    save=_save,
)
