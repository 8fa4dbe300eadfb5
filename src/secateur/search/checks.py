"""What is too dear to measure in every trial, of the networks of the front alone: attacks and proofs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.certify import certify
from secateur.errors import InputError, SecateurWarning
from secateur.evaluate.attacks import Attack
from secateur.evaluate.measure import evaluate
from secateur.replay import replay
from secateur.search.bench import Job, Model
from secateur.search.store import Store
from secateur.search.trial import Checks, Trial

# Arguments of `prune` that `certify` takes, too, and those that `evaluate` does.
_CERTIFIED = "input_bounds mean std normalize head".split()
_ATTACKED = [*_CERTIFIED, "device"]


@dataclass(frozen=True)
class Checking:
    """What is measured of the front, and what must be kept to be picked; see `search` for each."""

    attacks: tuple[Attack, ...] = ()
    certified: float | None = None
    certified_inputs: int = 0
    robust_accuracy: float | None = None
    robust_agreement: float | None = None
    certified_agreement: float | None = None

    @property
    def asked(self) -> str:
        """All on which figures depend beside the question of the search."""
        return repr((self.attacks, self.certified, self.certified_inputs))

    def __bool__(self) -> bool:
        return bool(self.attacks) or self.certified is not None

    def check(self, labelled: bool, quantises: bool) -> None:
        """Raise `InputError` where something needs what was not given."""
        if self and not labelled:
            raise InputError("attacks and certified need images and labels (--data)")
        if self and quantises:
            raise InputError("attacks and certified: they need float networks, and some are quantised here")
        for name, least in (
            ("min_robust_accuracy", self.robust_accuracy),
            ("min_robust_agreement", self.robust_agreement),
        ):
            if least is not None and not self.attacks:
                raise InputError(f"{name} needs attacks (--attack), such as [secateur.PGD(0.01)]")
        if self.robust_agreement is not None and all(attack.needs_labels for attack in self.attacks):
            raise InputError("min_robust_agreement needs an attack that needs no labels, such as PGD")
        if self.certified_agreement is not None and self.certified is None:
            raise InputError("min_certified needs certified (--certified), the radius of the balls")

    def kept_by(self, checks: Checks) -> bool:
        """Whether all that must be kept is; of several attacks, under the worst."""
        pairs = (
            (self.robust_accuracy, min(checks.robust_accuracy.values(), default=0.0)),
            (self.robust_agreement, min(checks.robust_agreement.values(), default=0.0)),
            (self.certified_agreement, checks.certified or 0.0),
        )
        return all(share >= least for least, share in pairs if least is not None)

    def told(self) -> list[str]:
        """What must be kept, in words."""
        named = (
            (self.robust_accuracy, "robust accuracy"),
            (self.robust_agreement, "robust agreement"),
            (self.certified_agreement, "certified agreement"),
        )
        return [f"{name} of at least {least:.2%}" for least, name in named if least is not None]


class Checker:
    """Measures networks by their trials; what the folder holds of the same network is not measured again."""

    def __init__(self, checking: Checking, model: Model, job: Job, store: Store) -> None:
        self._checking, self._model, self._job, self._store = checking, model, job, store

    def of(self, trials: Sequence[Trial]) -> dict[int, Checks]:
        """Trial → what was measured of its network; nothing where nothing is to be."""
        return {trial.number: self._at(trial) for trial in trials} if self._checking else {}

    def _at(self, trial: Trial) -> Checks:
        asked = self._checking.asked
        stored = self._store.checks(trial.number)
        if stored is not None and (stored.result, stored.asked) == (trial.result, asked):
            return stored
        with warnings.catch_warnings():  # of masked gradients and the like, which the record holds
            warnings.simplefilter("ignore", SecateurWarning)
            found = {**self._attacked(trial), **self._certified(trial)}
        checks = Checks(asked=asked, result=trial.result, **found)
        self._store.put_checks(trial.number, checks)
        return checks

    def _small(self, trial: Trial) -> Any:
        return replay(self._model, self._store.recipe(trial.number), self._job.example_inputs)

    def _attacked(self, trial: Trial) -> Mapping[str, Any]:
        """Under each attack; with labels it looks for errors, and without for other decisions."""
        if not self._checking.attacks:
            return {}
        job, given = self._job, {name: self._job.arguments[name] for name in _ATTACKED}
        small, attacks = self._small(trial), self._checking.attacks
        wrong = evaluate(small, job.images, job.labels, attacks=attacks, **given)
        able = [attack for attack in attacks if not attack.needs_labels]
        apart = evaluate(small, job.images, original=self._model, attacks=able, **given)
        return {
            "robust_accuracy": {row.name: row.robust_accuracy for row in wrong.attacks},
            "robust_agreement": {row.name: row.robust_agreement for row in apart.agreement_attacks},
            "doubts": tuple(dict.fromkeys((*wrong.warnings, *apart.warnings))),
        }

    def _certified(self, trial: Trial) -> Mapping[str, Any]:
        radius, job = self._checking.certified, self._job
        if radius is None or job.images is None:
            return {}
        proved = certify(
            self._model,
            self._small(trial),
            job.example_inputs,
            inputs=job.images[: self._checking.certified_inputs],
            eps=radius,
            attack_steps=0,
            **{name: job.arguments[name] for name in _CERTIFIED},
        )
        share = None if proved.agreement is None else proved.agreement.certified
        return {"certified": share, "certified_drift": max(proved.drift)}
