"""Functions of `keras.ops` that a functional model was built with: one row for each in `OPERATIONS`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.formats.keras.activations import ALONG_AXIS, FUNCTIONS
from secateur.formats.keras.layer import Elementwise, Layer, Made
from secateur.formats.keras.merging import Concatenate, values_of
from secateur.formats.keras.shaping import put_shape, resolved, told
from secateur.formats.keras.spec import Json, Spec
from secateur.formats.keras.value import Value, aligned

_SLICE = "__slice__"
_MOST_PARTS = 4096


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


class Cutting(Layer):
    """A layer that takes slices of a value, each by one op of its own."""

    def recut(self, raw: Json, ends: Sequence[tuple[int, int]]) -> None:
        """Put other ends of its slices, in their order, into the entry `raw` of the file."""
        raise NotImplementedError


class Split(Cutting):
    """Parts along one axis: as many of one size, or with these ends."""

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
    "ops.GetItem": GetItem,
    "ops.Split": Split,
}
