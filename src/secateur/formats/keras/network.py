"""A sequential or functional model as a torch module, its layers under their own names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from keyword import iskeyword
from typing import Any

from torch import nn

from secateur.errors import InputError, SecateurError
from secateur.formats.keras.calls import Call, Ref, filled, functional_calls, structure_refs
from secateur.formats.keras.spec import Spec, spec_of
from secateur.formats.keras.table import layer_of
from secateur.formats.keras.value import Value
from secateur.graph.export import first_line

MODELS = ("Sequential", "Functional", "Model")
_MOST_LAYERS = 20_000
_DEEPEST = 32  # models in models
USE_MASKS = ("GlobalAveragePooling1D",)
_IGNORE_MASKS = ("BatchNormalization", "TimeDistributed")
_FAILURES = (RuntimeError, TypeError, ValueError, ArithmeticError, IndexError, KeyError, AttributeError)
_RESERVED = ("source", "stored")  # attributes that a model gets once it has its layers
Shapes = dict[tuple[str, int], tuple[list[tuple[int, ...]], list[tuple[int, ...]]]]


class Network(nn.Module):
    """The layers of a model and the order in which they run.

    `layers` has every layer but the inputs by its name in the file; `seen` collects, where it is a dict, the
    shapes that each call takes and gives.
    """

    def __init__(self, spec: Spec, depth: int = 0) -> None:
        super().__init__()
        self.spec, self.training = spec, False
        self.seen: Shapes | None = None
        if depth > _DEEPEST:
            raise InputError(f"{spec} is one of more than {_DEEPEST} models in each other")
        self.specs = specs_of(spec)
        self.calls, self.inputs, self.outputs = _wiring(spec, self.specs)
        self.layers = dict[str, nn.Module]()
        for own in self.specs:
            if own.kind != "InputLayer":
                self.layers[own.name] = module = _module_of(own, depth)
                self.add_module(_free_name(self, own.name), module)

    def forward(self, *given: Any, **ignored: Any) -> Any:
        """Run as a layer of another model."""
        outputs = self.run(_flat_values(given))
        return outputs[0] if len(outputs) == 1 else outputs

    def run(self, given: Sequence[Value]) -> list[Value]:
        if len(given) != len(self.inputs):
            names = ", ".join(ref.layer for ref in self.inputs)
            raise InputError(f"{self.spec} takes {len(self.inputs)} inputs ({names}), not {len(given)}")
        env: dict[tuple[str, int], list[Value]] = {
            (ref.layer, ref.call): [x] for ref, x in zip(self.inputs, given, strict=True)
        }
        if self.seen is not None:
            self.seen |= {key: ([], [x.shape]) for key, (x,) in env.items()}
        for call in self.calls:
            if call.key not in env:
                env[call.key] = self._called(call, env)
        return [self._output(ref, env) for ref in self.outputs]

    def _output(self, ref: Ref, env: dict[tuple[str, int], list[Value]]) -> Value:
        found = env.get((ref.layer, ref.call), [])
        if ref.output >= len(found):
            raise InputError(f"{self.spec} gives {ref}, which there is not")
        return found[ref.output]

    def _called(self, call: Call, env: dict[tuple[str, int], list[Value]]) -> list[Value]:
        for ref in call.refs():
            self._output(ref, env)
        args, kwargs = filled(call.args, env), filled(call.kwargs, env)
        layer: Any = self.layers[call.layer]
        kwargs = _used(layer.spec, kwargs)
        try:
            result = layer(*args, **kwargs)
        except SecateurError:
            raise
        except _FAILURES as error:
            shapes = [v.shape for v in _flat_values([args, list(kwargs.values())])]
            raise InputError(
                f"{layer.spec} cannot be run on values of shapes {shapes}: {first_line(error)}"
            ) from error
        results = result if isinstance(result, list) else [result]
        if self.seen is not None:
            taken = [tuple(v.shape) for v in _flat_values([args, list(kwargs.values())])]
            self.seen[call.key] = taken, [tuple(v.shape) for v in results]
        return results

    def input_specs(self) -> list[Spec]:
        """The inputs as the file describes them."""
        by_name = {spec.name: spec for spec in self.specs}
        return [by_name[ref.layer] for ref in self.inputs]


def _used(spec: Spec, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The named arguments that matter: no mode, and no mask but where one has a rule."""
    kwargs = {name: value for name, value in kwargs.items() if name != "training" and value is not None}
    if isinstance(kwargs.get("mask"), Value) and spec.kind not in (*_IGNORE_MASKS, *USE_MASKS):
        spec.unsupported("is given a mask, which has no rule; build the model with mask_zero=False")
    return {name: value for name, value in kwargs.items() if name != "mask" or spec.kind in USE_MASKS}


