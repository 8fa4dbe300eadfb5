"""The table of attacks on a classifier, or on its agreement with the original."""

from __future__ import annotations

from typing import Any

from secateur.errors import InputError
from secateur.evaluate.attacks.apgd import APGD
from secateur.evaluate.attacks.autoattack import AutoAttack
from secateur.evaluate.attacks.base import Attack
from secateur.evaluate.attacks.fgsm import FGSM
from secateur.evaluate.attacks.pgd import PGD
from secateur.evaluate.options import missing_options, options_of, parsed_options

__all__ = ["APGD", "ATTACKS", "FGSM", "PGD", "Attack", "AutoAttack", "attack_from"]

ATTACKS: dict[str, type[Attack]] = {attack.key: attack for attack in (FGSM, PGD, APGD, AutoAttack)}


def attack_from(text: str, **defaults: Any) -> Attack:
    """The attack that `pgd:eps=8/255,steps=40` names; `pgd:8/255` gives the radius alone.

    `defaults` are values of fields that the text leaves out, as far as the attack has such fields. Raises
    `InputError` for unknown attacks and fields, and for values out of range.
    """
    key, _, rest = text.partition(":")
    if key not in ATTACKS:
        raise InputError(f"no attack {key!r}; there are {', '.join(ATTACKS)}")
    kind = ATTACKS[key]
    known = options_of(kind)
    values = {name: value for name, value in defaults.items() if name in known} | parsed_options(kind, rest)
    for name in missing_options(kind, values):
        raise InputError(f"{name} is missing: give {known[name].may_be}, as in {key}:{name}=0.01")
    return kind(**values)
