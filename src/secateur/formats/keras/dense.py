"""Layers that are one product with a matrix, and tables of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.formats.keras.activations import activation_of
from secateur.formats.keras.layer import Layer, Made, Variable
from secateur.formats.keras.spec import Json, Spec
from secateur.formats.keras.value import Value


class Dense(Layer):
    sizes = ("units",)
    weight: Tensor
    bias: Tensor | None

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.activation = activation_of(spec)
        self.register_parameter("bias", None)

    def variables(self) -> tuple[Variable, ...]:
        bias = (Variable("bias", "bias"),) if self.spec.flag("use_bias", True) else ()
        return (Variable("weight", "kernel", order=(1, 0), rank=2), *bias)

    def check(self) -> None:
        self.expect("units", len(self.weight))
        self.expect_shape("bias", len(self.weight))

    def forward(self, x: Value, *ignored: Any, **kwargs: Any) -> Value:
        return self.activation(Value(F.linear(x.plain(), self.weight, self.bias)))

    def resize(self, config: Json, weights: Mapping[str, Tensor], made: Made) -> None:
        config["units"] = len(weights["weight"])


class Embedding(Layer):
    sizes = ("output_dim",)
    weight: Tensor

    def variables(self) -> tuple[Variable, ...]:
        return (Variable("weight", "embeddings", rank=2),)

    def check(self) -> None:
        self.expect("input_dim", self.weight.shape[0])
        self.expect("output_dim", self.weight.shape[1])

    def forward(self, x: Value) -> Value:
        rows = x.plain()
        whole = rows if rows.dtype in (torch.int32, torch.int64) else rows.to(torch.int64)
        return Value(F.embedding(whole, self.weight))

    def resize(self, config: Json, weights: Mapping[str, Tensor], made: Made) -> None:
        config["output_dim"] = weights["weight"].shape[1]


LAYERS: dict[str, Callable[[Spec], Layer]] = {"Dense": Dense, "Embedding": Embedding}
