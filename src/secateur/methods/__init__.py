"""Pruning methods: which units to remove, and how to compensate. Each is one row here, or an entry point."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from secateur.arguments import shown
from secateur.errors import InputError
from secateur.methods.context import Context
from secateur.methods.exact.method import Exact
from secateur.methods.folding import folding
from secateur.methods.impact import impact, weights_add_up
from secateur.methods.per_group import PerGroup
from secateur.methods.protocol import Goal, Method, Task
from secateur.methods.reconstruct import Reconstruct
from secateur.methods.ridge import ridge
from secateur.methods.saliency import saliency
from secateur.methods.scale import scale
from secateur.methods.scaled_merging import scaled_merging
from secateur.methods.stochastic import stochastic
from secateur.types import Removal

__all__ = [
    "METHODS",
    "Context",
    "Goal",
    "Method",
    "PerGroup",
    "Removal",
    "Task",
    "method_named",
    "method_names",
]

ENTRY_POINTS = "secateur.methods"

_ROWS: tuple[Method, ...] = (
    Reconstruct(),
    PerGroup("saliency", saliency, merges=True),
    PerGroup("impact", impact, needs="bounds", merges=True, wrong=weights_add_up),
    PerGroup("stochastic", stochastic, needs="bounds", merges=True, wrong=weights_add_up),
    PerGroup("scale", scale),
    PerGroup("scaled_merging", scaled_merging),
    PerGroup("folding", folding),
    PerGroup("ridge", ridge),
    Exact(),
)
METHODS: dict[str, Method] = {method.name: method for method in _ROWS}


def method_names() -> tuple[str, ...]:
    """The names of our own methods, then of those that installed packages declare."""
    return (*METHODS, *(found.name for found in _declared() if found.name not in METHODS))


def method_named(name: str) -> Method:
    """The method of that name, with its default options. Raises `InputError` for an unknown name."""
    if name in METHODS:
        return METHODS[name]
    for found in _declared():
        if found.name == name:
            return as_method(found.load(), f"entry point {found.value}", name)
    raise InputError(f"method={name!r}: there are {', '.join(method_names())}")


def as_method(value: Any, where: str = "method", name: str = "") -> Method:
    """Convert what a user passes: a `Method`, or a function (context, group, count) → `Removal`.

    Raises `InputError` for anything else; `where` names the argument in the error.
    """
    if isinstance(value, type) and issubclass(value, Method):
        value = value()
    if isinstance(value, Method):
        return value
    if callable(value) and _takes_a_group(value):
        return PerGroup(name or getattr(value, "__name__", "custom"), value)
    raise InputError(
        f"{where}={shown(value)}: give one of {', '.join(METHODS)}, a secateur.methods.Method, or a function "
        "(context, group, count) → Removal"
    )


def _takes_a_group(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(*("context", "group", "count"))
    except (TypeError, ValueError):  # other parameters; a builtin without a signature
        return False
    return True


def options_of(method: str | Method) -> Mapping[str, Any]:
    """The options of a method with their defaults."""
    found = method_named(method) if isinstance(method, str) else method
    return {name: option.default for name, option in found.known_options.items()}


def _declared() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=ENTRY_POINTS))
