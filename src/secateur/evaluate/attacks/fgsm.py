"""FGSM: one step along the steepest way up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from secateur.evaluate.attacks.base import NORM, RADIUS, Attack
from secateur.evaluate.attacks.types import Norm

if TYPE_CHECKING:
    from torch import Tensor

    from secateur.evaluate.attacks.target import Target


@dataclass(frozen=True)
class FGSM(Attack):
    """The fast gradient sign method (https://arxiv.org/abs/1412.6572): one gradient step; fast and weak.

    The step has the length `eps`, in input units: along the sign of the gradient in L∞, along the gradient
    itself in L2.

    Examples:
        >>> import torch, secateur
        >>> net = torch.nn.Linear(4, 3).eval()
        >>> with torch.no_grad():
        ...     images = torch.rand(50, 4)
        ...     labels = net(images).argmax(1)
        >>> report = secateur.evaluate(net, images, labels, attacks=[secateur.FGSM(0.1)])
        >>> report.attacks[0].name, report.attacks[0].robust_accuracy <= report.accuracy[1]
        ('fgsm_linf_eps0.1', True)
    """

    key: ClassVar[str] = "fgsm"
    summary: ClassVar[str] = "one gradient step; fast and weak"

    eps: float = field(metadata=RADIUS)
    norm: Norm = field(default="linf", metadata=NORM)

    steps = 1
    restarts = 1

    @property
    def step(self) -> float:
        """Size of the step, in input units."""
        return self.eps

    def perturb(self, target: Target, x0: Tensor, y: Tensor, rows: Tensor, restart: int) -> Tensor:
        ball = target.ball(x0, self.eps, self.norm)
        _, gradient, _ = target.slope(x0, y, self.loss)
        return ball.project(x0 + self.step * ball.steepest(gradient))
