"""A pruned Keras model: the user's file with smaller weights, and the sizes of the configuration that follow.

Names, order, compile configuration and metadata stay as they are.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from secateur.formats.keras.layer import Layer, Made
from secateur.formats.keras.model import KerasGraph
from secateur.formats.keras.shapes import write_shapes
from secateur.formats.keras.slices import Cutting
from secateur.formats.keras.spec import Json
from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.graph.node import bound_arguments, kind
from secateur.graph.ops import of
from secateur.surgery.sizes import Alive, alive_units, kept_along, kept_shape

Array = np.ndarray[Any, Any]
_MAKES_SHAPES = {*of("reshape"), "unflatten", "group_norm"}


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
    write_shapes(smaller, [x[:1] for x in graph.example])
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
        keep = kept_along(coupling.levels(a["self"]), a["dim"], table)
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
        before = tuple(coupling.units[node].shape)
        found.setdefault(path, []).append((before, tuple(kept_shape(coupling.levels(node), table))))
    return dict(found)
