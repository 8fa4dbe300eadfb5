"""The shapes of values in the configuration of a model: of what layers are built with, and between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.formats.keras.calls import KERAS_TENSOR, is_history
from secateur.formats.keras.network import Network
from secateur.formats.keras.spec import Json

_INPUT_SHAPES = ("batch_shape", "batch_input_shape")


def write_shapes(model: Network, inputs: Sequence[Tensor]) -> None:
    """Put the shapes that values have now in the place of those that the configuration tells."""
    networks = [part for part in model.modules() if isinstance(part, Network)]
    for network in networks:
        network.seen = {}
    try:
        with torch.no_grad():
            model(*inputs)
        _of_network(model)
    finally:
        for network in networks:
            network.seen = None


def _of_network(network: Network) -> None:
    seen = network.seen or {}
    gave = {key: outputs for key, (_, outputs) in seen.items()}
    for spec in network.specs:
        taken = seen.get((spec.name, 0), ([], []))[0]
        _set_tensors(spec.raw.get("inbound_nodes"), gave)
        _set_built(spec.raw, taken)
        for key in ("layer", "backward_layer"):
            if isinstance(spec.config.get(key), dict):
                _set_built(spec.config[key], taken)
        inner = network.layers.get(spec.name)
        if isinstance(inner, Network):
            _set_inputs(inner, taken)
            _of_network(inner)


def _set_tensors(value: Any, gave: Mapping[tuple[str, int], Sequence[Sequence[int]]]) -> None:
    """In the arguments of calls, which tell the shape of each value."""
    if isinstance(value, list):
        for inner in value:
            _set_tensors(inner, gave)
    elif isinstance(value, dict) and value.get("class_name") == KERAS_TENSOR:
        config = value["config"]
        history = config.get("keras_history")
        if is_history(history) and (history[0], history[1]) in gave and "shape" in config:
            config["shape"] = _renewed(config["shape"], gave[history[0], history[1]][history[2]])
    elif isinstance(value, dict):
        for inner in value.values():
            _set_tensors(inner, gave)


def _set_built(raw: Json, taken: Sequence[Sequence[int]]) -> None:
    """In what a layer is built with."""
    built = raw.get("build_config")
    if not isinstance(built, dict) or not taken:
        return
    if "input_shape" in built:
        built["input_shape"] = _renewed(built["input_shape"], taken[0], taken)
    shapes = built.get("shapes_dict")
    if isinstance(shapes, dict):
        for key, shape in zip(list(shapes), taken, strict=False):
            shapes[key] = _renewed(shapes[key], shape, taken)


def _set_inputs(network: Network, taken: Sequence[Sequence[int]]) -> None:
    """In the inputs of a model within a model."""
    for ref, shape in zip(network.inputs, taken, strict=False):
        for spec in network.specs:
            if spec.name == ref.layer or spec is network.specs[min(1, len(network.specs) - 1)]:
                for key in _INPUT_SHAPES:
                    if key in spec.config:
                        spec.config[key] = _renewed(spec.config[key], shape)
    if "build_input_shape" in network.spec.config and taken:
        network.spec.config["build_input_shape"] = _renewed(
            network.spec.config["build_input_shape"], taken[0]
        )


def _renewed(old: Any, new: Sequence[int], several: Sequence[Sequence[int]] = ()) -> Any:
    """The shape `new` as the file writes it: free axes stay free; of a list of shapes each by its own."""
    if isinstance(old, dict) and "items" in old:
        return old | {"items": _renewed(old["items"], new, several)}
    if not isinstance(old, list):
        return old
    if old and all(isinstance(part, list | dict) for part in old):
        return [_renewed(part, shape) for part, shape in zip(old, several or [new], strict=False)]
    ending = list(new)[len(new) - len(old) + 1 :] if len(old) > 1 else []  # a wrapped layer has fewer axes
    if len(ending) != len(old) - 1:
        return old
    return [old[0], *(None if size is None else int(n) for size, n in zip(old[1:], ending, strict=True))]
