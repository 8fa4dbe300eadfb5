"""Rounding of inference at some values of a network, by rows that go back from there.

Errors that are carried forward grow with |W| in every layer. To first order they pass the network as its
derivative has it, where much cancels: with slopes s of activations between x̂ and x, the error of an output is
exactly Σ J_v η_v over all nodes v, where η_v is what op v itself rounds by and J_v a product of weights and
slopes (the mean value theorem, op by op). J_v is enclosed by a centre and a radius from the outputs back
(Jordan and Dimakis 2020, arXiv 2003.01219, bound Jacobians so). Where no rule passes a row on, it ends with
the error that was carried forward to there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.bounds.activations import SLOPES, slope_over
from secateur.bounds.arithmetic import as_interval, by_row
from secateur.bounds.engine import Backward, varies
from secateur.bounds.inference import SAFE, Format, errors_of, is_floating, own_errors, side_of, spread
from secateur.bounds.inference_rules import RULES
from secateur.bounds.joint import quiet_fallback
from secateur.bounds.linear import is_linear, transpose, varying_sources
from secateur.bounds.maxima import compared
from secateur.bounds.tighten import rows_at_a_time
from secateur.graph.node import bound_arguments, kind
from secateur.types import Interval

_ROWS = 2**12  # of one box at most; beyond, errors are those carried forward
_SLIP = 2.0**-30  # of a coefficient: more than float64 errs by in one step

Enclosed = tuple[Tensor, Tensor]  # centres and radii of coefficients, (rows, *shape of one sample)
Back = Any  # cotangents of the results → of the varying arguments


@dataclass(eq=False)
class Inference:
    """One of two networks as it is run, over N boxes; `own` and `transposes` are caches by node."""

    engine: Backward
    second: bool
    format: Format
    errors: dict[fx.Node, Any]  # carried forward
    own: dict[fx.Node, Any] = field(default_factory=dict)
    transposes: dict[fx.Node, tuple[list[fx.Node], Back, Back]] = field(default_factory=dict)

    @staticmethod
    def of(engine: Backward, second: bool, format: Format) -> Inference:
        """Raises `NoRuleError` naming the first op that has no rule."""
        return Inference(
            engine, second, format, errors_of(engine.networks, engine.bounds, second, format, RULES)
        )

    def errors_at(self, node: fx.Node, boxes: int) -> Tensor:
        """Bounds on the errors of a node's value as computed, (boxes, elements)."""
        size = self.engine.samples[0][node].numel()
        carried = as_interval(self.errors[node]).upper.reshape(-1, size).expand(boxes, -1)
        if not varies(self.engine.bounds[node]) or size > _ROWS:
            return carried
        places = torch.cartesian_prod(torch.arange(boxes), torch.arange(size))
        with torch.no_grad():
            found = [
                self._rows(node, part) for part in places.split(max(1, rows_at_a_time(self.engine) // 2))
            ]
        return torch.minimum(carried, torch.cat(found).reshape(boxes, size))

    def _rows(self, node: fx.Node, places: Tensor) -> Tensor:
        """Of (box, element) pairs."""
        box, shape = places[:, 0], self.engine.samples[0][node].shape
        unit = self.engine.nothing(len(box)).new_zeros((len(box), shape.numel()))
        unit = unit.scatter(1, places[:, 1:], 1.0).reshape(-1, *shape)
        pending: dict[fx.Node, dict[int, Enclosed]] = {node: {0: (unit, torch.zeros_like(unit))}}
        total = self.engine.nothing(len(box))
        for place in reversed(self.engine.networks.graph.nodes):
            if place in pending:
                results = {i: (c, r + _SLIP * c.abs()) for i, (c, r) in pending.pop(place).items()}
                total = total + self._passed(place, results, box, pending)
        return (total * SAFE).nan_to_num(nan=torch.inf, posinf=torch.inf)

    def _passed(
        self,
        node: fx.Node,
        results: dict[int, Enclosed],
        box: Tensor,
        pending: dict[fx.Node, dict[int, Enclosed]],
    ) -> Any:
        """What the op itself adds to each row; coefficients of its arguments go to `pending`."""
        bounds = self.engine.bounds
        if kind(node) == "getitem" and is_linear(node, bounds):
            source, number = node.args
            assert isinstance(source, fx.Node) and isinstance(number, int)
            _arrive(pending, source, number, results[0])
            return 0.0
        if node.op != "call_function" or not varies(bounds[node]):
            return _times(results, self.errors[node], box)
        if is_linear(node, bounds):
            for source, enclosed in self._through_linear(node, results, len(box)):
                _arrive(pending, source, 0, enclosed)
        elif (difference := compared(node)) is not None:  # max(a, b) = a + relu(b − a)
            a, b = node.all_input_nodes
            share = _where_above(self._wide(difference, self._error(a) + self._error(b)))
            for source, part in ((b, share), (a, Interval(1 - share.upper, 1 - share.lower))):
                _arrive(pending, source, 0, _sloped(results[0], part, box))
        elif (slope := self._slope(node)) is not None:
            _arrive(pending, node.all_input_nodes[0], 0, _sloped(results[0], slope, box))
        else:
            return _times(results, self.errors[node], box)
        return _times(results, self._own(node), box)

    def _error(self, node: fx.Node) -> Tensor:
        return as_interval(self.errors[node]).upper

    def _wide(self, node: fx.Node, error: Tensor) -> Interval:
        """All between what the value of a node is and what is computed for it."""
        return spread(as_interval(side_of(self.engine.bounds[node], self.second)), error)

    def _slope(self, node: fx.Node) -> Interval | None:
        """The slopes of a function of one value between what is computed and what is real."""
        name, sources = kind(node), node.all_input_nodes
        if len(sources) != 1 or not is_floating(side_of(self.engine.bounds[sources[0]], self.second)):
            return None
        x = self._wide(sources[0], self._error(sources[0]))
        if name == "relu":
            return _where_above(x)
        if name not in SLOPES or name not in RULES:
            return None
        return slope_over(SLOPES[name](bound_arguments(node, node.args, node.kwargs)), x)

    def _own(self, node: fx.Node) -> Any:
        if node not in self.own:
            self.own[node] = own_errors(
                self.engine.networks, self.engine.bounds, self.second, self.format, RULES, node, self.errors
            )
        return self.own[node]

    # --- linear ops -----------------------------------------------------------------------------------------

    def _through_linear(
        self, node: fx.Node, results: dict[int, Enclosed], rows: int
    ) -> list[tuple[fx.Node, Enclosed]]:
        if node not in self.transposes:
            self.transposes[node] = self._transpose(node)
        sources, back, back_of_sizes = self.transposes[node]
        sample = pytree.tree_leaves(self.engine.samples[self.second][node])
        zeros = [x.new_zeros((rows, *x.shape)) for x in sample]
        given = [results.get(i, (zero, zero)) for i, zero in enumerate(zeros)]
        with quiet_fallback():
            centres = torch.vmap(back)(*(c for c, _ in given))
            radii = torch.vmap(back_of_sizes)(*(r for _, r in given))
        return list(zip(sources, zip(centres, map(torch.abs, radii), strict=True), strict=True))

    def _transpose(self, node: fx.Node) -> tuple[list[fx.Node], Back, Back]:
        """The transpose of the op, and that of the op with the sizes of its constants."""
        engine, second = self.engine, self.second
        # of arguments that are only scaled by constants, the size of the transpose is that of its result
        size = (lambda x: x) if kind(node) == "batch_norm" else _size
        back, back_of_sizes = (transpose(engine, node, second, of)[1] for of in (lambda x: x, size))
        return varying_sources(engine, node), back, back_of_sizes


def _size(constant: Any) -> Any:
    if isinstance(constant, Tensor) and constant.is_floating_point():
        return constant.abs()
    return constant


def _arrive(pending: dict[fx.Node, dict[int, Enclosed]], node: fx.Node, number: int, new: Enclosed) -> None:
    waiting = pending.setdefault(node, {})
    old = waiting.get(number)
    waiting[number] = new if old is None else (old[0] + new[0], old[1] + new[1])


def _times(results: dict[int, Enclosed], errors: Any, box: Tensor) -> Any:
    """Σ |J| η, the most that errors of a node's value come to in each row."""
    parts = errors if isinstance(errors, list | tuple) else [errors]
    total: Any = 0.0
    for i, (c, r) in results.items():
        part = parts[i]
        error = part.upper[box] if isinstance(part, Interval) else part.expand(c.shape)
        product = (c.abs() + r) * error.reshape(c.shape)
        total = total + by_row(torch.where(c.abs() + r == 0, 0.0, product)).sum(1)
    return total


def _where_above(x: Interval) -> Interval:
    """The slope of ReLU."""
    return Interval((x.lower > 0).to(x.lower.dtype), (x.upper > 0).to(x.lower.dtype))


def _sloped(found: Enclosed, slope: Interval, box: Tensor) -> Enclosed:
    c, r = found
    centre, radius = ((slope.upper + slope.lower) / 2)[box], ((slope.upper - slope.lower) / 2)[box]
    centre, radius = centre.reshape(c.shape), radius.reshape(c.shape)
    return c * centre, c.abs() * radius + r * (centre.abs() + radius)
