"""The base class of the rules for layers: a torch module that knows its variables and its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from secateur.budget import budget
from secateur.formats.keras.spec import Json, Spec
from secateur.formats.keras.value import Value

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
# The shapes that the reshapes and group norms of a layer made and make, in the order in which they run.
Made = Sequence[tuple[Shape, Shape]]


def _unchanged(shape: Shape) -> Shape:
    return shape


def _unsplit(shape: Shape, config: Json) -> Shape:
    return shape


@dataclass(frozen=True)
class Variable:
    """A weight of a layer: its names in torch and in Keras, and how the one becomes the other.

    The axes are first put in `order`, then reshaped by `merge`; `split` undoes that, from the shape in torch
    and the configuration of the layer that has it.
    """

    name: str  # in torch
    keras: str  # in Keras
    part: str = ""  # attributes of the layer that lead to the one that owns it: "query_dense"
    called: str = ""  # the name of that one in HDF5 of Keras 2: "query"
    order: tuple[int, ...] = ()
    merge: Callable[[Shape], Shape] = _unchanged
    split: Callable[[Shape, Json], Shape] = _unsplit
    rank: int = 1  # in Keras
    trainable: bool = True

    def to_torch(self, array: Tensor) -> Tensor:
        moved = array.permute(self.order) if self.order else array
        return moved.reshape(self.merge(tuple(moved.shape))).contiguous()

    def to_keras(self, tensor: Tensor, config: Json) -> Tensor:
        moved = tensor.reshape(self.split(tuple(tensor.shape), config))
        back = [self.order.index(axis) for axis in range(len(self.order))]
        return (moved.permute(back) if back else moved).contiguous()


class Layer(nn.Module):
    """A layer of the file. A subclass says its variables, and computes on values in `forward`.

    Attributes:
        sizes: Numbers of the configuration that pruning makes smaller.
        whole: Whether the units that the layer reads and makes all stay.
    """

    sizes: ClassVar[tuple[str, ...]] = ()
    whole: ClassVar[bool] = False

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.training = False

    def variables(self) -> Sequence[Variable]:
        """In the order in which Keras makes them."""
        return ()

    def hold(self, arrays: Mapping[str, Tensor]) -> None:
        """Take the weights, by their names in torch, and check their shapes against the configuration."""
        for variable in self.variables():
            value = arrays[variable.name]
            if value.ndim != variable.rank:
                self.spec.refuse(
                    f"has {variable.keras} of shape {tuple(value.shape)}, not of {variable.rank} axes"
                )
            value = variable.to_torch(value)
            if value.numel() == 0:
                self.spec.refuse(f"has {variable.keras} of shape {tuple(value.shape)} without numbers")
            owner, leaf = self._owner_of(variable.name)
            if value.is_floating_point() and variable.trainable:
                owner.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
            else:
                owner.register_buffer(leaf, value)
        self.check()

    def _owner_of(self, name: str) -> tuple[nn.Module, str]:
        """The part of the layer that holds a weight, and the weight's name there: `query.weight`."""
        part, _, leaf = name.rpartition(".")
        if part and part not in self._modules:
            self.add_module(part, nn.Module().eval())
        return (self.get_submodule(part) if part else self), leaf

    def check(self) -> None:
        """Raise `InputError` where the weights do not fit the configuration."""

    def expect(self, key: str, found: int) -> None:
        """That a number of the configuration is the size of a weight."""
        if self.spec.whole(key) != found:
            self.spec.refuse(f"has {key}={self.spec.whole(key)} and weights for {found}")

    def expect_shape(self, name: str, *shape: int) -> None:
        """That a weight, where there is one, has this shape."""
        tensor: Any = self
        for part in name.split("."):
            tensor = getattr(tensor, part, None)
        if tensor is not None and tuple(tensor.shape) != shape:
            self.spec.refuse(f"has {name} of shape {tuple(tensor.shape)}; its other weights need {shape}")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def resize(self, config: Json, weights: Mapping[str, Tensor], made: Made) -> None:
        """Put into `config` the sizes that follow from smaller weights and from what reshapes make."""

    def rescaled(self, weights: Mapping[str, Tensor], config: Json) -> Mapping[str, Tensor]:
        """The weights to write, where the smaller configuration gives them another meaning."""
        return weights

    def afford(self, *shape: Any) -> None:
        """Refuse a value of this shape that does not fit in memory."""
        size = 4 * prod(n for n in shape if isinstance(n, int))
        if size > budget():
            self.spec.refuse(f"makes a value of {size:,} bytes; at most {budget():,} are made for one value")


class Elementwise(Layer):
    """A function of each element by itself, whatever the order of axes. `function` gives it."""

    def __init__(self, spec: Spec, function: Callable[[Spec], Callable[[Tensor], Tensor]]) -> None:
        super().__init__(spec)
        self.function = function(spec)

    def forward(self, x: Value, *ignored: Any, **kwargs: Any) -> Value:
        return x.like(self.function(x.tensor))


class Same(Layer):
    """A layer that only does something in training."""

    def forward(self, x: Value, *ignored: Any, **kwargs: Any) -> Value:
        return x


def as_tensor(array: Array, brain: bool = False) -> Tensor:
    """The numbers as torch has them; `brain`: they are bfloat16, read as integers."""
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if brain else tensor
