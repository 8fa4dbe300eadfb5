"""Queries and keys of which only some are left: what it costs the outputs, and what the others make up for.

Unit u of head h adds q_u(t)·k_u(s) to the logits. A factor 1 + a on it changes v·outputs, for random signs v,
by a·f_u to the first order, f_u = Σ_t f_u(t), f_u(t) = q_u(t) ∂(v·outputs) / ∂q_u(t), and of positions t that
do not depend on each other the squared change is 1ᵀA1 for all units that leave, A = E Σ_t f fᵀ. With the best
factors on the others it is what elimination gives, for a layer that reads f with weights of 1.

Rotary embeddings turn pairs (q_a, q_b) by angles of their own; all that commutes with them is a factor and a
turn by an angle, the same at all positions. The turn is a second number of the unit: f = q_a g_b − q_b g_a.
Pairs of another frequency cannot take over anything exactly.

A norm inside of the heads divides by more than is left. Factors stand in its scale, one for all heads; beside
them √(Σ_kept / Σ_all) of the squares, for queries and keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from secateur.graph.coupling import Coupling
from secateur.graph.footprint import batch_size, footprint
from secateur.graph.graph import tensor_name
from secateur.graph.interpret import batches, run
from secateur.graph.workers import in_order
from secateur.reconstruct.elimination import DenseInverse, Problem, eliminate, factor
from secateur.reconstruct.heads import Factor, Parts, factors_of
from secateur.reconstruct.sensitivity import gradients
from secateur.reconstruct.statistics import LayerStatistics
from secateur.reconstruct.turns import Turn
from secateur.types import Slot

_SAMPLES = 256  # of the backward pass
_NORMED = 32  # samples of what a norm reads
_PROBED = 2  # samples on which factors are tried
_EXACT = 1e-5  # of the largest value: a factor before an op gives that factor behind it


@dataclass(frozen=True, eq=False)
class Gates:
    """The units of queries and keys as features of the outputs: m numbers each, H heads or 1 for all.

    Attributes:
        moments: A, shape (H, units · m, units · m), float64.
        numbers: m; 2 for rotary pairs.
        tensors: Those that take factors, their axes and the places of a unit, shape (H, places, units). Empty
            where none can.
        shares: Of queries and of keys, of the squares that a norm divides by, shape (2, units).
    """

    moments: Tensor
    numbers: int
    tensors: tuple[tuple[str, int, Tensor], ...]
    shares: Tensor | None
    ridge: float

    def cheapest(self, alive: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The `count` units to remove next, in order, and the cost of each at the outputs."""
        left, matrix = self._left(alive), self._matrix()
        matrix[:, ~left] = 0.0
        matrix[:, :, ~left] = 0.0
        matrix[:, ~left, ~left] = 1.0
        weight = self._factors(alive).flatten(1)[:, None]
        inverse = DenseInverse(torch.cholesky_inverse(factor(matrix)))
        features = torch.arange(len(left)).reshape(-1, self.numbers)
        return eliminate([Problem(inverse, weight, features)], alive, count)

    def in_order(self, order: Tensor) -> Tensor:
        """What each of these units costs where they leave in this order and no other makes up for them."""
        own = self.moments[:, :: self.numbers, :: self.numbers].sum(0)[order][:, order]
        together = own.cumsum(0).cumsum(1).diagonal()  # of the first n
        return torch.diff(together, prepend=together.new_zeros(1)).clamp_min(0.0)

    def turns(self, alive: Tensor) -> list[Turn]:
        """The factors of the units that are left, as turns of the tensors."""
        if bool(alive.all()):
            return []
        found = self._factors(alive)
        found[:, ~alive, 0] = 1.0
        if self.shares is not None:
            found = found * self.shares[:, alive].sum(1).prod().sqrt()
        return [Turn(name, axis, at.flatten(1), _matrix_of(found, at)) for name, axis, at in self.tensors]

    def _left(self, alive: Tensor) -> Tensor:
        return alive.repeat_interleave(self.numbers)

    def _matrix(self) -> Tensor:
        """A + λI."""
        own = self.moments.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)[:, None, None]
        return self.moments + self.ridge * own * torch.eye(self.moments.shape[1], dtype=self.moments.dtype)

    def _factors(self, alive: Tensor) -> Tensor:
        """argmin E (1ᵀf − aᵀf)² + λ|a − 1|² over the units that are left; shape: (H, units, m)."""
        left, matrix = self._left(alive), self._matrix()
        whole = torch.zeros(len(left), dtype=matrix.dtype)
        whole[:: self.numbers] = 1.0
        goal = (matrix @ whole)[:, left]
        found = torch.zeros(len(matrix), len(left), dtype=matrix.dtype)
        found[:, left] = torch.cholesky_solve(goal[..., None], factor(matrix[:, left][:, :, left]))[..., 0]
        by_unit: Tensor = found.unflatten(1, (-1, self.numbers))
        return by_unit


