"""AutoAttack, by its authors' package `pyautoattack`, which is optional and imported only where it runs."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from secateur.errors import InputError
from secateur.evaluate.attacks.base import NORM, RADIUS, SEED, Attack
from secateur.evaluate.attacks.types import Norm

if TYPE_CHECKING:
    from torch import Tensor

    from secateur.evaluate.attacks.target import Target


@dataclass(frozen=True)
class AutoAttack(Attack):
    """The standard version of AutoAttack (https://arxiv.org/abs/2003.01690), the field's common yardstick.

    APGD on cross-entropy, targeted APGD on DLR, targeted FAB, and Square, which needs no gradients (5,000
    queries); all hyper-parameters are its authors'. An attack that does not fit is left out, with a note in
    the report: targeted DLR below four classes, and in L2 Square on inputs that are no images of at least 5×5
    pixels. Needs the package `pyautoattack` (the extra `attacks`) and a box of the same width for every
    feature. What is drawn at random depends on `seed` and on the batch size. Slow: thousands of forward
    passes for each input that withstands.

    Examples:
        >>> import secateur
        >>> # needs the optional package pyautoattack
        >>> secateur.AutoAttack(8 / 255).name  # doctest: +SKIP
        'autoattack_linf_eps0.0313725'
    """

    key: ClassVar[str] = "autoattack"
    summary: ClassVar[str] = "the standard set of four attacks; very slow; needs: pip install pyautoattack"
    needs_labels: ClassVar[bool] = True

    eps: float = field(metadata=RADIUS)
    norm: Norm = field(default="linf", metadata=NORM)
    seed: int = field(default=0, metadata=SEED)

    steps = 100
    restarts = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if importlib.util.find_spec("pyautoattack") is None:
            raise InputError("AutoAttack needs a package that is not installed: pip install pyautoattack")

    @property
    def climbed(self) -> None:
        """None: Square, which needs no gradients, runs in any case."""
        return None

    def perturb(self, target: Target, x0: Tensor, y: Tensor, rows: Tensor, restart: int) -> Tensor:
        from secateur.evaluate.attacks.suite import run_suite

        return x0 if self.eps == 0 else run_suite(self, self.seed, target, x0, y)
