"""A pruned ONNX model: the user's file with smaller initializers, and constants that depend on their sizes.

Names, order of nodes, opset, metadata and free axes stay as they are. Which number of which constant follows
from units is read off the captured graph: a value of the model is found in it by name (see `places`), and its
shape after pruning is known there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.errors import UnsupportedOpError
from secateur.formats.onnx.edit import put_constant
from secateur.formats.onnx.heads import RULES as HEADS
from secateur.formats.onnx.host import host
from secateur.formats.onnx.model import OnnxGraph, Proto
from secateur.formats.onnx.node import Node
from secateur.formats.onnx.ops import tensor as as_tensor
from secateur.formats.onnx.sizes import RULES, Sizes, fixed
from secateur.formats.onnx.table import SETTINGS
from secateur.formats.onnx.tensors import to_proto
from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph, resized
from secateur.surgery.sizes import Alive


def shrunk(
    model: OnnxGraph, graph: Graph, coupling: Coupling, small: Mapping[str, Tensor], alive: Alive
) -> OnnxGraph:
    """A new model with the tensors of `small`, by their names in `graph`; `model` is left as it is."""
    import onnx

    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    _set_tensors(proto, model, graph, small)
    if all(tensor.shape == graph.tensors[name].shape for name, tensor in small.items()):
        return type(model)(proto)
    sizes = Sizes(model, graph, coupling, alive)
    rules = RULES | HEADS
    for node in model.nodes:
        if node.kind in rules:
            rules[node.kind](sizes, node)
    sizes.resolve()
    sizes.apply(proto)
    smaller = type(model)(proto)
    settled = _settle(proto, model, smaller, sizes, resized(graph, model.batch or 2))
    return type(model)(proto) if settled else smaller


def _settle(
    proto: Proto, model: OnnxGraph, smaller: OnnxGraph, sizes: Sizes, inputs: Sequence[Tensor]
) -> bool:
    """Constants in place of numbers that the model works out from shapes and that come out wrong now.

    Sizes that follow from a value which did not shrink; and data: the scale of attention, 1/√width, is still
    that of the full width. Whether there were any.
    """
    with torch.no_grad():
        full = model.values(inputs, everything=True)
    by_output = {n.output[0]: n for n in proto.graph.node}
    env: dict[str, Any] = {v.name: x for v, x in zip(smaller.inputs, inputs, strict=True)}
    new = dict[str, Tensor]()

    def put(node: Node, position: int, value: Tensor) -> None:
        name = f"{node.inputs[position]}_pruned_{len(new)}"
        new[name] = value
        by_output[node.outputs[0]].input[position] = name

    for node in smaller.nodes:
        given = smaller.arguments(node, env)
        makes_tensors = any(isinstance(full.get(name), Tensor) for name in node.outputs)
        for i, name in enumerate(node.inputs):
            wanted = sizes.wanted.get((node.outputs[0], i), {})
            if any(int(given[i].reshape(-1)[place]) != size for place, size in wanted.items()):
                told = [wanted.get(place, size) for place, size in enumerate(sizes.numbers(node, i))]
                put(node, i, fixed(node, told))
                flat = list(given[i].reshape(-1))
                given[i] = host([wanted.get(place, size) for place, size in enumerate(flat)])
            is_data = makes_tensors and i not in SETTINGS.get(node.kind, ())
            if is_data and _differs(given[i], full.get(name)):
                given[i] = full[name]
                put(node, i, as_tensor(full[name], _floating(model)))
        with torch.no_grad():
            env.update(zip(node.outputs, smaller.call(node, given), strict=False))
    proto.graph.initializer.extend(to_proto(value, name) for name, value in new.items())
    return bool(new)


def _differs(value: Any, old: Any) -> bool:
    """Whether the number was another one in the model at full size."""
    return isinstance(old, np.ndarray) and bool(value.tolist() != old.tolist())


def _floating(model: OnnxGraph) -> Tensor:
    return next(t for t in model.constants.values() if t.is_floating_point())


def _set_tensors(proto: Proto, model: OnnxGraph, graph: Graph, small: Mapping[str, Tensor]) -> None:
    names = {path: name for name, path in model.paths.items()}
    for path, tensor in small.items():
        if path not in names:
            if tensor.shape != graph.tensors[path].shape:
                raise UnsupportedOpError(
                    f"{path} of shape {tuple(tensor.shape)} stands nowhere in the ONNX model"
                )
            continue
        name = names[path]
        old = model.constants[name]
        if name in model.transposed:
            tensor = tensor.t()
        elif name in model.flat:
            tensor = tensor.reshape([n if n == 1 else -1 for n in old.shape])
        if not torch.equal(tensor, old):
            put_constant(proto, name, tensor.to(old.dtype))
