"""The caller's own class with smaller tensors and corrected attributes; the caller checks its outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.graph.node import bound_arguments, kind
from secateur.graph.ops import of
from secateur.graph.widths import is_width
from secateur.surgery.rewrite import Units, conv_groups, norm_groups, norm_sizes, unflattened_sizes
from secateur.surgery.sizes import Alive, alive_units, kept_indices, kept_shape
from secateur.types import Group


def same_class(
    model: nn.Module, graph: Graph, coupling: Coupling, small: Mapping[str, Tensor], alive: Alive
) -> nn.Module | None:
    """A copy of `model` with the tensors of `small` in place; None where the class cannot be copied."""
    try:
        smaller = copy.deepcopy(model)
    except Exception:  # a class may refuse to be copied, for whatever reason of its own
        return None
    _untie(smaller, graph)
    for name, tensor in small.items():
        set_tensor(smaller, graph.aliases[name], tensor)
    _correct_by_nodes(smaller, graph, coupling, alive)
    changed = {name for name, _ in kept_indices(graph, coupling, alive)}
    for path in {alias.rpartition(".")[0] for name in changed for alias in graph.aliases[name]}:
        module = smaller.get_submodule(path)
        for layer, correct in _BY_WEIGHT.items():
            if isinstance(module, layer):
                correct(module)
    for group in coupling.groups:
        if group.name in alive and not is_width(group):
            _correct_heads(smaller, group, int(alive[group.name].sum()))
    return smaller


def _untie(model: nn.Module, graph: Graph) -> None:
    """Give tensors that are apart in the graph, and one in the model, parameters of their own."""
    for name in sorted(graph.copies):
        for alias in graph.aliases[name]:
            path, _, leaf = alias.rpartition(".")
            owner = model.get_submodule(path)
            value = getattr(owner, leaf)
            setattr(owner, leaf, nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad))


def set_tensor(root: nn.Module, names: Sequence[str], tensor: Tensor) -> None:
    """Give the parameter or buffer that has these names the values of `tensor`, in memory of its own.

    The object stays, with its class, attributes, hooks and memory format; a gradient of the former values
    does not.
    """
    first: Tensor | None = None
    for name in names:
        path, _, leaf = name.rpartition(".")
        owner = root.get_submodule(path)
        if first is None:
            first = getattr(owner, leaf)
            first.data, first.grad = _in_memory_like(first, tensor), None
        elif getattr(owner, leaf) is not first:  # tied in the model, but not in its copy
            setattr(owner, leaf, first)


def _in_memory_like(old: Tensor, new: Tensor) -> Tensor:
    """A copy of `new` on the device of `old`, with its axes in the same order in memory."""
    if old.ndim != new.ndim:
        return new.to(old.device, copy=True)
    order = sorted(range(old.ndim), key=lambda axis: -old.stride()[axis])
    laid_out = new.to(old.device).permute(order).clone(memory_format=torch.contiguous_format)
    return laid_out.permute([order.index(axis) for axis in range(old.ndim)])


# --- sizes that a layer's own tensors tell ------------------------------------------------------------------


def _correct_linear(module: Any) -> None:
    module.out_features, module.in_features = module.weight.shape


def _correct_conv(module: Any) -> None:
    out_axis = 1 if module.transposed else 0
    factor_in, factor_out = (1, module.groups) if module.transposed else (module.groups, 1)
    module.in_channels = module.weight.shape[1 - out_axis] * factor_in
    module.out_channels = module.weight.shape[out_axis] * factor_out


def _correct_embedding(module: Any) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _correct_prelu(module: Any) -> None:
    module.num_parameters = module.weight.shape[0]


_BY_WEIGHT: dict[type[nn.Module], Callable[[Any], None]] = {
    nn.Linear: _correct_linear,
    nn.modules.conv._ConvNd: _correct_conv,
    nn.Embedding: _correct_embedding,
    nn.PReLU: _correct_prelu,
}


# --- sizes that the layer's node tells: norms without parameters, groups of channels ------------------------


def _correct_by_nodes(model: nn.Module, graph: Graph, coupling: Coupling, alive: Alive) -> None:
    table = alive_units(coupling, alive)
    for node in graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if node.op != "call_function" or not stack or kind(node) not in _BY_NODE:
            continue
        layer, correct = _BY_NODE[kind(node)]
        module = model.get_submodule(list(stack.values())[-1][0])
        if isinstance(module, layer):
            correct(module, node, coupling.levels, table)


def _follow_conv(module: Any, node: fx.Node, units: Units, table: Tensor) -> None:
    module.groups = conv_groups(node, units, table)


def _follow_norm(module: Any, node: fx.Node, units: Units, table: Tensor) -> None:
    module.num_features = kept_shape(units(node), table)[1]


def _follow_group_norm(module: Any, node: fx.Node, units: Units, table: Tensor) -> None:
    module.num_groups, module.num_channels = (
        norm_groups(node, units, table),
        kept_shape(units(node), table)[1],
    )


def _follow_layer_norm(module: Any, node: fx.Node, units: Units, table: Tensor) -> None:
    size, kept = norm_sizes(node, units, table)
    if kept < size:
        module.normalized_shape = (kept,)
        eps = bound_arguments(node, node.args, node.kwargs)["eps"]
        module.eps = None if eps is None else eps * size / kept


def _follow_unflatten(module: Any, node: fx.Node, units: Units, table: Tensor) -> None:
    module.unflattened_size = tuple(unflattened_sizes(node, units, table))


_BY_NODE: dict[str, tuple[type[nn.Module], Callable[[Any, fx.Node, Units, Tensor], None]]] = {
    **dict.fromkeys(of("convolution"), (nn.modules.conv._ConvNd, _follow_conv)),
    **dict.fromkeys(("batch_norm", "instance_norm"), (nn.modules.batchnorm._NormBase, _follow_norm)),
    "group_norm": (nn.GroupNorm, _follow_group_norm),
    "layer_norm": (nn.LayerNorm, _follow_layer_norm),
    "rms_norm": (nn.RMSNorm, _follow_layer_norm),
    "unflatten": (nn.Unflatten, _follow_unflatten),
}


# Names under which attention classes keep sizes that shrink with their heads.
_HEAD_ATTRIBUTES = (
    "num_heads n_heads n_head heads nhead num_attention_heads num_kv_heads n_kv_heads num_key_value_heads "
    "all_head_size inner_dim kv_heads"
).split()


def _correct_heads(model: nn.Module, group: Group, kept: int) -> None:
    """Scale head counts and inner widths of the class that holds the producers, where units are heads."""
    owners = {
        slot.tensor.rpartition(".")[0] for slot in group.having("producer") if slot.positions.shape[1] > 1
    }
    for path in owners | {owner.rpartition(".")[0] for owner in owners}:
        try:
            module = model.get_submodule(path)
        except AttributeError:
            continue
        for name in _HEAD_ATTRIBUTES:
            size = module.__dict__.get(name)
            if isinstance(size, int) and size % group.units == 0:
                setattr(module, name, size * kept // group.units)
