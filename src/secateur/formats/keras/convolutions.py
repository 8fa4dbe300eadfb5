"""Convolutions: ordinary, depthwise, separable, and transposed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.formats.keras.activations import activation_of
from secateur.formats.keras.layer import Layer, Made, Shape, Variable
from secateur.formats.keras.spec import Json, Spec
from secateur.formats.keras.value import Value
from secateur.formats.keras.windows import padded, same_padding

_CONVOLUTIONS: dict[int, Any] = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
_TRANSPOSED: dict[int, Any] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


class Windowed(Layer):
    """What all convolutions have: windows with strides, and channels that may be last."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, spec: Spec, rank: int, paddings: Sequence[str] = ("valid", "same")) -> None:
        super().__init__(spec)
        self.rank, self.last = rank, spec.channels_last
        self.strides, self.dilation = spec.wholes("strides", rank), spec.wholes("dilation_rate", rank)
        self.padding = spec.choice("padding", paddings, "valid")
        self.activation = activation_of(spec)
        self.register_parameter("bias", None)
        if 0 in (*self.strides, *self.dilation):
            spec.refuse("has a stride or a dilation of 0")

    def channels(self, x: Value) -> Tensor:
        """Shape: (n, channels, *space)."""
        if x.ndim != self.rank + 2:
            self.spec.refuse(f"is given a value of {x.ndim} axes; {self.rank + 2} are needed")
        return x.channels_first() if self.last else x.plain()

    def value(self, y: Tensor) -> Value:
        return self.activation(Value(y, self.last))

    def convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        """`x` (n, channels, *space), padded as the layer says and convolved."""
        window, none = tuple(weight.shape[2:]), [0] * self.rank
        before, after = none, none
        if self.padding == "same":
            before, after = same_padding(x.shape[2:], window, self.strides, self.dilation)
        elif self.padding == "causal":
            before = [(window[0] - 1) * self.dilation[0]]
        self.afford(x.shape[1], *(n + a + b for n, a, b in zip(x.shape[2:], before, after, strict=True)))
        if before != after:
            x, before = padded(x, before, after), none
        run = _CONVOLUTIONS[self.rank]
        return run(x, weight, bias, self.strides, before, self.dilation, groups)  # type: ignore[no-any-return]

    def bias_variables(self) -> tuple[Variable, ...]:
        return (Variable("bias", "bias"),) if self.spec.flag("use_bias", True) else ()

    def check_window(self, weight: Tensor) -> None:
        if tuple(weight.shape[2:]) != self.spec.wholes("kernel_size", self.rank):
            self.spec.refuse(
                f"has kernel_size={self.spec.get('kernel_size')} and weights for {weight.shape[2:]}"
            )


class Convolution(Windowed):
    sizes = ("filters", "groups")

    def __init__(self, spec: Spec, rank: int) -> None:
        super().__init__(spec, rank, ("valid", "same", "causal") if rank == 1 else ("valid", "same"))
        self.groups = spec.whole("groups", 1) or 1

    def variables(self) -> tuple[Variable, ...]:
        order = (self.rank + 1, self.rank, *range(self.rank))
        return (Variable("weight", "kernel", order=order, rank=self.rank + 2), *self.bias_variables())

    def check(self) -> None:
        self.expect("filters", len(self.weight))
        self.expect_shape("bias", len(self.weight))
        self.check_window(self.weight)
        if len(self.weight) % self.groups:
            self.spec.refuse(f"has groups={self.groups}, which do not divide its {len(self.weight)} filters")

    def forward(self, x: Value) -> Value:
        return self.value(self.convolved(self.channels(x), self.weight, self.bias, self.groups))

    def resize(self, config: Json, weights: Mapping[str, Tensor], made: Made) -> None:
        filters = config["filters"] = len(weights["weight"])
        if self.groups > 1 and self.weight.shape[1] == 1:  # depthwise
            config["groups"] = self.groups * filters // len(self.weight)


def _rows(shape: Shape) -> Shape:
    """(channels, multiplier, *window) → (channels · multiplier, 1, *window)"""
    return (shape[0] * shape[1], 1, *shape[2:])


