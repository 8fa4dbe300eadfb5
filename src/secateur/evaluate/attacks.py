"""Gradient attacks in the L∞ norm, and what is left of the accuracy under them.

A *robust instance* is an input that is classified correctly and whose attacked version still is
(https://arxiv.org/abs/2204.00783). An input that is wrong before the attack is never robust, and is not attacked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.evaluate.accuracy import Head, decide, outputs_of, placed
from secateur.progress import track

Bounds = tuple[float | Tensor, float | Tensor]

_TOLERANCE = 1e-6  # rounding of the given images at the ends of the input box
_SMALLEST = 1e-30  # keeps the logarithm of a probability finite


class Attack:
    """An L∞ attack: `restarts` runs of `steps` ascents of the loss, each by `step` along the sign of the gradient."""

    eps: float  # radius, in input units
    steps: int
    random_start: bool
    restarts: int
    seed: int

    def __post_init__(self) -> None:
        if not 0 <= self.eps < math.inf:
            raise InputError(f"eps={self.eps}: give a radius of at least 0, in the units of the input")

    @property
    def step(self) -> float:
        """Size of one step, in input units."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """Attack, norm and radius, as reports show them."""
        raise NotImplementedError


@dataclass(frozen=True)
class FGSM(Attack):
    """The fast gradient sign method: one step of size `eps` (in input units) along the sign of the gradient."""

    eps: float

    steps = 1
    random_start = False
    restarts = 1
    seed = 0

    @property
    def step(self) -> float:
        return self.eps

    @property
    def name(self) -> str:
        return f"fgsm_linf_eps{self.eps:g}"


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient descent; the last iterate of each restart counts.

    `eps` and `step_size` are in input units; `step_size=None` is 2.5 eps / steps. The random start of an input depends
    on `seed`, the restart and the input's place in the data, not on the batch size.
    """

    eps: float
    steps: int = 20
    step_size: float | None = None
    random_start: bool = True
    restarts: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.restarts < 1:
            raise InputError(f"steps={self.steps}, restarts={self.restarts}: an attack needs at least one of each")
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise InputError(f"step_size={self.step_size}: give a positive number of input units, or None")
        if self.restarts > 1 and not self.random_start:
            raise InputError("restarts without random_start repeat the same attack; leave restarts at 1")

    @property
    def step(self) -> float:
        return 2.5 * self.eps / self.steps if self.step_size is None else self.step_size

    @property
    def name(self) -> str:
        restarts = f"x{self.restarts}" if self.restarts > 1 else ""
        return f"pgd{self.steps}{restarts}_linf_eps{self.eps:g}"


@dataclass(frozen=True, eq=False)
class Outcome:
    """Per input, shape (n,): right before the attack, and right before and after every run of it."""

    correct: Tensor
    robust: Tensor

    @property
    def robust_accuracy(self) -> float:
        """The share of all evaluated inputs that are robust."""
        return float(self.robust.double().mean())

    @property
    def robust_instances_per_1000(self) -> float:
        """Robust inputs per 1,000 evaluated ones; inputs that were wrong anyway count as not robust."""
        return 1000 * self.robust_accuracy


def run_attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    *,
    head: Head,
    correct: Tensor,
    input_bounds: Bounds = (0.0, 1.0),
    batch_size: int = 256,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Outcome:
    """Attack the `images` (n, …) that are `correct` (n,); the model and its parameters stay as they are.

    `head` is a resolved one (not `auto`). Raises `InputError` for images outside `input_bounds`, and for models
    that give no gradient.
    """
    box = input_box(images, input_bounds)
    model, device = placed(model, device)
    robust = correct.clone()
    todo = torch.nonzero(correct)[:, 0].split(batch_size)
    for rows in track(todo, attack.name, progress):
        y = labels[rows].to(device)
        for restart in range(attack.restarts):
            adversarial = perturb(model, images[rows], labels[rows], attack, rows, restart, head, box, device)
            with torch.no_grad():
                robust[rows] &= (decide(outputs_of(model, adversarial), head) == y).cpu()
    return Outcome(correct, robust)