def _matrix_of(factors: Tensor, at: Tensor) -> Tensor:
    """Factors of shape (H, units, m) as matrices over the places of all units, (H, p · units, p · units)."""
    places = at.shape[1]
    blocks = torch.eye(places, dtype=factors.dtype) * factors[..., :1, None]  # shape: (H, units, p, p)
    if factors.shape[2] == 2:
        quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=factors.dtype)
        blocks = blocks + quarter * factors[..., 1:, None]
    matrix = torch.zeros(len(factors), places, at.shape[2], places, at.shape[2], dtype=factors.dtype)
    units = torch.arange(at.shape[2])
    matrix[:, :, units, :, units] = blocks.movedim(1, 0)
    return matrix.flatten(3).flatten(1, 2)


def gates_of(stats: LayerStatistics, coupling: Coupling, parts: Sequence[Parts]) -> dict[str, Gates]:
    """The gates of those of these groups of queries and keys whose product is known.

    `stats` are of the network whose heads are turned. Cost: one backward pass of up to 256 samples.
    """
    found = {part: factors_of(coupling, stats.graph, part.group) for part in parts}
    known = {part: pair[0] for part, pair in found.items() if pair}
    made = {part: _empty(stats, part, *found[part]) for part in known}
    if not known:
        return {}
    totals = _moments(stats, {part: (queries, made[part]) for part, queries in known.items()})
    return {part.group.name: replace(made[part], moments=totals[part]) for part in known}


def _empty(stats: LayerStatistics, part: Parts, queries: Factor, keys: Factor) -> Gates:
    """The gates without moments: which tensors take factors, tried on a few samples."""
    units, size = part.group.units, len(queries.units)
    none = Gates(torch.zeros(0), 1, (), None, stats.settings.ridge)
    if part.plain or size % units:
        return none
    places = queries.places
    if part.group.normed:
        norms = _norms(part, queries, keys)
        tensors = tuple((slot.tensor, slot.axis, slot.positions.T[None]) for slot in norms)
        tried = [replace(none, tensors=tensors, shares=_shares(stats, part, len(places)))]
    else:
        heads = len(part.makers[0][1])
        tensors = tuple(
            (slot.tensor, slot.axis, at.reshape(heads, -1, len(places), units).flatten(0, 1))
            for slot, at in part.makers
        )
        tried = [replace(none, tensors=tensors, numbers=m) for m in ((2, 1) if len(places) == 2 else (1,))]
    return next((gates for gates in tried if _commutes(stats, gates, queries, places)), none)


def _norms(part: Parts, queries: Factor, keys: Factor) -> list[Slot]:
    """The parameters of the norm of queries alone."""
    of_queries, of_keys = (_tensors_before(factor.node) for factor in (queries, keys))
    return [slot for slot in part.norms if slot.tensor in of_queries - of_keys]


def _tensors_before(node: fx.Node) -> set[str]:
    """The tensors that a value depends on."""
    seen, todo = set[fx.Node](), [node]
    while todo:
        if (here := todo.pop()) not in seen:
            seen.add(here)
            todo += here.all_input_nodes
    return {name for here in seen if (name := tensor_name(here)) is not None}


