"""Warnings where gradients are masked, and none where they are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from secateur.evaluate.attacks.apgd import APGD
from secateur.evaluate.attacks.fgsm import FGSM
from secateur.evaluate.attacks.pgd import PGD
from secateur.evaluate.attacks.types import Norm
from secateur.evaluate.measure import evaluate
from secateur.evaluate.report import AttackRow
from trained import blobs


class Seen(nn.Module):
    """The trained network behind a change of its inputs or outputs."""

    def __init__(self, before: Callable[[Tensor], Tensor] | None = None, scale: float = 1.0) -> None:
        super().__init__()
        self.model, self.before, self.scale = blobs()[0], before, scale

    def forward(self, x: Tensor) -> Tensor:
        seen = x if self.before is None else self.before(x)
        return self.scale * self.model(seen)  # type: ignore[no-any-return]


def rounded(x: Tensor) -> Tensor:
    return (16 * x).round() / 16


def rippled(x: Tensor) -> Tensor:
    """The same within 0.01, with a slope that points anywhere."""
    return x + 0.01 * torch.sin(3000 * x)


def told(model: nn.Module, *attacks: FGSM | PGD | APGD) -> tuple[tuple[str, ...], tuple[AttackRow, ...]]:
    _, x, y = blobs()
    report = evaluate(model.eval(), x, y, attacks=attacks)
    return report.warnings, report.attacks


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_ordinary_network_gives_no_warning(norm: Norm) -> None:
    for eps in (0.02, 0.05, 0.1):
        attacks = [FGSM(eps, norm), *(PGD(eps, norm=norm, loss=loss) for loss in ("ce", "margin", "dlr"))]
        assert told(Seen(), *attacks, APGD(eps, norm))[0] == ()


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_rounded_inputs_have_no_gradient_at_all(norm: Norm) -> None:
    (warning,), _ = told(Seen(rounded), FGSM(0.1, norm))
    assert "APGD" not in warning  # which would see no more
    warnings, rows = told(Seen(rounded), PGD(0.1, norm=norm), APGD(0.1, norm, "dlr"))
    assert rows[0].robust_accuracy > 0.8
    assert "the gradient of the loss (ce) is zero at 256 of 256 inputs" in warnings[0]
    assert "the gradient of the loss (dlr) is zero at 256 of 256 inputs" in warnings[1]
    for row, warning in zip(rows, warnings[2:], strict=True):
        assert warning.startswith(f"{row.name} leaves") and "random noise of the same radius only" in warning


@pytest.mark.slow
def test_a_saturated_softmax_hides_the_gradient_of_the_cross_entropy_from_pgd() -> None:
    warnings, _ = told(Seen(scale=1e4), FGSM(0.1))
    assert len(warnings) == 1 and "use APGD, or AutoAttack" in warnings[0]
    warnings, _ = told(Seen(scale=1e4), PGD(0.1), APGD(0.1))
    assert len(warnings) == 2 and "random noise of the same radius" in warnings[1]
    assert warnings[1].startswith("pgd20_linf_eps0.1 leaves") and "use AutoAttack" in warnings[1]
    assert told(Seen(scale=1e4), APGD(0.1), PGD(0.1, loss="margin"))[0] == ()


def test_a_slope_that_points_anywhere_leaves_pgd_behind_noise_and_a_single_step() -> None:
    warnings, _ = told(Seen(rippled), PGD(0.1))
    assert any("a single step of the same radius" in warning for warning in warnings)
    assert any("random noise of the same radius" in warning for warning in warnings)


def test_an_attack_without_strength_is_told_apart_from_none() -> None:
    warnings, _ = told(Seen(), PGD(0.1, steps=1, step_size=1e-4, random_start=False))
    assert all("too few steps" in warning for warning in warnings) and len(warnings) == 2
    assert told(Seen(), PGD(0.0), APGD(0.0))[0] == ()


def test_without_attacks_there_is_nothing_to_doubt() -> None:
    _, x, y = blobs()
    assert evaluate(Seen(rounded).eval(), x, y).warnings == ()
