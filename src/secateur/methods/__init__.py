"""Methods: each decides which units of a group go next, and which stand in for them. One function, one row here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from secateur.errors import InputError
from secateur.methods.context import Context
from secateur.methods.impact import impact
from secateur.methods.saliency import saliency
from secateur.methods.scale import scale
from secateur.methods.stochastic import stochastic
from secateur.types import Group, Removal

Method = Callable[[Context, Group, int], Removal]

METHODS: dict[str, Callable[..., Removal]] = {
    "saliency": saliency,
    "impact": impact,
    "stochastic": stochastic,
    "scale": scale,
}


def options_of(name: str) -> dict[str, Any]:
    """The options of a method with their defaults."""
    parameters = inspect.signature(METHODS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def resolve(name: str, options: Mapping[str, Any]) -> Method:
    """The method called `name` with `options`; `InputError` names what there is instead."""
    if name not in METHODS:
        raise InputError(f"no method {name!r}; there are {', '.join(METHODS)}")
    known = options_of(name)
    for option, value in options.items():
        if option not in known:
            raise InputError(f"{name} has no option {option!r}; it has {', '.join(known) or 'none'}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{name}: {option}={value!r} is not a number")
    return partial(METHODS[name], **options)
