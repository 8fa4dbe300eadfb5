"""Layers that move, repeat, cut and fill, and that change the size of pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from secateur.formats.keras.layer import Layer, Made
from secateur.formats.keras.pooling import Spatial
from secateur.formats.keras.spec import Json, Spec
from secateur.formats.keras.value import Value
from secateur.formats.keras.windows import padded


class Flatten(Layer):
    def forward(self, x: Value, *ignored: Any, **kwargs: Any) -> Value:
        plain = x.plain()
        if not self.spec.channels_last and x.ndim > 2:
            plain = plain.movedim(1, -1)
        return Value(plain.flatten(1) if x.ndim > 1 else plain.unsqueeze(1))


class Reshape(Layer):
    sizes = ("target_shape",)

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.target = spec.sizes("target_shape")

    def forward(self, x: Value) -> Value:
        plain = x.plain()
        return Value(plain.reshape(plain.shape[0], *resolved(self.spec, plain.shape[1:], self.target)))

    def resize(self, config: Json, weights: Mapping[str, Tensor], made: Made) -> None:
        if made:
            put_shape(config, "target_shape", told(self.target, made[-1][1][1:]))


def resolved(spec: Spec, shape: Sequence[int], target: Sequence[int]) -> list[int]:
    """`target` with the number that its −1 stands for, once it is known to fit."""
    size, known = prod(shape), prod(n for n in target if n != -1)
    free = list(target).count(-1)
    if free > 1 or known == 0 or (size % known if free else size != known):
        spec.refuse(f"reshapes {tuple(shape)} to {tuple(target)}, which does not fit")
    return [size // known if n == -1 else n for n in target]


def put_shape(config: Json, key: str, shape: list[int]) -> None:
    """Put a shape where the configuration has one, as a list or as a tuple."""
    held = config[key]
    if isinstance(held, dict):
        held["items"] = shape
    else:
        config[key] = shape


def told(target: Sequence[int], shape: Sequence[int]) -> list[int]:
    """The sizes to write: −1 stays."""
    return [-1 if n == -1 else size for n, size in zip(target, shape, strict=True)]


class Permute(Layer):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        dims = spec.get("dims")
        if not isinstance(dims, list) or sorted(dims, key=str) != sorted(range(1, len(dims) + 1), key=str):
            spec.refuse(f"has dims={str(dims)[:60]}, which are not the numbers of its axes")
        self.dims = tuple(dims)

    def forward(self, x: Value) -> Value:
        if len(self.dims) != x.ndim - 1:
            self.spec.refuse(f"permutes {len(self.dims)} axes of a value that has {x.ndim - 1}")
        return Value(x.plain().permute(0, *self.dims))


class Repeat(Layer):
    """(n, features) → (n, times, features)"""

    def forward(self, x: Value) -> Value:
        times, plain = self.spec.whole("n"), x.plain()
        self.afford(times, *plain.shape[1:])
        return Value(plain.unsqueeze(1).expand(-1, times, *[-1] * (x.ndim - 1)))


class Filled(Spatial):
    """Zeros around maps, or numbers cut off (`sign` = −1)."""

    def __init__(self, spec: Spec, rank: int, key: str, sign: int) -> None:
        super().__init__(spec, rank)
        pairs = spec.pairs(key, rank)
        self.before, self.after = [sign * a for a, _ in pairs], [sign * b for _, b in pairs]

    def forward(self, x: Value) -> Value:
        maps = self.maps(x)
        sizes = [n + a + b for n, a, b in zip(maps.shape[2:], self.before, self.after, strict=True)]
        if any(n < 1 for n in sizes):
            self.spec.refuse(f"cuts all of a value of shape {tuple(maps.shape[2:])}")
        self.afford(maps.shape[1], *sizes)
        return Value(padded(maps, self.before, self.after), self.last)


class UpSampling(Spatial):
    def __init__(self, spec: Spec, rank: int) -> None:
        super().__init__(spec, rank)
        self.factors = spec.wholes("size", rank, 2)
        self.mode = spec.choice("interpolation", ("nearest", "bilinear"), "nearest")
        if 0 in self.factors:
            spec.refuse("has size=0")

    def forward(self, x: Value) -> Value:
        maps = self.maps(x)
        sizes = [n * factor for n, factor in zip(maps.shape[2:], self.factors, strict=True)]
        self.afford(maps.shape[1], *sizes)
        more = {} if self.mode == "nearest" else {"align_corners": False}
        return Value(F.interpolate(maps, size=sizes, mode=self.mode, **more), self.last)


class Resizing(Spatial):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec, 2)
        self.size = spec.whole("height"), spec.whole("width")
        self.mode = spec.choice("interpolation", ("bilinear", "nearest"), "bilinear")
        if any(spec.flag(key) for key in ("antialias", "crop_to_aspect_ratio", "pad_to_aspect_ratio")):
            spec.unsupported("keeps the aspect ratio or is antialiased, which has no rule")

    def forward(self, x: Value) -> Value:
        maps = self.maps(x)
        self.afford(maps.shape[1], *self.size)
        maps = maps if maps.is_floating_point() else maps.float()
        if self.mode == "nearest":
            return Value(F.interpolate(maps, size=self.size, mode="nearest-exact"), self.last)
        return Value(F.interpolate(maps, size=self.size, mode="bilinear", align_corners=False), self.last)


def _ranked(name: str, rule: Callable[..., Layer], **given: Any) -> dict[str, Callable[[Spec], Layer]]:
    return {f"{name}{rank}D": partial(rule, rank=rank, **given) for rank in (1, 2, 3)}


LAYERS: dict[str, Callable[[Spec], Layer]] = {
    "Flatten": Flatten,
    "Reshape": Reshape,
    "Permute": Permute,
    "RepeatVector": Repeat,
    "Resizing": Resizing,
    **_ranked("ZeroPadding", Filled, key="padding", sign=1),
    **_ranked("Cropping", Filled, key="cropping", sign=-1),
    **_ranked("UpSampling", UpSampling),
}
