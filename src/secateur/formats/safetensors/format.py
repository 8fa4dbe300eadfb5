"""The format of `.safetensors` files: weights alone, which are written, and read into a model's own class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.formats.content import Content
from secateur.formats.format import Format, PathLike

if TYPE_CHECKING:
    from secateur.formats.format import Model
    from secateur.graph.example import ExampleInputs


def _matches(content: Content) -> bool:
    """A JSON header, whose length stands before it."""
    return content.starts(b"{", offset=8) and 0 < int.from_bytes(content.head[:8], "little") < content.size


def _save(path: PathLike, model: Model, example_inputs: ExampleInputs | None) -> None:
    from secateur.formats.safetensors.weights import save_weights

    save_weights(path, model)


SAFETENSORS = Format(
    name="safetensors",
    suffixes=(".safetensors",),
    holds="weights alone",
    matches=_matches,
    magic=(8, b"{"),
    save=_save,
)
