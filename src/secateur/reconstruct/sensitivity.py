"""How much the outputs change with the output of each consumer: the weights of the costs of elimination."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.graph.footprint import batch_size, footprint
from secateur.graph.graph import Graph
from secateur.graph.interpret import batches, call_op, for_passes, precision_of, run
from secateur.graph.node import kind
from secateur.graph.workers import in_order
from secateur.reconstruct.elimination import factor
from secateur.reconstruct.layers import Consumer
from secateur.reconstruct.naming import naming

_WIDE = 2048  # outputs beyond which S is not made
# share of the mean of its diagonal that is added to it, against directions that no sample moved
_DAMPING = 1e-3
_POSITIONS = 1024  # of each sample, at most


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


class _Sum:
    """S = Σ rows rowsᵀ over batches, or the rows themselves where they are fewer than the outputs."""

    def __init__(self, outputs: int, rows: int) -> None:
        self._rows: list[Tensor] | None = [] if outputs > _WIDE and rows < outputs else None
        self._s: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        """Gradients of one batch; shape: (B, rows, O), float64."""
        if self._rows is not None:
            self._rows.append(rows)
        else:
            s = rows.mT @ rows
            self._s = s if self._s is None else self._s + s

    def root(self, samples: int) -> Root:
        """Raises `SolveError`."""
        if self._rows is not None:
            rows = torch.cat(self._rows, 1) / samples**0.5
            return Root(rows, _damping(rows.square().sum(1)))
        assert self._s is not None
        s = self._s / samples
        damping = _damping(s.diagonal(dim1=1, dim2=2))
        return Root(factor(s + damping * torch.eye(s.shape[1], dtype=s.dtype)).mT)


def _damping(diagonal: Tensor) -> Tensor:
    return (_DAMPING * diagonal.mean(1)).clamp_min(1e-30)[:, None, None]


def sensitivities(
    graph: Graph,
    consumers: Sequence[Consumer],
    tensors: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    seed: int,
) -> dict[fx.Node, Root]:
    """√S at each consumer, S = Σ over positions of E[JᵀJ], J the Jacobian of the outputs in its output.

    One backward pass with random signs v: the gradient of v·outputs has E[g gᵀ] = JᵀJ. Memory: for each
    worker, all values of the network for one batch (32 MiB, or one sample); S of all consumers; and `tensors`
    in the precision of the inputs (`for_passes`). Raises `InputError` naming the layer whose S has no root.
    """
    wanted = {consumer.node: consumer for consumer in consumers}
    size = batch_size(footprint(graph).total, inputs)
    sums = dict[fx.Node, _Sum]()
    used = for_passes(graph, tensors, inputs, precision_of(inputs))

    def one(batch: tuple[int, tuple[Tensor, ...]]) -> dict[fx.Node, Tensor]:
        number, part = batch
        generator = torch.Generator().manual_seed(seed + number * size)
        values, slopes = gradients(graph, wanted, used, part, generator)
        return {
            node: _rows(wanted[node], value, gradient, generator)
            for (node, value), gradient in zip(values.items(), slopes, strict=True)
        }

    for found in in_order(one, enumerate(batches(inputs, size))):
        for node, rows in found.items():
            if node not in sums:
                sums[node] = _Sum(rows.shape[2], rows.shape[1] * len(inputs[0]) // min(size, len(inputs[0])))
            sums[node].add(rows)
    roots = dict[fx.Node, Root]()
    for node, total in sums.items():
        with naming(wanted[node]):
            roots[node] = total.root(len(inputs[0]))
    return roots


def _rows(consumer: Consumer, value: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
    """Gradients at positions of a consumer's output, times the root of how many each stands for.

    Shape: (B, rows, O).
    """
    g = torch.zeros_like(value) if gradient is None else gradient
    positions = consumer.view.positions(g)
    at = torch.randperm(positions, generator=generator)[:_POSITIONS].to(g.device)
    rows = consumer.view.outputs(g, at).unflatten(1, (consumer.blocks, -1)).movedim(1, 0).double().cpu()
    rows *= (positions / len(at)) ** 0.5
    # √x and the like have no finite slope at 0; the other samples still tell the costs
    finite: Tensor = rows.nan_to_num(0.0, 0.0, 0.0)
    return finite


def gradients(
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
