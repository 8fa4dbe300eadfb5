"""Functions of `keras.ops` that a functional model was built with: one row for each in `OPERATIONS`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.formats.keras.activations import ALONG_AXIS, FUNCTIONS
from secateur.formats.keras.layer import Elementwise, Layer, Made
from secateur.formats.keras.merging import Concatenate, values_of
from secateur.formats.keras.shaping import put_shape, resolved, told
from secateur.formats.keras.slices import OPERATIONS as SLICES
from secateur.formats.keras.spec import Json, Spec
from secateur.formats.keras.value import Value, aligned


class Binary(Layer):
    """A function of two values, or of a value and a number."""

    def __init__(self, spec: Spec, function: Callable[..., Tensor]) -> None:
        super().__init__(spec)
        self.function = function

    def forward(self, a: Any, b: Any) -> Value:
        values = values_of([a, b])
        if len(values) == 2:
            tensors, first = aligned(values)
            self.afford(*(max(axis) for axis in zip(*(t.shape[1:] for t in tensors), strict=False)))
            return Value(self.function(*tensors), first)
        numbers = [x for x in (a, b) if not isinstance(x, Value)]
        if len(values) != 1 or isinstance(numbers[0], bool) or not isinstance(numbers[0], int | float):
            self.spec.unsupported("combines what are no two values, and no value and a number")
        given = [x.tensor if isinstance(x, Value) else x for x in (a, b)]
        return values[0].like(self.function(*given))


def _extreme(function: Callable[[Tensor, Tensor], Tensor], a: Any, b: Any) -> Tensor:
    """The larger or the smaller; of a number by clamping, which bounds follow."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return function(a, b)
    x, number = (a, b) if isinstance(a, Tensor) else (b, a)
    return torch.clamp(x, min=number) if function is torch.maximum else torch.clamp(x, max=number)


class Clip(Layer):
    def forward(self, x: Value) -> Value:
        return x.like(torch.clamp(x.tensor, self.spec.number("x_min"), self.spec.number("x_max")))


def _gelu(spec: Spec) -> Callable[[Tensor], Tensor]:
    return partial(F.gelu, approximate="tanh" if spec.flag("approximate", True) else "none")


def _leaky_relu(spec: Spec) -> Callable[[Tensor], Tensor]:
    return partial(F.leaky_relu, negative_slope=spec.number("negative_slope", 0.2))


def _elu(spec: Spec) -> Callable[[Tensor], Tensor]:
    return partial(F.elu, alpha=spec.number("alpha", 1.0))


class AlongAxis(Layer):
    def __init__(self, spec: Spec, name: str) -> None:
        super().__init__(spec)
        self.run, (self.axis, *more) = ALONG_AXIS[name], spec.axes("axis")
        if more:
            spec.unsupported("goes over several axes at once, which has no rule")

    def forward(self, x: Value) -> Value:
        return x.like(self.run(x.tensor, dim=x.axis(self.axis)))


class Reduction(Layer):
    """Over axes of the value, which are kept with size 1 or left out."""

    def __init__(self, spec: Spec, function: Callable[..., Tensor]) -> None:
        super().__init__(spec)
        self.function, self.keep = function, spec.flag("keepdims")

    def forward(self, x: Value) -> Value:
        axes = range(x.ndim) if self.spec.get("axis") is None else self.spec.axes("axis")
        if any(axis % x.ndim == 0 for axis in axes):
            self.spec.unsupported("reduces the axis of the batch, which has no rule")
        if x.first and (self.keep or set(range(1, x.ndim - 1)) == {a % x.ndim for a in axes}):
            y = self.function(x.tensor, [x.axis(axis) for axis in axes], keepdim=self.keep)
            return Value(y, self.keep)
        return Value(self.function(x.plain(), list(axes), keepdim=self.keep))


class ReshapeOp(Layer):
    sizes = ("newshape",)

    def forward(self, x: Value) -> Value:
        target, plain = self.spec.sizes("newshape"), x.plain()
        if target[0] != -1 and -1 in target:
            self.spec.unsupported(f"has newshape={target}, which fixes the batch; write −1 there")
        sizes = resolved(self.spec, plain.shape[1:], target[1:])
        return Value(plain.reshape(plain.shape[0], *sizes))

    def resize(self, config: Json, weights: Mapping[str, Tensor], made: Made) -> None:
        target = self.spec.sizes("newshape")
        if made:
            put_shape(config, "newshape", [target[0], *told(target[1:], made[-1][1][1:])])


