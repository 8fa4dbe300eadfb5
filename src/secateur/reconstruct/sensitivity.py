"""How much the outputs change with the output of each consumer: the weights of the costs of elimination."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.graph.graph import Graph
from secateur.graph.interpret import call_op, precision_of, run
from secateur.graph.node import kind
from secateur.reconstruct.elimination import factor
from secateur.reconstruct.layers import Consumer
from secateur.reconstruct.naming import naming

_WIDE = 2048  # outputs beyond which S is not made
# share of the mean of its diagonal that is added to it, against directions that no sample moved
_DAMPING = 1e-3


@dataclass(frozen=True, eq=False)
class Root:
    """R with RᵀR = S + δI: a square matrix or, for very many outputs, the fewer rows of gradients, and δ."""

    rows: Tensor  # shape: (B, rows, O)
    damping: Tensor | None = None  # δ where `rows` do not hold it; shape: (B, 1, 1)

    def times(self, weight: Tensor) -> Tensor:
        """A matrix that gives all combinations of columns the norms that R @ `weight` gives.

        Shapes: (B, any, D).
        """
        if self.damping is None:
            return self.rows @ weight
        tall = torch.cat([self.rows @ weight, self.damping.sqrt() * weight], 1)
        return torch.linalg.qr(tall, mode="r").R if tall.shape[1] > tall.shape[2] else tall


def _root(rows: Tensor, samples: int) -> Root:
    """Of S = Σ rows rowsᵀ / `samples`; shape of `rows`: (B, rows, O). Raises `SolveError`."""
    outputs = rows.shape[2]
    if outputs > _WIDE and rows.shape[1] < outputs:
        rows = rows / samples**0.5
        return Root(rows, _damping(rows.square().sum(1)))
    s = rows.mT @ rows / samples
    damping = _damping(s.diagonal(dim1=1, dim2=2))
    return Root(factor(s + damping * torch.eye(outputs, dtype=s.dtype)).mT)


def _damping(diagonal: Tensor) -> Tensor:
    return (_DAMPING * diagonal.mean(1)).clamp_min(1e-30)[:, None, None]


def sensitivities(
    graph: Graph,
    consumers: Sequence[Consumer],
    tensors: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    generator: torch.Generator,
) -> dict[fx.Node, Root]:
    """√S at each consumer, S = Σ over positions of E[JᵀJ], J the Jacobian of the outputs in its output.

    One backward pass with random signs v: the gradient of v·outputs has E[g gᵀ] = JᵀJ. Memory: all values of
    the network for the samples of `inputs`. Raises `InputError` naming the layer whose S has no root.
    """
    wanted = {consumer.node: consumer for consumer in consumers}
    values, gradients = _gradients(graph, wanted, tensors, inputs, generator)
    found = dict[fx.Node, Root]()
    for (node, value), gradient in zip(values.items(), gradients, strict=True):
        consumer = wanted[node]
        g = torch.zeros_like(value) if gradient is None else gradient
        at = torch.arange(consumer.view.positions(g), device=g.device)
        rows = consumer.view.outputs(g, at).unflatten(1, (consumer.blocks, -1)).movedim(1, 0).double().cpu()
        # √x and the like have no finite slope at 0; the other samples still tell the costs
        rows = rows.nan_to_num(0.0, 0.0, 0.0)
        with naming(consumer):
            found[node] = _root(rows, len(inputs[0]))
    return found


def _gradients(
    graph: Graph,
    nodes: Collection[fx.Node],
    tensors: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    generator: torch.Generator,
) -> tuple[dict[fx.Node, Tensor], Sequence[Tensor | None]]:
    """The values of `nodes`, and the gradients of v·outputs with respect to them for random signs v."""
    values: dict[fx.Node, Tensor] = {}
    ends: list[Tensor] = []  # inputs of ops that no gradient passes count as outputs

    def call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], *, like: Tensor) -> Any:
        value = call_op(node, args, kwargs, like=like)
        if kind(node) == "onnxruntime":
            ends.extend(x for x in pytree.tree_leaves(args) if isinstance(x, Tensor) and x.requires_grad)
        if node in nodes:
            value = value if value.requires_grad else value.detach().requires_grad_()
            values[node] = value
        return value

    with torch.enable_grad():
        last = run(graph, inputs, tensors, dtype=precision_of(inputs), call=call, gradients=True)
        outputs = [y for y in (*last, *ends) if y.is_floating_point() and y.requires_grad]
        if not outputs:
            return values, [None] * len(values)
        signs = [(torch.rand(y.shape, generator=generator) < 0.5).to(y) * 2 - 1 for y in outputs]
        total = sum(((y * v).sum() for y, v in zip(outputs, signs, strict=True)), outputs[0].new_zeros(()))
        return values, torch.autograd.grad(total, list(values.values()), allow_unused=True)
