"""PGD: steps of a fixed size along the steepest way up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from secateur.errors import InputError
from secateur.evaluate.attacks.base import LOSS, NORM, RADIUS, RESTARTS, SEED, STEPS, Attack
from secateur.evaluate.attacks.types import Loss, Norm
from secateur.evaluate.options import flag, number

if TYPE_CHECKING:
    from torch import Tensor

    from secateur.evaluate.attacks.target import Target

_STEP_SIZE = number("size of one step in input units (None: 2.5 eps / steps)", above=0, optional=True)


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient descent (https://arxiv.org/abs/1706.06083); the last iterate of each restart counts.

    `eps` and `step_size` are in input units. The random start of an input depends on `seed`, the restart and
    the input's place in the data, not on the batch size. `loss` is `ce` (cross-entropy), `margin` (of the
    logits) or `dlr` (the margin, rescaled; three classes or more).

    Examples:
        >>> import secateur
        >>> attack = secateur.PGD(8 / 255, steps=40, restarts=5)
        >>> attack.name, round(attack.step, 5)
        ('pgd40x5_linf_eps0.0313725', 0.00196)
    """

    key: ClassVar[str] = "pgd"
    summary: ClassVar[str] = "gradient steps of a fixed size"

    eps: float = field(metadata=RADIUS)
    steps: int = field(default=20, metadata=STEPS)
    step_size: float | None = field(default=None, metadata=_STEP_SIZE)
    random_start: bool = field(default=True, metadata=flag("start at a random point of the ball"))
    restarts: int = field(default=1, metadata=RESTARTS)
    seed: int = field(default=0, metadata=SEED)
    norm: Norm = field(default="linf", metadata=NORM)
    loss: Loss = field(default="ce", metadata=LOSS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.restarts > 1 and not self.random_start:
            raise InputError("restarts without random_start repeat the same attack; leave restarts at 1")

    @property
    def step(self) -> float:
        """Size of one step, in input units."""
        return 2.5 * self.eps / self.steps if self.step_size is None else self.step_size

    def perturb(self, target: Target, x0: Tensor, y: Tensor, rows: Tensor, restart: int) -> Tensor:
        ball = target.ball(x0, self.eps, self.norm)
        x = ball.random(rows, self.seed, restart) if self.random_start else x0
        for _ in range(self.steps):
            _, gradient, _ = target.slope(x, y, self.loss)
            x = ball.project(x + self.step * ball.steepest(gradient))
        return x
