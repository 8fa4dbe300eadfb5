"""A pruned Keras model: the user's file with smaller weights, and the sizes of the configuration that follow.

Names, order, compile configuration and metadata stay as they are.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from secateur.formats.keras.calls import KERAS_TENSOR, is_history
from secateur.formats.keras.layer import Layer, Made
from secateur.formats.keras.model import KerasGraph
from secateur.formats.keras.network import Network
from secateur.formats.keras.operations import Cutting
from secateur.formats.keras.spec import Json
from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.graph.node import bound_arguments, kind
from secateur.graph.ops import of
from secateur.surgery.sizes import Alive, alive_units, kept_along, kept_shape

Array = np.ndarray[Any, Any]
_MAKES_SHAPES = {*of("reshape"), "unflatten", "group_norm"}
_INPUT_SHAPES = ("batch_shape", "batch_input_shape")


def shrunk(
    model: KerasGraph,
    graph: Graph,
    coupling: Coupling,
    small: Mapping[str, Tensor],
    alive: Alive,
) -> KerasGraph:
    """A new model with the tensors of `small`, by their names in `graph`; `model` is left as it is."""
    weights = _weights_of(model, graph, small)
    made, ends = _made_shapes(graph, coupling, alive), _kept_ends(graph, coupling, alive)
    copies = dict[int, Any]()
    config: Json = copy.deepcopy(model.source.config, copies)
    written = dict[str, Tensor]()
    for name, layer in model.named_modules():
        if not isinstance(layer, Layer) or id(layer.spec.config) not in copies:
            continue
        own: Json = copies[id(layer.spec.config)]
        mine = {v.name: weights[f"{name}.{v.name}"] for v in layer.variables()}
        layer.resize(own, mine, made.get(name, ()))
        if isinstance(layer, Cutting) and name in ends:
            layer.recut(copies[id(layer.spec.raw)], ends[name])
        mine = dict(layer.rescaled(mine, own))
        for one in model.stored:
            if one.layer is layer:
                written[one.path] = one.variable.to_keras(mine[one.variable.name], own)
    arrays = {**model.source.arrays, **{path: as_array(tensor) for path, tensor in written.items()}}
    smaller = type(model)(model.source.with_config(config, arrays))
    _write_shapes(smaller, [x[:1] for x in graph.example])
    return smaller


def array_of(model: KerasGraph) -> Callable[[str], Array]:
    """The function that gives the array at a path of the file, in the layout of Keras."""
    stored = {one.path: one for one in model.stored}

    def array(path: str) -> Array:
        if path not in stored:
            return model.source.arrays[path]
        one = stored[path]
        tensor: Any = one.layer
        for part in one.variable.name.split("."):
            tensor = getattr(tensor, part)
        return as_array(one.variable.to_keras(tensor, one.layer.spec.config))

    return array


def as_array(tensor: Tensor) -> Array:
    """bfloat16 as integers of two bytes."""
    tensor = tensor.detach().cpu()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _weights_of(model: KerasGraph, graph: Graph, small: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor of the model by its path: the smaller one, or its own where the graph does not read it."""
    names = {alias: name for name, aliases in graph.aliases.items() for alias in (name, *aliases)}
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {path: small[names[path]] if names.get(path) in small else value for path, value in own.items()}


def _kept_ends(graph: Graph, coupling: Coupling, alive: Alive) -> dict[str, list[tuple[int, int]]]:
    """Path of a layer → where its slices begin and end now, if any of their axes lost units."""
    table, found = alive_units(coupling, alive), dict[str, list[tuple[int, int]]]()
    moved = set[str]()
    for path, node in _nodes_by_layer(graph, {"slice"}):
        a = bound_arguments(node, node.args, node.kwargs)
        keep = kept_along(coupling.units[a["self"]], a["dim"], table)
        start, stop, _ = slice(a["start"], a["end"]).indices(len(keep))
        found.setdefault(path, []).append((int(keep[:start].sum()), int(keep[:stop].sum())))
        moved |= set() if bool(keep.all()) else {path}
    return {path: ends for path, ends in found.items() if path in moved}


def _nodes_by_layer(graph: Graph, kinds: set[str]) -> Iterator[tuple[str, fx.Node]]:
    """(path of the layer that made it, node) for each op of these kinds."""
    for node in graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if node.op == "call_function" and stack and kind(node) in kinds:
            yield re.sub(r"@\d+", "", str(list(stack.values())[-1][0])), node


def _made_shapes(graph: Graph, coupling: Coupling, alive: Alive) -> dict[str, Made]:
    """Path of a layer → the shapes that its reshapes and group norms made and make."""
    table, found = alive_units(coupling, alive), dict[str, list[tuple[Any, Any]]]()
    for path, node in _nodes_by_layer(graph, _MAKES_SHAPES):
        units = coupling.units[node]
        found.setdefault(path, []).append((tuple(units.shape), tuple(kept_shape(units, table))))
    return dict(found)


# --- shapes in the configuration ----------------------------------------------------------------------------


def _write_shapes(model: KerasGraph, inputs: Sequence[Tensor]) -> None:
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
