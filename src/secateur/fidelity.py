"""How close the outputs of a pruned network are to the original's, on samples: measured in batches."""

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
from secateur.graph.interpret import batches, run
from secateur.graph.workers import in_order
from secateur.types import Samples

_LEAST_SPREAD = 1e-10  # of the outputs, as a share of their mean square: rounding in float32


@dataclass(frozen=True, eq=False)
class Fidelity:
    """One row for each sample. `first` and `second` are the decisions of the original and of the pruned
    network, (n, positions, k) as `Decision.classes` gives them; None where the network decides nothing.
    """

    moved: Tensor  # (n,), the largest |g(x) − f(x)| of any output; infinite where an output is not finite
    relative: (
        float | None
    )  # root of the mean square of g(x) − f(x), in units of the spread of f over the samples; None
    # where f hardly varies over them
    first: Tensor | None = None
    second: Tensor | None = None

    @property
    def samples(self) -> int:
        return len(self.moved)

    @property
    def drift(self) -> float:
        return float(self.moved.max())

    @property
    def agreed(self) -> Tensor | None:
        """The share of each sample's decisions that are the same, (n,)."""
        return (
            None
            if self.first is None or self.second is None
            else same(self.first, self.second).double().mean(1)
        )

    @property
    def agreement(self) -> float | None:
        """The share of equal decisions; None where there are none."""
        return None if self.agreed is None else float(self.agreed.mean())


def fidelity(
    graph: Graph, weights: Mapping[str, Tensor], samples: Samples, decision: Decision | None = None
) -> Fidelity:
    """Compare the outputs under `weights` with the original's, and the decisions that are read from them.

    Cost: two passes of the samples, in batches of about 64 MiB of values. Raises `InputError` where no
    output is a floating-point number.
    """

    def one(batch: tuple[Tensor, ...]) -> _Part:
        return _compared(graph, weights, batch, decision)

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
    """One batch: see `Fidelity`; sums over its finite samples of (g − f)², f and f², and how many samples
    they are.
    """

    moved: Tensor
    decided: tuple[Tensor, ...]  # first, second
    sums: tuple[Tensor, Tensor, Tensor]
    count: int


def _compared(
    graph: Graph, weights: Mapping[str, Tensor], inputs: tuple[Tensor, ...], decision: Decision | None
) -> _Part:
    pairs = list(zip(run(graph, inputs), run(graph, inputs, weights), strict=True))
    count = len(inputs[0])
    flat = [(_rows(f, count), _rows(g, count)) for f, g in pairs if f.is_floating_point()]
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


def _rows(value: Tensor, count: int) -> Tensor:
    """The output as (samples, numbers); one without a batch axis is the same for all samples."""
    if value.ndim and len(value) == count:
        return value.double().flatten(1) if value.ndim > 1 else value.double()[:, None]
    return value.double().reshape(1, -1).expand(count, -1)


def _relative(parts: list[_Part]) -> float | None:
    count = sum(p.count for p in parts)
    if not count:
        return None
    change, total, square = (sum(x) / count for x in zip(*(p.sums for p in parts), strict=True))
    spread, size = float((square - total.square()).clamp(min=0).mean()), float(square.mean())
    return math.sqrt(float(change.mean()) / spread) if spread > _LEAST_SPREAD * size else None
