"""Capture a model as one flat graph of ATen ops, through `torch.export`, with the batch axis left free.

Everything downstream (coupling, bounds, shrinking) reads this graph and nothing else, so an importer for another
format has only to end in a `torch.export.ExportedProgram`.
"""

from __future__ import annotations

import copy
import inspect
import io
import logging
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, ShapesCollection, export
from torch.utils import _pytree as pytree

from secateur.errors import CaptureError, InputError

Copied = TypeVar("Copied")
ExampleInputs = Tensor | Sequence[Any] | Mapping[str, Any]

_VIEWS = {"reshape", "expand"}  # ops that may carry the example's batch size as a constant
_CHECKS = {torch.ops.aten._assert_tensor_metadata.default}  # of a dtype in which we may not run the graph
_TAKES_INFINITY = set(  # ops of which one operand may be infinite
    "add sub rsub maximum minimum max min clamp clamp_min clamp_max where masked_fill fmax fmin "
    "eq ne lt le gt ge isinf isnan isfinite isneginf isposinf".split()
)
_MOVES_VALUES = set(
    "reshape view expand permute transpose t unsqueeze squeeze slice select flatten unflatten contiguous clone alias "
    "detach to _to_copy type_as float double half bfloat16 lift_fresh_copy lift_fresh index index_select expand_as "
    "broadcast_to repeat cat stack neg triu tril constant_pad_nd pad".split()
)
_AS_RESHAPE = {  # whether a view is possible depends on memory layout, which kernels may change
    torch.ops.aten.view.default: torch.ops.aten.reshape.default,
    torch.ops.aten._unsafe_view.default: torch.ops.aten.reshape.default,
    torch.ops.aten.view_as.default: torch.ops.aten.reshape_as.default,
}


@runtime_checkable
class Imported(Protocol):
    """A module that stands for a file of another format; it may have `example_inputs`, too."""

    def check(self, inputs: Sequence[Tensor]) -> None:
        """Raise where the module does not compute what the file says."""
        ...


@dataclass(frozen=True, eq=False)
class Graph:
    """A captured model. Nodes are `placeholder` (inputs), `get_attr` (tensors), `call_function` (ops) and `output`."""

    module: fx.GraphModule
    tensors: dict[str, Tensor]  # parameters, buffers and constants by their names in the model
    aliases: dict[str, tuple[str, ...]]  # name → every name of the tensor in the model (tied weights; none: a constant)
    example: tuple[Tensor, ...]  # flat inputs, batch of at least 2

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        return tuple(self.module.graph.nodes)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the tensors that are parameters; the others are buffers and constants."""
        return tuple(n for n in self.tensors if isinstance(operator.attrgetter(n)(self.module), nn.Parameter))

    @property
    def inputs(self) -> tuple[fx.Node, ...]:
        return tuple(n for n in self.nodes if n.op == "placeholder")

    @property
    def outputs(self) -> tuple[fx.Node, ...]:
        """The nodes whose tensors the model returns, in the flattened order of its output."""
        (output,) = (n for n in self.nodes if n.op == "output")
        return tuple(n for n in pytree.tree_leaves(output.args[0]) if isinstance(n, fx.Node))


def kind(node: fx.Node) -> str:
    """The op's name without name space and overload: `conv2d`, `add`, `getitem`; the key of every rule table."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[-1]
    return getattr(target, "__name__", str(target))


def told(node: fx.Node) -> str:
    """The op as errors name it; one that is run as another format has it goes by its name there."""
    return str(node.args[2]) if kind(node) == "onnxruntime" else str(node.target)


