"""The options of the methods: what each may be. Their defaults stand in the methods' own signatures."""

from __future__ import annotations

import math

from secateur.arguments import Rule, number, one_of, whole

_FROM_0 = number("a number of at least 0", low=0)
_SHARE = number("a number from 0 to 1", low=0, high=1)
_NORM = one_of(1, 2)
_IMPACT = {"alpha": _SHARE, "beta": _SHARE, "pool": number("a number of at least 1", low=1)}

RULES: dict[str, dict[str, Rule]] = {
    "reconstruct": {
        "ridge": _FROM_0,
        "repair": _SHARE,
        "robust": _FROM_0,
        "rows": whole(1, "a whole number of rows, at least 1"),
    },
    "saliency": {},
    "impact": _IMPACT,
    "stochastic": {**_IMPACT, "temperature": _FROM_0},
    "scale": {"norm": _NORM},
    "scaled_merging": {
        "norm": _NORM,
        "lam": number("the share of the cosine in the score, from 0 to 1", low=0, high=1),
        "threshold": number("a cosine, from -1 to 1", low=-1, high=1),
        "threshold_conv": number("a cosine, from -1 to 1", low=-1, high=1),
    },
    "folding": {"repair": _FROM_0, "restarts": whole(1, "a whole number of clusterings, at least 1")},
    "ridge": {"norm": _NORM, "lambda1": _FROM_0, "lambda2": _FROM_0},
    "exact": {},
}


def weights_add_up(options: dict[str, float]) -> str:
    """What is wrong with the two weights of the impact score, or nothing."""
    if {"alpha", "beta"} <= options.keys() and not math.isclose(options["alpha"] + options["beta"], 1.0):
        return f"alpha={options['alpha']}, beta={options['beta']}: give two weights that add up to 1"
    return ""
