"""Where the tangent of an op is asked for: the op in one network, and what is known there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from secateur.bounds.arithmetic import as_interval
from secateur.bounds.engine import Backward
from secateur.bounds.pairs import after, before
from secateur.types import Interval

# (node, a map of unit rows and their boxes to rows, where they are wanted) → bounds on these rows of the
# node's value, at the elements of the units; infinite elsewhere
Bounder = Callable[[fx.Node, Callable[[Tensor, Tensor], Tensor], Tensor | None], Interval]


@dataclass(frozen=True, eq=False)
class Site:
    """An op in f (side 0) or g (side 1), and what is known there."""

    engine: Backward
    node: fx.Node
    side: int
    bound: Bounder

    def value(self, node: fx.Node) -> Interval:
        """Bounds on a node's value, (boxes, *shape)."""
        value = self.engine.bounds[node]
        return as_interval(after(value) if self.side else before(value))

    def plain(self, argument: Any) -> Any:
        """An argument that depends on no input."""
        if not isinstance(argument, fx.Node):
            return argument
        value = self.engine.bounds[argument]
        return after(value) if self.side else before(value)
