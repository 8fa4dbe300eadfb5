"""Weights that `forward` permutes or reshapes before a layer reads them (HWIO kernels, (in, out) matrices).

The graph gets them as the layer reads them, so that every rule and method sees an ordinary weight. A `Layout`
leads back to the tensor that the model stores.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from secateur.graph.node import bound_arguments, kind
from secateur.graph.ops import OPS, of

_PERMUTATIONS = {*of("transpose"), "flip"}
_RESHAPES = {*of("reshape"), "expand"} - {"reshape_as"}
_COPIES = set(of("copy"))
_PRODUCTS = set(of("product"))
_LAYERS = {name: row.data for name, row in OPS.items() if row.data}  # op → its argument that is data


@dataclass(frozen=True, eq=False)
class Layout:
    """The order in which a tensor holds the numbers of the one that the model stores."""

    stored_shape: tuple[int, ...]
    # for each number, its flat position in the stored tensor; shape: as the layer reads the tensor
    order: Tensor

    def as_read(self, stored: Tensor) -> Tensor:
        """The stored tensor as the layer reads it."""
        return stored.reshape(-1)[self.order.to(stored.device)]

    def as_stored(self, read: Tensor, order: Tensor | None = None) -> Tensor:
        """A tensor as the layer reads it, in the layout in which the model stores it.

        Where some indices have been removed, `order` is that of the numbers that stay.
        """
        order = self.order if order is None else order
        coordinates = torch.unravel_index(order.reshape(-1), self.stored_shape)
        shape = [len(torch.unique(along)) for along in coordinates]
        return read.reshape(-1)[order.reshape(-1).argsort().to(read.device)].reshape(shape)

    def index_along(self, axis: int) -> Tensor:
        """For each number of the stored tensor, its index along `axis` of the tensor that is read."""
        index = torch.arange(self.order.shape[axis]).reshape(
            [-1 if i == axis else 1 for i in range(self.order.ndim)]
        )
        found = torch.empty(self.order.numel(), dtype=torch.int64)
        found[self.order.reshape(-1)] = index.expand(self.order.shape).reshape(-1)
        return found.reshape(self.stored_shape)


def read_as_used(
    module: fx.GraphModule, tensors: Mapping[str, Tensor], *, reshaped: bool
) -> dict[str, Layout]:
    """Let the graph read weights as its layers do, where all uses of a weight agree; returns their layouts.

    Nodes that moved a weight leave the graph, and `module` holds the moved weight. Without `reshaped`,
    weights that are permuted only.
    """
    allowed = _PERMUTATIONS | _COPIES | (_RESHAPES if reshaped else set())
    sources: dict[str, list[fx.Node]] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr" and str(node.target) in tensors:
            sources.setdefault(str(node.target), []).append(node)
    layouts = dict[str, Layout]()
    for name, nodes in sources.items():
        uses = [use for node in nodes for use in _uses(node, tensors[name], allowed)]
        order = _common_order(uses, tensors[name])
        if order is not None:
            layouts[name] = Layout(tuple(tensors[name].shape), order)
            for view, _ in uses:
                view.replace_all_uses_with(next(n for n in nodes if _leads_to(n, view)))
            _set(module, name, layouts[name].as_read(tensors[name]))
    module.graph.eliminate_dead_code()
    module.recompile()
    return layouts


def _uses(node: fx.Node, tensor: Tensor, allowed: set[str]) -> Iterator[tuple[fx.Node, fx.Node]]:
    """(the weight or what movements made of it, the op that reads that), for each such op."""
    for user in node.users:
        if _moves(user, tensor, allowed):
            yield from _uses(user, tensor, allowed)
        else:
            yield node, user


def _moves(node: fx.Node, tensor: Tensor, allowed: set[str]) -> bool:
    """Whether the op moves one weight by numbers that are known, and leaves its type."""
    if node.op != "call_function" or kind(node) not in allowed or len(node.all_input_nodes) != 1:
        return False
    return bound_arguments(node, node.args, node.kwargs).get("dtype") in (None, tensor.dtype)


def _common_order(uses: list[tuple[fx.Node, fx.Node]], tensor: Tensor) -> Tensor | None:
    """The order in which all ops read the weight.

    None where they do not agree, or where one is no layer or reads the weight as it is stored.
    """
    if not uses or any(view.op == "get_attr" or not _is_parameter(view, user) for view, user in uses):
        return None
    orders = [_order(view, tensor) for view in dict.fromkeys(view for view, _ in uses)]
    first = orders[0]
    alike = all(order.shape == first.shape and torch.equal(order, first) for order in orders)
    return first if alike and first.numel() == tensor.numel() else None


def _is_parameter(view: fx.Node, user: fx.Node) -> bool:
    """Whether a layer reads the node as one of its parameters, or multiplies it with what is no weight."""
    if user.op != "call_function":
        return False
    if kind(user) in _PRODUCTS:
        return any(not _is_weight(node) for node in user.all_input_nodes)
    data = bound_arguments(user, user.args, user.kwargs).get(_LAYERS.get(kind(user), ""))
    return data is not None and data is not view


def _is_weight(node: fx.Node) -> bool:
    """Whether the node is a tensor of the model, or what ops on one such tensor made of it."""
    while node.op == "call_function" and len(node.all_input_nodes) == 1:
        (node,) = node.all_input_nodes
    return node.op == "get_attr"


def _order(view: fx.Node, tensor: Tensor) -> Tensor:
    """The flat position in `tensor` of every number of what movements made of it."""
    if view.op == "get_attr":
        return torch.arange(tensor.numel()).reshape(tensor.shape)
    (source,) = view.all_input_nodes
    order = _order(source, tensor)
    if kind(view) in _COPIES:
        return order
    args, kwargs = fx.map_arg((view.args, view.kwargs), lambda node: order)
    moved: Tensor = view.target(*args, **kwargs)  # type: ignore[operator]
    return moved.contiguous()


def _leads_to(source: fx.Node, view: fx.Node) -> bool:
    while view.op == "call_function":
        (view,) = view.all_input_nodes
    return view is source


def _set(module: nn.Module, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner: Any = module.get_submodule(path)
    old = operator.attrgetter(name)(module)
    setattr(owner, leaf, nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value)
