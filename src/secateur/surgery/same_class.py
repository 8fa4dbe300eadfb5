"""The caller's own class with smaller tensors and corrected attributes. That it still computes is for others to see."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from secateur.graph.capture import Graph, kind
from secateur.graph.coupling import Coupling
from secateur.surgery.sizes import Alive, alive_units, kept_shape
from secateur.types import Group


def same_class(
    model: nn.Module, graph: Graph, coupling: Coupling, small: Mapping[str, Tensor], alive: Alive
) -> nn.Module | None:
    """A copy of `model` with the tensors of `small` in place; None where the class cannot be copied."""
    try:
        smaller = copy.deepcopy(model)
    except Exception:  # a class may refuse to be copied, for whatever reason of its own
        return None
    changed = [name for name, tensor in small.items() if tensor.shape != graph.tensors[name].shape]
    for name, tensor in small.items():
        set_tensor(smaller, graph.aliases[name], tensor)
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


def set_tensor(root: nn.Module, names: Sequence[str], tensor: Tensor) -> None:
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
