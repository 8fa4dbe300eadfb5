"""Outputs that are objects (dataclasses, `ModelOutput`s, mappings, named tuples) as plain containers.

torch.export knows tuples, lists, dicts and what is registered with its pytree. Registration is global and
belongs to the user, so other outputs are made plain for the capture alone; a pruned model of the user's own
class still returns the user's own objects.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import wraps
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from secateur.errors import CaptureError
from secateur.graph.node import kind

_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)
_NUMBERS = (type(None), bool, int, float, complex, str, *_SYMBOLS)
# these hold no tensors, and torch.export does not know them
_LABELS = (torch.dtype, torch.device, Enum, bytes, type)
_CONTAINERS = (tuple, list, dict)


def flat_tensors(output: Any) -> list[Tensor]:
    """All tensors in what a model returns, in the order in which a captured graph returns them."""
    found = output if is_known(output) else plain(output)
    return [x for x in pytree.tree_leaves(found) if isinstance(x, Tensor)]


def is_known(output: Any) -> bool:
    """Whether torch.export can take the output apart."""
    return all(isinstance(leaf, (Tensor, *_NUMBERS)) for leaf in pytree.tree_leaves(output))


def is_plain(output: Any) -> bool:
    """Whether it is made of tensors in tuples, lists and dicts alone, so that a file can say what it is."""
    if isinstance(output, Tensor):
        return True
    values = output.values() if isinstance(output, dict) else output
    return type(output) in _CONTAINERS and all(map(is_plain, values))


def plain(output: Any) -> Any:
    """The tensors of the output in tuples, lists and dicts; `CaptureError` for an unknown class."""
    if isinstance(output, (Tensor, fx.Node)):
        return output
    parts = _parts(output)
    items = parts.items() if isinstance(parts, dict) else enumerate(parts)
    found = {key: plain(value) for key, value in items if not _holds_no_tensor(value)}
    return found if isinstance(parts, dict) else type(parts)(found.values())


def _holds_no_tensor(value: Any) -> bool:
    """Numbers, text, labels, and the nodes of a graph that give sizes."""
    if isinstance(value, fx.Node):
        return is_size(value)
    return isinstance(value, (*_NUMBERS, *_LABELS))


def is_size(node: fx.Node) -> bool:
    """Whether the node gives a number and no tensor, by torch.export's note, or by its op without a note."""
    if "val" in node.meta:
        return isinstance(node.meta["val"], (bool, int, float, *_SYMBOLS))
    on_numbers = getattr(node.target, "__module__", "") == "_operator" and kind(node) != "getitem"
    return kind(node) == "sym_size" or on_numbers


def _parts(output: Any) -> dict[Any, Any] | list[Any] | tuple[Any, ...]:
    if is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    if isinstance(output, SimpleNamespace | Mapping):
        return dict(vars(output) if isinstance(output, SimpleNamespace) else output)
    if isinstance(output, list):
        return list(output)
    if isinstance(output, tuple):
        return tuple(output)
    if not pytree.tree_is_leaf(output):  # registered by the user
        return tuple(pytree.tree_flatten(output, lambda x: x is not output)[0])
    cache = "; leave a cache out with use_cache=False" if "Cache" in type(output).__name__ else ""
    raise CaptureError(
        f"the model's output holds a {type(output).__name__}, which cannot be looked into; return tensors "
        "in a tuple, a dict or a dataclass, or register the class with "
        f"torch.utils._pytree.register_pytree_node{cache}"
    )


def with_plain_outputs(model: nn.Module) -> nn.Module:
    """A twin of the model, with the same submodules and tensors, that returns tensors in plain containers.

    The model stays as it is.
    """
    twin, forward = copy.copy(model), model.forward
    if isinstance(twin, fx.GraphModule):  # torch.export reads its graph and not its forward
        return _with_plain_graph(twin)

    @wraps(forward)
    def plain_forward(*args: Any, **kwargs: Any) -> Any:
        return plain(forward(*args, **kwargs))

    twin.__dict__["forward"] = plain_forward
    return twin


def _with_plain_graph(module: fx.GraphModule) -> fx.GraphModule:
    codegen = module.graph._codegen
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    if isinstance(codegen, fx.graph._PyTreeCodeGen):  # its output is flat
        spec = codegen.pytree_info.out_spec
        assert spec is not None
        leaves, spec = pytree.tree_flatten(plain(pytree.tree_unflatten(list(output.args[0]), spec)))
        output.args = (tuple(leaves),)
        codegen.pytree_info = codegen.pytree_info._replace(out_spec=spec)
    else:
        output.args = (plain(output.args[0]),)
    module.recompile()
    return module