def _flat_values(given: Any) -> list[Value]:
    if isinstance(given, Value):
        return [given]
    inner = given.values() if isinstance(given, dict) else given if isinstance(given, list | tuple) else ()
    return [value for part in inner for value in _flat_values(part)]


def specs_of(spec: Spec) -> list[Spec]:
    """The layers of a model as the file describes them; a sequential one without an input gets one."""
    layers = spec.config.get("layers")
    if not isinstance(layers, list) or not 0 < len(layers) <= _MOST_LAYERS:
        spec.refuse("has no layers, or too many")
    specs = [spec_of(raw, spec.keras_2) for raw in layers]
    if spec.kind == "Sequential" and specs[0].kind != "InputLayer":
        shape = spec.get("build_input_shape") or specs[0].get("batch_input_shape")
        if shape is None:
            spec.refuse("does not tell the shape of its input; save it once it was built or called")
        config = {"name": f"{spec.name}_input", "batch_shape": shape, "dtype": specs[0].get("dtype")}
        specs.insert(0, Spec("InputLayer", f"{spec.name}_input", config, {}, spec.keras_2))
    names = [own.name for own in specs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        spec.refuse(f"has two layers called {twice!r}")
    return specs


Wiring = tuple[list[Call], list[Ref], list[Ref]]  # the calls, and what the inputs and outputs are


def _wiring(spec: Spec, specs: list[Spec]) -> Wiring:
    return _chain(spec, specs) if spec.kind == "Sequential" else _graph(spec, specs)


def _chain(spec: Spec, specs: list[Spec]) -> Wiring:
    chain = [Call(specs[0].name, 0, [], {})]
    for own in specs[1:]:
        if own.kind == "InputLayer":
            spec.refuse(f"has a second input, {own.name!r}")
        chain.append(Call(own.name, 0, [Ref(chain[-1].layer, 0, 0)], {}))
    return chain, [Ref(specs[0].name, 0, 0)], [Ref(chain[-1].layer, 0, 0)]


def _graph(spec: Spec, specs: list[Spec]) -> Wiring:
    calls = functional_calls(specs)
    known = {call.key for call in calls}
    inputs = structure_refs(spec.config.get("input_layers"), f"{spec}: input_layers")
    outputs = structure_refs(spec.config.get("output_layers"), f"{spec}: output_layers")
    outputs = [  # models in a model count their calls from 1 here
        replace(ref, call=ref.call - 1) if (ref.layer, ref.call) not in known and ref.call > 0 else ref
        for ref in outputs
    ]
    for ref in (*inputs, *outputs):
        if (ref.layer, ref.call) not in known:
            spec.refuse(f"has {ref} as an input or output, which is not in the model")
    declared = {own.name for own in specs if own.kind == "InputLayer"}
    if {ref.layer for ref in inputs} != declared or not inputs or not outputs:
        spec.refuse("has no inputs or no outputs, or other inputs than its layers of class InputLayer")
    return calls, inputs, outputs


def _module_of(spec: Spec, depth: int) -> nn.Module:
    if spec.kind in MODELS:
        return Network(spec, depth + 1)
    return layer_of(spec)


def _free_name(owner: nn.Module, name: str) -> str:
    """The name, as far as torch can hold it: names become code where torch writes its graphs out."""
    plain = re.sub(r"[^\w/:-]", "_", name, flags=re.ASCII)
    plain = f"{plain}_" if iskeyword(plain) or plain == "self" else plain
    while hasattr(owner, plain) or plain in _RESERVED:
        plain += "_"
    return plain