def bound_arguments(node: fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The op's arguments by schema name, defaults filled in; positional names `0`, `1`… for Python operators."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return {str(i): a for i, a in enumerate(args)} | dict(kwargs)
    bound = {}
    for i, argument in enumerate(target._schema.arguments):
        if i < len(args):
            bound[argument.name] = args[i]
        else:
            bound[argument.name] = kwargs.get(argument.name, argument.default_value)
    return bound


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
    """Run the node's op in the floating dtype and on the device of `like`, whatever the graph has baked in."""

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
    """The model's outputs, flattened, for flat `inputs` with any batch size; `tensors` overrides weights by name.

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


def capture(model: nn.Module | ExportedProgram, example_inputs: ExampleInputs | None = None) -> Graph:
    """Capture `model` in eval mode on `example_inputs` (a tensor, a tuple of them, or a dict of keyword arguments).

    Axis 0 of the inputs is the batch; a batch of one is doubled, since tracing would fix it. Raises `CaptureError`
    for training mode, weights that are not finite, inputs that the model refuses, control flow that depends on
    data, and models that fix the batch size; `InputError` where there are no example inputs.
    """
    if isinstance(model, ExportedProgram):
        args, kwargs = model.example_inputs or ((), {}) if example_inputs is None else split_inputs(example_inputs)
        program = model
    else:
        example_inputs = getattr(model, "example_inputs", None) if example_inputs is None else example_inputs
        if example_inputs is None:
            raise InputError("example_inputs is needed to capture an nn.Module: give one tensor of a legal input")
        check_eval_mode(model)
        args, kwargs = at_least_two(*split_inputs(example_inputs))
        if isinstance(model, Imported):
            model.check(args)
        program = export_program(model, args, kwargs)

    if program.graph_signature.buffers_to_mutate:
        names = ", ".join(program.graph_signature.buffers_to_mutate.values())
        raise CaptureError(f"the model changes its own buffers when it runs ({names}); export it in eval mode")
    module = unlifted(program)
    if not isinstance(module, fx.GraphModule):
        raise CaptureError(f"torch.export gave a {type(module).__name__}, not a graph")
    for nested in [n for n in module.graph.nodes if n.op == "call_module"]:
        raise CaptureError(f"the graph calls the submodule {nested.target}; export it as one flat graph")
    _make_functional(module)
    flat = tuple(x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor))
    tensors = _tensors(module)
    _check_finite(module.graph, tensors)
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    if len(flat) != len(placeholders):
        raise CaptureError(
            f"the graph has {len(placeholders)} inputs ({', '.join(n.name for n in placeholders)}) but the example "
            f"has {len(flat)} tensors; give one tensor for each input"
        )
    graph = Graph(module, tensors, _aliases(model, tensors), flat)
    return _with_free_batch(graph)


def unlifted(program: ExportedProgram) -> nn.Module:
    """The program as a module that holds its own tensors, without guards on its inputs."""
    unguarded = {"check_guards": False} if "check_guards" in inspect.signature(program.module).parameters else {}
    return program.module(**unguarded)


def as_module(model: nn.Module | ExportedProgram) -> nn.Module:
    """The model as a module in eval mode."""
    if isinstance(model, nn.Module):
        return model
    module = unlifted(model)
    for part in module.modules():  # an exported graph has its mode baked in
        part.training = False
    return module


def copied(value: Copied) -> Copied:
    """A deep copy of a module or graph, without torch's warning about its own deprecated tree specs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return copy.deepcopy(value)


def split_inputs(example_inputs: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example_inputs, Tensor):
        args = (example_inputs,)
    elif isinstance(example_inputs, Mapping):
        kwargs = dict(example_inputs)
    else:
        args = tuple(example_inputs)
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    if not tensors:
        raise InputError("example_inputs holds no tensor; give a tensor, a tuple of tensors, or a dict of them")
    if any(x.ndim == 0 or x.shape[0] == 0 for x in tensors[:1]):
        raise InputError(f"example input of shape {tuple(tensors[0].shape)}: axis 0 must be a batch of at least one")
    return args, kwargs


def at_least_two(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Distinct, detached copies of the inputs, a batch of one doubled: torch.export fixes sizes 0 and 1."""
    first = next(x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor))

    def widen(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        x = x.detach().clone()
        single = first.shape[0] == 1 and x.ndim > 0 and x.shape[0] == 1
        return torch.cat([x, x]) if single else x

    return pytree.tree_map(widen, (args, kwargs))  # type: ignore[no-any-return]


def check_eval_mode(model: nn.Module) -> None:
    training = [name or "(the model)" for name, m in model.named_modules() if m.training]
    if training:
        raise CaptureError(
            f"the model is in training mode ({', '.join(training[:3])}{'…' if len(training) > 3 else ''}); "
            "call model.eval() first"
        )


def _check_finite(graph: fx.Graph, tensors: Mapping[str, Tensor]) -> None:
    """Weights are finite. Infinity may stand where it is compared or added, as in masks and in max(x, −∞)."""
    for node in graph.nodes:
        if node.op != "get_attr" or not tensors[str(node.target)].is_floating_point():
            continue
        value = tensors[str(node.target)]
        bad = value.isnan() if _only_compared(node) else ~value.isfinite()
        if bool(bad.any()):
            raise CaptureError(
                f"{node.target} of shape {tuple(value.shape)} holds {int(bad.sum())} NaN or infinite values; nothing "
                "sensible can be pruned from it: load the weights again"
            )


def _only_compared(tensor: fx.Node) -> bool:
    """Whether no op multiplies by what the tensor holds, as layers do; ops that move its values are followed."""
    frontier, seen = [tensor], {tensor}
    while frontier:
        for user in frontier.pop().users:
            if user.op == "output" or kind(user) in _TAKES_INFINITY or user in seen:
                continue
            if kind(user) in _MOVES_VALUES:
                seen.add(user)
                frontier.append(user)
            elif not _is_mask(user, seen):
                return False
    return True


def _is_mask(user: fx.Node, sources: set[fx.Node]) -> bool:
    """Whether attention adds one of the sources to its scores."""
    return kind(user) == "scaled_dot_product_attention" and not sources & {a for a in user.args[:3]}


@contextmanager
def quiet_export() -> Iterator[None]:
    """Export without the fused path of attention, without gradients (so that `no_grad` blocks leave no subgraphs of
    their own), and without torch's own messages."""
    fast_path, silenced = torch.backends.mha.get_fastpath_enabled(), logging.root.manager.disable
    torch.backends.mha.set_fastpath_enabled(False)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(silenced)
        torch.backends.mha.set_fastpath_enabled(fast_path)


def export_program(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ExportedProgram:
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    shapes = ", ".join(str(tuple(x.shape)) for x in tensors)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except Exception as error:
        raise CaptureError(
            f"the model refuses the example inputs of shape {shapes}: {first_line(error)}. "
            "Axis 0 must be the batch; check the shape, the dtype and the number of inputs"
        ) from error
    changed = [name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])]
    if changed:
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])
        raise CaptureError(
            f"the model changes its own buffers when it runs ({', '.join(changed)}); a static graph cannot"
        )
    free = ShapesCollection()
    for x in tensors:
        if x.ndim and x.shape[0] == tensors[0].shape[0]:
            free[x] = {0: Dim.AUTO}
    try:
        with quiet_export():
            return export(model, args, kwargs, dynamic_shapes=free, strict=False)  # type: ignore[arg-type]
    except Exception as error:
        raise CaptureError(
            f"torch.export cannot capture {type(model).__name__}: {first_line(error)}. Control flow that depends on "
            "tensor values has no static graph; rewrite it with torch.where or torch.cond, or prune the part without it"
        ) from error


