"""Which ops have a tangent, and what is bounded by rows for it."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from secateur.bounds.engine import Backward, varies
from secateur.bounds.norms import norm_tangent
from secateur.bounds.products import elementwise, factors, matrices
from secateur.bounds.site import Site
from secateur.bounds.softmax import softmax_tangent
from secateur.bounds.tangents import Tangent
from secateur.graph.node import kind
from secateur.graph.ops import of
from secateur.types import Interval

_PRODUCTS = {"bmm": matrices, "matmul": matrices, "mul": elementwise}
# an op in one network → its tangent, and bounds on its value; None where it does not fit
RULES: dict[str, Callable[[Site], tuple[Tangent, Interval] | None]] = {
    **dict.fromkeys(of("norm"), norm_tangent),
    **dict.fromkeys(of("softmax"), softmax_tangent),
    **_PRODUCTS,
}


def has_tangent(engine: Backward, node: fx.Node) -> bool:
    """Whether the op has a rule, and does not count as linear."""
    if node.op != "call_function" or kind(node) not in RULES:
        return False
    return kind(node) not in _PRODUCTS or may_be_product(engine, node)


def may_be_product(engine: Backward, node: fx.Node) -> bool:
    """Whether the op multiplies two values that depend on the inputs; what is not known yet may do so."""
    if node.op != "call_function" or kind(node) not in _PRODUCTS:
        return False
    found = factors(node)
    return found is not None and all(
        x.op == "call_function" if x not in engine.bounds else varies(engine.bounds[x]) for x in found
    )
