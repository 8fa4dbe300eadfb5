"""Make the smaller model: the same class where its `forward` can follow, else the graph with its constants rewritten.

Nothing is decided here. The input is full-size weights in which removed units have no effect any more, and the units
that stay; the output is checked to equal the masked original before it is handed out.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from secateur.errors import VerificationError
from secateur.graph.capture import Graph, bound_arguments, kind, resized, run
from secateur.graph.coupling import Coupling
from secateur.graph.labels import FIXED, varying_axes
from secateur.types import Group

Alive = Mapping[str, Tensor]  # group name → which of its units stay, shape: (units,), bool


def shrink(
    model: nn.Module | None, graph: Graph, coupling: Coupling, weights: Mapping[str, Tensor], alive: Alive
) -> nn.Module:
    """A new, physically smaller model; `model` and `graph` are left as they are.

    `weights`: float64, full size, by name, consumers of removed units zeroed. `model` None (an exported program) gives
    an `fx.GraphModule`; so does a class whose `forward` has sizes baked in. Raises `VerificationError` where the
    result does not equal the masked original.
    """
    small = {
        name: w.to(graph.tensors[name].dtype) for name, w in shrunk_tensors(graph, coupling, weights, alive).items()
    }
    module = _rewritten(graph, coupling, alive)
    _verify(graph, module, weights, shrunk_tensors(graph, coupling, weights, alive))
    for name, tensor in small.items():
        _set_tensor(module, (name,), tensor)
    if model is not None:
        same_class = _same_class(model, graph, coupling, small, alive)
        if same_class is not None and _agree(same_class, module, graph):
            return same_class
    return module


def shrunk_tensors(graph: Graph, coupling: Coupling, weights: Mapping[str, Tensor], alive: Alive) -> dict[str, Tensor]:
    """Every tensor of the graph with only the indices of units that stay; shape: as the tensor, smaller."""
    small = {name: weights.get(name, tensor) for name, tensor in graph.tensors.items()}
    for (name, axis), keep in kept_indices(graph, coupling, alive).items():
        small[name] = small[name].index_select(axis, keep.to(small[name].device))
    return small


def kept_indices(graph: Graph, coupling: Coupling, alive: Alive) -> dict[tuple[str, int], Tensor]:
    """(tensor, axis) → indices that stay, for every axis that loses some."""
    keep: dict[tuple[str, int], Tensor] = {}
    for group in coupling.groups:
        if group.name not in alive:
            continue
        for slot in group.slots:
            key = slot.tensor, slot.axis
            if key not in keep:
                keep[key] = torch.ones(graph.tensors[slot.tensor].shape[slot.axis], dtype=torch.bool)
            keep[key][slot.positions[~alive[group.name]].reshape(-1)] = False
    return {key: mask.nonzero().flatten() for key, mask in keep.items() if not mask.all()}


# --- sizes after removal ---------------------------------------------------------------------------------------------


def alive_units(coupling: Coupling, alive: Alive) -> Tensor:
    """Whether each unit id of `coupling.units` stays; shape: (largest id + 2,), the last for id −1 (no unit)."""
    count = max((int(ids.max()) for ids in coupling.ids.values() if len(ids)), default=-1) + 2
    table = torch.ones(count, dtype=torch.bool)
    for name, mask in alive.items():
        table[coupling.ids[name]] = mask
    return table


def kept_along(units: Tensor, axis: int, table: Tensor) -> Tensor:
    """Which indices of `axis` stay in a value whose elements belong to `units`; shape: (size,), bool."""
    axis %= units.ndim
    if axis not in varying_axes(units):
        return torch.ones(units.shape[axis], dtype=torch.bool)
    for other in range(units.ndim - 1, -1, -1):
        if other != axis:
            units = units.select(other, 0)
    units = torch.where(units < len(table) - 1, units, FIXED)  # ids of no group stay
    return table[units]


def kept_shape(units: Tensor, table: Tensor) -> list[int]:
    """The shape that a value has after removal."""
    varying = varying_axes(units)
    return [int(kept_along(units, i, table).sum()) if i in varying else units.shape[i] for i in range(units.ndim)]


# --- the graph with its constants rewritten --------------------------------------------------------------------------


def _rewritten(graph: Graph, coupling: Coupling, alive: Alive) -> fx.GraphModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch copies its own deprecated tree specs
        new_graph = copy.deepcopy(graph.module.graph)
    module = fx.GraphModule(_skeleton(graph), new_graph, class_name="PrunedGraph")
    table = alive_units(coupling, alive)
    for old, new in zip(graph.nodes, list(module.graph.nodes), strict=True):
        rewrite = _REWRITES.get(kind(old)) if old.op == "call_function" else None
        if rewrite is not None:
            rewrite(old, new, coupling.units, table)
    module.graph.lint()
    module.recompile()
    return module.eval()


def _skeleton(graph: Graph) -> nn.Module:
    """Empty modules that hold the graph's tensors under their own names."""
    root = nn.Module()
    for name, tensor in graph.tensors.items():
        *path, leaf = name.split(".")
        owner = root
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        original = operator.attrgetter(name)(graph.module)
        if isinstance(original, nn.Parameter):
            owner.register_parameter(leaf, nn.Parameter(tensor, requires_grad=original.requires_grad))
        else:
            owner.register_buffer(leaf, tensor)
    return root


