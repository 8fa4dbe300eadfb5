"""Attacks run over all inputs in batches, and what is left of the accuracy under them.

A *robust instance* is an input that is classified correctly and whose attacked version still is
(https://arxiv.org/abs/2204.00783). An input that is wrong before the attack is never robust, and is not
attacked. Against two models, `labels` are the original's decisions, and an input is right where both models
agree (`pair`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from secateur.decisions import Head
from secateur.errors import InputError
from secateur.evaluate.attacks.base import Attack, Target
from secateur.evaluate.box import Box
from secateur.progress import track


@dataclass(frozen=True, eq=False)
class Outcome:
    """Per input, shape (n,): right before the attack, and right before and after every run of it."""

    correct: Tensor
    robust: Tensor
    notes: tuple[str, ...] = ()  # what the attack had to say about the model

    @property
    def robust_share(self) -> float:
        """The share of all evaluated inputs that are robust."""
        return float(self.robust.double().mean())

    @property
    def robust_instances_per_1000(self) -> float:
        """Robust inputs per 1,000 evaluated ones; inputs that were wrong anyway count as not robust."""
        return 1000 * self.robust_share


def run_attack(
    target: Target,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    *,
    correct: Tensor,
    batch_size: int = 256,
    progress: bool = False,
) -> Outcome:
    """Attack the `images` (n, …) that are `correct` (n,), with `labels` (n,); the models stay as they are.

    Raises `InputError` for models that give no gradient.
    """
    target = replace(target, notes=[])
    robust = correct.clone()
    todo = torch.nonzero(correct)[:, 0].split(batch_size) if bool(correct.any()) else ()
    for rows in track(todo, attack.name, progress):
        x0, y = images[rows].to(target.device), labels[rows].to(target.device)
        for restart in range(attack.restarts):
            robust[rows] &= ~target.wrong(attack.perturb(target, x0, y, rows, restart), y).cpu()
    return Outcome(correct, robust, tuple(dict.fromkeys(target.notes)))


def perturb(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    rows: Tensor,
    restart: int,
    head: Head,
    box: Box,
    device: torch.device,
) -> Tensor:
    """One run of `attack` on one batch: images (b, …) within eps of the given ones and inside the box.

    `rows` (b,) are the images' places in the data, from which their random starts follow.
    """
    target = Target(model, head, (box[0].to(device), box[1].to(device)), device)
    return attack.perturb(target, images.to(device), labels.to(device), rows, restart)


def check_names(attacks: Sequence[Attack]) -> None:
    """Rows of a report are told apart by name."""
    names = [attack.name for attack in attacks]
    if len(set(names)) != len(names):
        raise InputError(f"two attacks have the same name ({', '.join(names)}); leave one out")
