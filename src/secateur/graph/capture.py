"""Capture a model as one flat graph of ATen ops, through `torch.export`, with the batch axis left free.

Everything downstream (coupling, bounds, shrinking) reads this graph and nothing else, so an importer for
another format has only to end in a `torch.export.ExportedProgram`.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from secateur.errors import CaptureError, InputError, few
from secateur.graph.example import ExampleInputs as ExampleInputs
from secateur.graph.example import at_least_two, leaves_for, split_inputs, tensors_in
from secateur.graph.export import export_program, first_line, unlifted
from secateur.graph.fitness import check_fit, check_quantised_ops, check_values, computed_weights
from secateur.graph.functional import make_functional
from secateur.graph.imported import Imported
from secateur.graph.layouts import Layout, read_as_used
from secateur.graph.node import bound_arguments as bound_arguments
from secateur.graph.node import kind as kind
from secateur.graph.node import told as told
from secateur.graph.sources import described, layer_of
from secateur.graph.structured import is_size
from secateur.graph.weights import check_finite

Copied = TypeVar("Copied")

_VIEWS = {"reshape", "expand"}  # ops that may carry the example's batch size as a constant


@dataclass(frozen=True, eq=False)
class Graph:
    """A captured model. Nodes are `placeholder` (inputs), `get_attr` (tensors), `call_function` (ops) and
    `output`.
    """

    module: fx.GraphModule
    tensors: dict[str, Tensor]  # parameters, buffers and constants by their names in the model
    aliases: dict[
        str, tuple[str, ...]
    ]  # name → every name of the tensor in the model (tied weights; none: a constant)
    example: tuple[Tensor, ...]  # flat inputs, batch of at least 2
    constants: dict[str, Any] = field(
        default_factory=dict
    )  # placeholder → value; arguments that are no tensors
    layouts: Mapping[str, Layout] = field(
        default_factory=dict
    )  # of tensors that the model stores in another way

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        """All nodes but the constant arguments, which nothing reads."""
        return tuple(n for n in self.module.graph.nodes if n.name not in self.constants)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the tensors that are parameters; the others are buffers and constants."""
        return tuple(n for n in self.tensors if isinstance(operator.attrgetter(n)(self.module), nn.Parameter))

    @property
    def inputs(self) -> tuple[fx.Node, ...]:
        return tuple(n for n in self.nodes if n.op == "placeholder")

    @property
    def outputs(self) -> tuple[fx.Node, ...]:
        """The nodes whose tensors the model returns, in the flattened order of its output; sizes are none."""
        (output,) = (n for n in self.nodes if n.op == "output")
        found = (n for n in pytree.tree_leaves(output.args[0]) if isinstance(n, fx.Node))
        return tuple(n for n in found if not is_size(n))

    def stored_shape(self, name: str) -> tuple[int, ...]:
        """The shape in which the model stores a tensor."""
        return self.layouts[name].stored_shape if name in self.layouts else tuple(self.tensors[name].shape)

    def as_stored(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Full-size tensors of the graph in the layout in which the model stores them."""
        return {n: self.layouts[n].as_stored(t) if n in self.layouts else t for n, t in tensors.items()}

    def as_read(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The other way: full-size tensors of the model as the graph reads them."""
        return {n: self.layouts[n].as_read(t) if n in self.layouts else t for n, t in tensors.items()}


def walk(
    graph: Graph,
    leaf: Callable[[fx.Node], Any],
    call: Callable[[fx.Node, tuple[Any, ...], dict[str, Any]], Any],
    keep: Callable[[fx.Node], bool] = lambda node: False,
) -> dict[fx.Node, Any]:
    """Give every node a value in topological order: `leaf` for inputs and tensors, `call` for ops.

    Values are dropped after their last use, except those of the outputs and of the nodes that `keep` names.
    """
    wanted = set(graph.outputs)
    pending = {node: len(node.users) for node in graph.nodes}
    env: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "output":
            break
        if node.op == "call_function":
            args = fx.map_arg(node.args, env.__getitem__)
            kwargs = fx.map_arg(node.kwargs, env.__getitem__)
            env[node] = call(node, args, kwargs)
        else:
            env[node] = leaf(node)
        for source in node.all_input_nodes:
            pending[source] -= 1
            if not pending[source] and source not in wanted and not keep(source):
                del env[source]
    return env


def call_op(node: fx.Node, args: Any, kwargs: Any, *, like: Tensor) -> Any:
    """Run the node's op in the floating dtype and on the device of `like`, whatever the graph has baked
    in.
    """

    def adapt(leaf: Any) -> Any:
        if isinstance(leaf, torch.dtype) and leaf.is_floating_point:
            return like.dtype
        return like.device if isinstance(leaf, torch.device) else leaf

    args, kwargs = pytree.tree_map(adapt, (tuple(args), dict(kwargs)))
    return node.target(*args, **kwargs)  # type: ignore[operator]


def as_work(value: Tensor, like: Tensor) -> Tensor:
    """`value` where the work is done; whole numbers and truth values keep their dtype."""
    return value.to(like.device, like.dtype) if value.is_floating_point() else value.to(like.device)


def run(
    graph: Graph,
    inputs: Sequence[Tensor],
    tensors: Mapping[str, Tensor] | None = None,
    observe: Callable[[fx.Node, Any], None] | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, ...]:
    """The model's outputs, flattened, for flat `inputs` with any batch size; `tensors` overrides weights by
    name.

    All floating-point work is done in `dtype` (default: that of the first floating input, else of the model's
    tensors); `observe` sees every node's value.
    """
    like = next((x for x in (*inputs, *graph.tensors.values()) if x.is_floating_point()), torch.zeros(0))
    like = like.to(inputs[0].device, dtype or like.dtype)
    given = {node: as_work(x, like) for node, x in zip(graph.inputs, inputs, strict=True)}
    source = graph.tensors if tensors is None else {**graph.tensors, **tensors}

    def leaf(node: fx.Node) -> Tensor:
        if node.op == "placeholder":
            return given[node]
        return as_work(source[str(node.target)], like)

    def call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = call_op(node, args, kwargs, like=like)
        if observe is not None:
            observe(node, value)
        return value

    with torch.no_grad():
        env = walk(graph, leaf, call)
    return tuple(env[node] for node in graph.outputs)


def sizes_of_values(graph: Graph) -> list[int]:
    """How many numbers each value holds for one sample. Cost: one pass of the example."""
    found, samples = list[int](), len(graph.example[0])

    def observe(node: fx.Node, value: Any) -> None:
        found.extend(x.numel() // samples for x in pytree.tree_leaves(value) if isinstance(x, Tensor))

    run(graph, graph.example, observe=observe)
    return found


def capture(model: nn.Module | ExportedProgram, example_inputs: ExampleInputs | None = None) -> Graph:
    """Capture `model` in eval mode on `example_inputs` (a tensor, a tuple of them, or a dict of keyword
    arguments).

    Axis 0 of the inputs is the batch; a batch of one is doubled, since tracing would fix it. Arguments that
    are no tensors (None, truth values, numbers, text) are constants of the graph. Raises `CaptureError` for
    models that are no float modules in eval mode (see `fitness`), weights that are not finite, inputs that
    the model refuses, control flow that depends on data, and models that fix the batch size; `InputError`
    without example inputs.
    """
    if isinstance(model, ExportedProgram):
        program, leaves = model, leaves_for(model, example_inputs)
    else:
        if example_inputs is None and isinstance(model, Imported):
            example_inputs = model.example_inputs
        if example_inputs is None:
            raise InputError(
                "example_inputs is needed to capture an nn.Module: give one tensor of a legal input"
            )
        check_fit(model)
        args, kwargs = at_least_two(*split_inputs(example_inputs))
        if isinstance(model, Imported):
            model.check(args)
        program, leaves = export_program(model, args, kwargs), pytree.tree_leaves((args, kwargs))

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
    check_quantised_ops(module.graph)
    check_values(dict(module.state_dict()))
    make_functional(module, leaves)
    if isinstance(model, nn.Module):
        _note_computed_weights(module.graph, computed_weights(model))
    check_finite(module.graph, _tensors(module))
    layouts = read_as_used(module, _tensors(module), reshaped=not isinstance(model, Imported))
    tensors = _tensors(module)
    inputs = zip((n for n in module.graph.nodes if n.op == "placeholder"), leaves, strict=True)
    constants = {node.name: leaf for node, leaf in inputs if not isinstance(leaf, Tensor)}
    example = tuple(map(_ordinary, tensors_in(leaves)))
    graph = Graph(module, tensors, _aliases(model, tensors), example, constants, layouts)
    return _with_free_batch(graph)


def _note_computed_weights(graph: fx.Graph, notes: Mapping[str, str]) -> None:
    """Let the nodes of layers whose weights are computed in every pass say so, and how that is undone."""
    for node in graph.nodes:
        layer = layer_of(node).partition(".parametrizations.")[0]
        if layer in notes and node.op == "call_function":
            node.meta["computed"] = notes[layer]


def copied(value: Copied) -> Copied:
    """A deep copy of a module or graph, without torch's warning about its own deprecated tree specs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return copy.deepcopy(value)


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
    """The tensor itself; a copy where it is one of inference mode, or of a memory format for which kernels
    round in another way.
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


def _with_free_batch(graph: Graph) -> Graph:
    """Check that the graph runs with another batch size, after freeing sizes that a static export has baked
    in.
    """
    size = graph.example[0].shape[0]
    try:
        found = run(graph, graph.example)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise CaptureError(
            f"the captured graph does not run on the example inputs: {first_line(error)}. Export the model "
            "again"
        ) from error
    if not _runs_with_batch(graph, size + 1, found):
        _free_baked_batch(graph, size)
        if not _runs_with_batch(graph, size + 1, found):
            raise CaptureError(
                f"the model fixes its batch size at {size}; make axis 0 dynamic where it is exported, "
                f"or use x.shape[0] in place of a constant in reshape and view. {_fixed_by(graph, size)}"
            )
    return graph


def _fixed_by(graph: Graph, size: int) -> str:
    """In words: the first op that cannot be run on one sample more, or whose value does not go on with that
    sample.
    """
    before, after = dict[fx.Node, Any](), dict[fx.Node, Any]()
    run(graph, graph.example, observe=before.__setitem__)
    reason = ""
    try:
        run(graph, resized(graph, size + 1), observe=after.__setitem__)
    except (RuntimeError, IndexError, ValueError) as error:
        reason = f" ({first_line(error)})"
    for node, value in before.items():
        if node not in after:
            read = [n for n in node.all_input_nodes if _is_stuck(graph, n, size, before, after)]
            what = f", which reads {few([described(n) for n in read])}" if read else ""
            return f"It is fixed by {described(node)}{what}: this does not run on {size + 1} samples{reason}"
        if isinstance(value, Tensor) and not _begins_with(after[node], value):
            return f"It is fixed by {described(node)}, which does not give {size + 1} samples as many values"
    return ""


def _is_stuck(
    graph: Graph, node: fx.Node, size: int, before: Mapping[fx.Node, Any], after: Mapping[fx.Node, Any]
) -> bool:
    """Whether a tensor has the example's batch size, and keeps it with another batch."""
    if node.op == "get_attr":
        return size in graph.tensors[str(node.target)].shape
    value, other = before.get(node), after.get(node)
    if not isinstance(value, Tensor) or not isinstance(other, Tensor):
        return False
    return value.shape == other.shape and size in value.shape


def resized(graph: Graph, batch: int) -> tuple[Tensor, ...]:
    """The example with `batch` samples, its own over and over."""
    size = graph.example[0].shape[0]
    index = torch.arange(batch) % size
    return tuple(x[index.to(x.device)] if x.ndim and x.shape[0] == size else x for x in graph.example)


def _runs_with_batch(graph: Graph, batch: int, small: Sequence[Tensor]) -> bool:
    """Whether more samples give outputs with more samples than `small`, those of the example."""
    try:
        large = run(graph, resized(graph, batch))
    except (RuntimeError, IndexError, ValueError):
        return False
    return all(map(_begins_with, large, small))


def _begins_with(large: Tensor, small: Tensor) -> bool:
    """Whether `large` is `small` with more samples: along axis 0, or along another whose beginning is the
    same.

    An output of the same shape has no batch axis at all.
    """
    grown = [i for i, (a, b) in enumerate(zip(small.shape, large.shape, strict=False)) if a != b]
    if large.ndim != small.ndim or len(grown) > 1:
        return False
    if not grown or (grown[0] == 0 and len(large) > len(small)):
        return True
    first = large.narrow(grown[0], 0, min(small.shape[grown[0]], large.shape[grown[0]]))
    return first.shape == small.shape and torch.allclose(first.double(), small.double(), rtol=1e-2, atol=1e-3)


def _free_baked_batch(graph: Graph, size: int) -> None:
    """In `view`, `reshape` and `expand`, let a leading size equal to the example's batch follow the input
    instead.
    """
    module = graph.module
    for node in list(module.graph.nodes):
        if kind(node) not in _VIEWS or node.op != "call_function":
            continue
        sizes = list(node.args[1])
        if sizes and sizes[0] == size:
            with module.graph.inserting_before(node):
                batch = module.graph.call_function(torch.ops.aten.sym_size.int, (graph.inputs[0], 0))
            node.args = (node.args[0], [batch, *sizes[1:]], *node.args[2:])
    module.recompile()
