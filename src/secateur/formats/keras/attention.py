"""Attention, with several heads and without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import sqrt
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from secateur.formats.keras.layer import Layer, Made, Shape, Variable
from secateur.formats.keras.spec import Json, Spec
from secateur.formats.keras.value import Value

_PROJECTIONS = ("query", "key", "value")


def _joined(shape: Shape) -> Shape:
    """(heads, width, …) → (heads · width, …)"""
    return (shape[0] * shape[1], *shape[2:])


def _by_head(shape: Shape, config: Json) -> Shape:
    heads = int(config["num_heads"])
    return (heads, shape[0] // heads, *shape[1:])


def _joined_last(shape: Shape) -> Shape:
    return (shape[0], shape[1] * shape[2])


def _by_head_last(shape: Shape, config: Json) -> Shape:
    heads = int(config["num_heads"])
    return (shape[0], heads, shape[1] // heads)


class MultiHeadAttention(Layer):
    """Kernels (inputs, heads, width) become matrices (heads · width, inputs)."""

    sizes = ("num_heads", "key_dim", "value_dim", "output_shape")
    output: Any  # holds the weight and the bias of the last projection, as `query`, `key` and `value` theirs

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.heads, self.key_dim = spec.whole("num_heads"), spec.whole("key_dim")
        self.value_dim = spec.whole("value_dim") if spec.get("value_dim") else self.key_dim
        for key in ("use_gate", "sliding_window", "flash_attention"):
            if spec.get(key):
                spec.unsupported(f"has {key}={spec.get(key)}, which has no rule")
        if not self.heads or not self.key_dim:
            spec.refuse("has no heads, or heads of no width")
        self.scale = 1 / sqrt(self.key_dim)

    def variables(self) -> tuple[Variable, ...]:
        biased, found = self.spec.flag("use_bias", True), list[Variable]()
        for name in _PROJECTIONS:
            at = (f"{name}_dense", name)
            found.append(Variable(f"{name}.weight", "kernel", *at, (1, 2, 0), _joined, _by_head, 3))
            if biased:
                found.append(Variable(f"{name}.bias", "bias", *at, (), _joined, _by_head, 2))
        at = ("output_dense", "attention_output")
        found.append(Variable("output.weight", "kernel", *at, (2, 0, 1), _joined_last, _by_head_last, 3))
        return (*found, Variable("output.bias", "bias", *at)) if biased else tuple(found)

    def check(self) -> None:
        for name, width in zip(_PROJECTIONS, (self.key_dim, self.key_dim, self.value_dim), strict=True):
            rows = self.heads * width
            self.expect_shape(f"{name}.weight", rows, getattr(self, name).weight.shape[1])
            self.expect_shape(f"{name}.bias", rows)
        outputs = len(self.output.weight)
        self.expect_shape("output.weight", outputs, self.heads * self.value_dim)
        self.expect_shape("output.bias", outputs)

    def forward(
        self, query: Value, value: Value, key: Value | None = None, *more: Any, **options: Any
    ) -> Value:
        masked = any(isinstance(x, Value) for x in (*more, *options.values()))
        if query.ndim != 3 or value.ndim != 3 or masked or options.get("return_attention_scores"):
            self.spec.unsupported(
                "has masks, scores as outputs, or values not of three axes, which have no rule"
            )
        given = {"query": query, "key": value if key is None else key, "value": value}
        widths = {"query": self.key_dim, "key": self.key_dim, "value": self.value_dim}
        q, k, v = (self._projected(name, given[name].plain(), widths[name]) for name in _PROJECTIONS)
        causal = bool(options.get("use_causal_mask"))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=self.scale)
        return Value(F.linear(y.transpose(1, 2).flatten(2), self.output.weight, self._bias("output")))

    def _projected(self, name: str, x: Tensor, width: int) -> Tensor:
        """Shape: (n, heads, steps, width)."""
        y = F.linear(x, getattr(self, name).weight, self._bias(name))
        return y.reshape(y.shape[0], y.shape[1], self.heads, width).transpose(1, 2)

    def _bias(self, name: str) -> Tensor | None:
        return getattr(getattr(self, name), "bias", None)

    def resize(self, config: Json, weights: Mapping[str, Tensor], made: Made) -> None:
        sizes = [after for _, after in made if len(after) == 4]
        if sizes:
            (*_, heads, key_dim), _, (*_, value_dim) = sizes[:3]
            config |= {"num_heads": heads, "key_dim": key_dim, "value_dim": value_dim}
        outputs = len(weights["output.weight"])
        if config.get("output_shape") is not None or outputs != weights["query.weight"].shape[1]:
            config["output_shape"] = [outputs]

    def rescaled(self, weights: Mapping[str, Tensor], config: Json) -> Mapping[str, Tensor]:
        """Queries with which 1/√(new width) gives what 1/√(old width) gave."""
        factor = sqrt(int(config["key_dim"]) / self.key_dim)
        return {n: t * factor if n.startswith("query.") and factor != 1 else t for n, t in weights.items()}


class Attention(Layer):
    """softmax(q kᵀ) v, without projections."""

    scale: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        spec.choice("score_mode", ("dot",), "dot")

    def variables(self) -> tuple[Variable, ...]:
        return (Variable("scale", "scale", rank=0),) if self.spec.flag("use_scale") else ()

    def forward(self, given: list[Value], **options: Any) -> Value:
        masked = any(isinstance(value, Value | list) for value in options.values())
        if masked or options.get("return_attention_scores") or not 2 <= len(given) <= 3:
            self.spec.unsupported("has masks or scores as outputs, which have no rule")
        q, v, k = (x.plain() for x in (*given, given[1])[:3])
        q = q * self.scale if self.spec.flag("use_scale") else q
        causal = bool(options.get("use_causal_mask"))
        return Value(F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=1.0))


LAYERS: dict[str, Callable[[Spec], Layer]] = {
    "MultiHeadAttention": MultiHeadAttention,
    "Attention": Attention,
}
