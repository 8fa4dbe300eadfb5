"""What an attack is, and what it works against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, get_args

import torch
from torch import Tensor, nn

from secateur import arguments as may
from secateur.decisions import Head, decide
from secateur.errors import InputError
from secateur.evaluate.accuracy import outputs_of, placed
from secateur.evaluate.attacks.losses import Climbed, Loss, loss_of
from secateur.evaluate.attacks.norms import Norm
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

    def wrong(self, x: Tensor, y: Tensor) -> Tensor:
        """Whether the model decides for another class than `y` (b,), shape (b,)."""
        with torch.no_grad():
            return decide(outputs_of(self.model, x), self.head) != y

    def slope(self, x: Tensor, y: Tensor, loss: Climbed) -> tuple[Tensor, Tensor, Tensor]:
        """At x (b, …): the loss of each input (b,), its gradient (b, …), and whether the model is wrong (b,).

        The gradient is that of the sum over the batch, so that no input's depends on how many others there
        are.
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


_RADIUS = may.number("a radius of at least 0, in the units of the input", low=0)
_AT_LEAST_ONE = may.whole(1, "a whole number, at least 1")


class Attack:
    """Moves inputs by at most `eps`, in input units and in `norm`, inside the input box, so that the model
    errs.
    """

    eps: float
    norm: Norm
    steps: int
    restarts: int

    def __post_init__(self) -> None:
        may.parsed("eps", self.eps, _RADIUS)
        if not isinstance(self.norm, str) or self.norm not in get_args(Norm):
            raise InputError(f"norm={self.norm!r}: choose one of {', '.join(get_args(Norm))}")
        for name in ("steps", "restarts"):
            may.parsed(name, getattr(self, name), _AT_LEAST_ONE)

    @property
    def name(self) -> str:
        """Attack, norm and radius, as reports show them."""
        raise NotImplementedError

    def perturb(self, target: Target, x0: Tensor, y: Tensor, rows: Tensor, restart: int) -> Tensor:
        """One run on one batch `x0` (b, …) of the labels `y` (b,): images near x0, inside the box.

        `rows` (b,) are the images' places in the data, from which what is random follows.
        """
        raise NotImplementedError

    def _named(self, word: str, loss: Loss = "ce") -> str:
        restarts = f"x{self.restarts}" if self.restarts > 1 else ""
        return f"{word}{restarts}{'' if loss == 'ce' else f'-{loss}'}_{self.norm}_eps{self.eps:g}"


def check_loss(loss: str) -> None:
    if loss not in get_args(Loss):
        raise InputError(f"loss={loss!r}: choose one of {', '.join(get_args(Loss))}")
