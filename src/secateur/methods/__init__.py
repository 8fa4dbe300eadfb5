"""Pruning methods: which units to remove, and how to compensate. Each is one row here, or an entry point."""

from __future__ import annotations

import inspect
import re
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
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")

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

    Raises `InputError` for anything else, and for a name that recipes and the command line cannot carry;
    `where` names the argument in the error.
    """
    if isinstance(value, type) and issubclass(value, Method):
        value = value()
    if callable(value) and not isinstance(value, Method) and _takes_a_group(value):
        value = PerGroup(name or _name_of(value), value)
    if isinstance(value, Method):
        _check_name(value, where)
        return value
    raise InputError(
        f"{where}={shown(value)}: give one of {', '.join(METHODS)}, a secateur.methods.Method, or a function "
        "(context, group, count) → Removal"
    )


def _name_of(function: Callable[..., Any]) -> str:
    """The name of a function; `custom` for a lambda, or an object without a name."""
    name = getattr(function, "__name__", "")
    return name if _NAME.fullmatch(name) else "custom"


def _check_name(method: Method, where: str) -> None:
    """Raise `InputError` where the name is no plain word, or that of a method of our own."""
    name = getattr(method, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(
            f"{where}: the name of the {type(method).__name__} is {shown(name)}; it must have up to 64 "
            "letters (a to z), digits, '_', '-' and '.', and begins with a letter or '_'"
        )
    own = METHODS.get(name)
    if own is not None and not _same(method, own):
        raise InputError(
            f"{where}: {name!r} is the name of a method of secateur itself, so that recipes would not "
            f"tell the two apart; give this one another name (built in: {', '.join(METHODS)})"
        )


def _same(method: Method, own: Method) -> bool:
    """Whether `method` is `own`, with whatever options."""
    if isinstance(method, PerGroup) and isinstance(own, PerGroup):
        return method.choose is own.choose
    return type(method) is type(own)


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
