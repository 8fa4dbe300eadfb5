"""Attention in steps, so that scores and weights are nodes of their own, with bounds and lines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx

from secateur.graph.graph import Graph, copied
from secateur.graph.interpret import run
from secateur.graph.node import bound_arguments, kind

ATTENTION = "scaled_dot_product_attention"

aten = torch.ops.aten


def attentions(graph: Graph) -> int:
    """How many ops of attention there are in one piece."""
    return sum(kind(node) == ATTENTION for node in graph.nodes)


def with_attention_in_steps(graph: Graph) -> Graph:
    """The same function on a new graph: softmax(q kᵀ · scale + mask) v op by op.

    Attention that is causal, has a boolean mask, drops out or groups queries stays as it is.
    """
    if not attentions(graph):
        return graph
    module = copied(graph.module)
    twin = replace(graph, module=module)
    nodes = [node for node in twin.nodes if kind(node) == ATTENTION]
    read = list({x for node in nodes for x in node.all_input_nodes})
    samples = dict(zip(read, run(twin, graph.example, wanted=read), strict=True))
    for node in nodes:
        _replace(module, node, samples)
    module.recompile()
    return twin


def _replace(module: fx.GraphModule, node: fx.Node, samples: Mapping[fx.Node, Tensor]) -> None:
    a = bound_arguments(node, node.args, node.kwargs)
    mask = a["attn_mask"]
    boolean = mask is not None and not samples[mask].is_floating_point()
    if boolean or a["is_causal"] or a["dropout_p"] or a.get("enable_gqa"):
        return
    scale = float(a["scale"] or 1 / math.sqrt(samples[a["query"]].shape[-1]))
    with module.graph.inserting_before(node):
        call = module.graph.call_function
        keys = call(aten.transpose.int, (a["key"], -2, -1))
        scores = call(aten.mul.Tensor, (call(aten.matmul.default, (a["query"], keys)), scale))
        if mask is not None:
            scores = call(aten.add.Tensor, (scores, mask))
        mixed = call(aten.matmul.default, (call(aten.softmax.int, (scores, -1)), a["value"]))
    node.replace_all_uses_with(mixed)
    module.graph.erase_node(node)
