"""What the values of a graph are, by the ops that make them: scores, probabilities, or neither."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from torch import fx

from secateur.graph.node import bound_arguments, kind
from secateur.graph.ops import MAXIMA, MINIMA, MOVEMENT, of, where

# scores: numbers of any size and sign (logits); signed: scores through an activation that keeps the sign
# (tanh); probability: each value by itself (sigmoid); distribution: values that sum to one (softmax);
# compared: values of which the greatest is known to count, but no threshold (log-softmax); scaled: bounded
# values, shifted, scaled or added; other: all else; constant: what does not depend on the inputs.
Meaning = Literal[
    "scores", "signed", "probability", "distribution", "compared", "scaled", "other", "constant"
]

# Ops that only move, copy, select or cast the values of one tensor.
MOVES = {*MOVEMENT, *of("dropout", "item")} - set(of("join"))

Rule = Callable[[fx.Node, Sequence[Meaning]], Meaning]  # (op, meanings of what varies among its inputs)


def op_name(node: fx.Node) -> str:
    """`kind`, the same for an op and its in-place form."""
    return kind(node).removesuffix("_")


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """The op's arguments by name, nodes in place of tensors."""
    return bound_arguments(node, node.args, node.kwargs)


def meanings(nodes: Iterable[fx.Node]) -> dict[fx.Node, Meaning]:
    """The meaning of every node's value; `nodes` in topological order. Cost: linear in their number."""
    found: dict[fx.Node, Meaning] = {}
    for node in nodes:
        found[node] = _meaning(node, found)
    return found


def _meaning(node: fx.Node, found: dict[fx.Node, Meaning]) -> Meaning:
    name = op_name(node)
    if node.op == "get_attr" or name == "sym_size":
        return "constant"
    if node.op not in ("call_function", "call_method"):
        return "other"
    varying = [found[n] for n in node.all_input_nodes if found[n] != "constant"]
    if not varying:
        return "constant"
    return _RULES[name](node, varying) if name in _RULES else "other"


def _same(node: fx.Node, varying: Sequence[Meaning]) -> Meaning:
    return varying[0] if len(set(varying)) == 1 else "other"


def _joined(node: fx.Node, varying: Sequence[Meaning]) -> Meaning:
    """Of several tensors; several softmaxes side by side are no distribution."""
    found = _same(node, varying)
    return "scaled" if found == "distribution" and len(varying) > 1 else found


def _affine(node: fx.Node, varying: Sequence[Meaning]) -> Meaning:
    """A weighted sum; the mean of constants under a softmax is bounded by these."""
    return "scaled" if len(varying) == 1 and varying[0] in ("distribution", "compared") else "scores"


def _sum(node: fx.Node, varying: Sequence[Meaning]) -> Meaning:
    if "scores" in varying:
        return "scores"
    if _is_complement(node) and varying[0] in ("probability", "distribution"):
        return "probability"
    if set(varying) in ({"signed"}, {"distribution"}) and len(varying) > 1:
        return "signed" if varying[0] == "signed" else "compared"
    return "other" if "other" in varying else "scaled"


def _is_complement(node: fx.Node) -> bool:
    """1 − x."""
    if op_name(node) != "rsub" or len(node.all_input_nodes) != 1:
        return False
    arguments = arguments_of(node)
    return bool(arguments.get("other") == 1 and arguments.get("alpha", 1) == 1)


def _product(node: fx.Node, varying: Sequence[Meaning]) -> Meaning:
    if len(node.args) > 1 and node.args[0] is node.args[1]:  # a square
        return "other"
    if "scores" in varying:
        return "scores"
    if set(varying) <= {"distribution", "compared"} and any(isinstance(a, int | float) for a in node.args):
        return "compared"
    return _kept_sign(node, varying)


def _kept_sign(node: fx.Node, varying: Sequence[Meaning]) -> Meaning:
    """Of a sum over an axis, of −x and of products."""
    found = _same(node, varying)
    if found in ("scores", "signed", "other"):
        return found
    return "other" if "other" in varying else "scaled"


def _log(node: fx.Node, varying: Sequence[Meaning]) -> Meaning:
    return "compared" if _same(node, varying) in ("distribution", "compared") else "other"


def _rounded(node: fx.Node, varying: Sequence[Meaning]) -> Meaning:
    return "probability" if _same(node, varying) == "probability" else "other"


def _odd(node: fx.Node, varying: Sequence[Meaning]) -> Meaning:
    return "signed" if _same(node, varying) in ("scores", "signed") else "other"


def _clamped(node: fx.Node, varying: Sequence[Meaning]) -> Meaning:
    found = _same(node, varying)
    if found in ("scores", "signed") and passes_both_sides(node, 0.0):
        return "signed"
    if found == "probability" and passes_both_sides(node, 0.5):
        return "probability"
    return "other" if found == "other" or None in limits(node) else "scaled"


def passes_both_sides(node: fx.Node, cut: float) -> bool:
    """Whether a clamp passes values on both sides of the cut."""
    low, high = limits(node)
    return (low is None or low < cut) and (high is None or high > cut)


def limits(node: fx.Node) -> tuple[float | None, float | None]:
    """The limits between which the op clamps; None for none, and ±∞ for a tensor, of which none is known."""
    arguments, ends = arguments_of(node), []
    if "self" not in arguments:
        return float("inf"), float("-inf")
    for names, unknown in ((("min", "min_val"), float("inf")), (("max", "max_val"), float("-inf"))):
        value = next((arguments[name] for name in names if name in arguments), None)
        ends.append(value if value is None or isinstance(value, int | float) else unknown)
    low, high = ends
    return low, high


def _always(meaning: Meaning) -> Rule:
    return lambda node, varying: meaning


_MEANS = where(lambda row: row.weighted_sum and row.family in ("pooling", "resampling"))
_RULES: dict[str, Rule] = {
    **dict.fromkeys((*MOVES, *MAXIMA, *MINIMA, *_MEANS, "mean"), _same),
    **dict.fromkeys(of("join"), _joined),
    **dict.fromkeys(of("linear", "convolution", "product", "batch_norm", "norm", "embedding"), _affine),
    **dict.fromkeys(("add", "rsub", "sub"), _sum),
    **dict.fromkeys(("div", "mul"), _product),
    **dict.fromkeys(("neg", "sum"), _kept_sign),
    **dict.fromkeys(where(lambda row: row.keeps_sign), _odd),
    **dict.fromkeys(("clamp", "hardtanh"), _clamped),
    **dict.fromkeys(of("log_softmax"), _always("compared")),
    **dict.fromkeys(of("softmax"), _always("distribution")),
    **dict.fromkeys("eq ge gt hardsigmoid le lt ne sigmoid".split(), _always("probability")),
    "log": _log,
    "relu6": _always("scaled"),
    "round": _rounded,
}
