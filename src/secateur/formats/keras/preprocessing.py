"""Shifts and scales of the inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from secateur.formats.keras.layer import Elementwise, Layer, Variable
from secateur.formats.keras.spec import Spec
from secateur.formats.keras.value import Value


class Normalization(Layer):
    """(x − mean) / √variance, with numbers of the file or of the configuration."""

    mean: Tensor
    variance: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.axes = () if spec.get("axis") is None else spec.axes("axis")
        if len(self.axes) > 1 or spec.flag("invert"):
            spec.unsupported(f"has axis={spec.get('axis')} or invert=True; the last axis has a rule")

    def variables(self) -> tuple[Variable, ...]:
        if self.spec.get("mean") is not None:
            return ()
        rank = len(self.axes)
        found = (Variable(name, name, rank=rank, trainable=False) for name in ("mean", "variance"))
        return (*found, Variable("count", "count", rank=0, trainable=False))

    def hold(self, arrays: Mapping[str, Tensor]) -> None:
        if self.spec.get("mean") is not None:
            for name in ("mean", "variance"):
                self.register_buffer(name, numbers(self.spec, name))
        super().hold(arrays)

    def forward(self, x: Value) -> Value:
        if any(axis % x.ndim != x.ndim - 1 for axis in self.axes):
            self.spec.unsupported(f"has axis={self.spec.get('axis')}; the last axis has a rule")
        plain = x.plain()
        plain = plain if plain.is_floating_point() else plain.to(self.mean.dtype)
        deviation = torch.sqrt(self.variance).clamp(min=1e-7)
        return Value((plain - self.mean) / deviation)


def numbers(spec: Spec, key: str) -> Tensor:
    """A number of the configuration, or a list of them in any depth, as a flat tensor or a scalar."""
    value = spec.get(key)
    if isinstance(value, dict):  # an array of NumPy
        value = value.get("config", {}).get("value") if isinstance(value.get("config"), dict) else None
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    flat = value if isinstance(value, list) else [value]
    if not flat or not all(type(n) in (int, float) for n in flat) or len(flat) > 2**20:
        spec.refuse(f"has {key} that are no numbers")
    return torch.tensor(flat if isinstance(value, list) else flat[0], dtype=torch.float32)


def rescaling_of(spec: Spec) -> Callable[[Tensor], Tensor]:
    return partial(_rescaled, scale=spec.number("scale", 1.0), offset=spec.number("offset", 0.0))


def _rescaled(x: Tensor, scale: float, offset: float) -> Tensor:
    y = x if x.is_floating_point() else x.to(torch.float32)
    y = y if scale == 1 else y * scale
    return y if offset == 0 else y + offset


class RescalingByChannel(Layer):
    """`Rescaling` with a scale or an offset for each channel, which is last."""

    scale: Tensor
    offset: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        for name in ("scale", "offset"):
            self.register_buffer(name, numbers(spec, name))

    def forward(self, x: Value) -> Value:
        plain = x.plain()
        return Value(
            (plain if plain.is_floating_point() else plain.to(torch.float32)) * self.scale + self.offset
        )


def rescaling(spec: Spec) -> Layer:
    if any(isinstance(spec.get(key), list) for key in ("scale", "offset")):
        return RescalingByChannel(spec)
    return Elementwise(spec, rescaling_of)


LAYERS: dict[str, Callable[[Spec], Layer]] = {"Normalization": Normalization, "Rescaling": rescaling}
