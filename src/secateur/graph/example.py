"""Example inputs: tensors, and None, truth values, numbers and text, which are constants of a capture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.utils import _pytree as pytree

from secateur.errors import CaptureError, InputError, few

ExampleInputs = Tensor | Sequence[Any] | Mapping[str, Any]

_CONSTANTS = (type(None), bool, int, float, complex, str, torch.dtype, torch.device)


def split_inputs(example_inputs: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments. Raises `InputError` for values that a graph cannot take."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example_inputs, Tensor):
        args = (example_inputs,)
    elif isinstance(example_inputs, Mapping):
        kwargs = dict(example_inputs)
    elif isinstance(example_inputs, Sequence) and not isinstance(example_inputs, str):
        args = tuple(example_inputs)
    else:
        raise InputError(
            f"example_inputs is a {type(example_inputs).__name__}; give a tensor, a tuple of the model's "
            "arguments, or a dict of its keyword arguments"
        )
    named = [*((f"[{i}]", x) for i, x in enumerate(args)), *((f"[{k!r}]", x) for k, x in kwargs.items())]
    for name, value in named:
        _check_leaves(name, value)
    tensors = tensors_in((args, kwargs))
    if not tensors:
        raise InputError(
            "example_inputs holds no tensor; give a tensor, a tuple of tensors, or a dict of them"
        )
    if any(x.ndim == 0 or x.shape[0] == 0 for x in tensors[:1]):
        raise InputError(
            f"example input of shape {tuple(tensors[0].shape)}: axis 0 must be a batch of at least one"
        )
    return args, kwargs


def _check_leaves(name: str, value: Any) -> None:
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, Tensor) and leaf.is_meta:
            raise InputError(
                f"example_inputs{name} is on the meta device; give a tensor with values, such as zeros"
            )
        if not isinstance(leaf, (Tensor, *_CONSTANTS)):
            kind = f"{type(leaf).__module__}.{type(leaf).__name__}".removeprefix("builtins.")
            raise InputError(
                f"example_inputs{name} holds a {kind}; give torch tensors (torch.from_numpy for arrays) and, "
                "as constants, None, truth values, numbers and text"
            )


def tensors_in(tree: Any) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(tree) if isinstance(x, Tensor)]


def at_least_two(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Distinct, detached copies of the inputs, a batch of one doubled: torch.export fixes sizes 0 and 1."""
    first = tensors_in((args, kwargs))[0]

    def widen(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        x = x.detach().clone()
        single = first.shape[0] == 1 and x.ndim > 0 and x.shape[0] == 1
        return torch.cat([x, x]) if single else x

    return pytree.tree_map(widen, (args, kwargs))  # type: ignore[no-any-return]


def leaves_for(program: ExportedProgram, example_inputs: ExampleInputs | None) -> list[Any]:
    """A value for each input of an exported program: the example's tensors, and the program's own constants.

    Raises `InputError` where the example has other constants, `CaptureError` for another number of tensors.
    """
    args, kwargs = program.example_inputs or ((), {})
    if example_inputs is not None:
        args, kwargs = split_inputs(example_inputs)
    leaves = pytree.tree_leaves((args, _in_order(program, kwargs)))
    inputs = [s.arg for s in program.graph_signature.input_specs if s.kind == InputKind.USER_INPUT]
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    wanted = [a.name for a in inputs if not isinstance(a, ConstantArgument)]
    if len(tensors) != len(wanted):
        raise CaptureError(
            f"the graph has {len(wanted)} inputs ({few(wanted)}) but the example has {len(tensors)} tensors; "
            "give one tensor for each input"
        )
    if len(leaves) == len(inputs):
        _check_constants(inputs, leaves)
    given = iter(tensors)
    return [a.value if isinstance(a, ConstantArgument) else next(given) for a in inputs]


def _check_constants(inputs: Sequence[Any], leaves: Sequence[Any]) -> None:
    """`InputError` for an example whose constant is not the one that the program was exported with."""
    for argument, leaf in zip(inputs, leaves, strict=True):
        if isinstance(argument, ConstantArgument) and leaf != argument.value:
            raise InputError(
                f"example_inputs: {argument.name} is {leaf!r}, but the program was exported with "
                f"{argument.value!r}, which is part of its graph; export it again with the other value"
            )


def _in_order(program: ExportedProgram, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments in the order of the program's inputs."""
    spec: Any = program.call_spec.in_spec
    if spec is None:
        return dict(kwargs)
    named = spec.child(1) if hasattr(spec, "child") else spec.children_specs[1]  # the latter in torch 2.9
    order = list(named.context or ())
    return {k: kwargs[k] for k in order} if set(order) == set(kwargs) else dict(kwargs)