Units = Mapping[fx.Node, Tensor]


def _set_argument(old: fx.Node, new: fx.Node, name: str, value: Any) -> None:
    """Set the schema argument `name` of the node."""
    target = old.target
    assert isinstance(target, torch._ops.OpOverload)
    index = [argument.name for argument in target._schema.arguments].index(name)
    if index < len(new.args):
        new.update_arg(index, value)
    else:
        new.update_kwarg(name, value)


def _resize(old: fx.Node, new: fx.Node, units: Units, table: Tensor) -> None:
    """view, reshape, expand: sizes that follow the units that stay (a symbolic size in proportion)."""
    name = "shape" if kind(old) == "reshape" else "size"
    full, kept = units[old].shape, kept_shape(units[old], table)
    sizes = list(bound_arguments(new, new.args, new.kwargs)[name])
    offset = len(full) - len(sizes)
    for axis, size in enumerate(sizes):
        before, after = full[axis + offset], kept[axis + offset]
        if before == after or size == -1:
            continue
        if isinstance(size, fx.Node):
            with new.graph.inserting_before(new):
                scaled = new.graph.call_function(operator.mul, (size, after))
                sizes[axis] = new.graph.call_function(operator.floordiv, (scaled, before))
        else:
            sizes[axis] = after
    _set_argument(old, new, name, sizes)


def _unflatten(old: fx.Node, new: fx.Node, units: Units, table: Tensor) -> None:
    a = bound_arguments(old, old.args, old.kwargs)
    kept = kept_shape(units[old], table)
    first = a["dim"] % (len(kept) - len(a["sizes"]) + 1)
    sizes = [s if s == -1 or isinstance(s, fx.Node) else kept[first + i] for i, s in enumerate(a["sizes"])]
    _set_argument(old, new, "sizes", sizes)


def _split(old: fx.Node, new: fx.Node, units: Units, table: Tensor) -> None:
    """split, chunk: the sizes of the parts that stay, where they change."""
    a = bound_arguments(old, old.args, old.kwargs)
    if a["self"] not in units:  # a bare parameter: nothing of it leaves here
        return
    keep = kept_along(units[a["self"]], a["dim"], table)
    if keep.all():
        return
    if kind(old) == "split_with_sizes":
        sizes = a["split_sizes"]
    elif kind(old) == "chunk":
        sizes = [len(part) for part in keep.chunk(a["chunks"])]
    else:
        sizes = a["split_size"] if isinstance(a["split_size"], list) else [len(p) for p in keep.split(a["split_size"])]
    new.target = torch.ops.aten.split_with_sizes.default
    new.args = (new.args[0], [int(part.sum()) for part in keep.split(list(sizes))], a["dim"])
    new.kwargs = {}


def _slice(old: fx.Node, new: fx.Node, units: Units, table: Tensor) -> None:
    a = bound_arguments(old, old.args, old.kwargs)
    if a["self"] not in units:  # a bare parameter: nothing of it leaves here
        return
    keep = kept_along(units[a["self"]], a["dim"], table)
    if keep.all():
        return
    start, end, _ = slice(a["start"], a["end"]).indices(len(keep))
    _set_argument(old, new, "start", int(keep[:start].sum()))
    _set_argument(old, new, "end", int(keep[:end].sum()))


