"""Attacks on a classifier, and what is left of the accuracy under them."""

from __future__ import annotations

from secateur.evaluate.attacks.apgd import APGD
from secateur.evaluate.attacks.autoattack import AutoAttack
from secateur.evaluate.attacks.base import Attack, Target, target_of
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
    "perturb",
    "run_attack",
    "target_of",
]
