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
from torch import Tensor

from secateur.errors import InputError
from secateur.evaluate.attacks.base import Attack
from secateur.evaluate.attacks.norms import Ball
from secateur.evaluate.attacks.target import Target
from secateur.evaluate.box import Box
from secateur.progress import track

_ROUNDINGS = 8  # units in the last place by which a result may lie outside


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
            robust[rows] &= ~target.wrong(perturbed(attack, target, x0, y, rows, restart), y).cpu()
    return Outcome(correct, robust, tuple(dict.fromkeys(target.notes)))


def perturbed(attack: Attack, target: Target, x0: Tensor, y: Tensor, rows: Tensor, restart: int) -> Tensor:
    """One run of the attack on one batch, whose result is checked.

    Raises `InputError`, naming the attack, for a result of another shape or type, one that is not finite, and
    one outside of the ball or the box.
    """
    found = attack.perturb(target, x0, y, rows, restart)
    problem = _problem(found, x0, target.ball(x0, attack.eps, attack.norm), target.box)
    if problem:
        raise InputError(f"{attack.name}: perturb returned {problem}; the attack cannot be counted")
    return found


def _problem(found: object, x0: Tensor, ball: Ball, box: Box) -> str:
    if not isinstance(found, Tensor):
        return f"a {type(found).__name__} and no tensor"
    if (found.shape, found.dtype, found.device) != (x0.shape, x0.dtype, x0.device):
        return (
            f"images of shape {tuple(found.shape)}, {found.dtype} on {found.device}, for images of shape "
            f"{tuple(x0.shape)}, {x0.dtype} on {x0.device}"
        )
    if not bool(found.isfinite().all()):
        return "NaN or infinite values"
    largest = float(x0.abs().max()) + ball.eps
    rounding = _ROUNDINGS * torch.finfo(x0.dtype).eps * largest
    outside = float(torch.maximum(found - box[1], box[0] - found).max())
    if outside > rounding:
        return f"images that leave the input box by {outside:g}"
    length = ball.distance(found)
    if length > ball.eps + rounding * (x0[0].numel() ** 0.5 if ball.norm == "l2" else 1):
        return f"images at a distance of {length:g} ({ball.norm}), and eps is {ball.eps:g}"
    return ""


def check_names(attacks: Sequence[Attack]) -> None:
    """Rows of a report are told apart by name."""
    names = [attack.name for attack in attacks]
    if len(set(names)) != len(names):
        raise InputError(f"two attacks have the same name ({', '.join(names)}); leave one out")
