"""Methods: each decides which units of a group go next, and which stand in for them. One function, one row
here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from secateur.arguments import checked
from secateur.errors import InputError
from secateur.methods.context import Context
from secateur.methods.folding import folding
from secateur.methods.impact import impact
from secateur.methods.options import RULES, weights_add_up
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


# looks at the whole network at once; groups that it cannot solve for go by saliency
RECONSTRUCT = "reconstruct"

EXACT = "exact"  # what can go without any change of the function over the input box (see `secateur.debloat`)

NAMES = (RECONSTRUCT, *METHODS, EXACT)


def options_of(name: str) -> dict[str, Any]:
    """The options of a method with their defaults."""
    if name == EXACT:
        return {}
    function = make_study if name == RECONSTRUCT else METHODS[name]
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}


def checked_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options given to a method, each within its range; `InputError` for the first that is not."""
    known = options_of(name)
    for option in options:
        if option not in known:
            raise InputError(f"options: {name} has no {option!r}; it has {', '.join(known) or 'none'}")
    found = checked(RULES[name], options, where=f"options: {name}: ")
    if wrong := weights_add_up(known | found):
        raise InputError(f"options: {name}: {wrong}")
    return found


def resolve(name: str, options: Mapping[str, Any]) -> Method:
    """What decides about one group under the method called `name`; groups that others leave go by
    saliency.
    """
    return partial(METHODS[name], **options) if name in METHODS else saliency
