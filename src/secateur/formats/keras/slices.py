"""Functions of `keras.ops` that take parts of a value. Their ends follow the channels that stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch

from secateur.formats.keras.layer import Layer
from secateur.formats.keras.spec import Json, Spec
from secateur.formats.keras.value import Value

_SLICE = "__slice__"
_MOST_PARTS = 4096


class Cutting(Layer):
    """A layer that takes slices of a value, each by one op of its own."""

    def recut(self, raw: Json, ends: Sequence[tuple[int, int]]) -> None:
        """Put other ends of its slices, in their order, into the entry `raw` of the file."""
        raise NotImplementedError


class Split(Cutting):
    """Parts along one axis: as many of one size, or with these ends."""

    sizes = ("indices_or_sections",)

    def forward(self, x: Value) -> list[Value]:
        told, plain = self.spec.sizes("indices_or_sections"), x.plain()
        axis = self.spec.axes("axis", 0)[0] % x.ndim
        size = plain.shape[axis]
        if isinstance(self.spec.get("indices_or_sections"), int):
            if told[0] < 1 or size % told[0]:
                self.spec.refuse(f"has indices_or_sections={told[0]}, which do not divide {size}")
            told = tuple(range(size // told[0], size, size // told[0]))
        if axis == 0 or len(told) > _MOST_PARTS:
            self.spec.unsupported("splits the batch, or into too many parts")
        cut = torch.ops.aten.slice.Tensor
        return [Value(cut(plain, axis, a, b)) for a, b in pairwise((0, *told, size))]

    def recut(self, raw: Json, ends: Sequence[tuple[int, int]]) -> None:
        raw["config"]["indices_or_sections"] = [stop for _, stop in ends[:-1]]


class GetItem(Cutting):
    """Slices and single places. The batch stays whole."""

    def forward(self, x: Value, key: Any) -> Value:
        plain, axis = x.plain(), 0
        for part in key if isinstance(key, list) else [key]:
            if type(part) is int and axis:
                plain = plain.select(axis, part)
                continue
            ends = _slice_of(part)
            if ends is None:
                self.spec.unsupported(f"takes {str(part)[:60]} of a value; slices and places have a rule")
            if any(end is not None for end in ends):
                if not axis:
                    self.spec.unsupported("takes a part of the batch, which has no rule")
                start, stop, step = ends
                plain = torch.ops.aten.slice.Tensor(plain, axis, start, stop, 1 if step is None else step)
            axis += 1
        return Value(plain)

    def recut(self, raw: Json, ends: Sequence[tuple[int, int]]) -> None:
        parts = raw["inbound_nodes"][0]["args"][1]
        cuts = [part["config"] for part in (parts if isinstance(parts, list) else [parts]) if _cuts(part)]
        for config, (start, stop) in zip(cuts, ends, strict=True):
            config.update(start=start, stop=stop)


def _slice_of(part: Any) -> tuple[Any, Any, Any] | None:
    """Start, stop and step of a slice of the file; None for anything else."""
    found = part.get("config") if isinstance(part, dict) and part.get("class_name") == _SLICE else None
    if not isinstance(found, dict):
        return None
    ends = found.get("start"), found.get("stop"), found.get("step")
    return ends if all(end is None or type(end) is int for end in ends) else None


def _cuts(part: Any) -> bool:
    ends = _slice_of(part)
    return ends is not None and any(end is not None for end in ends)


OPERATIONS: dict[str, Callable[[Spec], Layer]] = {"ops.GetItem": GetItem, "ops.Split": Split}
