"""How much the model's outputs move when a consumer's output does: the weights of the costs of elimination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.graph.capture import Graph, as_work, call_op, kind, walk
from secateur.reconstruct.layers import Consumer


def sensitivities(
    graph: Graph, consumers: Sequence[Consumer], tensors: Mapping[str, Tensor], inputs: Sequence[Tensor],
    generator: torch.Generator,
) -> dict[fx.Node, Tensor]:  # fmt: skip
    """S = Σ over positions of E[JᵀJ] at each consumer, J the Jacobian of the outputs with respect to its output.

    One backward pass with random signs v: the gradient of v·outputs has E[g gᵀ] = JᵀJ. Shapes: (B, O, O).
    Memory: all values of the network for the samples of `inputs`.
    """
    like = next((x for x in inputs if x.is_floating_point()), torch.zeros(0))
    given = dict(zip(graph.inputs, inputs, strict=True))
    wanted = {consumer.node: consumer for consumer in consumers}
    seen: dict[fx.Node, Tensor] = {}
    ends: list[Tensor] = []  # what ops read that no gradient passes: it counts as an output

    def leaf(node: fx.Node) -> Tensor:
        return given[node] if node.op == "placeholder" else as_work(tensors[str(node.target)], like)

    def call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = call_op(node, args, kwargs, like=like)
        if kind(node) == "onnxruntime":
            ends.extend(x for x in pytree.tree_leaves(args) if isinstance(x, Tensor) and x.requires_grad)
        if node in wanted:
            value = value.detach().requires_grad_() if not value.requires_grad else value
            seen[node] = value
        return value

    with torch.enable_grad():
        env = walk(graph, leaf, call)
        last = [env[node] for node in graph.outputs]
        outputs = [y for y in (*last, *ends) if y.is_floating_point() and y.requires_grad]
        signs = [(torch.rand(y.shape, generator=generator) < 0.5).to(y) * 2 - 1 for y in outputs]
        total = sum((y * v).sum() for y, v in zip(outputs, signs, strict=True))
        grads = torch.autograd.grad(total, list(seen.values()), allow_unused=True) if outputs else [None] * len(seen)
    found = {}
    for (node, value), grad in zip(seen.items(), grads, strict=True):
        consumer = wanted[node]
        g = torch.zeros_like(value) if grad is None else grad
        positions = consumer.view.positions(g)
        at = torch.arange(positions, device=g.device)
        rows = consumer.view.outputs(g, at).unflatten(1, (consumer.blocks, -1)).movedim(1, 0).double().cpu()
        found[node] = rows.mT @ rows / len(inputs[0])
    return found