class Moved(Layer):
    """Axes in another order."""

    def forward(self, x: Value) -> Value:
        if self.spec.kind == "ops.Transpose":
            order = list(self.spec.axes("axes"))
        else:
            one, other = (self.spec.axes(key)[0] % x.ndim for key in ("axis1", "axis2"))
            order = list(range(x.ndim))
            order[one], order[other] = order[other], order[one]
        if sorted(order) != list(range(x.ndim)) or order[0] != 0:
            self.spec.unsupported(f"orders axes as {order}; the batch must stay the first")
        return Value(x.plain().permute(order))


class Sized(Layer):
    """Axes of size 1, put in or taken out."""

    def forward(self, x: Value) -> Value:
        plain = x.plain()
        if self.spec.get("axis") is None:
            self.spec.unsupported("has no axis")
        axes = self.spec.axes("axis")
        if self.spec.kind == "ops.ExpandDims":
            rank = x.ndim + len(axes)
            for axis in sorted(axis % rank for axis in axes):
                plain = plain.unsqueeze(axis) if axis else self._refused()
            return Value(plain)
        for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
            plain = plain.squeeze(axis) if axis else self._refused()
        return Value(plain)

    def _refused(self) -> Tensor:
        self.spec.unsupported("changes the axis of the batch, which has no rule")


class Matmul(Layer):
    def forward(self, a: Value, b: Value) -> Value:
        return Value(torch.matmul(a.plain(), b.plain()))


class Stack(Layer):
    def forward(self, given: list[Value]) -> Value:
        return Value(torch.stack([v.plain() for v in given], self.spec.axes("axis", 0)[0]))


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Spec], Layer]:
    return partial(Elementwise, function=lambda spec: function)


def _binary(function: Callable[..., Tensor]) -> Callable[[Spec], Layer]:
    return partial(Binary, function=function)


_NAMES = {  # names of functions in `activations` → of their operations
    "relu": "Relu", "relu6": "Relu6", "sigmoid": "Sigmoid", "tanh": "Tanh", "silu": "Silu", "selu": "Selu",
    "softplus": "Softplus", "softsign": "Softsign", "hard_sigmoid": "HardSigmoid", "hard_silu": "HardSilu",
    "log_sigmoid": "LogSigmoid", "hard_tanh": "HardTanh", "tanh_shrink": "TanhShrink", "exponential": "Exp",
}  # fmt: skip

OPERATIONS: dict[str, Callable[[Spec], Layer]] = {
    **{f"ops.{kind}": _unary(FUNCTIONS[name]) for name, kind in _NAMES.items()},
    "ops.Add": _binary(torch.add),
    "ops.Subtract": _binary(operator.sub),
    "ops.Multiply": _binary(torch.mul),
    "ops.TrueDivide": _binary(operator.truediv),
    "ops.Divide": _binary(operator.truediv),
    "ops.Power": _binary(operator.pow),
    "ops.NotEqual": _binary(torch.ne),  # makes masks
    "ops.Maximum": _binary(partial(_extreme, torch.maximum)),
    "ops.Minimum": _binary(partial(_extreme, torch.minimum)),
    "ops.Negative": _unary(torch.neg),
    "ops.Absolute": _unary(torch.abs),
    "ops.Abs": _unary(torch.abs),
    "ops.Square": _unary(torch.square),
    "ops.Sqrt": _unary(torch.sqrt),
    "ops.Rsqrt": _unary(torch.rsqrt),
    "ops.Log": _unary(torch.log),
    "ops.Erf": _unary(torch.erf),
    "ops.Clip": Clip,
    "ops.Gelu": partial(Elementwise, function=_gelu),
    "ops.LeakyRelu": partial(Elementwise, function=_leaky_relu),
    "ops.Elu": partial(Elementwise, function=_elu),
    "ops.Softmax": partial(AlongAxis, name="softmax"),
    "ops.LogSoftmax": partial(AlongAxis, name="log_softmax"),
    "ops.Mean": partial(Reduction, function=torch.mean),
    "ops.Sum": partial(Reduction, function=torch.sum),
    "ops.Max": partial(Reduction, function=torch.amax),
    "ops.Min": partial(Reduction, function=torch.amin),
    "ops.Reshape": ReshapeOp,
    "ops.Transpose": Moved,
    "ops.Swapaxes": Moved,
    "ops.ExpandDims": Sized,
    "ops.Squeeze": Sized,
    "ops.Concatenate": Concatenate,
    "ops.Stack": Stack,
    "ops.Matmul": Matmul,
    **SLICES,
}
