"""Methods: each decides which units of a group go next, and which stand in for them. One function, one row here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from secateur.errors import InputError
from secateur.methods.context import Context
from secateur.methods.folding import folding
from secateur.methods.impact import impact
from secateur.methods.ridge import ridge
from secateur.methods.saliency import saliency
from secateur.methods.scale import scale
from secateur.methods.scaled_merging import scaled_merging
from secateur.methods.stochastic import stochastic
from secateur.reconstruct import make_study
from secateur.types import Group, Removal

PAIRING = {"saliency", "impact", "stochastic"}  # each unit that leaves is merged into one that stays

Method = Callable[[Context, Group, int], Removal]

METHODS: dict[str, Callable[..., Removal]] = {
    "saliency": saliency,
    "impact": impact,
    "stochastic": stochastic,
    "scale": scale,
    "scaled_merging": scaled_merging,
    "folding": folding,
    "ridge": ridge,
}


RECONSTRUCT = "reconstruct"  # looks at the whole network at once; groups that it cannot solve for go by saliency

EXACT = "exact"  # what can go without any change of the function over the input box (see `secateur.debloat`)

NAMES = (RECONSTRUCT, *METHODS, EXACT)


def options_of(name: str) -> dict[str, Any]:
    """The options of a method with their defaults."""
    if name == EXACT:
        return {}
    function = make_study if name == RECONSTRUCT else METHODS[name]
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}


def resolve(name: str, options: Mapping[str, Any]) -> Method:
    """What decides about one group under the method called `name` with `options`; `InputError` names what
    there is instead."""
    if name not in NAMES:
        raise InputError(f"no method {name!r}; there are {', '.join(NAMES)}")
    known = options_of(name)
    for option, value in options.items():
        if option not in known:
            raise InputError(f"{name} has no option {option!r}; it has {', '.join(known) or 'none'}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{name}: {option}={value!r} is not a number")
    return partial(METHODS[name], **options) if name in METHODS else saliency
