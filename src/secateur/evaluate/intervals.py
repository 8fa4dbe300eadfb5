"""Confidence intervals of a share that was counted, and bounds on quantiles from ordered draws."""

from __future__ import annotations

import math
from collections.abc import Callable

from secateur import arguments as may
from secateur.errors import InputError

_CLOSE = 1e-15  # relative change of a continued fraction at which it stands
_TERMS = 1_000_000  # of a continued fraction, at most; it takes about the square root of the number of trials
_TINY = 1e-300  # in place of a zero denominator


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval (low, high) of a binomial share (Clopper & Pearson 1934).

    There were `successes` in `trials`.

    Whatever the true share is, the interval holds it with a probability of at least `confidence`: `low` is
    the share under which so many successes or more have the probability (1 − confidence) / 2, `high` the
    share under which so many or fewer have it. 0 successes give a low end of 0, only successes a high end of
    1. Raises `InputError` for less than one trial, successes outside of 0 to `trials`, and a confidence
    outside of (0, 1).
    """
    trials = may.parsed("trials", trials, may.whole(1, "a whole number, at least 1"))
    successes = may.parsed("successes", successes, may.whole(0, "a whole number, at least 0"))
    confidence = may.parsed("confidence", confidence, may.number("a number between 0 and 1", above=0))
    if successes > trials:
        raise InputError(f"successes={successes}: give at most the number of trials, {trials}")
    if confidence >= 1:
        raise InputError(f"confidence={confidence}: give a number between 0 and 1")
    tail, failures = (1 - confidence) / 2, trials - successes
    low = 0.0 if not successes else _root(lambda p: _beta(p, successes, failures + 1) - tail)
    return low, _high(successes, trials, tail)


def share_at_most(successes: int, trials: int, tail: float) -> float:
    """An upper bound on a binomial share that is wrong with a probability of at most `tail`.

    It is the upper end of Clopper & Pearson's interval. Where trials have shares of their own, it bounds the
    mean of these: (successes + 1) / trials is then the least that it may be (Hoeffding 1956, Theorem 4: a sum
    of such trials is one or more below its mean no more often than a binomial one).
    """
    high = _high(successes, trials, tail)
    return max(high, (successes + 1) / trials) if 0 < successes < trials else high


def _high(successes: int, trials: int, tail: float) -> float:
    """The share under which so many successes or fewer have the probability `tail`."""
    if successes == trials:
        return 1.0
    if not successes:
        return -math.expm1(math.log(tail) / trials)
    return 1 - _root(lambda q: _beta(q, trials - successes, successes + 1) - tail)


def trials_for(share: float, tail: float) -> int:
    """How many trials without a success show, by `share_at_most`, that the share is at most `share`."""
    found = max(1, math.ceil(math.log(tail) / math.log1p(-share)))
    return found if share_at_most(0, found, tail) <= share else found + 1  # the quotient may be rounded down


def rank_for(quantile: float, trials: int, tail: float) -> int:
    """The greatest k for which the k-th largest of `trials` draws bounds the quantile from above.

    It is below the quantile with a probability of at most `tail`, whatever the distribution of the draws:
    then fewer than k of them have reached the quantile, and each does so with a probability of at least
    1 − `quantile`. 0 where even the largest draw is no such bound. For draws with distributions of their own,
    it bounds the quantile of their mixture, as in `share_at_most`.
    """
    low, high = 0, max(1, math.floor(trials * (1 - quantile)))
    while low < high:
        middle = (low + high + 1) // 2
        if _beta(quantile, trials - middle + 1, middle) <= tail:
            low = middle
        else:
            high = middle - 1
    return low


def _root(rising: Callable[[float], float]) -> float:
    """Where a function that rises from below 0 to above crosses it in (0, 1), as near as float64 tells."""
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return middle


def _beta(x: float, a: int, b: int) -> float:
    """The regularised incomplete beta function I_x(a, b).

    It is the probability of a or more successes in a + b − 1 trials of probability x.
    """
    # x^a (1 − x)^b / B(a, b)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(x, a, b) / a
    return 1 - front * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: int, b: int) -> float:
    """The continued fraction of I_x(a, b) · a / front, by Lentz's method (Numerical Recipes, § 6.4)."""
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    found = d
    for m in range(1, _TERMS):
        for factor in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _not_zero(1 + factor * d)
            c = _not_zero(1 + factor / c)
            found *= c * d
        if abs(c * d - 1) <= _CLOSE:
            break
    return found


def _not_zero(x: float) -> float:
    return x if abs(x) > _TINY else _TINY
