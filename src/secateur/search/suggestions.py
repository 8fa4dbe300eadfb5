"""Search for several choices at once: Optuna suggests settings, from what earlier ones gave."""

from __future__ import annotations

import importlib
import math
from typing import Any, Literal, get_args

from secateur.errors import InputError
from secateur.search.space import Setting, Space
from secateur.search.study import Study
from secateur.search.trial import Objective, Trial, Wanted

Sampler = Literal["tpe", "nsga2"]
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)

BATCH = 4  # settings that are asked for at once, whatever the number of workers
_FEWEST, _MOST = 5, 95  # percent to remove
_AT_RANDOM = 8  # trials before the first that depends on others
_ROUNDS = 8  # batches, for each batch of new settings, in which settings may repeat


def suggest(
    study: Study,
    quantity: str,
    space: Space,
    objective: Objective,
    wanted: Wanted,
    trials: int,
    sampler: Sampler,
    seed: int,
) -> None:
    """Ask for `trials` settings, or fewer where Optuna suggests no more new ones.

    Optuna's own storages do not keep the state of its random numbers. So the study is kept in memory, and one
    that goes on is told the stored trials in the order and in the batches in which it asked for them.
    """
    optuna = require_optuna()
    asker = optuna.create_study(directions=["minimize", "minimize"], sampler=_sampler(optuna, sampler, seed))
    known = dict[Setting, Trial]()
    for _ in range(_ROUNDS * math.ceil(trials / BATCH)):
        if len(known) >= trials:
            return
        batch = [asker.ask() for _ in range(BATCH)]
        settings = [_setting(asked, quantity, space, seed) for asked in batch]
        new = [setting for setting in dict.fromkeys(settings) if setting not in known]
        found = study.measured(new[: trials - len(known)], of=trials)
        known |= {trial.setting: trial for trial in found}
        for asked, setting in zip(batch, settings, strict=True):
            if setting in known:
                _tell(optuna, asker, asked, known[setting], objective, wanted)


def require_optuna() -> Any:
    """The package. Raises `InputError` where it is not installed."""
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise InputError(
            "a search over several methods, allocations, roundings or schemes needs the package optuna: pip "
            "install 'secateur[search]'; or give one of each"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _sampler(optuna: Any, name: Sampler, seed: int) -> Any:
    seed %= 2**32  # as numpy takes it
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(population_size=_AT_RANDOM, seed=seed)
    return optuna.samplers.TPESampler(n_startup_trials=_AT_RANDOM, seed=seed)


def _setting(asked: Any, quantity: str, space: Space, seed: int) -> Setting:
    share = asked.suggest_int("share", _FEWEST, _MOST)
    chosen = {
        name: asked.suggest_categorical(name, values) if len(values) > 1 else values[0]
        for name, values in space.choices.items()
    }
    return Setting(remove=f"{quantity}={share}%", seed=seed, **chosen)


def _tell(optuna: Any, asker: Any, asked: Any, trial: Trial, objective: Objective, wanted: Wanted) -> None:
    if trial.sizes is None or not math.isfinite(wanted.loss(trial)):
        asker.tell(asked, state=optuna.trial.TrialState.FAIL)
        return
    asked.set_constraint("budgets", wanted.lacks(trial))
    asker.tell(asked, [trial.sizes.of(objective), wanted.loss(trial)])
