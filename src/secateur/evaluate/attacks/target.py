"""What an attack works against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur.decisions import Head, decide
from secateur.errors import InputError
from secateur.evaluate.accuracy import outputs_of, placed
from secateur.evaluate.attacks.losses import loss_of
from secateur.evaluate.attacks.norms import Ball, ball_round
from secateur.evaluate.attacks.types import Climbed, Norm
from secateur.evaluate.box import Box


@dataclass(frozen=True, eq=False)
class Target:
    """A model with a resolved head (not `auto`), on a device, and the box that its inputs must lie in.

    An attack climbs `slope` until the model is `wrong`; a subclass says what both mean for it.
    """

    measured: ClassVar[str] = "robust accuracy"  # what falls under attack,
    stands: ClassVar[str] = "right"  # what an input is as long as it withstands,
    stronger: ClassVar[str] = "AutoAttack"  # and what to use where the attack is doubtful

    model: nn.Module
    head: Head
    box: Box  # on the device, each end broadcasting over a batch
    device: torch.device
    notes: list[str] = field(default_factory=list)  # what an attack has to say about the model

    def ball(self, x0: Tensor, eps: float, norm: Norm) -> Ball:
        """The points within `eps` of each x0 (b, …), cut by the box."""
        return ball_round(x0, eps, norm, self.box)

    def wrong(self, x: Tensor, y: Tensor) -> Tensor:
        """Whether the model decides for another class than `y` (b,), shape (b,)."""
        with torch.no_grad():
            return decide(outputs_of(self.model, x), self.head) != y

    def slope(self, x: Tensor, y: Tensor, loss: Climbed) -> tuple[Tensor, Tensor, Tensor]:
        """At x (b, …): the loss of each input (b,), its gradient (b, …), and whether the model is wrong (b,).

        The losses are added up, not averaged, so that the gradient does not depend on the batch size.
        """
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            values, wrong = self.judged(x, y, loss)
            if not values.requires_grad:
                raise InputError(
                    "the model's output has no gradient with respect to its input; gradient attacks need one"
                )
            (gradient,) = torch.autograd.grad(values.sum(), x)
        return values.detach(), gradient, wrong

    def judged(self, x: Tensor, y: Tensor, loss: Climbed) -> tuple[Tensor, Tensor]:
        """The loss of each input (b,), which may be differentiated, and whether the model is wrong (b,)."""
        outputs = outputs_of(self.model, x)
        return loss_of(outputs, y, self.head, loss), decide(outputs.detach(), self.head) != y


def target_of(model: nn.Module, head: Head, box: Box, device: torch.device | str | None) -> Target:
    """The target; a copy of the model where `device` names another than it is on."""
    model, found = placed(model, device)
    return Target(model, head, (box[0].to(found), box[1].to(found)), found)
