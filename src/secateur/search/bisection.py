"""Search for one number, how much to remove: bisection over whole percents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur.search.space import Setting
from secateur.search.study import Study
from secateur.search.trial import Wanted

MOST = 100  # percent, of which nothing would be left


def bisect(study: Study, quantity: str, choices: Mapping[str, Any], wanted: Wanted, seed: int) -> None:
    """Ask for at most seven shares, so that the largest that keeps the budgets is found.

    This takes agreement to fall, and drift to rise, as more is removed. They do so but for small steps, in
    which case the result keeps the budgets and a larger share may, too. A share at which nothing can be
    removed keeps them; one that cannot be reached does not.
    """
    kept, missed = 0, MOST
    while missed - kept > 1:
        share = (kept + missed) // 2
        setting = Setting(remove=f"{quantity}={share}%", seed=seed, **choices)
        (trial,) = study.measured([setting])
        if trial.unchanged or wanted.kept_by(trial):
            kept = share
        else:
            missed = share
