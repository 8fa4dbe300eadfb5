"""The trials of a search in order: those that are stored are read, the others measured and stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from secateur.errors import InputError
from secateur.progress import notice
from secateur.search.engine import Engine
from secateur.search.space import Setting
from secateur.search.store import Store
from secateur.search.trial import Trial


class Study:
    """Trials so far, in the order in which they were asked for.

    What is asked for may depend on all earlier trials and on nothing else, so that an interrupted study that
    is begun again asks for the same. Recipes, with their weights, are kept of the trials that `kept` names:
    one that it leaves out, it must leave out whatever else is measured.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        kept: Callable[[Sequence[Trial]], Sequence[Trial]],
        progress: bool,
    ) -> None:
        self.trials = list[Trial]()
        self.store = store
        self._engine, self._kept, self._progress = engine, kept, progress

    def measured(self, settings: Sequence[Setting], of: int | None = None) -> list[Trial]:
        """The trials of these settings; `of` is how many there will be in all, for the progress report."""
        first = len(self.trials) + 1
        asked = dict(enumerate(settings, first))
        missing = {n: s for n, s in asked.items() if not self._is_stored(n, s)}
        for outcome in self._engine.outcomes(list(missing.items())):
            self.store.put(outcome.trial, outcome.recipe)
            self._tell(outcome.trial, of)
        found = [trial for number in asked if (trial := self.store.trial(number)) is not None]
        self.trials += found
        kept = {trial.number for trial in self._kept(self.trials)}
        for trial in self.trials:
            if trial.number not in kept:
                self.store.drop_recipe(trial.number)
        return found

    def _is_stored(self, number: int, setting: Setting) -> bool:
        trial = self.store.trial(number)
        if trial is not None and trial.setting != setting:
            raise InputError(
                f"{self.store.folder}: trial {number} is stored as {trial.setting.told()}, and the same "
                f"question asks for {setting.told()} now; the folder was changed, or a package that "
                "suggests trials. Give another folder, or overwrite=True (--overwrite)"
            )
        return trial is not None

    def _tell(self, trial: Trial, of: int | None) -> None:
        place = f"trial {trial.number}" + (f" of {of}" if of else "")
        notice(f"{place}: {trial.setting.told()}: {trial.told()}", self._progress)
