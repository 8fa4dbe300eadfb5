"""Recurrent layers, which stay whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.formats.gru import RESET_FIRST
from secateur.formats.keras.layer import Layer, Variable
from secateur.formats.keras.spec import Json, Spec
from secateur.formats.keras.value import Value

GATES = {"LSTM": (0, 1, 2, 3), "GRU": (1, 0, 2), "SimpleRNN": (0,)}  # torch's in Keras' order: zrh → rzn


@dataclass(frozen=True)
class Gates(Variable):
    """A weight whose last axis in Keras holds the gates one after the other."""

    gates: tuple[int, ...] = ()

    def to_torch(self, array: Tensor) -> Tensor:
        return super().to_torch(_reordered(array, self.gates))

    def to_keras(self, tensor: Tensor, config: Json) -> Tensor:
        back = tuple(self.gates.index(gate) for gate in range(len(self.gates)))
        return _reordered(super().to_keras(tensor, config), back).contiguous()


def _reordered(array: Tensor, gates: tuple[int, ...]) -> Tensor:
    pieces = array.chunk(len(gates), -1)
    return torch.cat([pieces[gate] for gate in gates], -1) if len(pieces) == len(gates) > 1 else array


class Recurrent(Layer):
    whole = True
    weight_ih: Tensor
    weight_hh: Tensor
    bias: Tensor
    zero: Tensor

    def __init__(self, spec: Spec, part: str = "cell", called: str = "") -> None:
        super().__init__(spec)
        self.part, self.called = part, called or cell_name(spec)
        self.backwards, self.sequences = spec.flag("go_backwards"), spec.flag("return_sequences")
        self.biased, self.reset_after = (
            spec.flag("use_bias", True),
            spec.flag("reset_after", not spec.keras_2),
        )
        wanted = {
            "activation": "tanh",
            **({} if spec.kind == "SimpleRNN" else {"recurrent_activation": "sigmoid"}),
        }
        self.rectified = spec.kind == "SimpleRNN" and spec.get("activation") == "relu"
        for key, usual in wanted.items():
            if spec.get(key, usual) != usual and not self.rectified:
                spec.unsupported(f"has {key}={str(spec.get(key))[:60]!r}; {usual} has a rule")
        for key in ("stateful", "return_state", "time_major"):
            if spec.flag(key):
                spec.unsupported(f"has {key}=True, which has no rule")

    def variables(self) -> tuple[Variable, ...]:
        two = self.spec.kind == "GRU" and self.reset_after
        found: tuple[Variable, ...] = (
            Variable("weight_ih", "kernel", order=(1, 0), rank=2),
            Variable("weight_hh", "recurrent_kernel", order=(1, 0), rank=2),
            *((Variable("bias", "bias", rank=2 if two else 1),) if self.biased else ()),
        )
        gates = GATES[self.spec.kind]
        return tuple(
            Gates(v.name, v.keras, self.part, self.called, v.order, rank=v.rank, gates=gates) for v in found
        )

    def check(self) -> None:
        units, count = self.spec.whole("units"), len(GATES[self.spec.kind])
        self.expect_shape("weight_ih", count * units, self.weight_ih.shape[1])
        self.expect_shape("weight_hh", count * units, units)
        two = self.spec.kind == "GRU" and self.reset_after
        self.expect_shape("bias", *((2, count * units) if two else (count * units,)))
        self.register_buffer("zero", torch.zeros(count * units, dtype=self.weight_ih.dtype), persistent=False)

    def forward(self, x: Value, *ignored: Any, **options: Any) -> Value:
        if any(isinstance(value, Value | list) for value in (*ignored, *options.values())):
            self.spec.unsupported("is given a state or a mask, which has no rule")
        steps = x.plain()
        steps = steps.flip(1) if self.backwards else steps
        weights = [self.weight_ih, self.weight_hh, *self._biases()]
        units, state = self.weight_hh.shape[1], None
        state = torch.zeros((1, steps.shape[0], units), dtype=steps.dtype, device=steps.device)
        given = [state, state] if self.spec.kind == "LSTM" else state
        y = self._run()(steps, given, weights, self.biased, 1, 0.0, False, False, True)[0]
        return Value(y if self.sequences else y[:, -1])

    def _biases(self) -> list[Tensor]:
        if not self.biased:
            return []
        return [self.bias[0], self.bias[1]] if self.bias.ndim == 2 else [self.bias, self.zero]

    def _run(self) -> Callable[..., Any]:
        if self.spec.kind == "LSTM":
            return torch.lstm
        if self.spec.kind == "SimpleRNN":
            return torch.rnn_relu if self.rectified else torch.rnn_tanh
        if self.reset_after:
            return torch.gru
        return RESET_FIRST


def cell_name(spec: Spec) -> str:
    return {"LSTM": "lstm_cell", "GRU": "gru_cell", "SimpleRNN": "simple_rnn_cell"}[spec.kind]


LAYERS: dict[str, Callable[[Spec], Layer]] = dict.fromkeys(GATES, Recurrent)
