"""A run of the package `pyautoattack`: inputs to its form and back, and its side effects undone."""

from __future__ import annotations

import copy
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from secateur.decisions import Head
from secateur.errors import InputError
from secateur.evaluate.accuracy import outputs_of
from secateur.evaluate.attacks.base import Attack
from secateur.evaluate.attacks.losses import logits_of
from secateur.evaluate.attacks.target import Target
from secateur.evaluate.attacks.types import Norm
from secateur.evaluate.box import Box
from secateur.torch_state import ALONE

_SIDE = 5  # pixels; in L2, Square starts from five by five squares
_TARGETS = 9  # classes that the targeted attacks of the standard version aim at, at most
_NAMES: dict[Norm, str] = {"linf": "Linf", "l2": "L2"}


def run_suite(attack: Attack, seed: int, target: Target, x0: Tensor, y: Tensor) -> Tensor:
    """The attacked images; what the suite has to say goes to the target's notes."""
    ball, width = target.ball(x0, attack.eps, attack.norm), _width(target.box)
    model = _Unit(target, x0, width)
    unit = model.to_unit(x0)
    with torch.no_grad():
        classes = model(unit[:1]).shape[1]
    attacks, left_out = _that_fit(classes, attack.norm, unit)
    with _kept_apart(target.device) as said:
        suite = _suite(model, attacks, classes, attack, seed, width, target.device)
        found, _ = suite.run_standard_evaluation(unit, y, batch_size=len(x0))
    for message in (*(f"ran without {reason}" for reason in left_out), *said):
        _note_once(target.notes, f"{attack.name}: {message}")
    return ball.project(model.from_unit(found))


class _Unit(nn.Module):
    """The target as AutoAttack wants it: logits of float32 images (b, c, h, w) in [0, 1].

    Inputs that are no images become rows of pixels. The weights have no gradient.
    """

    def __init__(self, target: Target, like: Tensor, width: float) -> None:
        super().__init__()
        self.model: nn.Module = copy.deepcopy(target.model).requires_grad_(False)
        self.head: Head = target.head
        self.lower, self.width, self.shape, self.dtype = target.box[0], width, like.shape[1:], like.dtype

    def forward(self, x: Tensor) -> Tensor:
        return logits_of(outputs_of(self.model, self.from_unit(x)), self.head)

    def to_unit(self, x: Tensor) -> Tensor:
        x = ((x - self.lower) / self.width).float()
        return (x if x.ndim == 4 else x.reshape(len(x), 1, 1, -1)).clamp(0, 1)

    def from_unit(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *self.shape).to(self.dtype) * self.width + self.lower


def _note_once(notes: list[str], note: str) -> None:
    """Batches say the same with other numbers; the first one stays."""
    if all(re.sub(r"\d+", "", note) != re.sub(r"\d+", "", old) for old in notes):
        notes.append(note)


def _width(box: Box) -> float:
    """The width that the box has everywhere: AutoAttack knows balls in [0, 1] only."""
    widths = box[1] - box[0]
    least, largest = float(widths.min()), float(widths.max())
    if not largest - least <= 1e-6 * largest < torch.inf:
        raise InputError(
            f"AutoAttack needs input_bounds of one finite width for all features, these are {least:g} to "
            f"{largest:g} wide; use APGD, or put the scaling of the inputs into the model"
        )
    return largest


def _that_fit(classes: int, norm: Norm, unit: Tensor) -> tuple[list[str], list[str]]:
    """The attacks of the standard version that can run, and those that cannot with the reason."""
    attacks, left_out = ["apgd-ce", "apgd-t", "fab-t", "square"], []
    if classes < 4:
        attacks[1:2] = ["apgd-dlr"] if classes == 3 else []
        left_out.append(f"targeted APGD-DLR, which needs four classes (the model tells {classes} apart)")
    if norm == "l2" and min(unit.shape[2:]) < _SIDE:
        attacks.remove("square")
        left_out.append(f"Square, which in L2 needs images of at least {_SIDE}×{_SIDE} pixels")
    return attacks, left_out


def _suite(
    model: _Unit,
    attacks: Sequence[str],
    classes: int,
    attack: Attack,
    seed: int,
    width: float,
    device: torch.device,
) -> Any:
    """The package's object, with the parameters of its standard version where there are enough classes."""
    import pyautoattack

    suite = pyautoattack.AutoAttack(
        model,
        attacks=list(attacks),
        version="custom",
        eps=attack.eps / width,
        norm=_NAMES[attack.norm],
        seed=seed,
        device=device,
    )
    suite.apgd.n_restarts = suite.apgd_targeted.n_restarts = suite.fab.n_restarts = 1
    suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = min(_TARGETS, classes - 1)
    return suite


@contextmanager
def _kept_apart(device: torch.device) -> Iterator[list[str]]:
    """The list of the package's warnings; what it changes is undone.

    It seeds torch's generators, sets the trace function and warns through `logging`.
    """
    said: list[str] = []
    logger, collector, trace = logging.getLogger("auto-attack"), _Collector(said), sys.gettrace()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(collector)
    try:
        with ALONE, torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield said
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagate
        sys.settrace(trace)


class _Collector(logging.Handler):
    def __init__(self, into: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.into = into

    def emit(self, record: logging.LogRecord) -> None:
        message, _, _ = record.getMessage().partition(" See ")  # a file that is not at hand
        # With 3 classes the targeted attack, which the message is about, does not run.
        if not message.startswith("with only 3 classes"):
            self.into.append(message)
