"""What rounding adds when a network is run: a bound, for every value, on computed minus real.

A value x that a runtime computes as x̂ has an error |x̂ − x| ≤ e. Each op carries the errors of its arguments
on and adds its own, which follows from the sizes |x| + e of what it reads (`inference_rules`). Errors of sums
of products hold for every order of summation, with or without fused multiply-add: γ_n Σ |w| |x| with
γ_n = n u / (1 − n u), u = 2⁻²⁴ in float32 (Higham 2002, *Accuracy and Stability of Numerical Algorithms*,
§3.1). Results below the least normal number may be flushed to zero. `ASSUMPTIONS` says what is taken for
granted about the runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.bounds.arithmetic import as_interval, magnitude
from secateur.bounds.joint import Bounds, Networks, over_boxes
from secateur.bounds.op import Op
from secateur.bounds.pairs import after, before
from secateur.graph.graph import Graph
from secateur.graph.interpret import walk
from secateur.graph.node import bound_arguments, kind, told
from secateur.types import Interval

ASSUMPTIONS = (
    "The runtime computes the ops of the graph one by one, in the arithmetic named above (IEEE 754, to "
    "nearest; not TF32 or half precision inside of it), and sums products directly, in any order, with or "
    "without fused multiply-add (no Winograd, FFT or Strassen form).",
    "Its elementary functions (exp, tanh, erf, sigmoid, GELU…) err by at most 4 units in the last place of "
    "the largest of 1, their argument and their result; the exponentials of a softmax by 4 units in the last "
    "place of their result.",
)
ULP = 8  # half units in the last place that an elementary function may err by
SAFE = 1 + 2.0**-20  # what float64 may err by while these bounds are worked out


@dataclass(frozen=True)
class Format:
    """A floating-point format, rounded to nearest."""

    unit: float  # half a unit in the last place of 1
    least: float  # the least normal number
    most: float  # the largest number

    @staticmethod
    def of(dtype: torch.dtype) -> Format:
        about = torch.finfo(dtype)
        return Format(about.eps / 2, about.tiny, about.max)

    def gamma(self, count: Any) -> Any:
        """γ for sums of so many products (a number or a tensor); infinite where these are too many."""
        share = torch.as_tensor(count, dtype=torch.float64) * self.unit
        return torch.where(share < 0.5, share / (1 - share), torch.inf)


class NoRuleError(Exception):
    """An op whose rounding in inference cannot be bounded."""


@dataclass(frozen=True, eq=False)
class Step:
    """One op: bounds on its arguments and its result in real arithmetic, and the errors of its arguments."""

    op: Op
    errors: Mapping[str, Any]  # of floating tensors; everything else as it is among the arguments
    result: Any
    format: Format

    @property
    def name(self) -> str:
        return kind(self.op.node)

    def error(self, argument: str) -> Any:
        """How far an argument may be off; 0 for numbers, which are rounded where they are used."""
        value = self.op.arguments.get(argument)
        return self.errors[argument] if is_floating(value) else 0.0

    def size(self, argument: str) -> Any:
        """The most that an argument may be in size, as computed."""
        return size_of(self.op.arguments.get(argument)) + self.error(argument)

    def scalars(self, *arguments: str) -> float:
        """The sizes of those of the arguments that are numbers, which the runtime rounds to its format."""
        given = (self.op.arguments.get(name) for name in arguments)
        return sum(abs(float(x)) for x in given if isinstance(x, int | float) and not isinstance(x, bool))

    def rounded(self, error: Any, times: float = 1.0) -> Any:
        """`error`, and that of rounding the result as often."""
        return error + times * self.format.unit * (size_of(self.result) + error)

    def unsupported(self, why: str) -> NoRuleError:
        return NoRuleError(f"the rounding of {self.op.node.name} ({told(self.op.node)}) has no bound: {why}")


Rule = Callable[[Step], Any]  # the error of each result; other results as they are


def is_floating(value: Any) -> bool:
    return isinstance(value, Interval | Tensor) and as_interval(value).lower.is_floating_point()


def size_of(value: Any) -> Any:
    return abs(value) if isinstance(value, int | float) else magnitude(value)


def spread(x: Interval, error: Any) -> Interval:
    """All between what is real and what is computed, rounded outward."""
    error = error + 2.0**-51 * magnitude(x)
    return Interval(x.lower - error, x.upper + error)


def format_of(graph: Graph) -> Format:
    """That of all numbers in a graph. Raises `NoRuleError` for half precision and mixed formats."""
    tensors = [x for x in (*graph.example, *graph.tensors.values()) if x.is_floating_point()]
    found = {x.dtype for x in tensors}
    if len(found) != 1 or not found <= {torch.float32, torch.float64}:
        names = ", ".join(sorted(str(x).removeprefix("torch.") for x in found)) or "no floating-point numbers"
        raise NoRuleError(f"rounding is bounded in float32 or float64 alone; the model holds {names}")
    return Format.of(found.pop())


def side_of(value: Any, second: bool) -> Any:
    """Bounds on a value of f (of g)."""
    return pytree.tree_map(after if second else before, value)


def errors_of(
    networks: Networks, bounds: Bounds, second: bool, format: Format, rules: Mapping[str, Rule]
) -> dict[fx.Node, Any]:
    """Bounds, for each node of f (of g), on the errors of its value as computed; N boxes, leading axis N.

    `bounds` hold for the values in real arithmetic. Raises `NoRuleError` naming the first op that has no
    rule. Cost: a few passes of the network for each box.
    """
    errors: dict[fx.Node, Any] = {}

    def leaf(node: fx.Node) -> Any:
        errors[node] = pytree.tree_map(_of_leaf(format), side_of(bounds[node], second))
        return errors[node]

    def call(node: fx.Node, args: Any, kwargs: Any) -> Any:
        if kind(node) == "getitem" and isinstance(args[0], list | tuple):
            errors[node] = args[0][args[1]]
        else:
            values = fx.map_arg((node.args, dict(node.kwargs)), lambda n: side_of(bounds[n], second))
            given = (values, (args, kwargs), side_of(bounds[node], second))
            errors[node] = over_boxes(_one(format, rules), node, networks.like, given)
        return errors[node]

    with torch.no_grad():
        walk(networks.graph, leaf, call)
    return errors


def own_errors(
    networks: Networks,
    bounds: Bounds,
    second: bool,
    format: Format,
    rules: Mapping[str, Rule],
    node: fx.Node,
    errors: Mapping[fx.Node, Any],
) -> Any:
    """What an op itself adds: its error on arguments as they are computed; constants keep their errors."""

    def computed(n: fx.Node) -> Any:
        return pytree.tree_map(_wide, side_of(bounds[n], second), errors[n])

    def error(n: fx.Node) -> Any:
        return pytree.tree_map(_without_error, errors[n])

    given = tuple(fx.map_arg((node.args, dict(node.kwargs)), at) for at in (computed, error))
    return over_boxes(_one(format, rules), node, networks.like, (*given, computed(node)))


def _wide(value: Any, error: Any) -> Any:
    if not is_floating(value) or not isinstance(value, Interval):
        return value
    return spread(value, error.upper)


def _without_error(error: Any) -> Any:
    if not is_floating(error) or not isinstance(error, Interval):
        return error
    return Interval(torch.zeros_like(error.lower), torch.zeros_like(error.upper))


def _of_leaf(format: Format) -> Callable[[Any], Any]:
    """Of an input or a parameter: numbers that are not normal may be taken for 0."""

    def error(value: Any) -> Any:
        if not is_floating(value):
            return value
        if isinstance(value, Interval):
            least = torch.full_like(value.lower, format.least)
            return Interval(least, least)
        small = (value != 0) & (value.abs() < format.least)
        return torch.zeros_like(value).masked_fill(small, format.least)

    return error


def _one(format: Format, rules: Mapping[str, Rule]) -> Callable[[fx.Node, Tensor, Any], Any]:
    def one(node: fx.Node, like: Tensor, given: Any) -> Any:
        (args, kwargs), errors, result = given
        errors = pytree.tree_map(lambda x: x.upper if isinstance(x, Interval) else x, errors)
        op = Op(node, bound_arguments(node, args, kwargs), like)
        step = Step(op, bound_arguments(node, *errors), result, format)
        leaves = pytree.tree_leaves((dict(op.arguments), result))
        if not any(map(is_floating, leaves)):
            return result
        _require_format(step, leaves)
        if step.name not in rules:
            raise step.unsupported("there is no rule for this op")
        return pytree.tree_map(_finished(format), result, rules[step.name](step))

    return one


def _require_format(step: Step, leaves: list[Any]) -> None:
    """Refuse an op that is told to work in another format."""
    for leaf in leaves:
        if (
            isinstance(leaf, torch.dtype)
            and leaf.is_floating_point
            and torch.finfo(leaf).eps > 2 * step.format.unit
        ):
            raise step.unsupported(f"it works in {leaf}")


def _finished(format: Format) -> Callable[[Any, Any], Any]:
    """The error of one result, in its shape: infinite where it may overflow."""

    def finished(value: Any, error: Any) -> Any:
        if not is_floating(value):
            return value
        size = size_of(value)
        error = (torch.as_tensor(error, dtype=size.dtype) * SAFE + format.least).expand(size.shape)
        # a value that is infinite whatever the input (a mask) has no error
        known = torch.isinf(as_interval(value).lower) & (as_interval(value).lower == as_interval(value).upper)
        error = error.masked_fill(known, 0.0)
        error = torch.where(~known & ~(size + error < format.most / 4), torch.inf, error)
        error = error.nan_to_num(nan=torch.inf, posinf=torch.inf)
        return Interval(error, error) if isinstance(value, Interval) else error

    return finished
