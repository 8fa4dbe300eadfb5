"""The climb of Auto-PGD (Croce & Hein, https://arxiv.org/abs/2003.01690).

It keeps the best point, has momentum, and looks back at checkpoints: where an input's loss has not risen
often enough, its step is halved and it goes on from its best point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from secateur.evaluate.attacks.norms import Ball, per_input
from secateur.evaluate.attacks.target import Target
from secateur.evaluate.attacks.types import Climbed

_MOMENTUM = 0.75  # α: the share of the new step
_RISES = 0.75  # ρ: the share of steps since the last checkpoint that must have raised the loss


def climbed_to(target: Target, ball: Ball, start: Tensor, y: Tensor, loss: Climbed, steps: int) -> Tensor:
    """Where `steps` steps from `start` (b, …) lead: a point that fools, else that of the largest loss."""
    result = start
    climb = _start(target, ball, result, y, loss)
    checked, marks = 0, checkpoints(steps)
    for step in range(steps):
        _move(climb, target, loss, 1.0 if step == 0 else _MOMENTUM)
        result[climb.place] = torch.where(per_input(climb.fooled, result), climb.fooling, climb.best)
        if step + 1 in marks:
            _look_back(climb, step + 1 - checked)
            checked = step + 1
            climb = climb.at(~climb.fooled)
        if bool(climb.fooled.all()):
            break
    return result


def checkpoints(steps: int) -> set[int]:
    """w_j = ⌈p_j · steps⌉ with p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06)."""
    before, share, found = 0.0, 0.22, set()
    while share <= 1:
        found.add(math.ceil(share * steps - 1e-9))
        before, share = share, share + max(share - before - 0.03, 0.06)
    return found


@dataclass(eq=False)
class _Climb:
    """Where each input still under attack stands; the first axis of every tensor is theirs."""

    ball: Ball
    place: Tensor  # in the batch
    y: Tensor
    x: Tensor
    previous: Tensor
    loss: Tensor
    gradient: Tensor
    best: Tensor  # the point of largest loss, with its loss and gradient
    best_loss: Tensor
    best_gradient: Tensor
    fooled: Tensor  # whether any iterate was decided wrongly
    fooling: Tensor  # that iterate
    size: Tensor  # η, of the next step
    rises: Tensor  # how many steps since the last checkpoint raised the loss
    halved: Tensor  # whether η was halved at the last checkpoint
    best_before: Tensor  # the largest loss at the last checkpoint

    def at(self, chosen: Tensor) -> _Climb:
        """The climb of some of the inputs; `chosen` is a mask."""
        return _Climb(**{f.name: _at(getattr(self, f.name), chosen) for f in fields(self)})


def _at(value: Any, chosen: Tensor) -> Any:
    return value.at(chosen) if isinstance(value, Ball) else value[chosen]


def _start(target: Target, ball: Ball, x: Tensor, y: Tensor, loss: Climbed) -> _Climb:
    values, gradient, wrong = target.slope(x, y, loss)
    return _Climb(
        ball=ball,
        place=torch.arange(len(x), device=x.device),
        y=y,
        x=x,
        previous=x,
        loss=values,
        gradient=gradient,
        best=x,
        best_loss=values,
        best_gradient=gradient,
        fooled=wrong,
        fooling=x,
        size=torch.full_like(values, 2 * ball.eps),
        rises=torch.zeros_like(values),
        halved=torch.zeros_like(wrong),
        best_before=values,
    )


def _move(c: _Climb, target: Target, loss: Climbed, share: float) -> None:
    """One step of all inputs with momentum α = `share`.

    z = P(x + η d), x⁺ = P(x + α (z − x) + (1 − α) (x − x⁻)), d the steepest direction and P the projection.
    """
    z = c.ball.project(c.x + per_input(c.size, c.x) * c.ball.steepest(c.gradient))
    x = c.ball.project(c.x + share * (z - c.x) + (1 - share) * (c.x - c.previous))
    values, gradient, wrong = target.slope(x, c.y, loss)
    better = values > c.best_loss
    c.rises = c.rises + (values > c.loss)
    c.previous, c.x, c.loss, c.gradient = c.x, x, values, gradient
    c.best, c.best_gradient = _where(better, x, c.best), _where(better, gradient, c.best_gradient)
    c.best_loss = torch.where(better, values, c.best_loss)
    c.fooled, c.fooling = c.fooled | wrong, _where(wrong, x, c.fooling)


def _look_back(c: _Climb, steps: int) -> None:
    """Halve η and go back to the best point where the loss rises too seldom.

    That is, in fewer than ρ of the `steps`, or where neither η nor the largest loss has changed since the
    last checkpoint.
    """
    halve = (c.rises < _RISES * steps) | (~c.halved & (c.best_loss == c.best_before))
    c.size = torch.where(halve, c.size / 2, c.size)
    c.x, c.gradient = _where(halve, c.best, c.x), _where(halve, c.best_gradient, c.gradient)
    c.loss = torch.where(halve, c.best_loss, c.loss)
    c.rises, c.halved, c.best_before = torch.zeros_like(c.rises), halve, c.best_loss


def _where(chosen: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(per_input(chosen, a), a, b)
