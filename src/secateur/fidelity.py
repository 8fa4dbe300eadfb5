"""Compare the outputs and decisions of a pruned network with the original's, on samples, in batches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.decisions import Decision, same
from secateur.errors import InputError
from secateur.graph.footprint import batch_size, footprint
from secateur.graph.graph import Graph
from secateur.graph.interpret import batches, for_passes, run
from secateur.graph.workers import in_order
from secateur.types import Samples

_LEAST_SPREAD = 1e-10  # variance as a share of the mean square; less is mere rounding in float32


@dataclass(frozen=True, eq=False)
class Fidelity:
    """How the outputs g(x) of a pruned network differ from the original's f(x), on n samples x.

    Attributes:
        moved: The largest |g(x) − f(x)| of any output for each sample, shape (n,); infinite where an output
            is not finite.
        relative: The root mean square of g(x) − f(x) in units of the standard deviation of f over the
            samples; None where f hardly varies.
        first: Decisions of the original, shape (n, positions, k) as `Decision.classes` returns them; None
            where the network decides nothing.
        second: The same of the pruned network.
    """

    moved: Tensor
    relative: float | None
    first: Tensor | None = None
    second: Tensor | None = None

    @property
    def samples(self) -> int:
        return len(self.moved)

    @property
    def drift(self) -> float:
        """The largest absolute change of any output on any sample."""
        return float(self.moved.max())

    @property
    def agreed(self) -> Tensor | None:
        """The share of each sample's decisions that are equal, shape (n,)."""
        if self.first is None or self.second is None:
            return None
        return same(self.first, self.second).double().mean(1)

    @property
    def agreement(self) -> float | None:
        """The share of equal decisions; None where the network decides nothing."""
        return None if self.agreed is None else float(self.agreed.mean())


def fidelity(
    graph: Graph, weights: Mapping[str, Tensor], samples: Samples, decision: Decision | None = None
) -> Fidelity:
    """Compare the outputs with `weights` in place of the original's, and the decisions read from them.

    Cost: two forward passes of the samples, in batches of about 32 MiB of values.

    Args:
        graph: The captured original.
        weights: The pruned network's tensors at full size, by name.
        samples: The inputs.
        decision: How decisions are read from the outputs; None for a network that decides nothing.

    Raises:
        InputError: No output is a floating-point number.
    """
    used = for_passes(graph, weights, samples.inputs)

    def one(batch: tuple[Tensor, ...]) -> _Part:
        return _compared(graph, used, batch, decision)

    size = batch_size(2 * footprint(graph).peak, samples.inputs)
    parts = list(in_order(one, batches(samples.inputs, size)))
    moved = torch.cat([p.moved for p in parts])
    if decision is None:
        return Fidelity(moved, _relative(parts))
    return Fidelity(
        moved, _relative(parts), *(torch.cat(x) for x in zip(*(p.decided for p in parts), strict=True))
    )


@dataclass(frozen=True, eq=False)
class _Part:
    """The part of a `Fidelity` that comes from one batch."""

    moved: Tensor
    decided: tuple[Tensor, ...]  # first, second
    sums: tuple[Tensor, Tensor, Tensor]  # of (g − f)², f and f² over the finite samples
    count: int  # of finite samples


def _compared(
    graph: Graph, weights: Mapping[str, Tensor], inputs: tuple[Tensor, ...], decision: Decision | None
) -> _Part:
    pairs = list(zip(run(graph, inputs), run(graph, inputs, weights), strict=True))
    count = len(inputs[0])
    flat = [(as_rows(f, count), as_rows(g, count)) for f, g in pairs if f.is_floating_point()]
    if not flat:
        raise InputError("the model gives no floating-point output, so that its drift cannot be measured")
    f, g = (torch.cat(part, 1) for part in zip(*flat, strict=True))
    finite = torch.isfinite(f).all(1) & torch.isfinite(g).all(1)
    moved = (g - f).abs().amax(1).masked_fill(~finite, torch.inf)
    f, g = f[finite], g[finite]
    sums = ((g - f).square().sum(0), f.sum(0), f.square().sum(0))
    if decision is None:
        return _Part(moved, (), sums, len(f))
    return _Part(moved, tuple(decision.classes(y) for y in pairs[decision.output]), sums, len(f))


def as_rows(value: Tensor, count: int) -> Tensor:
    """An output as a matrix (samples, numbers); without a batch axis, it is repeated for every sample."""
    if value.ndim and len(value) == count:
        return value.double().flatten(1) if value.ndim > 1 else value.double()[:, None]
    return value.double().reshape(1, -1).expand(count, -1)


def _relative(parts: list[_Part]) -> float | None:
    """`Fidelity.relative`, from the sums of all batches."""
    count = sum(p.count for p in parts)
    if not count:
        return None
    change, total, square = (sum(x) / count for x in zip(*(p.sums for p in parts), strict=True))
    spread, size = float((square - total.square()).clamp(min=0).mean()), float(square.mean())
    return math.sqrt(float(change.mean()) / spread) if spread > _LEAST_SPREAD * size else None
