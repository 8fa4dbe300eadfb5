"""What an attack is. Its fields are its options, in Python and on the command line.

Neither this module nor those of the attacks import torch, except inside of functions: the command line makes
its help from their fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, get_args

from secateur.evaluate.attacks.types import Climbed, Loss, Norm
from secateur.evaluate.options import check_options, choice, number, options_of, whole

if TYPE_CHECKING:
    from torch import Tensor

    from secateur.evaluate.attacks.target import Target

# Fields that several attacks have.
RADIUS = number("radius in input units", low=0)
NORM = choice("norm of the radius", get_args(Norm))
LOSS = choice("loss that is increased", get_args(Loss))
STEPS = whole("number of gradient steps", low=1)
RESTARTS = whole("number of runs, of which the worst counts", low=1)
SEED = whole("seed of random starts")


class Attack:
    """Moves inputs by at most `eps`, measured in `norm`, inside the input box, so that the model errs.

    A new attack is a frozen dataclass that derives from this one, has these attributes as fields or class
    attributes, and defines `perturb`. Fields with an option as metadata (`evaluate/options.py`) are checked
    and appear on the command line. What `perturb` returns is checked as well.
    """

    key: ClassVar[str]  # in the registry, on the command line and in reports
    summary: ClassVar[str]  # a few words for the help
    needs_labels: ClassVar[bool] = False  # whether it cannot attack the agreement of two models

    eps: float
    norm: Norm
    steps: int
    restarts: int
    loss: Loss = "ce"

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def name(self) -> str:
        """Attack, number of steps and restarts, loss, norm and radius, as reports show them."""
        steps = f"{self.steps}" if "steps" in options_of(type(self)) else ""
        restarts = f"x{self.restarts}" if self.restarts > 1 else ""
        loss = "" if self.loss == "ce" else f"-{self.loss}"
        return f"{self.key}{steps}{restarts}{loss}_{self.norm}_eps{self.eps:g}"

    @property
    def climbed(self) -> Climbed | None:
        """The loss whose gradient it depends on, to look for masked gradients; None where on none."""
        return self.loss

    def perturb(self, target: Target, x0: Tensor, y: Tensor, rows: Tensor, restart: int) -> Tensor:
        """One run on one batch.

        Args:
            target: the model under attack; gives losses, gradients and decisions, and balls round inputs.
            x0: the images, (b, …), inside the box.
            y: their labels, (b,).
            rows: the images' places in the data, (b,), from which what is random follows.
            restart: the number of the run.

        Returns:
            Images (b, …) of the same type, within `eps` of `x0` and inside the box.
        """
        raise NotImplementedError
