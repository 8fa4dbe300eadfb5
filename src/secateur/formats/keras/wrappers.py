"""Layers that hold another layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from secateur.formats.keras.activations import LAYERS as ACTIVATIONS
from secateur.formats.keras.dense import Dense
from secateur.formats.keras.layer import Layer, Made, Same, Variable
from secateur.formats.keras.norms import LayerNorm
from secateur.formats.keras.recurrent import GATES, Recurrent, cell_name
from secateur.formats.keras.spec import Json, Spec, spec_of
from secateur.formats.keras.value import Value

# Layers that work on the last axis, and so do the same at every step.
_AT_EVERY_STEP: dict[str, Callable[[Spec], Layer]] = {
    **ACTIVATIONS,
    "Dense": Dense,
    "Dropout": Same,
    "LayerNormalization": LayerNorm,
}


def _inner(raw: Any, outer: Spec) -> Spec:
    if not isinstance(raw, dict):
        outer.refuse("wraps no layer")
    return spec_of(raw, outer.keras_2)


class TimeDistributed(Layer):
    sizes = ("layer",)

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        own = _inner(spec.get("layer"), spec)
        if own.kind not in _AT_EVERY_STEP:
            spec.unsupported(f"wraps {own}, which has no rule; {', '.join(_AT_EVERY_STEP)} have")
        self.layer = _AT_EVERY_STEP[own.kind](own)

    def variables(self) -> tuple[Variable, ...]:
        own = self.layer.spec.name
        return tuple(
            replace(v, name=f"layer.{v.name}", part="layer", called=own) for v in self.layer.variables()
        )

    def hold(self, arrays: Mapping[str, Tensor]) -> None:
        self.layer.hold({v.name: arrays[f"layer.{v.name}"] for v in self.layer.variables()})

    def forward(self, x: Value, *ignored: Any, **kwargs: Any) -> Any:
        return self.layer(Value(x.plain()))

    def resize(self, config: Json, weights: Mapping[str, Tensor], made: Made) -> None:
        own = {name.removeprefix("layer."): value for name, value in weights.items()}
        self.layer.resize(config["layer"]["config"], own, made)


class Bidirectional(Layer):
    """A recurrent layer forwards and one backwards, and what their outputs are merged to."""

    whole = True
    backward_layer: Recurrent

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        specs = [_inner(spec.get("layer"), spec)]
        specs.append(self._backward(specs[0]))
        for name, own in zip(("forward_layer", "backward_layer"), specs, strict=True):
            if own.kind not in GATES:
                spec.unsupported(f"wraps {own}, which has no rule; {', '.join(GATES)} have")
            self.add_module(name, Recurrent(own, f"{name}/cell", f"{own.name}/{cell_name(own)}"))
        self.merge = spec.choice("merge_mode", ("concat", "sum", "mul", "ave"), "concat")

    def _backward(self, forward: Spec) -> Spec:
        if self.spec.get("backward_layer"):
            return _inner(self.spec.get("backward_layer"), self.spec)
        name = f"backward_{forward.name.removeprefix('forward_')}"
        turned = not forward.flag("go_backwards")
        return replace(forward, name=name, config=forward.config | {"go_backwards": turned, "name": name})

    def directions(self) -> list[tuple[str, Recurrent]]:
        return [(name, getattr(self, name)) for name in ("forward_layer", "backward_layer")]

    def variables(self) -> tuple[Variable, ...]:
        return tuple(
            replace(v, name=f"{name}.{v.name}")
            for name, layer in self.directions()
            for v in layer.variables()
        )

    def hold(self, arrays: Mapping[str, Tensor]) -> None:
        for name, layer in self.directions():
            layer.hold({v.name: arrays[f"{name}.{v.name}"] for v in layer.variables()})

    def forward(self, x: Value, *ignored: Any, **options: Any) -> Value:
        forward, backward = (layer(x, **options).tensor for _, layer in self.directions())
        if self.backward_layer.sequences:
            backward = backward.flip(1)
        return Value(_MERGES[self.merge](forward, backward))


_MERGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "concat": lambda a, b: torch.cat([a, b], -1),
    "sum": torch.add,
    "mul": torch.mul,
    "ave": lambda a, b: (a + b) / 2,
}

LAYERS: dict[str, Callable[[Spec], Layer]] = {
    "TimeDistributed": TimeDistributed,
    "Bidirectional": Bidirectional,
}
