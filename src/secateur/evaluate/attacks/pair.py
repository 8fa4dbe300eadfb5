"""Attacks on agreement: inputs that the original decides as before, and the pruned model does not.

No labels are needed. DIVA (Hao et al., https://arxiv.org/abs/2204.10933) attacks compressed models with the
same aim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.decisions import Head, decide
from secateur.evaluate.accuracy import outputs_of, placed
from secateur.evaluate.attacks.losses import loss_of
from secateur.evaluate.attacks.target import Target, target_of
from secateur.evaluate.attacks.types import Climbed
from secateur.evaluate.box import Box


@dataclass(frozen=True, eq=False, kw_only=True)
class PairTarget(Target):
    """`model` beside `original`, which has a head of its own.

    The labels y (b,) are the original's decisions for clean inputs.

    An input is wrong where the original decides y and the model does not, each run by itself.
    """

    measured: ClassVar[str] = "robust agreement"
    stands: ClassVar[str] = "in agreement"
    stronger: ClassVar[str] = "certify, which proves what an attack can only look for"

    original: nn.Module
    original_head: Head

    def wrong(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            return self._disagrees(outputs_of(self.model, x), outputs_of(self.original, x), y)

    def judged(self, x: Tensor, y: Tensor, loss: Climbed) -> tuple[Tensor, Tensor]:
        """As of one model, with the losses of `disagreement_loss`."""
        outputs, originals = outputs_of(self.model, x), outputs_of(self.original, x)
        climbed: Climbed = "log_odds" if loss == "ce" else loss
        error, original_error = (
            loss_of(found, y, head, climbed)
            for found, head in ((outputs, self.head), (originals, self.original_head))
        )
        return disagreement_loss(error, original_error, climbed), self._disagrees(
            outputs.detach(), originals.detach(), y
        )

    def _disagrees(self, outputs: Tensor, originals: Tensor, y: Tensor) -> Tensor:
        return (decide(originals, self.original_head) == y) & (decide(outputs, self.head) != y)


def disagreement_loss(error: Tensor, original_error: Tensor, loss: Climbed) -> Tensor:
    """What attacks on agreement climb, (b,), from the losses (b,) of both models for the original's class y.

    `margin` and `dlr`: how far the model is beyond its boundary, or the original from its own, whichever is
    less; above 0 where the two decide differently. `log_odds` (u of the model, v of the original): log((1 −
    p(y)) q(y)), p and q being the probabilities that the model and the original give to y: a smooth form of
    the same, in which both models have a say near the boundaries. It is not flat where both are sure.
    """
    if loss == "log_odds":
        return F.logsigmoid(error) + F.logsigmoid(-original_error)
    return torch.minimum(error, -original_error)


def pair_of(
    model: tuple[nn.Module, Head],
    original: tuple[nn.Module, Head],
    box: Box,
    device: torch.device | str | None,
) -> PairTarget:
    """The target of two models with resolved heads, on `device` or else on the first one's."""
    alone = target_of(*model, box, device)
    beside, _ = placed(original[0], alone.device)
    return PairTarget(
        alone.model, alone.head, alone.box, alone.device, original=beside, original_head=original[1]
    )