def _channels(shape: Shape, config: Json) -> Shape:
    multiplier = int(config.get("depth_multiplier") or 1)
    return (shape[0] // multiplier, multiplier, *shape[2:])


class Depthwise(Windowed):
    """A kernel for each channel alone; `name` and `keras` are those of its weight."""

    def kernel(self, name: str, keras: str) -> Variable:
        order = (self.rank, self.rank + 1, *range(self.rank))
        return Variable(name, keras, order=order, merge=_rows, split=_channels, rank=self.rank + 2)

    def variables(self) -> tuple[Variable, ...]:
        keras = "depthwise_kernel" if self.spec.keras_2 else "kernel"
        return (self.kernel("weight", keras), *self.bias_variables())

    def check(self) -> None:
        self.expect_shape("bias", len(self.weight))
        self.check_depthwise(self.weight)

    def check_depthwise(self, weight: Tensor) -> None:
        self.check_window(weight)
        if len(weight) % (self.spec.whole("depth_multiplier", 1) or 1):
            self.spec.refuse(
                f"has depth_multiplier={self.spec.get('depth_multiplier')} and {len(weight)} kernels"
            )

    def forward(self, x: Value) -> Value:
        maps = self.channels(x)
        return self.value(self.convolved(maps, self.weight, self.bias, maps.shape[1]))


class Separable(Depthwise):
    """A depthwise convolution, then one of single pixels."""

    sizes = ("filters",)
    depthwise: Tensor

    def __init__(self, spec: Spec, rank: int) -> None:
        super().__init__(spec, rank, ("valid", "same", "causal") if rank == 1 else ("valid", "same"))

    def variables(self) -> tuple[Variable, ...]:
        order = (self.rank + 1, self.rank, *range(self.rank))
        return (
            self.kernel("depthwise", "depthwise_kernel"),
            Variable("weight", "pointwise_kernel", order=order, rank=self.rank + 2),
            *self.bias_variables(),
        )

    def check(self) -> None:
        self.expect("filters", len(self.weight))
        self.expect_shape("bias", len(self.weight))
        self.expect_shape("weight", len(self.weight), len(self.depthwise), *[1] * self.rank)
        self.check_depthwise(self.depthwise)

    def forward(self, x: Value) -> Value:
        maps = self.channels(x)
        maps = self.convolved(maps, self.depthwise, None, maps.shape[1])
        return self.value(_CONVOLUTIONS[self.rank](maps, self.weight, self.bias))

    def resize(self, config: Json, weights: Mapping[str, Tensor], made: Made) -> None:
        config["filters"] = len(weights["weight"])


class Transposed(Windowed):
    sizes = ("filters",)

    def variables(self) -> tuple[Variable, ...]:
        order = (self.rank + 1, self.rank, *range(self.rank))
        return (Variable("weight", "kernel", order=order, rank=self.rank + 2), *self.bias_variables())

    def check(self) -> None:
        self.expect("filters", self.weight.shape[1])
        self.expect_shape("bias", self.weight.shape[1])
        self.check_window(self.weight)
        if self.spec.get("output_padding") is not None:
            self.spec.unsupported("has an output_padding, which has no rule; leave it out where it is built")

    def forward(self, x: Value) -> Value:
        """The gradient of a convolution, cut or filled with zeros to n·stride; `valid` is not cut."""
        maps, strides = self.channels(x), self.strides
        window = [(k - 1) * d + 1 for k, d in zip(self.weight.shape[2:], self.dilation, strict=True)]
        surplus = [k - s for k, s in zip(window, strides, strict=True)]
        if self.padding == "valid":
            surplus = [min(n, 0) for n in surplus]
        before = [max(n, 0) // 2 for n in surplus]
        missing = [b - (n - b) for n, b in zip(surplus, before, strict=True)]  # below 0: one too many
        extra = [max(n, 0) for n in missing]
        sizes = [n * s + k for n, s, k in zip(maps.shape[2:], strides, window, strict=True)]
        self.afford(self.weight.shape[1], *sizes)
        run = _TRANSPOSED[self.rank]
        y = run(maps, self.weight, self.bias, strides, before, extra, 1, self.dilation)
        for axis, amount in enumerate(missing):
            y = y.narrow(axis + 2, 0, y.shape[axis + 2] + amount) if amount < 0 else y
        return self.value(y)

    def resize(self, config: Json, weights: Mapping[str, Tensor], made: Made) -> None:
        config["filters"] = weights["weight"].shape[1]


LAYERS: dict[str, Callable[[Spec], Layer]] = {
    f"{name}{rank}D{suffix}": partial(rule, rank=rank)
    for name, suffix, ranks, rule in (
        ("Conv", "", (1, 2, 3), Convolution),
        ("Convolution", "", (1, 2, 3), Convolution),
        ("DepthwiseConv", "", (1, 2), Depthwise),
        ("SeparableConv", "", (1, 2), Separable),
        ("Conv", "Transpose", (1, 2, 3), Transposed),
    )
    for rank in ranks
}
