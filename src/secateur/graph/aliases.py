"""ATen's second names for ops, which are replaced by the first ones, so that rule tables need only these."""

from __future__ import annotations

import torch
from torch import fx

ALIASES = {
    "__and__": "bitwise_and",
    "__or__": "bitwise_or",
    "_adaptive_avg_pool2d": "adaptive_avg_pool2d",
    "_unsafe_view": "reshape",
    "absolute": "abs",
    "clip": "clamp",
    "concat": "cat",
    "concatenate": "cat",
    "divide": "div",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "linalg_matmul": "matmul",
    "max": "maximum",  # of two tensors; the reduction has other arguments
    "min": "minimum",
    "moveaxis": "movedim",
    "multiply": "mul",
    "negative": "neg",
    "not_equal": "ne",
    "row_stack": "vstack",
    "special_erf": "erf",
    "special_expit": "sigmoid",
    "special_expm1": "expm1",
    "special_log1p": "log1p",
    "special_log_softmax": "log_softmax",
    "special_logsumexp": "logsumexp",
    "special_round": "round",
    "special_softmax": "softmax",
    "split": "split_with_sizes",  # by a list of sizes
    "subtract": "sub",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "true_divide": "div",
    "unsafe_chunk": "chunk",
    "unsafe_split": "split",
    "unsafe_split_with_sizes": "split_with_sizes",
    "view": "reshape",  # whether a view is possible depends on memory layout, which kernels may change
    "view_as": "reshape_as",
}


def first_name(target: torch._ops.OpOverload) -> torch._ops.OpOverload:
    """The op under its first name, in the overload with the same types; or the op itself."""
    packet = getattr(torch.ops.aten, ALIASES.get(target._schema.name.removeprefix("aten::"), ""), None)
    for name in packet.overloads() if packet is not None else ():
        overload: torch._ops.OpOverload = getattr(packet, name)
        if _types(overload) == _types(target) and not overload._schema.is_mutable:
            return overload
    return target


def use_first_name(node: fx.Node) -> None:
    """Call the node's op by its first name."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or (first := first_name(target)) is target:
        return
    names = {old.name: new.name for old, new in _pairs(target, first)}
    node.kwargs = {names[name]: value for name, value in node.kwargs.items()}
    node.target = first


def _pairs(a: torch._ops.OpOverload, b: torch._ops.OpOverload) -> list[tuple[torch.Argument, torch.Argument]]:
    return list(zip(a._schema.arguments, b._schema.arguments, strict=True))


def _types(op: torch._ops.OpOverload) -> tuple[list[str], list[str]]:
    return [str(a.type) for a in op._schema.arguments], [str(r.type) for r in op._schema.returns]
