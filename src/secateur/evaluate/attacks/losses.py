"""What gradient attacks climb: one number per input, larger where the model is nearer to an error."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.decisions import Head
from secateur.errors import InputError
from secateur.evaluate.attacks.types import Climbed

_SMALLEST = 1e-30  # keeps the logarithm of a probability finite
_APART = 1e-12  # keeps the quotient of two equal logits finite


def loss_of(outputs: Tensor, y: Tensor, head: Head, loss: Climbed) -> Tensor:
    """The loss of each row of `outputs` (b, …) for the labels `y` (b,), shape (b,).

    `ce`: cross-entropy. `margin`: max_{i≠y} z_i − z_y (Carlini & Wagner, https://arxiv.org/abs/1608.04644).
    `dlr`: the margin over z_π1 − z_π3, π sorting the logits downwards, which no rescaling of the logits
    changes (Croce & Hein, https://arxiv.org/abs/2003.01690). `log_odds`: u = log Σ_{i≠y} exp z_i − z_y.
    Cross-entropy is log(1 + exp u), so u orders inputs and rises as it does, but is neither zero nor flat
    where the model is sure. Raises `InputError` for `dlr` with fewer than three classes.
    """
    if loss == "ce":
        return _cross_entropy(outputs, y, head)
    z = logits_of(outputs, head)
    others, own = z.scatter(1, y[:, None], -torch.inf), z.gather(1, y[:, None])[:, 0]
    if loss == "log_odds":
        return others.logsumexp(dim=1) - own
    margin = others.amax(dim=1) - own
    if loss == "margin":
        return margin
    if z.shape[1] < 3:
        raise InputError(
            f"loss='dlr' needs three classes or more, the model tells {z.shape[1]} apart; use 'margin'"
        )
    top = z.topk(3, dim=1).values
    return margin / (top[:, 0] - top[:, 2] + _APART)


def logits_of(outputs: Tensor, head: Head) -> Tensor:
    """Logits (b, classes) of the same decisions; of probabilities, their logarithms."""
    if head == "logits":
        return outputs
    if head == "binary_logit":
        return torch.cat([torch.zeros_like(outputs), outputs], dim=1)
    if head == "binary_probability":
        outputs = torch.cat([1 - outputs, outputs], dim=1)
    return outputs.clamp_min(_SMALLEST).log()


def _cross_entropy(outputs: Tensor, y: Tensor, head: Head) -> Tensor:
    if head == "logits":
        return F.cross_entropy(outputs, y, reduction="none")
    if head == "probabilities":
        return F.nll_loss(outputs.clamp_min(_SMALLEST).log(), y, reduction="none")
    target = y.to(outputs.dtype)
    if head == "binary_logit":
        return F.binary_cross_entropy_with_logits(outputs[:, 0], target, reduction="none")
    return F.binary_cross_entropy(outputs[:, 0], target, reduction="none")
