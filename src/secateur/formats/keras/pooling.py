"""Pooling, in windows and over everything."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.formats.keras.layer import Layer
from secateur.formats.keras.spec import Spec
from secateur.formats.keras.value import Value
from secateur.formats.keras.windows import padded, same_padding

_MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class Spatial(Layer):
    """A layer over the axes of space, of which there are `rank`."""

    def __init__(self, spec: Spec, rank: int) -> None:
        super().__init__(spec)
        self.rank, self.last = rank, spec.channels_last

    def maps(self, x: Value) -> Tensor:
        """Shape: (n, channels, *space)."""
        if x.ndim != self.rank + 2:
            self.spec.refuse(f"is given a value of {x.ndim} axes; {self.rank + 2} are needed")
        return x.channels_first() if self.last else x.plain()


class Pooling(Spatial):
    def __init__(self, spec: Spec, rank: int, largest: bool) -> None:
        super().__init__(spec, rank)
        self.window, self.largest = spec.wholes("pool_size", rank, 2), largest
        self.strides = self.window if spec.get("strides") is None else spec.wholes("strides", rank)
        self.same = spec.choice("padding", ("valid", "same"), "valid") == "same"
        if 0 in (*self.window, *self.strides):
            spec.refuse("has a window or a stride of 0")

    def forward(self, x: Value) -> Value:
        maps, none = self.maps(x), [0] * self.rank
        if not self.same:
            return Value(self._pooled(maps, none), self.last)
        before, after = same_padding(maps.shape[2:], self.window, self.strides, [1] * self.rank)
        self.afford(
            maps.shape[1], *(n + a + b for n, a, b in zip(maps.shape[2:], before, after, strict=True))
        )
        if before == after and all(2 * n <= k for n, k in zip(before, self.window, strict=True)):
            return Value(self._pooled(maps, before), self.last)
        if self.largest:
            return Value(self._pooled(padded(maps, before, after, float("-inf")), none), self.last)
        ones = torch.ones((1, 1, *maps.shape[2:]), dtype=maps.dtype, device=maps.device)
        share = self._pooled(padded(ones, before, after), none)
        return Value(self._pooled(padded(maps, before, after), none) / share, self.last)

    def _pooled(self, maps: Tensor, padding: list[int]) -> Tensor:
        if self.largest:
            return _MAX[self.rank](maps, self.window, self.strides, padding)  # type: ignore[no-any-return]
        run = _AVERAGE[self.rank]
        return run(maps, self.window, self.strides, padding, False, False)  # type: ignore[no-any-return]


class Global(Spatial):
    """The mean or the maximum over all axes of space."""

    def __init__(self, spec: Spec, rank: int, largest: bool) -> None:
        super().__init__(spec, rank)
        self.largest, self.keep = largest, spec.flag("keepdims")

    def forward(self, x: Value, mask: Value | None = None) -> Value:
        maps = self.maps(x)
        axes = list(range(2, maps.ndim))
        if mask is not None:
            steps = mask.plain().to(maps.dtype).unsqueeze(1)  # shape: (n, 1, steps)
            return Value((maps * steps).sum(2, keepdim=self.keep) / steps.sum(2, keepdim=self.keep))
        y = maps.amax(axes, keepdim=self.keep) if self.largest else maps.mean(axes, keepdim=self.keep)
        return Value(y, self.last and self.keep)


class Adaptive(Spatial):
    def __init__(self, spec: Spec, rank: int, largest: bool) -> None:
        super().__init__(spec, rank)
        self.size = spec.wholes("output_size", rank)
        name = f"adaptive_{'max' if largest else 'avg'}_pool{rank}d"
        self.run: Callable[..., Tensor] = getattr(F, name)

    def forward(self, x: Value) -> Value:
        maps = self.maps(x)
        self.afford(maps.shape[1], *self.size)
        return Value(self.run(maps, self.size), self.last)


LAYERS: dict[str, Callable[[Spec], Layer]] = {
    f"{before}{name}{after}{rank}D": partial(rule, rank=rank, largest=largest)
    for before, name, after, rule, largest in (
        ("", "MaxPooling", "", Pooling, True),
        ("", "MaxPool", "", Pooling, True),
        ("", "AveragePooling", "", Pooling, False),
        ("", "AvgPool", "", Pooling, False),
        ("Global", "MaxPooling", "", Global, True),
        ("Global", "MaxPool", "", Global, True),
        ("Global", "AveragePooling", "", Global, False),
        ("Global", "AvgPool", "", Global, False),
        ("Adaptive", "MaxPooling", "", Adaptive, True),
        ("Adaptive", "AveragePooling", "", Adaptive, False),
    )
    for rank in (1, 2, 3)
}
