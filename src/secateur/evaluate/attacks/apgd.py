"""APGD: PGD that finds its own step size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from secateur.evaluate.attacks.base import LOSS, NORM, RADIUS, RESTARTS, SEED, STEPS, Attack
from secateur.evaluate.attacks.types import Climbed, Loss, Norm

if TYPE_CHECKING:
    from torch import Tensor

    from secateur.evaluate.attacks.target import Target


@dataclass(frozen=True)
class APGD(Attack):
    """Auto-PGD (https://arxiv.org/abs/2003.01690): PGD with a step size that adapts; any iterate may fool.

    Of inputs that stay right, the point of largest loss is returned. `loss` is `ce`, `margin` or `dlr`; what
    they break differs, so list more than one. `ce` is climbed by its log-odds, the same path without the
    rounding that hides it where the model is sure. The random starts depend on `seed`, the restart and the
    input's place in the data.

    Examples:
        >>> import secateur
        >>> [secateur.APGD(0.1, "l2", loss).name for loss in ("ce", "margin")]
        ['apgd100_l2_eps0.1', 'apgd100-margin_l2_eps0.1']
    """

    key: ClassVar[str] = "apgd"
    summary: ClassVar[str] = "gradient steps of a size that adapts; stronger than PGD"

    eps: float = field(metadata=RADIUS)
    norm: Norm = field(default="linf", metadata=NORM)
    loss: Loss = field(default="ce", metadata=LOSS)
    steps: int = field(default=100, metadata=STEPS)
    restarts: int = field(default=1, metadata=RESTARTS)
    seed: int = field(default=0, metadata=SEED)

    @property
    def climbed(self) -> Climbed:
        """The loss in the form whose gradient is followed."""
        return "log_odds" if self.loss == "ce" else self.loss

    def perturb(self, target: Target, x0: Tensor, y: Tensor, rows: Tensor, restart: int) -> Tensor:
        from secateur.evaluate.attacks.climb import climbed_to

        ball = target.ball(x0, self.eps, self.norm)
        return climbed_to(target, ball, ball.random(rows, self.seed, restart), y, self.climbed, self.steps)
