"""Balls round inputs, cut by the input box, and the steepest way up in their norms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.evaluate.attacks.types import Norm
from secateur.evaluate.box import Box
from secateur.evaluate.draws import normal, uniform


@dataclass(frozen=True, eq=False)
class Ball:
    """All points within `eps` of x0 (b, …) and inside a box.

    In L∞ `lower` and `upper` are the ends of the ball cut by the box, in L2 those of the box.
    """

    x0: Tensor
    eps: float
    norm: Norm
    lower: Tensor
    upper: Tensor

    def project(self, x: Tensor) -> Tensor:
        """x moved into the ball, then into the box, which does not leave the ball since x0 lies in the box.

        In L∞ that is the nearest point. In L2 it is one of both sets, not always the nearest.
        """
        if self.norm == "l2":
            moved = x - self.x0
            length = per_input(torch.linalg.vector_norm(moved.flatten(1), dim=1), x)
            x = self.x0 + moved * (self.eps / length.clamp_min(torch.finfo(x.dtype).tiny)).clamp_max(1)
        return x.clamp(self.lower, self.upper)

    def steepest(self, gradient: Tensor) -> Tensor:
        """See `steepest`, in the norm of the ball."""
        return steepest(gradient, self.norm)

    def random(self, rows: Tensor, seed: int, stream: int) -> Tensor:
        """Uniform in the ball, then cut by the box; of each input's place in the data, not of the batch."""
        if self.norm == "linf":
            away = uniform(self.x0, rows, seed, stream)
        else:
            away = normal(self.x0, rows, seed, stream)
            # u^(1/d) is the length of a uniform point of the unit ball in d dimensions.
            u = (uniform(away.flatten(1)[:, :1], rows, seed, ~stream) + 1) / 2
            away = steepest(away, "l2") * per_input(u[:, 0] ** (1 / away[0].numel()), away)
        return self.project(self.x0 + self.eps * away.to(self.x0.device))

    def rim(self, rows: Tensor, seed: int, stream: int) -> Tensor:
        """Random and as far away as the norm allows (a corner in L∞), then cut by the box."""
        away = steepest(normal(self.x0, rows, seed, stream), self.norm)
        return self.project(self.x0 + self.eps * away.to(self.x0.device))

    def distance(self, x: Tensor) -> float:
        """The largest distance of an input from its centre, in the norm of the ball."""
        order = 2 if self.norm == "l2" else torch.inf
        return float(torch.linalg.vector_norm((x - self.x0).flatten(1), ord=order, dim=1).max())

    def at(self, chosen: Tensor) -> Ball:
        """The balls of some of the inputs; `chosen` (b,) is a mask."""
        if self.norm == "l2":
            return Ball(self.x0[chosen], self.eps, self.norm, self.lower, self.upper)
        return Ball(self.x0[chosen], self.eps, self.norm, self.lower[chosen], self.upper[chosen])


def ball_round(x0: Tensor, eps: float, norm: Norm, box: Box) -> Ball:
    if norm == "l2":
        return Ball(x0, eps, norm, *box)
    return Ball(x0, eps, norm, torch.maximum(x0 - eps, box[0]), torch.minimum(x0 + eps, box[1]))


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """The direction of length 1 in `norm` along which a linear function of that gradient (b, …) rises most.

    arg max_{‖d‖≤1} g·d: the sign of g in L∞, g/‖g‖₂ in L2. Zero where the gradient is.
    """
    if norm == "linf":
        return gradient.sign()
    tiny = torch.finfo(gradient.dtype).tiny
    flat: Tensor = gradient.flatten(1)
    # The squares of small numbers would vanish.
    flat = flat / flat.abs().amax(dim=1, keepdim=True).clamp_min(tiny)
    flat = flat / torch.linalg.vector_norm(flat, dim=1, keepdim=True).clamp_min(tiny)
    return flat.reshape(gradient.shape)


def per_input(values: Tensor, like: Tensor) -> Tensor:
    """`values` (b,) with axes of length one, to broadcast over `like` (b, …)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
