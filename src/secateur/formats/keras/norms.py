"""Norms, and scales of channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.formats.keras.layer import Layer, Made, Variable
from secateur.formats.keras.spec import Json, Spec
from secateur.formats.keras.value import Value


class Norm(Layer):
    """What all norms have: a scale and a shift, each of which may be absent."""

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, spec: Spec, epsilon: float = 1e-3) -> None:
        super().__init__(spec)
        self.axes, self.epsilon = spec.axes("axis"), spec.number("epsilon", epsilon)
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)

    def variables(self) -> tuple[Variable, ...]:
        rank = len(self.axes)
        scale = (Variable("weight", "gamma", rank=rank),) if self.spec.flag("scale", True) else ()
        shift = (Variable("bias", "beta", rank=rank),) if self.spec.flag("center", True) else ()
        return (*scale, *shift)

    def check(self) -> None:
        if self.weight is not None:
            self.expect_shape("bias", *self.weight.shape)

    def by_channel(self, x: Value) -> tuple[Tensor, bool]:
        """`x` with the axis of the norm at 1, and whether it is last in Keras."""
        axis = self.axes[0] % x.ndim
        if len(self.axes) > 1 or axis not in (1, x.ndim - 1):
            self.spec.unsupported(
                f"has axis={self.spec.get('axis')}; there are rules for the second and the last"
            )
        last = axis == x.ndim - 1 and x.ndim > 2
        return (x.channels_first() if last else x.plain()), last


class BatchNorm(Norm):
    running_mean: Tensor
    running_var: Tensor

    def variables(self) -> tuple[Variable, ...]:
        return (
            *super().variables(),
            Variable("running_mean", "moving_mean", trainable=False),
            Variable("running_var", "moving_variance", trainable=False),
        )

    def check(self) -> None:
        for name in ("weight", "bias", "running_var"):
            self.expect_shape(name, len(self.running_mean))
        if self.spec.flag("renorm"):
            self.spec.unsupported("has renorm=True, which has no rule")

    def forward(self, x: Value, *ignored: Any, **kwargs: Any) -> Value:
        maps, last = self.by_channel(x)
        statistics = self.running_mean, self.running_var
        y = F.batch_norm(maps, *statistics, self.weight, self.bias, False, 0.0, self.epsilon)
        return Value(y, last)


class LayerNorm(Norm):
    """Over the last axes."""

    whole = True

    def forward(self, x: Value, *ignored: Any, **kwargs: Any) -> Value:
        axes = sorted(axis % x.ndim for axis in self.axes)
        if axes != list(range(x.ndim - len(axes), x.ndim)) or self.spec.flag("rms_scaling"):
            self.spec.unsupported(
                f"has axis={self.spec.get('axis')} or RMS scaling; the last axes have a rule"
            )
        plain = x.plain()
        shape = [plain.shape[axis] for axis in axes]
        return Value(F.layer_norm(plain, shape, self.weight, self.bias, self.epsilon))


class RmsNorm(Layer):
    """x / √(mean of x² + ε), times a scale."""

    whole = True
    weight: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.epsilon = spec.number("epsilon", 1e-6)
        if spec.axes("axis") != (-1,):
            spec.unsupported(f"has axis={spec.get('axis')}; the last axis has a rule")

    def variables(self) -> tuple[Variable, ...]:
        return (Variable("weight", "scale"),)

    def forward(self, x: Value) -> Value:
        plain = x.plain()
        return Value(F.rms_norm(plain, [plain.shape[-1]], self.weight, self.epsilon))


class GroupNorm(Norm):
    """Groups of channels; −1 stands for one channel in each."""

    sizes = ("groups",)

    def forward(self, x: Value, *ignored: Any, **kwargs: Any) -> Value:
        maps, last = self.by_channel(x)
        groups = (
            self.spec.axes("groups", 32)[0]
            if self.spec.get("groups") == -1
            else self.spec.whole("groups", 32)
        )
        groups = maps.shape[1] if groups == -1 else groups
        if groups < 1 or maps.shape[1] % groups:
            self.spec.refuse(f"has groups={groups}, which do not divide its {maps.shape[1]} channels")
        return Value(F.group_norm(maps, groups, self.weight, self.bias, self.epsilon), last)

    def resize(self, config: Json, weights: Mapping[str, Tensor], made: Made) -> None:
        if made and config.get("groups", 32) != -1:
            before, after = made[-1]
            config["groups"] = self.spec.whole("groups", 32) * after[1] // before[1]


class Unit(Layer):
    """Divided by its length."""

    whole = True

    def forward(self, x: Value) -> Value:
        axes = [x.axis(axis) for axis in self.spec.axes("axis")]
        square = (x.tensor * x.tensor).sum(axes, keepdim=True)
        return x.like(x.tensor * torch.rsqrt(square.clamp(min=1e-12)))


class Scale(Layer):
    """`LayerScale` of ConvNeXt: a factor for each channel."""

    sizes = ("projection_dim",)
    weight: Tensor

    def variables(self) -> tuple[Variable, ...]:
        return (Variable("weight", "gamma"),)

    def check(self) -> None:
        self.expect("projection_dim", len(self.weight))

    def forward(self, x: Value, *ignored: Any, **kwargs: Any) -> Value:
        return Value(x.plain() * self.weight)

    def resize(self, config: Json, weights: Mapping[str, Tensor], made: Made) -> None:
        config["projection_dim"] = len(weights["weight"])


LAYERS: dict[str, Callable[[Spec], Layer]] = {
    "BatchNormalization": BatchNorm,
    "BatchNormalizationV1": BatchNorm,
    "BatchNormalizationV2": BatchNorm,
    "LayerNormalization": LayerNorm,
    "GroupNormalization": partial(GroupNorm, epsilon=1e-3),
    "RMSNormalization": RmsNorm,
    "UnitNormalization": Unit,
    "LayerScale": Scale,
}