def perturb(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    rows: Tensor,
    restart: int,
    head: Head,
    box: tuple[Tensor, Tensor],
    device: torch.device,
) -> Tensor:
    """One run of `attack` on one batch: images (b, …) within eps of the given ones and inside the box.

    `rows` (b,) are the images' places in the data, from which their random starts follow.
    """
    x0, y = images.to(device), labels.to(device)
    lower = torch.maximum(x0 - attack.eps, box[0].to(device))
    upper = torch.minimum(x0 + attack.eps, box[1].to(device))
    x = x0
    if attack.random_start:
        x = (x0 + attack.eps * _noise(images, attack.seed, restart, rows).to(device)).clamp(lower, upper)
    for _ in range(attack.steps):
        x = (x + attack.step * _gradient(model, x, y, head).sign()).clamp(lower, upper)
    return x


def _noise(images: Tensor, seed: int, restart: int, rows: Tensor) -> Tensor:
    """Uniform in [−1, 1], of the images' shape; each input has its own generator."""
    generator = torch.Generator()
    noise = torch.empty(images.shape, dtype=images.dtype)
    for place, row in enumerate(rows.tolist()):
        generator.manual_seed(((seed * 1_000_003 + restart) * 1_000_003 + row) % 2**63)
        noise[place].uniform_(-1, 1, generator=generator)
    return noise


def _gradient(model: nn.Module, x: Tensor, y: Tensor, head: Head) -> Tensor:
    """d loss / d x; the sum over the batch, so that no input's gradient depends on the others' number."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        loss = _loss(outputs_of(model, x), y, head)
        if not loss.requires_grad:
            raise InputError("the model's output has no gradient with respect to its input; gradient attacks need one")
        (gradient,) = torch.autograd.grad(loss, x)
    return gradient


def _loss(outputs: Tensor, y: Tensor, head: Head) -> Tensor:
    if head == "logits":
        return F.cross_entropy(outputs, y, reduction="sum")
    if head == "probabilities":
        return F.nll_loss(outputs.clamp_min(_SMALLEST).log(), y, reduction="sum")
    target = y.to(outputs.dtype)
    if head == "binary_logit":
        return F.binary_cross_entropy_with_logits(outputs[:, 0], target, reduction="sum")
    return F.binary_cross_entropy(outputs[:, 0], target, reduction="sum")


def input_box(images: Tensor, bounds: Bounds) -> tuple[Tensor, Tensor]:
    """The lower and upper end of the box, each fit to broadcast over images (n, …); the images must lie inside.

    Ends are numbers, tensors of shape (channels,), or tensors that broadcast over one image.
    """
    if not images.is_floating_point():
        raise InputError(f"images of type {images.dtype} cannot be attacked; gradients need floating-point inputs")
    lower, upper = (_end(end, images) for end in bounds)
    if not bool((lower < upper).all()):
        raise InputError(f"input_bounds={bounds}: the lower end must lie below the upper one")
    if bool((images < lower - _TOLERANCE).any()) or bool((images > upper + _TOLERANCE).any()):
        raise InputError(
            f"the images range from {float(images.min()):g} to {float(images.max()):g}, outside input_bounds of "
            f"{float(lower.min()):g} to {float(upper.max()):g}; give the bounds that the model's inputs have"
        )
    return lower, upper


def _end(end: float | Tensor, images: Tensor) -> Tensor:
    value = torch.as_tensor(end, dtype=images.dtype).cpu()
    if value.ndim == 1 and images.ndim > 2:
        value = value.reshape(-1, *[1] * (images.ndim - 2))
    try:
        torch.broadcast_to(value, images.shape[1:])
    except RuntimeError as error:
        raise InputError(
            f"input_bounds of shape {tuple(value.shape)} do not fit images of shape {tuple(images.shape[1:])}; "
            "give a number or one value per channel"
        ) from error
    return value


def check_names(attacks: Sequence[Attack]) -> None:
    """Rows of a report are told apart by name."""
    names = [attack.name for attack in attacks]
    if len(set(names)) != len(names):
        raise InputError(f"two attacks have the same name ({', '.join(names)}); leave one out")
