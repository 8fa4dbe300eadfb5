"""That the weights of a captured model are finite, where they are multiplied by."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, fx

from secateur.errors import CaptureError
from secateur.graph.node import kind
from secateur.graph.ops import MOVEMENT, of

_TAKES_INFINITY = set(  # ops of which one operand may be infinite
    "add sub rsub maximum minimum max min clamp clamp_min clamp_max where masked_fill fmax fmin "
    "eq ne lt le gt ge isinf isnan isfinite isneginf isposinf".split()
)
_MOVES_VALUES = {*MOVEMENT, *of("padding", "triangle"), "neg"}


def check_finite(graph: fx.Graph, tensors: Mapping[str, Tensor]) -> None:
    """Weights are finite; infinity is allowed where it is compared or added, as in masks and max(x, −∞)."""
    for node in graph.nodes:
        if node.op != "get_attr" or not tensors[str(node.target)].is_floating_point():
            continue
        value = tensors[str(node.target)]
        bad = value.isnan() if _only_compared(node) else ~value.isfinite()
        if bool(bad.any()):
            raise CaptureError(
                f"{node.target} of shape {tuple(value.shape)} holds {int(bad.sum())} NaN or infinite "
                "values; nothing sensible can be pruned from it: load the weights again"
            )


def _only_compared(tensor: fx.Node) -> bool:
    """Whether no op multiplies by the tensor, as layers do; ops that move its values are followed."""
    frontier, seen = [tensor], {tensor}
    while frontier:
        for user in frontier.pop().users:
            if user.op == "output" or kind(user) in _TAKES_INFINITY or user in seen:
                continue
            if kind(user) in _MOVES_VALUES:
                seen.add(user)
                frontier.append(user)
            elif not _is_mask(user, seen):
                return False
    return True


def _is_mask(user: fx.Node, sources: set[fx.Node]) -> bool:
    """Whether attention adds one of the sources to its scores."""
    return kind(user) == "scaled_dot_product_attention" and not sources & {a for a in user.args[:3]}
