"""Attacks on agreement, on pairs of linear models whose decisions differ in a region that is known
exactly.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.decisions import Head, decide
from secateur.errors import InputError
from secateur.evaluate.attacks.apgd import APGD
from secateur.evaluate.attacks.base import Attack
from secateur.evaluate.attacks.fgsm import FGSM
from secateur.evaluate.attacks.losses import loss_of
from secateur.evaluate.attacks.pair import disagreement_loss, pair_of
from secateur.evaluate.attacks.pgd import PGD
from secateur.evaluate.attacks.types import Norm
from secateur.evaluate.box import input_box
from secateur.evaluate.measure import evaluate
from secateur.evaluate.report import AgreementAttackRow
from trained import blobs

NORMS: tuple[Norm, ...] = ("linf", "l2")
ENDS: dict[Head, tuple[nn.Module, ...]] = {
    "logits": (),
    "probabilities": (nn.Softmax(1),),
    "binary_logit": (),
    "binary_probability": (nn.Sigmoid(),),
}


def half_plane(weight: list[float], threshold: float, head: Head = "logits") -> nn.Module:
    """Class 1 where weight·x > threshold."""
    binary = head.startswith("binary")
    layer = nn.Linear(len(weight), 1 if binary else 2)
    with torch.no_grad():
        layer.weight[:-1], layer.bias[:-1] = 0, 0
        layer.weight[-1], layer.bias[-1] = torch.tensor(weight), -threshold
    return nn.Sequential(layer, *ENDS[head]).eval()


def standing(
    model: nn.Module, original: nn.Module, x: Tensor, attack: Attack, **options: Any
) -> AgreementAttackRow:
    (row,) = evaluate(model, x, original=original, attacks=[attack], **options).agreement_attacks
    return row


# --- a strip ------------------------------------------------------------------------------------------------

# Both models look at w·x = 3 x_0 + 4 x_1. They differ where 2 < w·x <= 2.5: the original says 1 and the model
# 0. From a point beyond 2.5 the model is led astray by (w·x − 2.5) / 7 in L∞ and by (w·x − 2.5) / 5 in L2.
# Below 2 both say 0, and the model does so wherever the original does.
WEIGHT = [3.0, 4.0]
DUAL = {"linf": 7.0, "l2": 5.0}
ALONG = torch.tensor([0.5, 1.0, 1.9, 2.2, 2.8, 3.2, 4.0, 5.0])  # w·x of the inputs, x_0 = x_1
STRIP_ATTACKS: dict[str, Callable[[float, Norm], Attack]] = {
    "pgd": lambda eps, norm: PGD(eps, step_size=0.01, steps=100, norm=norm),
    "pgd, margin": lambda eps, norm: PGD(eps, step_size=0.01, steps=100, norm=norm, loss="margin"),
    "apgd": APGD,
    "apgd, margin": lambda eps, norm: APGD(eps, norm, "margin"),
}


@pytest.mark.sweep
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", STRIP_ATTACKS)
def test_a_strip_is_found_from_where_it_can_be_reached_and_from_nowhere_else(norm: Norm, name: str) -> None:
    x = (ALONG / 7)[:, None].expand(8, 2).contiguous()
    model, original = half_plane(WEIGHT, 2.5), half_plane(WEIGHT, 2.0)
    for reach in (0.0, 0.2, 0.5, 1.0, 2.0):  # in terms of w·x; never that of an input's distance
        row = standing(model, original, x, STRIP_ATTACKS[name](reach / DUAL[norm], norm))
        stands = (ALONG < 2) | (ALONG - reach > 2.5)
        assert row.robust_agreement == float(stands.double().mean())
        assert row.robust_instances_per_1000 == 1000 * row.robust_agreement and row.samples == 8


@pytest.mark.parametrize("norm", NORMS)
def test_one_step_lands_in_the_strip_or_beyond_it(norm: Norm) -> None:
    x, strip = torch.full((1, 2), 4.0 / 7), (half_plane(WEIGHT, 2.5), half_plane(WEIGHT, 2.0))
    for reach, stands in ((1.4, 1.0), (1.6, 0.0), (1.9, 0.0), (2.1, 1.0)):
        assert standing(*strip, x, FGSM(reach / DUAL[norm], norm)).robust_agreement == stands


@pytest.mark.parametrize("head", ENDS)
def test_every_head_with_one_decision_is_attacked(head: Head) -> None:
    x = torch.tensor([[2.8, 2.8], [4.0, 4.0]]) / 7
    model, original = half_plane(WEIGHT, 2.5, head), half_plane(WEIGHT, 2.0, head)
    report = evaluate(model, x, original=original, attacks=[APGD(0.5 / 7), APGD(2 / 7)])
    assert report.head == head and report.agreement == 1.0
    assert [row.robust_agreement for row in report.agreement_attacks] == [0.5, 0.0]
    with pytest.raises(InputError, match="needs three classes or more, the model tells 2 apart"):
        standing(model, original, x, APGD(0.1, loss="dlr"))


def test_the_box_keeps_the_strip_out_of_reach() -> None:
    x, strip = torch.full((1, 2), 4.0 / 7), (half_plane(WEIGHT, 2.5), half_plane(WEIGHT, 2.0))
    assert standing(*strip, x, APGD(0.5), input_bounds=(0.3, 1.0)).robust_agreement == 0.0
    assert standing(*strip, x, APGD(0.5), input_bounds=(0.4, 1.0)).robust_agreement == 1.0  # w·x ≥ 2.8


# --- a wedge ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_a_wedge_is_found_where_an_attack_on_the_model_alone_leads_past_it(loss: Any) -> None:
    """The original says 1 where x_0 > 0.5, the model where x_0 + x_1 > 1.2.

    From (0.55, 0.9) the model alone is led astray by 0.125 in L∞, along the diagonal, where the original
    goes, too. For the two to part x_0 may fall by 0.05 and x_1 must fall by 0.2.
    """
    model, original, x = half_plane([1.0, 1.0], 1.2), half_plane([1.0, 0.0], 0.5), torch.tensor([[0.55, 0.9]])
    assert evaluate(model, x, torch.tensor([1]), attacks=[APGD(0.13)]).attacks[0].robust_accuracy == 0.0
    assert standing(model, original, x, APGD(0.195, loss=loss)).robust_agreement == 1.0
    assert standing(model, original, x, APGD(0.21, loss=loss)).robust_agreement == 0.0


# --- a trained network and a worse one ----------------------------------------------------------------------


def worse(seed: int = 0, size: float = 0.05) -> nn.Module:
    """The trained network with noise on its weights."""
    model, generator = copy.deepcopy(blobs()[0]), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    model.zero_grad()  # of the training
    return model


@pytest.mark.parametrize("attack", [PGD(0.05), APGD(0.05), APGD(0.05, loss="dlr"), APGD(0.2, "l2")])
def test_what_is_found_lies_in_ball_and_box_and_parts_both_plain_models(attack: Attack) -> None:
    original, x, _ = blobs()
    model = worse()
    y, before = original(x).argmax(1), model(x).argmax(1)
    target = pair_of((model, "logits"), (original, "logits"), input_box(x, (0.0, 1.0)), None)
    moved = attack.perturb(target, x, y, torch.arange(len(x)), 0)
    order = torch.inf if attack.norm == "linf" else 2
    assert float(torch.linalg.vector_norm(moved - x, ord=order, dim=1).max()) <= attack.eps + 1e-6
    assert float(moved.min()) >= 0 and float(moved.max()) <= 1
    parted = (original(moved).argmax(1) == y) & (model(moved).argmax(1) != y)
    assert torch.equal(target.wrong(moved, y), parted)
    agreed, stands = (float(kept.double().mean()) for kept in (before == y, (before == y) & ~parted))
    report = evaluate(model, x, original=original, attacks=[attack])
    assert report.agreement == agreed and 0.3 < stands < agreed
    assert report.agreement_attacks[0].robust_agreement == pytest.approx(stands)


def test_nothing_depends_on_the_batch_size_and_models_stay() -> None:
    x, model, original = blobs()[1], worse(), worse(size=0.0)
    weights = [{name: value.clone() for name, value in m.state_dict().items()} for m in (model, original)]
    attacks = [FGSM(0.05), PGD(0.05, steps=4, restarts=2, seed=3), APGD(0.2, "l2", steps=10)]
    reports = [
        evaluate(model, x[:60], original=original, attacks=attacks, batch_size=size) for size in (7, 60)
    ]
    assert reports[0].agreement_attacks == reports[1].agreement_attacks
    for m, before in zip((model, original), weights, strict=True):
        torch.testing.assert_close(m.state_dict(), before, rtol=0, atol=0)
        assert all(p.grad is None for p in m.parameters())


def test_a_model_never_parts_from_itself() -> None:
    model, x, _ = blobs()
    assert standing(model, model, x[:50], APGD(0.3, steps=10)).robust_agreement == 1.0


def test_masked_gradients_are_told() -> None:
    class Rounded(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model((16 * x).round() / 16)  # type: ignore[no-any-return]

    original, x, _ = blobs()
    models = Rounded(worse(size=0.1)).eval(), Rounded(original).eval()
    warnings = evaluate(models[0], x, original=models[1], attacks=[APGD(0.1)]).warnings
    assert (
        "is zero at" in warnings[0]
        and "robust agreement under them is too high: use certify, which" in warnings[0]
    )
    assert "inputs in agreement, random noise of the same radius only" in warnings[1]


# --- the loss -----------------------------------------------------------------------------------------------


def test_the_loss_by_hand() -> None:
    z, w, y = torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 0.5]]), torch.tensor([0])
    model, original = (
        {loss: loss_of(scores, y, "logits", loss) for loss in ("margin", "log_odds")}  # type: ignore[arg-type]
        for scores in (z, w)
    )
    assert disagreement_loss(model["margin"], original["margin"], "margin").tolist() == [
        1.5
    ]  # 2 beyond; 1.5 left
    assert disagreement_loss(original["margin"], model["margin"], "margin").tolist() == [-2.0]
    expected = (1 - z.softmax(1)[0, 0]).log() + w.softmax(1)[0, 0].log()
    torch.testing.assert_close(
        disagreement_loss(model["log_odds"], original["log_odds"], "log_odds"), expected[None]
    )


def test_the_sign_of_the_margin_tells_whether_decisions_part() -> None:
    generator = torch.Generator().manual_seed(0)
    z, w = torch.randn(2, 500, 4, generator=generator)
    y = torch.randint(4, (500,), generator=generator)
    parted = (decide(z, "logits") != y) & (decide(w, "logits") == y)
    for loss in ("margin", "dlr"):
        values = disagreement_loss(loss_of(z, y, "logits", loss), loss_of(w, y, "logits", loss), loss)
        assert torch.equal(values > 0, parted)
