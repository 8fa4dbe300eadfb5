"""Norms over the last axis in one form, and weights that are read in two ways apart: what streams ask for.

A stream is the residual width of a network. To cut it, its norms must be known as such, and the table that
makes it must not be the weight that reads it, too.
"""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from secateur.graph.graph import Graph, tensor_name
from secateur.graph.node import bound_arguments, kind, set_argument
from secateur.graph.sources import layer_of

NORMS = ("layer_norm", "rms_norm")
_COPIES = ("to", "_to_copy", "clone", "alias", "detach", "contiguous")


def for_streams(graph: Graph) -> Graph:
    """The same function with norms that are one op each, their eps written out, and no tied tables.

    Changes the graph's own module.
    """
    for node in [n for n in graph.nodes if n.op == "call_function"]:
        _fuse(graph, node)
    graph.module.graph.eliminate_dead_code()
    for node in graph.nodes:
        if kind(node) == "rms_norm" and bound_arguments(node, node.args, node.kwargs)["eps"] is None:
            set_argument(node, "eps", float(torch.finfo(_type(graph, node)).eps))
    graph = _untied(graph)
    graph.module.recompile()
    return graph


# --- root mean squares that are written out -----------------------------------------------------------------


def _fuse(graph: Graph, node: fx.Node) -> None:
    """weight · x · rsqrt(mean(x²) + eps), with copies between, as one `rms_norm` in place of `node`."""
    if kind(node) != "mul" or len(node.args) != 2:
        return
    pairs = (node.args, node.args[::-1])
    for weight, value in pairs:
        name = tensor_name(_source(weight))
        found = _normalised(_source(value)) if name is not None else None
        if name is None or found is None or graph.tensors[name].ndim != 1:
            continue
        x, eps = found
        with node.graph.inserting_before(node):
            size = list(graph.tensors[name].shape)
            fused = node.graph.call_function(torch.ops.aten.rms_norm.default, (x, size, _source(weight), eps))
        fused.meta.update(node.meta)
        node.replace_all_uses_with(fused)
        node.graph.erase_node(node)
        return


def _normalised(node: Any) -> tuple[fx.Node, float] | None:
    """x and eps, where a node is x · rsqrt(mean(x², −1) + eps)."""
    if not _is(node, "mul"):
        return None
    for value, factor in (node.args, node.args[::-1]):
        factor = _source(factor)
        if not _is(factor, "rsqrt"):
            continue
        added = _source(factor.args[0])
        if not _is(added, "add") or not isinstance(added.args[1], float):
            continue
        mean = _source(added.args[0])
        axes = mean.args[1] if _is(mean, "mean") and len(mean.args) > 1 else None
        if axes not in ([-1], -1) or not bound_arguments(mean, mean.args, mean.kwargs).get("keepdim"):
            continue
        square = _source(mean.args[0])
        squared = _is(square, "pow") and square.args[1] == 2
        if squared and _source(square.args[0]) is _source(value) and isinstance(_source(value), fx.Node):
            return _source(value), added.args[1]
    return None


def _is(node: Any, name: str) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and kind(node) == name


def _source(node: Any) -> Any:
    """What a node is a copy of, perhaps in another type."""
    while isinstance(node, fx.Node) and node.op == "call_function" and kind(node) in _COPIES:
        node = node.args[0]
    return node


def _type(graph: Graph, node: fx.Node) -> torch.dtype:
    name = tensor_name(bound_arguments(node, node.args, node.kwargs)["weight"])
    return graph.tensors[name].dtype if name is not None else torch.float32


# --- tied tables --------------------------------------------------------------------------------------------


def _untied(graph: Graph) -> Graph:
    """With a tensor of its own for every layer that reads a table of embeddings as a weight."""
    tables = {tensor_name(node.args[0]) for node in graph.nodes if _is(node, "embedding")} - {None}
    tensors, aliases, copies = dict(graph.tensors), dict(graph.aliases), set(graph.copies)
    for node in graph.nodes:
        for source in node.all_input_nodes if node.op == "call_function" else ():
            name = tensor_name(source)
            own = _own_name(node, name, graph.aliases[name]) if name in tables and name is not None else name
            if name is None or own is None or own == name:
                continue
            if own not in tensors:
                _add(graph.module, own, operator.attrgetter(name)(graph.module))
                tensors[own] = tensors[name]
                aliases[own] = (own,) if own in aliases[name] else ()
                aliases[name] = tuple(alias for alias in aliases[name] if alias != own)
                copies.add(own)
            with node.graph.inserting_before(node):
                read = node.graph.create_node("get_attr", own)
            node.replace_input_with(source, read)
    graph.module.graph.eliminate_dead_code()
    return replace(graph, tensors=tensors, aliases=aliases, copies=frozenset(copies))


def _own_name(node: fx.Node, name: str, aliases: tuple[str, ...]) -> str:
    """What the model calls a table at the layer of `node`; else a new name for all but embeddings."""
    wanted = f"{layer_of(node)}.weight"
    if wanted in aliases:
        return wanted
    return name if _is(node, "embedding") else f"{name}_of_{node.name}"


def _add(module: fx.GraphModule, name: str, value: Tensor) -> None:
    *path, leaf = name.split(".")
    owner: nn.Module = module
    for part in path:
        if not hasattr(owner, part):
            owner.add_module(part, nn.Module())
        owner = getattr(owner, part)
    owner.register_parameter(leaf, nn.Parameter(value.detach(), requires_grad=value.requires_grad))
