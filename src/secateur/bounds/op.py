"""One op of a captured graph as the rules of `interval` and `difference` see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from secateur.errors import UnsupportedOpError
from secateur.graph.interpret import call_op
from secateur.graph.sources import place_of


@dataclass(frozen=True, eq=False)
class Op:
    """One op of the graph with its arguments by schema name; it works in the dtype and device of `like`."""

    node: fx.Node
    arguments: Mapping[str, Any]
    like: Tensor

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def run(self, /, **changes: Any) -> Any:
        """Execute the op on concrete values, with some arguments put in place of its own."""
        return call_op(self.node, (), {**self.arguments, **changes}, like=self.like)

    def unsupported(self, why: str) -> UnsupportedOpError:
        place = place_of(self.node)
        return UnsupportedOpError(
            f"{self.node.name}: {self.node.target} cannot be bounded: {why}{f' ({place})' if place else ''}. "
            "Rewrite this part of the model, or add the case to the op's rule in secateur/bounds/interval.py"
        )


@dataclass(frozen=True)
class Rounding:
    """How the ends of bounds are rounded."""

    # (op, what its rule gave) → bounds on its value
    value: Callable[[Op, Any], Any]
    # (op, value in f, what the rule for δ gave, value in g) → pairs
    change: Callable[[Op, Any, Any, Any], Any]
