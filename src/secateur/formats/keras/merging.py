"""Layers of several values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from secateur.formats.keras.layer import Layer
from secateur.formats.keras.spec import Spec
from secateur.formats.keras.value import Value, aligned

Fold = Callable[[Sequence[Tensor]], Tensor]


def values_of(given: Sequence[Any]) -> list[Value]:
    """The values in a list of arguments, in lists or not."""
    found = list[Value]()
    for value in given:
        found += [value] if isinstance(value, Value) else values_of(value) if isinstance(value, list) else []
    return found


class Merge(Layer):
    def __init__(self, spec: Spec, fold: Fold) -> None:
        super().__init__(spec)
        self.fold = fold

    def forward(self, *given: Any, **kwargs: Any) -> Value:
        values = values_of(given)
        if len(values) < 2 or len({v.ndim for v in values}) > 1:
            ranks = [v.ndim for v in values]
            self.spec.unsupported(f"merges values of {ranks} axes; two or more of one rank have a rule")
        tensors, first = aligned(values)
        sizes = zip(*(t.shape[1:] for t in tensors), strict=True)
        self.afford(*(max(axis) for axis in sizes))
        return Value(self.fold(tensors), first)


def _average(tensors: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, tensors) / len(tensors)


class Concatenate(Layer):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        (self.axis,) = spec.axes("axis")[:1]

    def forward(self, *given: Any, **kwargs: Any) -> Value:
        values = values_of(given)
        tensors, first = aligned(values)
        return Value(torch.cat(tensors, Value(tensors[0], first).axis(self.axis)), first)


class Dot(Layer):
    """Sums of products along one axis of each of two values of two or three axes."""

    def forward(self, *given: Any, **kwargs: Any) -> Value:
        values = values_of(given)
        axes = self.spec.axes("axes")
        if len(values) != 2 or self.spec.flag("normalize") or not all(2 <= v.ndim <= 3 for v in values):
            self.spec.unsupported(
                "has no rule for these values; two of two or three axes, not normalised, have one"
            )
        a, b = values[0].plain(), values[1].plain()
        first, second = (axes[0], axes[-1])
        if a.ndim == 2 and b.ndim == 2:
            return Value((a * b).sum(1, keepdim=True))
        left = a.movedim(first, -1) if a.ndim == 3 else a.unsqueeze(1)
        right = b.movedim(second, 1) if b.ndim == 3 else b.unsqueeze(2)
        y = torch.bmm(left, right)
        return Value(y.squeeze(1) if a.ndim == 2 else y.squeeze(2) if b.ndim == 2 else y)


def _folding(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Spec], Layer]:
    return partial(Merge, fold=partial(reduce, function))


LAYERS: dict[str, Callable[[Spec], Layer]] = {
    "Add": _folding(torch.add),
    "Subtract": _folding(torch.sub),
    "Multiply": _folding(torch.mul),
    "Maximum": _folding(torch.maximum),
    "Minimum": _folding(torch.minimum),
    "Average": partial(Merge, fold=_average),
    "Concatenate": Concatenate,
    "Dot": Dot,
}