def first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _tensors(module: fx.GraphModule) -> dict[str, Tensor]:
    used = dict.fromkeys(str(n.target) for n in module.graph.nodes if n.op == "get_attr")
    values = {}
    for name in used:
        value = operator.attrgetter(name)(module)
        if not isinstance(value, Tensor):
            raise CaptureError(
                f"the graph reads {name}, a {type(value).__name__} and not a tensor (nested control flow)"
            )
        values[name] = value.detach()
    return values


def _aliases(model: nn.Module | ExportedProgram, tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    if isinstance(model, ExportedProgram):
        return {name: (name,) for name in tensors}
    everything = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    names: dict[int, list[str]] = {}
    for name, value in everything:
        names.setdefault(id(value), []).append(name)
    by_name = {name: tuple(names[id(value)]) for name, value in everything}
    return {name: by_name.get(name, ()) for name in tensors}


def _make_functional(module: fx.GraphModule) -> None:
    """Replace in-place ops by their functional twins, so that a node's value never changes after it is made."""
    position = {node: i for i, node in enumerate(module.graph.nodes)}
    for node in list(module.graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        if node.target in _CHECKS:
            module.graph.erase_node(node)
            continue
        node.target = _AS_RESHAPE.get(node.target, node.target)
        if not node.target._schema.is_mutable:
            continue
        twin = _functional_twin(node.target)
        target = node.args[0]
        if twin is None or not isinstance(target, fx.Node):
            raise CaptureError(f"{node.name}: the in-place op {node.target} is not supported; write it out of place")
        base = target
        while _is_view(base) and isinstance(base.args[0], fx.Node):
            base = base.args[0]
        if base.op == "get_attr":
            raise CaptureError(
                f"the model changes its own buffers when it runs ({base.target}); export it without that"
            )
        later = [user for user in target.users if position[user] > position[node]]
        if _shares_memory_with_later_use(target, position, position[node]):
            raise CaptureError(
                f"{node.name}: {node.target} writes into a view whose base is used afterwards; write it out of place"
            )
        node.target = twin
        for user in later:
            user.replace_input_with(target, node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _functional_twin(target: torch._ops.OpOverload) -> torch._ops.OpOverload | None:
    name = target._schema.name.split("::")[-1]
    packet = getattr(torch.ops.aten, name[:-1], None) if name.endswith("_") else None
    return getattr(packet, target._overloadname, None)


def _shares_memory_with_later_use(target: fx.Node, position: Mapping[fx.Node, int], now: int) -> bool:
    """Whether another name of the memory behind `target` (its base, or a view of it) is read after position `now`."""
    names, frontier = {target}, [target]
    while frontier:
        node = frontier.pop()
        related = [user for user in node.users if _is_view(user) and position[user] < now]
        if _is_view(node) and isinstance(node.args[0], fx.Node):
            related.append(node.args[0])
        for other in related:
            if other not in names:
                names.add(other)
                frontier.append(other)
    return any(position[user] > now for name in names - {target} for user in name.users)


def _is_view(node: fx.Node) -> bool:
    target = node.target
    if target is operator.getitem:
        return True
    if not isinstance(target, torch._ops.OpOverload):
        return False
    return target._schema.name == "aten::reshape" or any(r.alias_info is not None for r in target._schema.returns)


def _with_free_batch(graph: Graph) -> Graph:
    """Check that the graph runs with another batch size, after freeing sizes that a static export has baked in."""
    size = graph.example[0].shape[0]
    if not _runs_with_batch(graph, size + 1):
        _free_baked_batch(graph, size)
        if not _runs_with_batch(graph, size + 1):
            raise CaptureError(
                f"the model fixes its batch size at {size}; make axis 0 dynamic where it is exported, "
                "or use x.shape[0] in place of a constant in reshape and view"
            )
    return graph


def resized(graph: Graph, batch: int) -> tuple[Tensor, ...]:
    """The example with `batch` samples, its own over and over."""
    size = graph.example[0].shape[0]
    index = torch.arange(batch) % size
    return tuple(x[index.to(x.device)] if x.ndim and x.shape[0] == size else x for x in graph.example)


def _runs_with_batch(graph: Graph, batch: int) -> bool:
    """Whether more samples give outputs with more samples."""
    try:
        small, large = run(graph, graph.example), run(graph, resized(graph, batch))
    except (RuntimeError, IndexError, ValueError):
        return False
    return all(map(_begins_with, large, small))


def _begins_with(large: Tensor, small: Tensor) -> bool:
    """Whether `large` is `small` with more samples: along axis 0, or along another whose beginning is the same.

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
    """In `view`, `reshape` and `expand`, let a leading size equal to the example's batch follow the input instead."""
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
