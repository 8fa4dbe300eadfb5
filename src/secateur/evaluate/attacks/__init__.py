"""Attacks on a classifier, or on its agreement with the original, and what is left of these."""

from __future__ import annotations

from secateur.evaluate.attacks.apgd import APGD
from secateur.evaluate.attacks.autoattack import AutoAttack
from secateur.evaluate.attacks.base import Attack, Target, target_of
from secateur.evaluate.attacks.pair import pair_of
from secateur.evaluate.attacks.pgd import FGSM, PGD
from secateur.evaluate.attacks.run import Outcome, check_names, perturb, run_attack

__all__ = [
    "APGD",
    "FGSM",
    "PGD",
    "Attack",
    "AutoAttack",
    "Outcome",
    "Target",
    "check_names",
    "pair_of",
    "perturb",
    "run_attack",
    "target_of",
]
