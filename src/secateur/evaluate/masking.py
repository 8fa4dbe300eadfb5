"""Signs that gradients are masked, so that gradient attacks look weaker than the model is.

The signs are those of Athalye, Carlini & Wagner (https://arxiv.org/abs/1802.00420): one step does better than many,
random points do better than the attack, gradients vanish. All are looked for on the same few inputs, so they cost
little.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.evaluate.attacks import APGD, FGSM, PGD, Attack, Outcome, Target
from secateur.evaluate.attacks.losses import Loss
from secateur.evaluate.attacks.norms import ball_round

Batch = tuple[Tensor, Tensor, Tensor]  # images, labels and their places in the data

_INPUTS = 256  # looked at, at most
_POINTS = 10  # random ones round each input
_SLACK = 0.01  # share of the inputs by which a probe may be ahead of an attack by chance
_VANISHING = 0.05  # share of inputs whose gradient may be zero


def signs_of_masking(
    target: Target, images: Tensor, labels: Tensor, outcomes: Sequence[tuple[Attack, Outcome]], batch_size: int
) -> tuple[str, ...]:
    """What makes the `outcomes` of gradient attacks on `images` (n, …) doubtful, in words; empty where nothing does."""
    gradients = [attack for attack, _ in outcomes if isinstance(attack, FGSM | PGD | APGD)]
    if not gradients or not bool(outcomes[0][1].correct.any()):
        return ()
    rows = torch.nonzero(outcomes[0][1].correct)[:_INPUTS, 0]
    batches = [(images[r].to(target.device), labels[r].to(target.device), r) for r in rows.split(batch_size)]
    losses: dict[Loss, None] = {attack.loss if isinstance(attack, PGD | APGD) else "ce": None for attack in gradients}
    found = [_vanishing(target, batches, loss, len(rows)) for loss in losses]
    for attack, outcome in outcomes:
        if isinstance(attack, PGD | APGD):
            found += [_ahead(target, batches, attack, int(outcome.robust[rows].sum()), name) for name in _PROBES]
    return tuple(message for message in found if message)


def _vanishing(target: Target, batches: Sequence[Batch], loss: Loss, inputs: int) -> str:
    flat = sum(int((target.slope(x, y, loss)[1].flatten(1) == 0).all(dim=1).sum()) for x, y, _ in batches)
    if flat <= _VANISHING * inputs:
        return ""
    return (
        f"the gradient of the loss ({loss}) is zero at {flat} of {inputs} inputs: gradient attacks are blind there, "
        "and robust accuracy under them is too high; use AutoAttack, whose Square needs no gradients"
    )


def _ahead(target: Target, batches: Sequence[Batch], attack: PGD | APGD, left: int, name: str) -> str:
    inputs = sum(len(y) for _, y, _ in batches)
    left_by_probe = inputs - sum(int(_PROBES[name](target, attack, *batch).sum()) for batch in batches)
    if left - left_by_probe <= max(1.0, _SLACK * inputs):
        return ""
    return (
        f"{attack.name} leaves {left} of {inputs} inputs right, {name} of the same radius only {left_by_probe}: the "
        "gradients look masked, or the attack is too weak, and robust accuracy under it is too high; give it more "
        "steps, or use AutoAttack"
    )


def _fgsm(target: Target, attack: PGD | APGD, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    return target.wrong(FGSM(attack.eps, attack.norm).perturb(target, x, y, rows, 0), y)


def _noise(target: Target, attack: PGD | APGD, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    """Whether any of several random points on the rim of the ball is decided wrongly."""
    ball, wrong = ball_round(x, attack.eps, attack.norm, target.box), torch.zeros_like(y, dtype=torch.bool)
    for point in range(_POINTS):
        wrong |= target.wrong(ball.rim(rows, attack.seed, point), y)
    return wrong


_PROBES = {"a single step": _fgsm, "random noise": _noise}
