"""Activations, as layers and as names in the configuration of other layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.formats.keras.layer import Elementwise, Layer, Variable
from secateur.formats.keras.spec import Json, Spec
from secateur.formats.keras.value import Value

Function = Callable[[Tensor], Tensor]
Activation = Callable[[Value], Value]


def _identity(x: Tensor) -> Tensor:
    return x


def _hard_sigmoid_of_keras_2(x: Tensor) -> Tensor:
    return torch.clamp(0.2 * x + 0.5, 0.0, 1.0)


def _squareplus(x: Tensor) -> Tensor:
    return (x + torch.sqrt(x * x + 4)) / 2


FUNCTIONS: dict[str, Function] = {
    "linear": _identity,
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": partial(F.leaky_relu, negative_slope=0.2),
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "gelu": F.gelu,
    "silu": F.silu,
    "swish": F.silu,
    "mish": F.mish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "exponential": torch.exp,
    "hard_sigmoid": F.hardsigmoid,
    "hard_silu": F.hardswish,
    "hard_swish": F.hardswish,
    "hard_tanh": F.hardtanh,
    "hard_shrink": F.hardshrink,
    "soft_shrink": F.softshrink,
    "tanh_shrink": F.tanhshrink,
    "log_sigmoid": F.logsigmoid,
    "squareplus": _squareplus,
}
ALONG_AXIS: dict[str, Callable[..., Tensor]] = {"softmax": torch.softmax, "log_softmax": torch.log_softmax}


def activation_of(spec: Spec, key: str = "activation") -> Activation:
    """The activation that a layer's configuration names. Functions of the user's own are refused."""
    value = spec.get(key)
    if isinstance(value, dict):
        layer = _of_layer(spec, value)
        if layer is not None:
            return layer
        kind, config = value.get("class_name"), value.get("config")
        value = config if kind == "function" and isinstance(config, str) else f"{kind}"
    name = "linear" if value is None else value
    if name == "hard_sigmoid" and spec.keras_2:
        return elementwise(_hard_sigmoid_of_keras_2)
    if isinstance(name, str) and name in FUNCTIONS:
        return elementwise(FUNCTIONS[name])
    if isinstance(name, str) and name in ALONG_AXIS:
        return along(name, -1)
    spec.unsupported(
        f"has {key}={str(name)[:60]!r}, which has no rule. There are {', '.join(FUNCTIONS)}, softmax"
    )


def _of_layer(spec: Spec, value: Json) -> Activation | None:
    """Of an activation that is a layer itself; None for anything else."""
    kind, config = str(value.get("class_name")), value.get("config")
    if not isinstance(config, dict) or not _is_own(value):
        return None
    inner = Spec(kind, spec.name, config, value, spec.keras_2)
    if kind in LAYER_FUNCTIONS:
        return elementwise(LAYER_FUNCTIONS[kind](inner))
    if kind == "Softmax":
        return along("softmax", inner.axes("axis")[0])
    return activation_of(inner) if kind == "Activation" else None


def _is_own(value: Json) -> bool:
    return str(value.get("module") or "keras").split(".")[0] == "keras" and not value.get("registered_name")


def elementwise(function: Function) -> Activation:
    return partial(_on_elements, function)


def along(name: str, axis: int) -> Activation:
    return partial(_on_axis, name, axis)


def _on_elements(function: Function, x: Value) -> Value:
    return x.like(function(x.tensor))


def _on_axis(name: str, axis: int, x: Value) -> Value:
    return x.like(ALONG_AXIS[name](x.tensor, dim=x.axis(axis)))


# --- functions of layers ------------------------------------------------------------------------------------


def relu_of(spec: Spec) -> Function:
    """Slope below the threshold, the identity above it, and no more than the largest value."""
    slope, edge = spec.number("negative_slope"), spec.number("threshold")
    top = None if spec.get("max_value") is None else spec.number("max_value")
    if not slope and not edge:
        if top is None or top == 6:
            return F.relu if top is None else F.relu6
        return partial(F.hardtanh, min_val=0.0, max_val=top) if top > 0 else torch.zeros_like

    return partial(_bent, slope=slope, edge=edge, top=top)


def _bent(x: Tensor, slope: float, edge: float, top: float | None) -> Tensor:
    """slope · (x − edge) below the edge, x above it, and no more than `top`."""
    if not edge:
        y = F.leaky_relu(x, slope) if slope else F.relu(x)
    else:
        y = F.threshold(x, edge, 0.0)
        y = y - slope * F.relu(edge - x) if slope else y
    return y if top is None else torch.clamp(y, max=top)


def leaky_relu_of(spec: Spec) -> Function:
    key = "alpha" if "alpha" in spec.config else "negative_slope"
    return partial(F.leaky_relu, negative_slope=spec.number(key, 0.3))


def elu_of(spec: Spec) -> Function:
    return partial(F.elu, alpha=spec.number("alpha", 1.0))


def thresholded_relu_of(spec: Spec) -> Function:
    return partial(F.threshold, threshold=spec.number("theta", 1.0), value=0.0)


LAYER_FUNCTIONS: dict[str, Callable[[Spec], Function]] = {
    "ReLU": relu_of,
    "LeakyReLU": leaky_relu_of,
    "ELU": elu_of,
    "ThresholdedReLU": thresholded_relu_of,
}


class Activated(Layer):
    """`Activation` and `Softmax`."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        axes = spec.axes("axis") if spec.kind == "Softmax" else ()
        if len(axes) > 1:
            spec.unsupported(f"is a softmax over the axes {axes} at once, which has no rule")
        self.activation = along("softmax", axes[0]) if axes else activation_of(spec)

    def forward(self, x: Value, *ignored: Any, **kwargs: Any) -> Value:
        return self.activation(x)


class PReLU(Layer):
    """A slope for each channel, or for each element."""

    weight: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.rank = 1

    def variables(self) -> tuple[Variable, ...]:
        return (Variable("weight", "alpha", merge=self._merged, split=self._split, rank=self.rank),)

    def hold(self, arrays: Mapping[str, Tensor]) -> None:
        self.rank = arrays["weight"].ndim
        self.by_channel = prod(arrays["weight"].shape[:-1]) == 1
        super().hold(arrays)

    def _merged(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[-1:] if self.by_channel else shape

    def _split(self, shape: tuple[int, ...], config: Json) -> tuple[int, ...]:
        return (*[1] * (self.rank - 1), *shape) if self.by_channel else shape

    def forward(self, x: Value) -> Value:
        if self.by_channel:
            return Value(F.prelu(x.channels_first(), self.weight), x.ndim > 2)
        plain = x.plain()
        return Value(F.relu(plain) - self.weight * F.relu(-plain))


LAYERS: dict[str, Callable[[Spec], Layer]] = {
    **{kind: partial(Elementwise, function=function) for kind, function in LAYER_FUNCTIONS.items()},
    "Activation": Activated,
    "Softmax": Activated,
    "PReLU": PReLU,
}
