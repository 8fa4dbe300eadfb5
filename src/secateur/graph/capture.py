"""Capture a model as one flat graph of ATen ops, through `torch.export`, with the batch axis left free.

Everything downstream (coupling, bounds, shrinking) reads this graph and nothing else, so an importer for
another format has only to end in a `torch.export.ExportedProgram`.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from secateur.errors import CaptureError, InputError, few
from secateur.graph.apart import take_apart
from secateur.graph.batch import with_free_batch
from secateur.graph.example import ExampleInputs as ExampleInputs
from secateur.graph.example import at_least_two, leaves_for, split_inputs, tensors_in
from secateur.graph.export import export_program, unlifted
from secateur.graph.fitness import check_fit, check_quantised_ops, check_values, computed_weights
from secateur.graph.functional import make_functional
from secateur.graph.graph import Graph as Graph
from secateur.graph.imported import Imported
from secateur.graph.layouts import read_as_used
from secateur.graph.node import bound_arguments as bound_arguments
from secateur.graph.node import kind as kind
from secateur.graph.node import told as told
from secateur.graph.sources import layer_of
from secateur.graph.weights import check_finite


def capture(model: nn.Module | ExportedProgram, example_inputs: ExampleInputs | None = None) -> Graph:
    """Capture `model` as a `Graph`; the model itself is left as it is.

    Axis 0 of the inputs is the batch; a batch of one is doubled, since tracing would fix it. Arguments that
    are not tensors (None, truth values, numbers, text) become constants of the graph.

    Args:
        model: a module in eval mode, or an exported program.
        example_inputs: a tensor, a tuple of the model's arguments, or a dict of keyword arguments. Exported
            programs and imported models may bring their own.

    Raises:
        CaptureError: the model is no float module in eval mode (see `fitness`), its weights are not finite,
            it refuses the inputs, its control flow depends on data, it fixes the batch size, or the name of a
            layer has several lines.
        InputError: there are no example inputs, or they hold values that a graph cannot take.
    """
    if isinstance(model, nn.Module):
        for name, _ in model.named_modules():
            if len(name.splitlines()) > 1:
                raise CaptureError(f"torch.export cannot write a layer named {name!r}; give it one line")
    return graph_of(model, *_exported(model, example_inputs))


def graph_of(model: nn.Module | ExportedProgram, module: fx.GraphModule, leaves: list[Any]) -> Graph:
    """The graph of an export of `model`; `module` is changed. `leaves`: a value for each of its inputs."""
    check_quantised_ops(module.graph)
    check_values(dict(module.state_dict()))
    make_functional(module, leaves)
    if not (imported := isinstance(model, Imported)):
        take_apart(module)
    if isinstance(model, nn.Module):
        _note_computed_weights(module.graph, computed_weights(model))
    check_finite(module.graph, _tensors(module))
    layouts = read_as_used(module, _tensors(module), reshaped=not imported)
    tensors = _tensors(module)
    inputs = zip((n for n in module.graph.nodes if n.op == "placeholder"), leaves, strict=True)
    constants = {node.name: leaf for node, leaf in inputs if not isinstance(leaf, Tensor)}
    example = tuple(map(_ordinary, tensors_in(leaves)))
    names = model.input_names if isinstance(model, Imported) else ()
    aliases, own_form = _aliases(model, tensors), isinstance(model, Imported) and model.own_form
    return with_free_batch(Graph(module, tensors, aliases, example, constants, layouts, names, own_form))


def _exported(
    model: nn.Module | ExportedProgram, example_inputs: ExampleInputs | None
) -> tuple[fx.GraphModule, list[Any]]:
    """The model as a flat graph, and a value for each of its inputs."""
    if isinstance(model, ExportedProgram):
        return _flat_module(model), leaves_for(model, example_inputs)
    if example_inputs is None and isinstance(model, Imported):
        example_inputs = model.example_inputs
    if example_inputs is None:
        raise InputError("example_inputs is needed to capture an nn.Module: give one tensor of a legal input")
    check_fit(model)
    args, kwargs = at_least_two(*split_inputs(example_inputs))
    leaves = pytree.tree_leaves((args, kwargs))
    if not isinstance(model, Imported):
        return _flat_module(export_program(model, args, kwargs)), leaves
    model.check(args)
    return model.traced(lambda: _flat_module(export_program(model, args, kwargs))), leaves


def _flat_module(program: ExportedProgram) -> fx.GraphModule:
    """The program as a graph without submodules that changes none of its buffers."""
    if program.graph_signature.buffers_to_mutate:
        names = few([str(name) for name in program.graph_signature.buffers_to_mutate.values()])
        raise CaptureError(
            f"the model changes its own buffers when it runs ({names}); export it in eval mode"
        )
    module = unlifted(program)
    if not isinstance(module, fx.GraphModule):
        raise CaptureError(f"torch.export gave a {type(module).__name__}, not a graph")
    for nested in [n for n in module.graph.nodes if n.op == "call_module"]:
        raise CaptureError(f"the graph calls the submodule {nested.target}; export it as one flat graph")
    return module


def _note_computed_weights(graph: fx.Graph, notes: Mapping[str, str]) -> None:
    """Note at the ops of layers whose weights are computed in every pass why, and how to undo it."""
    for node in graph.nodes:
        layer = layer_of(node).partition(".parametrizations.")[0]
        if layer in notes and node.op == "call_function":
            node.meta["computed"] = notes[layer]


def _tensors(module: fx.GraphModule) -> dict[str, Tensor]:
    used = dict.fromkeys(str(n.target) for n in module.graph.nodes if n.op == "get_attr")
    values = {}
    for name in used:
        value = operator.attrgetter(name)(module)
        if not isinstance(value, Tensor):
            raise CaptureError(
                f"the graph reads {name}, a {type(value).__name__} and not a tensor (nested control flow)"
            )
        values[name] = _ordinary(value)
    return values


def _ordinary(value: Tensor) -> Tensor:
    """A contiguous tensor that gradients may use: the tensor itself where it is one, else a copy.

    Kernels round in another way in other memory formats.
    """
    value = value.detach()
    return (value.clone() if value.is_inference() else value).contiguous()


def _aliases(model: nn.Module | ExportedProgram, tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    if isinstance(model, ExportedProgram):
        return {name: (name,) for name in tensors}
    everything = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    names: dict[int, list[str]] = {}
    for name, value in everything:
        names.setdefault(id(value), []).append(name)
    by_name = {name: tuple(names[id(value)]) for name, value in everything}
    return {name: by_name.get(name, ()) for name in tensors}
