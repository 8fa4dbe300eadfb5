"""Layers that read units, as linear maps of rows: y = W x + b at every position and in every channel group.

A row of `VIEWS` says how an op's input, output and weight become matrices. A consumer whose op has no row can
be merged into, but not refitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from secateur.graph.batch_norm import batch_norm_after, running_statistics
from secateur.graph.graph import Graph, tensor_name
from secateur.graph.node import bound_arguments, kind
from secateur.types import Group, Slot

Arguments = Mapping[str, Any]  # of an op, by name
_BLOCK = 2**24  # numbers in one block of rows


@dataclass(frozen=True)
class View:
    """How one op becomes a linear map, with B channel groups of D features and O outputs each.

    `at` are flat positions of the output.
    """

    input: str
    weight: str
    bias: str | None
    axis: int  # of the weight, that of its inputs
    # (arguments, input, at) → shape: (samples · positions, B, D)
    rows: Callable[[Arguments, Tensor, Tensor], Tensor]
    outputs: Callable[[Tensor, Tensor], Tensor]  # (output, at) → shape: (samples · positions, B · O)
    positions: Callable[[Tensor], int]  # of an output
    matrix: Callable[[Tensor, int], Tensor]  # (weight, B) → shape: (B, O, D)
    tensor: Callable[[Tensor, Tensor], Tensor]  # (matrix, a weight of the wanted shape) → weight


@dataclass(frozen=True, eq=False)
class Consumer:
    """A node that reads units through a weight."""

    node: fx.Node
    view: View
    weight: str
    bias: str | None
    shift: tuple[str, float] | None  # what takes up a change of the output's mean, and with which sign
    normed: bool  # whether a batch norm alone reads the output
    taps: int  # features of each index of the weight's axis
    blocks: int

    def features(self, group: Group) -> Tensor:
        """The features of each unit; shape: (units, features of a unit)."""
        slots = [s for s in group.having("consumer") if (s.tensor, s.axis) == (self.weight, self.view.axis)]
        positions = torch.cat([slot.positions for slot in slots], dim=1)
        return (positions[:, :, None] * self.taps + torch.arange(self.taps)).flatten(1)


def find_consumers(graph: Graph) -> dict[str, list[Consumer]]:
    """Weight → the nodes that read through it, in graph order, for weights all of whose uses have a view."""
    uses = graph.uses()
    found: dict[str, list[Consumer]] = {}
    for node in graph.nodes:
        consumer = _consumer(graph, node, uses)
        if consumer is not None:
            found.setdefault(consumer.weight, []).append(consumer)
    return {weight: nodes for weight, nodes in found.items() if len(nodes) == uses[weight]}


def all_linear(slots: Iterable[Slot], consumers: Mapping[str, Sequence[Consumer]]) -> bool:
    """Whether the readers of units in `slots` are all consumers that read them along their inputs."""
    return all(s.tensor in consumers and consumers[s.tensor][0].view.axis == s.axis for s in slots)


def _consumer(graph: Graph, node: fx.Node, uses: Mapping[str, int]) -> Consumer | None:
    view = VIEWS.get(kind(node)) if node.op == "call_function" else None
    if view is None:
        return None
    a = bound_arguments(node, node.args, node.kwargs)
    weight, bias = tensor_name(a[view.weight]), tensor_name(a[view.bias]) if view.bias else None
    blocks = a.get("groups", 1)
    if weight is None or not isinstance(a[view.input], fx.Node) or graph.tensors[weight].ndim < 2:
        return None
    if blocks > 1 and "transpose" in kind(node):
        return None  # all blocks share one axis of inputs
    if any(a.get(factor, 1) != 1 for factor in ("alpha", "beta")):
        return None
    taps = graph.tensors[weight][0, 0].numel()
    norm = batch_norm_after(node)
    return Consumer(node, view, weight, bias, _shift(bias, norm, uses), norm is not None, taps, blocks)


def _shift(bias: str | None, norm: fx.Node | None, uses: Mapping[str, int]) -> tuple[str, float] | None:
    """Its own bias, or else the running mean of the batch norm that follows, where nothing else uses it."""
    if bias is not None:
        return (bias, 1.0) if uses[bias] == 1 else None
    statistics = running_statistics(norm) if norm is not None else None
    return (statistics[0], -1.0) if statistics is not None and uses[statistics[0]] == 1 else None


def blocks_of_rows(
    consumer: Consumer,
    arguments: Arguments,
    inputs: Sequence[Tensor],
    output: Tensor,
    limit: int,
    generator: torch.Generator,
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Matching rows of several networks' inputs and of an output, about `limit` in all.

    Yields (inputs of shape (B, n, D) each, output of shape (B, n, O)). Positions are drawn anew for every few
    samples.
    """
    view, samples, positions = consumer.view, len(output), consumer.view.positions(output)
    share = min(positions, max(1, -(-limit // samples)))
    width = (
        consumer.blocks
        * consumer.taps
        * max(1, inputs[0].shape[1] if inputs[0].ndim > 2 else inputs[0].shape[-1])
    )
    few = max(1, min(64, _BLOCK // (share * width)))
    for start in range(0, samples, few):
        part = slice(start, start + few)
        at = torch.randperm(positions, generator=generator)[:share].to(output.device)
        y = view.outputs(output[part], at).unflatten(1, (consumer.blocks, -1))
        yield [view.rows(arguments, x[part], at).movedim(1, 0) for x in inputs], y.movedim(1, 0)


# --- linear -------------------------------------------------------------------------------------------------


def _last(x: Tensor, at: Tensor) -> Tensor:
    return x.reshape(len(x), -1, x.shape[-1])[:, at].flatten(0, 1)


def _linear_rows(a: Arguments, x: Tensor, at: Tensor) -> Tensor:
    return _last(x, at)[:, None]


def _linear_positions(y: Tensor) -> int:
    return y[0].numel() // y.shape[-1]


# --- convolutions -------------------------------------------------------------------------------------------


def _conv_rows(a: Arguments, x: Tensor, at: Tensor) -> Tensor:
    weight, spatial = a["weight"], x.ndim - 2
    stride, dilation = _each(a["stride"], spatial), _each(a["dilation"], spatial)
    padding = a["padding"]
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        pads = [(r // 2, r - r // 2) if padding == "same" else (0, 0) for r in reach]
    else:
        pads = [(p, p) for p in _each(padding, spatial)]
    return _patches(x, weight.shape[2:], stride, dilation, pads, at, a["groups"])


def _transposed_rows(a: Arguments, x: Tensor, at: Tensor) -> Tensor:
    """A transposed convolution is a convolution of the input with zeros between, by the flipped kernel."""
    weight, spatial = a["weight"], x.ndim - 2
    stride, dilation, padding, extra = (
        _each(a[name], spatial) for name in ("stride", "dilation", "padding", "output_padding")
    )
    wide = x.new_zeros([*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True))])
    wide[_steps(stride)] = x
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    pads = [(r - p, r - p + e) for r, p, e in zip(reach, padding, extra, strict=True)]
    return _patches(wide, weight.shape[2:], [1] * spatial, dilation, pads, at, 1)


def _patches(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    pads: Sequence[tuple[int, int]],
    at: Tensor,
    blocks: int,
) -> Tensor:
    """The patches under the kernel at output positions `at`, which are flat.

    Shape: (samples · positions, B, channels / B · taps).
    """
    x = functional.pad(x, [p for pair in reversed(pads) for p in pair])
    for i, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True)):
        x = x.unfold(2 + i, d * (k - 1) + 1, s)
    x = x[_steps(dilation)]
    every: tuple[Any, ...] = (slice(None), slice(None))
    seen = x[every + torch.unravel_index(at, x.shape[2 : 2 + len(kernel)])].movedim(2, 1)
    rows: Tensor = seen.flatten(0, 1).unflatten(1, (blocks, -1)).flatten(2)
    return rows


def _steps(sizes: Sequence[int]) -> tuple[Any, ...]:
    """The index that takes every n-th element along each of the last axes, n from `sizes`."""
    return (..., *(slice(None, None, size) for size in sizes))


def _each(value: Any, count: int) -> list[int]:
    return [int(value)] * count if isinstance(value, int) else [int(v) for v in value] * (count // len(value))


def _conv_outputs(y: Tensor, at: Tensor) -> Tensor:
    return y.flatten(2)[:, :, at].movedim(2, 1).flatten(0, 1)


def _conv_positions(y: Tensor) -> int:
    return y[0, 0].numel()


def _flipped(weight: Tensor) -> Tensor:
    return weight.flip(tuple(range(2, weight.ndim))).transpose(0, 1)


_LINEAR = View(
    "input", "weight", "bias", 1, _linear_rows, _last, _linear_positions,
    matrix=lambda weight, blocks: weight[None],
    tensor=lambda matrix, shaped: matrix[0],
)  # fmt: skip
_CONV = View(
    "input", "weight", "bias", 1, _conv_rows, _conv_outputs, _conv_positions,
    matrix=lambda weight, blocks: weight.flatten(1).unflatten(0, (blocks, -1)),
    tensor=lambda matrix, shaped: matrix.flatten(0, 1).reshape(shaped.shape),
)  # fmt: skip
_TRANSPOSED = View(
    "input", "weight", "bias", 0, _transposed_rows, _conv_outputs, _conv_positions,
    matrix=lambda weight, blocks: _flipped(weight).flatten(1)[None],
    tensor=lambda matrix, shaped: _flipped(matrix[0].reshape(shaped.transpose(0, 1).shape)),
)  # fmt: skip


def _product(input: str, weight: str, bias: str | None = None) -> View:
    """A product with a bare parameter on the right, of shape (D, O)."""
    return View(
        input, weight, bias, 0, _linear_rows, _last, _linear_positions,
        matrix=lambda weight, blocks: weight.T[None],
        tensor=lambda matrix, shaped: matrix[0].T,
    )  # fmt: skip


VIEWS: dict[str, View] = {
    "linear": _LINEAR,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _CONV),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _TRANSPOSED),
    "addmm": _product("mat1", "mat2", "self"),
    "mm": _product("self", "mat2"),
    "matmul": _product("self", "other"),
}
