"""Options of methods: keyword arguments with a range each, read from a signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints

from secateur.arguments import Rule, checked, number, one_of, whole
from secateur.errors import InputError

# Types for signatures: `norm: Norm = 2` declares an option, its default and its range.
AtLeast0 = Annotated[float, number("a number of at least 0", low=0)]
AtLeast1 = Annotated[float, number("a number of at least 1", low=1)]
Cosine = Annotated[float, number("a cosine, from -1 to 1", low=-1, high=1)]
Count = Annotated[int, whole(1, "a whole number of at least 1")]
Norm = Annotated[int, one_of(1, 2)]
Share = Annotated[float, number("a number from 0 to 1", low=0, high=1)]


@dataclass(frozen=True)
class Option:
    """One option of a method: its default and its range."""

    default: Any
    rule: Rule


def options_in(signature_of: Callable[..., Any]) -> dict[str, Option]:
    """The options of a function or dataclass, by name.

    They are the parameters whose annotation holds a `Rule`, and keyword-only parameters with a number as
    default, which may be any number.
    """
    hints = get_type_hints(signature_of, include_extras=True)
    found = dict[str, Option]()
    for p in inspect.signature(signature_of).parameters.values():
        rules = [extra for extra in get_args(hints.get(p.name)) if isinstance(extra, Rule)]
        if not rules and p.kind is p.KEYWORD_ONLY and isinstance(p.default, int | float):
            rules = [number("a number")]
        if rules:
            found[p.name] = Option(p.default, rules[0])
    return found


def checked_options(method: str, known: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options given to a method. Raises `InputError` for an unknown one, or one out of its range."""
    for name in given:
        if name not in known:
            raise InputError(f"options: {method} has no {name!r}; it has {', '.join(known) or 'none'}")
    return checked({name: option.rule for name, option in known.items()}, given, where=f"options: {method}: ")
