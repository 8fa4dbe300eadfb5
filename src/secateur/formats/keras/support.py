"""Which layers of Keras are read, and what pruning makes smaller in each: made from the table of rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial

from secateur.errors import InputError
from secateur.formats.keras.layer import Layer
from secateur.formats.keras.spec import Spec
from secateur.formats.keras.table import LAYERS

COLUMNS = ("layer", "smaller")


@dataclass(frozen=True)
class KerasSupport:
    """What becomes of one layer of Keras.

    Attributes:
        layer: Its class; `ops.` before the name of an operation.
        sizes: Numbers of its configuration that pruning makes smaller.
        whole: Whether the units that it reads and makes all stay.
    """

    layer: str
    sizes: tuple[str, ...]
    whole: bool

    def cells(self) -> tuple[str, ...]:
        """The row as text, one cell for each of `COLUMNS`; empty where units pass and nothing is set."""
        return (self.layer, "no: all units stay" if self.whole else ", ".join(self.sizes))


def keras_support() -> tuple[KerasSupport, ...]:
    """A row for every layer that is read, in alphabetical order, operations last."""
    names = sorted(LAYERS, key=lambda name: (name.startswith("ops."), name))
    rules = [(name, _class_of(LAYERS[name])) for name in names]
    return tuple(KerasSupport(name, rule.sizes, rule.whole) for name, rule in rules)


def _class_of(make: Callable[[Spec], Layer]) -> type[Layer]:
    """The class of the layers that a row makes; that of all, where it is a function."""
    while isinstance(make, partial):
        make = make.func
    return make if isinstance(make, type) and issubclass(make, Layer) else Layer


def named(names: Sequence[str]) -> tuple[KerasSupport, ...]:
    """The rows of the layers of these names, in any case; all of them without names.

    Raises `InputError` for a layer that is not read.
    """
    rows = keras_support()
    known = {row.layer.lower(): row for row in rows}
    for name in names:
        if name.lower() not in known:
            close = [known[other].layer for other in get_close_matches(name.lower(), known, n=5)]
            meant = f"; there are similar ones: {', '.join(close)}" if close else ""
            raise InputError(
                f"{name!r} is no layer of Keras that secateur reads{meant}; all are in the table of "
                "`secateur ops --keras`"
            )
    wanted = {name.lower() for name in names}
    return tuple(row for row in rows if not names or row.layer.lower() in wanted)