def _shares(stats: LayerStatistics, part: Parts, places: int) -> Tensor:
    """Of the squares in each head, the share of each unit, for queries and for keys; shape: (2, units)."""
    makers = []
    for slots in (part.makers, part.keys):
        slot, at = next((slot, at) for slot, at in slots if slot.tensor in stats.consumers)
        makers.append((stats.consumers[slot.tensor][0], at.unflatten(1, (-1, places)).flatten(0, 1)))
    inputs = [x[:_NORMED] for x in stats.samples.inputs]
    wanted = [consumer.node for consumer, _ in makers]
    values = run(stats.graph, inputs, stats.original, dtype=torch.float64, wanted=wanted)
    found = []
    for (consumer, at), value in zip(makers, values, strict=True):
        every = torch.arange(consumer.view.positions(value), device=value.device)
        squares = consumer.view.outputs(value, every).cpu()[:, at].square().sum(2)  # (rows, heads, units)
        found.append((squares / squares.sum(2, keepdim=True).clamp_min(1e-30)).mean((0, 1)))
    return torch.stack(found)


def _commutes(stats: LayerStatistics, gates: Gates, queries: Factor, places: Tensor) -> bool:
    """Whether factors on the tensors are factors on the queries as the product reads them."""
    if not gates.tensors:
        return False
    heads = len(gates.tensors[0][2])
    draw = torch.Generator().manual_seed(stats.seed)
    chosen = 0.5 + torch.rand((heads, places.shape[1], gates.numbers), generator=draw, dtype=torch.float64)
    moved = dict(stats.original)
    for name, axis, at in gates.tensors:
        moved[name] = Turn(name, axis, at.flatten(1), _matrix_of(chosen, at)).of(moved[name])
    inputs = [x[:_PROBED] for x in stats.samples.inputs]
    before, after = (
        run(stats.graph, inputs, tensors, dtype=torch.float64, wanted=[queries.node])[0]
        .permute(queries.order)
        .flatten(3)[:, :, places]  # shape: (samples, heads, places, units, tokens)
        for tensors in (stats.original, moved)
    )
    if heads not in (1, before.shape[1]):
        return False
    matrix = _matrix_of(chosen, places.expand(heads, -1, -1)).to(before).expand(before.shape[1], -1, -1)
    wanted = (matrix @ before.flatten(2, 3)).reshape(before.shape)
    return bool((wanted - after).abs().max() <= _EXACT * before.abs().max())


def _moments(stats: LayerStatistics, wanted: Mapping[Parts, tuple[Factor, Gates]]) -> dict[Parts, Tensor]:
    """E Σ_t f fᵀ at each product, in one backward pass."""
    inputs = [x[:_SAMPLES] for x in stats.samples.inputs]
    nodes = {queries.node: None for queries, _ in wanted.values()}
    size, total = batch_size(footprint(stats.graph).total, inputs), dict[Parts, Tensor]()

    def one(batch: tuple[int, tuple[Tensor, ...]]) -> dict[Parts, Tensor]:
        number, part = batch
        generator = torch.Generator().manual_seed(stats.seed + number * size)
        values, slopes = gradients(stats.graph, nodes, stats.original, part, generator)
        slope = dict(zip(values, slopes, strict=True))
        return {
            key: _outer(queries, gates, values[queries.node].detach(), slope[queries.node])
            for key, (queries, gates) in wanted.items()
        }

    for found in in_order(one, enumerate(batches(inputs, size))):
        for key, square in found.items():
            total[key] = total[key] + square if key in total else square
    return {key: square / len(inputs[0]) for key, square in total.items()}


def _outer(queries: Factor, gates: Gates, value: Tensor, slope: Tensor | None) -> Tensor:
    """Σ f fᵀ over samples and positions; shape: (H, units · m, units · m)."""
    places = queries.places
    q, g = (
        x.permute(queries.order).flatten(3)[:, :, places.to(x.device)].double().cpu()
        for x in (value, torch.zeros_like(value) if slope is None else slope)
    )  # shape: (samples, heads, places, units, tokens)
    numbers = [(q * g).sum(2)]
    if gates.numbers == 2:
        numbers.append(q[:, :, 0] * g[:, :, 1] - q[:, :, 1] * g[:, :, 0])
    f = torch.stack(numbers, 3).flatten(2, 3).nan_to_num(0.0, 0.0, 0.0)  # (samples, heads, units · m, tokens)
    if gates.tensors and len(gates.tensors[0][2]) == 1:
        f = f.sum(1, keepdim=True)
    return torch.einsum("shut,shvt->huv", f, f)
