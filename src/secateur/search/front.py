"""The networks of which no other is both smaller and closer to the original."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.search.trial import Objective, Trial, Wanted


def front(trials: Sequence[Trial], objective: Objective, wanted: Wanted) -> list[Trial]:
    """Pareto front of size against loss, smallest network first; of equal ones the first.

    Examples:
        >>> from secateur.search.space import Setting
        >>> from secateur.search.trial import Sizes
        >>> rows = [(30, 0.90), (50, 0.99), (40, 0.85), (60, 0.98)]
        >>> trials = [
        ...     Trial(
        ...         number=number,
        ...         setting=Setting(remove=None),
        ...         sizes=Sizes(params=parameters, macs=0, bytes=0),
        ...         agreement=agreement,
        ...     )
        ...     for number, (parameters, agreement) in enumerate(rows, 1)
        ... ]
        >>> [trial.number for trial in front(trials, "params", Wanted(agreement=0.9))]
        [1, 2]
    """
    measured = [(t.sizes.of(objective), wanted.loss(t), t.number, t) for t in trials if t.sizes is not None]
    kept, least = list[Trial](), float("inf")
    for _, loss, _, trial in sorted(measured, key=lambda row: row[:3]):
        if loss < least:
            kept.append(trial)
            least = loss
    return kept


def within(trials: Sequence[Trial], objective: Objective, wanted: Wanted) -> list[Trial]:
    """The trials of the front that keep the budgets, smallest network first."""
    return [trial for trial in front(trials, objective, wanted) if wanted.kept_by(trial)]