def _groups(old: fx.Node, new: fx.Node, units: Units, table: Tensor) -> None:
    """Depthwise convolutions have as many groups as channels."""
    a = bound_arguments(old, old.args, old.kwargs)
    if a["groups"] > 1 and a["groups"] == units[a["input"]].shape[1] and 1 in varying_axes(units[a["input"]]):
        _set_argument(old, new, "groups", kept_shape(units[a["input"]], table)[1])


def _norm_groups(old: fx.Node, new: fx.Node, units: Units, table: Tensor) -> None:
    """Whole norm groups leave: the others keep their number of channels."""
    a = bound_arguments(old, old.args, old.kwargs)
    channels, kept = units[a["input"]].shape[1], kept_shape(units[a["input"]], table)[1]
    _set_argument(old, new, "num_groups", a["num_groups"] * kept // channels)


_REWRITES: dict[str, Callable[[fx.Node, fx.Node, Units, Tensor], None]] = {
    **dict.fromkeys("reshape expand".split(), _resize),
    **dict.fromkeys("split split_with_sizes chunk".split(), _split),
    **dict.fromkeys("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d".split(), _groups),
    "unflatten": _unflatten,
    "slice": _slice,
    "group_norm": _norm_groups,
}


# --- the same class, smaller -----------------------------------------------------------------------------------------


def _same_class(
    model: nn.Module, graph: Graph, coupling: Coupling, small: Mapping[str, Tensor], alive: Alive
) -> nn.Module | None:
    try:
        smaller = copy.deepcopy(model)
    except Exception:  # a class may refuse to be copied, for whatever reason of its own
        return None
    changed = [name for name, tensor in small.items() if tensor.shape != graph.tensors[name].shape]
    for name, tensor in small.items():
        _set_tensor(smaller, graph.aliases[name], tensor)
    for path in {alias.rpartition(".")[0] for name in changed for alias in graph.aliases[name]}:
        module = smaller.get_submodule(path)
        for layer, correct in _ATTRIBUTES.items():
            if isinstance(module, layer):
                correct(module)
    for group in coupling.groups:
        if group.name in alive:
            _correct_heads(smaller, group, int(alive[group.name].sum()))
    _correct_bare_norms(smaller, graph, coupling, alive)
    return smaller


def _set_tensor(root: nn.Module, names: Sequence[str], tensor: Tensor) -> None:
    """Put one copy of `tensor` in place of the parameter or buffer that has these names."""
    new: Tensor | None = None
    for name in names:
        path, _, leaf = name.rpartition(".")
        owner = root.get_submodule(path)
        old = getattr(owner, leaf)
        if new is None:
            copied = tensor.to(old.device, copy=True)
            new = nn.Parameter(copied, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else copied
        setattr(owner, leaf, new)


def _correct_linear(module: Any) -> None:
    module.out_features, module.in_features = module.weight.shape


def _correct_conv(module: Any) -> None:
    out_axis = 1 if module.transposed else 0
    depthwise = module.groups > 1 and module.groups == module.in_channels
    if depthwise:
        multiplier = module.out_channels // module.in_channels
        module.groups = module.weight.shape[0] // (1 if module.transposed else multiplier)
    factor_in, factor_out = (1, module.groups) if module.transposed else (module.groups, 1)
    module.in_channels = module.weight.shape[1 - out_axis] * factor_in
    module.out_channels = module.weight.shape[out_axis] * factor_out


def _correct_norm(module: Any) -> None:
    tensor = module.weight if module.weight is not None else module.running_mean
    module.num_features = tensor.shape[0]


def _correct_group_norm(module: Any) -> None:
    kept = module.weight.shape[0]
    module.num_groups = module.num_groups * kept // module.num_channels
    module.num_channels = kept


def _correct_embedding(module: Any) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _correct_prelu(module: Any) -> None:
    module.num_parameters = module.weight.shape[0]


_ATTRIBUTES: dict[type[nn.Module], Callable[[Any], None]] = {
    nn.Linear: _correct_linear,
    nn.modules.conv._ConvNd: _correct_conv,
    nn.modules.batchnorm._NormBase: _correct_norm,
    nn.GroupNorm: _correct_group_norm,
    nn.Embedding: _correct_embedding,
    nn.PReLU: _correct_prelu,
}


def _correct_bare_norms(model: nn.Module, graph: Graph, coupling: Coupling, alive: Alive) -> None:
    """Instance norms without parameters own no tensor to tell their width by; their node does."""
    table = alive_units(coupling, alive)
    for node in graph.nodes:
        if kind(node) == "instance_norm":
            path, _ = list(node.meta["nn_module_stack"].values())[-1]
            module = model.get_submodule(path)
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.num_features = kept_shape(coupling.units[node], table)[1]


# Names under which attention classes keep sizes that shrink with their heads.
_HEAD_ATTRIBUTES = (
    "num_heads n_heads n_head heads nhead num_attention_heads num_kv_heads n_kv_heads num_key_value_heads "
    "all_head_size inner_dim kv_heads"
).split()


def _correct_heads(model: nn.Module, group: Group, kept: int) -> None:
    """Scale head counts and inner widths of the class that holds the group's producers, where units are heads."""
    owners = {slot.tensor.rpartition(".")[0] for slot in group.having("producer") if slot.positions.shape[1] > 1}
    for path in owners | {owner.rpartition(".")[0] for owner in owners}:
        try:
            module = model.get_submodule(path)
        except AttributeError:
            continue
        for name in _HEAD_ATTRIBUTES:
            size = module.__dict__.get(name)
            if isinstance(size, int) and size % group.units == 0:
                setattr(module, name, size * kept // group.units)


# --- checks ----------------------------------------------------------------------------------------------------------


def _random_inputs(graph: Graph, dtype: torch.dtype | None) -> list[Tensor]:
    """Up to 32 samples: random numbers over the span of the example's values, or the example's own integers."""
    generator = torch.Generator().manual_seed(0)
    samples = max(2, min(32, 2**20 // max(x[0].numel() for x in graph.example)))

    def like(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        low, high = float(x.min()), float(x.max())
        noise = torch.rand(x.shape, generator=generator, dtype=torch.float64)
        return (low + ((high - low) or 1.0) * noise).to(x.device, dtype or x.dtype)

    return [like(x) for x in resized(graph, samples)]


def _verify(graph: Graph, module: fx.GraphModule, masked: Mapping[str, Tensor], small: Mapping[str, Tensor]) -> None:
    """In float64, the shrunk graph must equal the masked original to rounding."""
    inputs = _random_inputs(graph, torch.float64)
    expected = run(graph, inputs, masked, dtype=torch.float64)
    shrunk_graph = Graph(module, dict(small), {}, graph.example)
    try:
        found = run(shrunk_graph, inputs, small, dtype=torch.float64)
    except RuntimeError as error:
        raise VerificationError(
            f"the shrunk graph does not run: {error}. This is a fault in secateur; please report it"
        ) from error
    for index, (a, b) in enumerate(zip(expected, found, strict=True)):
        distance = float((a - b).abs().max()) if a.shape == b.shape and a.numel() else float(a.shape != b.shape)
        if not distance <= 1e-8 * max(1.0, float(a.abs().max()) if a.numel() else 1.0):
            raise VerificationError(
                f"output {index} of the shrunk model, shape {tuple(b.shape)}, differs by {distance:.3g} from the "
                f"masked original, shape {tuple(a.shape)}. This is a fault in secateur; please report it"
            )


def _agree(model: nn.Module, module: fx.GraphModule, graph: Graph) -> bool:
    """Whether the shrunk class computes what the shrunk graph does, in the model's own precision."""
    inputs = _random_inputs(graph, None)
    try:
        with torch.no_grad():
            mine, reference = _flat_call(model, graph, inputs), _flat_call(module, graph, inputs)
    except Exception:  # sizes baked into forward fail in as many ways as there are models
        return False
    tolerance = (
        1e-4 if all(x.dtype in (torch.float32, torch.float64) for x in reference if x.is_floating_point()) else 3e-2
    )
    return len(mine) == len(reference) and all(
        a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=tolerance, atol=tolerance)
        for a, b in zip(mine, reference, strict=True)
    )


def _flat_call(model: nn.Module, graph: Graph, inputs: list[Tensor]) -> list[Tensor]:
    spec = graph.module._in_spec
    args, kwargs = torch.utils._pytree.tree_unflatten(inputs, spec)
    out = model(*args, **kwargs)
    return [x for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, Tensor)]
