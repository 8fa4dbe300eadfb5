"""FGSM and PGD: steps of a fixed size along the steepest way up."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from secateur import arguments as may
from secateur.errors import InputError
from secateur.evaluate.attacks.base import Attack, Target, check_loss
from secateur.evaluate.attacks.losses import Loss
from secateur.evaluate.attacks.norms import Ball, Norm, ball_round, steepest


@dataclass(frozen=True)
class FGSM(Attack):
    """The fast gradient sign method (https://arxiv.org/abs/1412.6572): one step of size `eps` (in input
    units).

    Along the sign of the gradient in L∞, along the gradient itself in L2.
    """

    eps: float
    norm: Norm = "linf"

    steps = 1
    restarts = 1

    @property
    def step(self) -> float:
        return self.eps

    @property
    def name(self) -> str:
        return self._named("fgsm")

    def perturb(self, target: Target, x0: Tensor, y: Tensor, rows: Tensor, restart: int) -> Tensor:
        return _climb(
            target, ball_round(x0, self.eps, self.norm, target.box), x0, y, self.step, self.steps, "ce"
        )


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient descent (https://arxiv.org/abs/1706.06083); the last iterate of each restart counts.

    `eps` and `step_size` are in input units; `step_size=None` is 2.5 eps / steps. The random start of an
    input depends on `seed`, the restart and the input's place in the data, not on the batch size. `loss` is
    `ce`, `margin` or `dlr`.
    """

    eps: float
    steps: int = 20
    step_size: float | None = None
    random_start: bool = True
    restarts: int = 1
    seed: int = 0
    norm: Norm = "linf"
    loss: Loss = "ce"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_loss(self.loss)
        may.parsed(
            "step_size", self.step_size, may.optional(may.number("a positive number of input units", above=0))
        )
        if self.restarts > 1 and not self.random_start:
            raise InputError("restarts without random_start repeat the same attack; leave restarts at 1")

    @property
    def step(self) -> float:
        """Size of one step, in input units."""
        return 2.5 * self.eps / self.steps if self.step_size is None else self.step_size

    @property
    def name(self) -> str:
        return self._named(f"pgd{self.steps}", self.loss)

    def perturb(self, target: Target, x0: Tensor, y: Tensor, rows: Tensor, restart: int) -> Tensor:
        ball = ball_round(x0, self.eps, self.norm, target.box)
        start = ball.random(rows, self.seed, restart) if self.random_start else x0
        return _climb(target, ball, start, y, self.step, self.steps, self.loss)


def _climb(target: Target, ball: Ball, x: Tensor, y: Tensor, size: float, steps: int, loss: Loss) -> Tensor:
    for _ in range(steps):
        _, gradient, _ = target.slope(x, y, loss)
        x = ball.project(x + size * steepest(gradient, ball.norm))
    return x
