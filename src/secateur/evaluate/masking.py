"""Signs that gradients are masked, so that gradient attacks look weaker than the model is.

The signs are those of Athalye, Carlini & Wagner (https://arxiv.org/abs/1802.00420): one step does better than
many, random points do better than the attack, gradients vanish. All are looked for on the same few inputs, so
they cost little.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.evaluate.attacks.base import Attack
from secateur.evaluate.attacks.fgsm import FGSM
from secateur.evaluate.attacks.pgd import PGD
from secateur.evaluate.attacks.run import Outcome
from secateur.evaluate.attacks.target import Target
from secateur.evaluate.attacks.types import Climbed

Batch = tuple[Tensor, Tensor, Tensor]  # images, labels and their places in the data

_INPUTS = 256  # looked at, at most
_POINTS = 10  # random ones round each input
_SLACK = 0.03  # share of the inputs by which a probe may be ahead of an attack by chance
_VANISHING = 0.05  # share of inputs whose gradient may be zero


def signs_of_masking(
    target: Target,
    images: Tensor,
    labels: Tensor,
    outcomes: Sequence[tuple[Attack, Outcome]],
    batch_size: int,
) -> tuple[str, ...]:
    """Reasons to doubt the `outcomes` of gradient attacks on `images` (n, …); empty where there are none."""
    followed = dict.fromkeys(attack.climbed for attack, _ in outcomes if attack.climbed is not None)
    if not followed or not bool(outcomes[0][1].correct.any()):
        return ()
    rows = torch.nonzero(outcomes[0][1].correct)[:_INPUTS, 0]
    batches = [(images[r].to(target.device), labels[r].to(target.device), r) for r in rows.split(batch_size)]
    found = [_vanishing(target, batches, loss, len(rows)) for loss in followed]
    for attack, outcome in outcomes:
        if attack.climbed is not None and attack.eps > 0 and not isinstance(attack, FGSM):
            left = int(outcome.robust[rows].sum())
            found += [_ahead(target, batches, attack, left, name) for name in _PROBES]
    return tuple(dict.fromkeys(message for message in found if message))


def _vanishing(target: Target, batches: Sequence[Batch], loss: Climbed, inputs: int) -> str:
    flat = _flat(target, batches, loss)
    if flat <= _VANISHING * inputs:
        return ""
    rounded_away = loss == "ce" and _flat(target, batches, "log_odds") <= _VANISHING * inputs
    named, instead = "ce" if loss == "log_odds" else loss, "APGD, or " if rounded_away else ""
    return (
        f"the gradient of the loss ({named}) is zero at {flat} of {inputs} inputs, where gradient attacks "
        f"are blind; {target.measured} under them is too high: use {instead}{target.stronger}"
    )


def _flat(target: Target, batches: Sequence[Batch], loss: Climbed) -> int:
    """At how many inputs the gradient of the loss is zero."""
    return sum(int((target.slope(x, y, loss)[1].flatten(1) == 0).all(dim=1).sum()) for x, y, _ in batches)


def _ahead(target: Target, batches: Sequence[Batch], attack: Attack, left: int, name: str) -> str:
    inputs = sum(len(y) for _, y, _ in batches)
    left_by_probe = inputs - sum(int(_PROBES[name](target, attack, *batch).sum()) for batch in batches)
    if left - left_by_probe <= max(1.0, _SLACK * inputs):
        return ""
    return (
        f"{attack.name} leaves {left} of {inputs} inputs {target.stands}, {name} of the same radius only "
        f"{left_by_probe}: the gradients look masked, or the attack has too few steps; its {target.measured} "
        f"is too high: use {target.stronger}"
    )


def _one_step(target: Target, attack: Attack, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    """FGSM with the attack's own loss."""
    eps, norm, loss = attack.eps, attack.norm, attack.loss
    step = PGD(eps, steps=1, step_size=eps, random_start=False, norm=norm, loss=loss)
    return target.wrong(step.perturb(target, x, y, rows, 0), y)


def _noise(target: Target, attack: Attack, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    """Whether any of several random points on the rim of the ball is decided wrongly."""
    ball, wrong = target.ball(x, attack.eps, attack.norm), torch.zeros_like(y, dtype=torch.bool)
    for point in range(_POINTS):
        wrong |= target.wrong(ball.rim(rows, getattr(attack, "seed", 0), point), y)
    return wrong


_PROBES = {"a single step": _one_step, "random noise": _noise}
