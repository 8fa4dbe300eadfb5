"""What a node of a graph calls: the op's name and its arguments by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx


def kind(node: fx.Node) -> str:
    """The op's name without name space and overload (`conv2d`, `getitem`): the key of every rule table."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[-1]
    return getattr(target, "__name__", str(target))


def told(node: fx.Node) -> str:
    """The op as errors name it; one that is run as another format has it goes by its name there."""
    return str(node.args[2]) if kind(node) == "onnxruntime" else str(node.target)


def bound_arguments(node: fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The op's arguments by schema name, with defaults; `0`, `1`… for those of Python operators."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return {str(i): a for i, a in enumerate(args)} | dict(kwargs)
    bound = {}
    for i, argument in enumerate(target._schema.arguments):
        if i < len(args):
            bound[argument.name] = args[i]
        else:
            bound[argument.name] = kwargs.get(argument.name, argument.default_value)
    return bound


def set_argument(node: fx.Node, name: str, value: Any) -> None:
    """Set the schema argument `name` of a node that calls an op."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    index = [argument.name for argument in target._schema.arguments].index(name)
    if index < len(node.args):
        node.update_arg(index, value)
    else:
        node.update_kwarg(name, value)
