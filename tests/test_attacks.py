"""Balls, losses, APGD and AutoAttack, against values worked out by hand and on a trained network."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers import perturb
from secateur.decisions import Head
from secateur.errors import InputError
from secateur.evaluate.attacks import ATTACKS, attack_from
from secateur.evaluate.attacks.apgd import APGD
from secateur.evaluate.attacks.autoattack import AutoAttack
from secateur.evaluate.attacks.base import Attack
from secateur.evaluate.attacks.climb import checkpoints
from secateur.evaluate.attacks.fgsm import FGSM
from secateur.evaluate.attacks.losses import logits_of, loss_of
from secateur.evaluate.attacks.norms import ball_round, steepest
from secateur.evaluate.attacks.pgd import PGD
from secateur.evaluate.attacks.run import run_attack
from secateur.evaluate.attacks.target import Target, target_of
from secateur.evaluate.attacks.types import Loss, Norm
from secateur.evaluate.box import input_box
from secateur.evaluate.measure import evaluate
from secateur.evaluate.options import described_options, options_of
from trained import blobs

CPU = torch.device("cpu")
WIDE = (-10.0, 10.0)
NORMS: tuple[Norm, ...] = ("linf", "l2")
DUAL = {"linf": 1, "l2": 2}  # the norm that measures how far a linear function falls in the ball


def linear(weight: Tensor) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight)
    return nn.Sequential(layer).eval()


def run(
    attack: Attack, model: nn.Module, x: Tensor, y: Tensor, bounds: Any = (0.0, 1.0), restart: int = 0
) -> Tensor:
    return perturb(model, x, y, attack, torch.arange(len(x)), restart, "logits", input_box(x, bounds))


# --- norms --------------------------------------------------------------------------------------------------


def test_projection_by_hand() -> None:
    x0 = torch.tensor([[0.0, 0.0], [0.5, 0.5], [0.9, 0.5]])
    box = (torch.tensor(-1.0), torch.tensor(1.0))
    far = x0 + torch.tensor([[3.0, 4.0], [0.03, 0.04], [0.3, 0.4]])
    round_ball, square = (ball_round(x0, 0.5, norm, box) for norm in ("l2", "linf"))
    torch.testing.assert_close(round_ball.project(far), torch.tensor([[0.3, 0.4], [0.53, 0.54], [1.0, 0.9]]))
    torch.testing.assert_close(square.project(far), torch.tensor([[0.5, 0.5], [0.53, 0.54], [1.0, 0.9]]))


def test_steepest_directions_by_hand() -> None:
    gradient = torch.tensor(
        [[[3.0, 0.0], [0.0, -4.0]], [[0.0, 0.0], [0.0, 0.0]], [[3e-30, 0.0], [0.0, -4e-30]]]
    )
    unit = torch.tensor([[0.6, 0.0], [0.0, -0.8]])
    torch.testing.assert_close(steepest(gradient, "l2"), torch.stack([unit, torch.zeros(2, 2), unit]))
    assert torch.equal(steepest(gradient, "linf"), gradient.sign())


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(NORMS), st.floats(0, 0.6), st.integers(0, 5), st.integers(0, 3))
def test_attacked_inputs_stay_in_ball_and_box(norm: Norm, eps: float, seed: int, restart: int) -> None:
    model, x, y = blobs()
    x, y = x[:20], y[:20]
    attacks = (FGSM(eps, norm), PGD(eps, steps=3, seed=seed, norm=norm), APGD(eps, norm, steps=9, seed=seed))
    for attack in attacks:
        moved = run(attack, model, x, y, restart=restart)
        assert float(
            torch.linalg.vector_norm((moved - x), ord=torch.inf if norm == "linf" else 2, dim=1).max()
        ) <= (eps + 1e-6)
        assert float(moved.min()) >= 0 and float(moved.max()) <= 1


@pytest.mark.parametrize("norm", NORMS)
def test_random_points_fill_the_ball_and_its_rim(norm: Norm) -> None:
    x0, rows = torch.zeros(2000, 3), torch.arange(2000)
    ball = ball_round(x0, 2.0, norm, (torch.tensor(-9.0), torch.tensor(9.0)))
    order = torch.inf if norm == "linf" else 2
    inside, rim = (
        torch.linalg.vector_norm(points, ord=order, dim=1)
        for points in (ball.random(rows, 0, 0), ball.rim(rows, 0, 0))
    )
    torch.testing.assert_close(rim, torch.full((2000,), 2.0))
    # Of a uniform point in d dimensions, (distance / radius)^d is uniform in [0, 1].
    shares = (inside / 2).pow(3).sort().values
    assert float((shares - torch.linspace(0, 1, 2000)).abs().max()) < 0.04
    again = ball_round(x0[5:], 2.0, norm, (torch.tensor(-9.0), torch.tensor(9.0)))
    torch.testing.assert_close(again.random(rows[5:], 0, 0), ball.random(rows, 0, 0)[5:])


# --- losses -------------------------------------------------------------------------------------------------


def test_losses_by_hand() -> None:
    z, y = torch.tensor([[3.0, 1.0, 0.0, -1.0], [3.0, 1.0, 0.0, -1.0]]), torch.tensor([0, 2])
    assert loss_of(z, y, "logits", "margin").tolist() == [-2.0, 3.0]
    torch.testing.assert_close(loss_of(z, y, "logits", "dlr"), torch.tensor([-2 / 3, 1.0]))
    torch.testing.assert_close(loss_of(100 * z, y, "logits", "dlr"), loss_of(z, y, "logits", "dlr"))
    cross_entropy = loss_of(z, y, "logits", "ce")
    torch.testing.assert_close(cross_entropy, z.logsumexp(1) - torch.tensor([3.0, 0.0]))
    torch.testing.assert_close(loss_of(z, y, "logits", "log_odds").exp().log1p(), cross_entropy)


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_losses_of_probabilities_are_those_of_logits(loss: Loss) -> None:
    z, y = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 4
    torch.testing.assert_close(
        loss_of(z.softmax(1), y, "probabilities", loss), loss_of(z, y, "logits", loss), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("head", ["binary_logit", "binary_probability"])
def test_one_output_becomes_two_logits(head: Head) -> None:
    z = torch.tensor([[2.0], [-1.0]])
    two = logits_of(z if head == "binary_logit" else z.sigmoid(), head)
    torch.testing.assert_close(two[:, 1:] - two[:, :1], z)
    with pytest.raises(
        InputError, match="needs three classes or more, the model tells 2 apart; use 'margin'"
    ):
        loss_of(z if head == "binary_logit" else z.sigmoid(), torch.tensor([0, 1]), head, "dlr")


# --- the optimum of a linear model --------------------------------------------------------------------------

ON_TWO_CLASSES: tuple[Callable[[float, Norm], Attack], ...] = (
    FGSM,
    lambda eps, norm: PGD(eps, step_size=eps, norm=norm),
    lambda eps, norm: PGD(eps, step_size=eps, norm=norm, loss="margin"),
    APGD,
    lambda eps, norm: APGD(eps, norm, "margin"),
)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("make", ON_TWO_CLASSES)
def test_the_margin_of_a_linear_model_falls_by_the_dual_norm(norm: Norm, make: Callable[..., Attack]) -> None:
    """(w_y − w_o)·x falls by ε‖w_y − w_o‖₁ in L∞ and ε‖w_y − w_o‖₂ in L2, and by no more.

    All inputs stay right, so APGD returns the point of largest loss.
    """
    weight = torch.tensor([[2.0, 1.0, 0.5], [-1.0, -1.0, 0.25]])
    x = 1 + torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    difference = weight[0] - weight[1]
    moved = run(make(0.3, norm), linear(weight), x, torch.zeros(50, dtype=torch.long), WIDE)
    expected = 0.3 * float(torch.linalg.vector_norm(difference, ord=DUAL[norm]))
    torch.testing.assert_close((x - moved) @ difference, torch.full((50,), expected), rtol=1e-3, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_robust_accuracy_of_a_linear_model_is_the_closed_form(norm: Norm) -> None:
    weight = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 1.0, 0.25]])
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    difference = weight[0] - weight[1]
    falls = 0.3 * torch.linalg.vector_norm(difference, ord=DUAL[norm])
    expected = float((x @ difference - falls > 0).double().mean())
    attacks = [make(0.3, norm) for make in ON_TWO_CLASSES]
    report = evaluate(
        linear(weight), x, torch.zeros(200, dtype=torch.long), attacks=attacks, input_bounds=WIDE
    )
    assert [row.robust_accuracy for row in report.attacks] == pytest.approx([expected] * 5)
    assert {row.norm for row in report.attacks} == {norm} and report.warnings == ()


# --- APGD ---------------------------------------------------------------------------------------------------


def test_checkpoints_are_those_of_the_paper() -> None:
    """p = 0, 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99."""
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sorted(checkpoints(1)) == [1]


def test_apgd_halves_its_step_where_it_oscillates() -> None:
    """The loss −‖x − c‖² is largest at c, inside the ball: steps of fixed size jump over it, halved ones
    close in.
    """

    class Bowl(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            away = (x - torch.tensor([0.53, 0.46])).pow(2).sum(1, keepdim=True)
            return torch.cat([away + 1, torch.zeros_like(away)], dim=1)

    x, y = torch.full((3, 2), 0.5), torch.zeros(3, dtype=torch.long)
    for norm in NORMS:
        found = run(APGD(0.1, norm, "margin"), Bowl().eval(), x, y)
        torch.testing.assert_close(found, torch.tensor([[0.53, 0.46]]).expand(3, 2), rtol=0, atol=0.004)
        still = run(PGD(0.1, step_size=0.2, norm=norm, loss="margin"), Bowl().eval(), x, y)
        assert float((still - found).abs().amax()) > 0.02


def test_any_point_on_the_way_that_fools_is_kept() -> None:
    """Class 1 owns a narrow band; the loss goes on rising beyond it, where the model is right again."""

    class Band(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            band = ((x - 0.5).abs().amax(dim=1, keepdim=True) - 0.05).abs() < 0.02
            return torch.cat([1 - x[:, :1], torch.where(band, 2.0, 0.0) + 0 * x[:, :1]], dim=1)

    x, y, model = torch.full((40, 1), 0.5), torch.zeros(40, dtype=torch.long), Band().eval()
    found = run(APGD(0.2, loss="margin"), model, x, y)
    assert bool((model(found).argmax(1) == 1).any())
    far = (found - 0.5).abs()
    assert bool((((far - 0.05).abs() < 0.0201) | (far > 0.19)).all())  # in the band, or at the largest loss


@pytest.mark.slow
def test_apgd_is_not_stopped_where_the_cross_entropy_is_rounded_to_zero() -> None:
    model, x, y = blobs()

    class Sure(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1e4 * model(x)  # type: ignore[no-any-return]

    plain, margin = evaluate(model, x, y, attacks=[APGD(0.1), APGD(0.1, loss="margin")]).attacks
    sure = evaluate(Sure().eval(), x, y, attacks=[PGD(0.1), APGD(0.1)]).attacks
    assert sure[0].robust_accuracy > plain.robust_accuracy + 0.3
    assert sure[1].robust_accuracy == pytest.approx(margin.robust_accuracy, abs=0.02)
    assert sure[1].robust_accuracy == pytest.approx(plain.robust_accuracy, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_apgd_leaves_no_more_than_pgd(norm: Norm, loss: Loss) -> None:
    model, x, y = blobs()
    eps = 0.1 if norm == "linf" else 0.2
    attacks = [PGD(eps, norm=norm, loss=loss), APGD(eps, norm, loss), APGD(eps, norm, loss, restarts=3)]
    pgd, once, thrice = (row.robust_accuracy for row in evaluate(model, x, y, attacks=attacks).attacks)
    assert 0.2 < pgd < 0.7
    assert once <= pgd + 0.01 and thrice <= once


def test_apgd_depends_on_seed_and_place_only() -> None:
    model, x, y = blobs()
    x, y, attack = x[:40], y[:40], APGD(0.1, steps=20, seed=3)
    reports = [evaluate(model, x, y, attacks=[attack], batch_size=size) for size in (7, 40)]
    assert reports[0] == reports[1]
    box, places = input_box(x, (0.0, 1.0)), torch.arange(40)
    whole = perturb(model, x, y, attack, places, 0, "logits", box)
    part = perturb(model, x[10:], y[10:], attack, places[10:], 0, "logits", box)
    torch.testing.assert_close(whole[10:], part)
    assert not torch.allclose(whole, perturb(model, x, y, attack, places, 1, "logits", box))


# --- AutoAttack ---------------------------------------------------------------------------------------------


@pytest.fixture
def autoattack() -> None:
    pytest.importorskip("pyautoattack", reason="AutoAttack needs pyautoattack: pip install pyautoattack")


@pytest.mark.long
@pytest.mark.usefixtures("autoattack")
def test_autoattack_leaves_no_more_than_apgd_and_nothing_behind() -> None:
    model, x, y = blobs()
    x, y = x[:40], y[:40]
    state, trace, handlers = (
        torch.get_rng_state(),
        sys.gettrace(),
        list(logging.getLogger("auto-attack").handlers),
    )
    python_state = random.getstate()
    report = evaluate(model, x, y, attacks=[APGD(0.1), AutoAttack(0.1)])
    apgd, auto = (row.robust_accuracy for row in report.attacks)
    assert 0 < auto <= apgd + 0.01
    assert report.attacks[1].name == "autoattack_linf_eps0.1"
    assert (
        torch.equal(torch.get_rng_state(), state)
        and sys.gettrace() is trace
        and random.getstate() == python_state
    )
    assert logging.getLogger("auto-attack").handlers == handlers
    assert all(p.grad is None or not bool(p.grad.isnan().any()) for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.usefixtures("autoattack")
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_apgd_is_as_strong_as_its_authors_own(norm: Norm, loss: Loss) -> None:
    from pyautoattack.autopgd_base import APGDAttack

    model, x, y = blobs()
    eps, theirs = {"linf": 0.1, "l2": 0.2}[norm], {"linf": "Linf", "l2": "L2"}[norm]
    with torch.random.fork_rng():
        logger = logging.getLogger("a test")
        reference = APGDAttack(model, eps=eps, norm=theirs, loss=loss, seed=0, device="cpu", logger=logger)
        found = reference.perturb(x, y)
    expected = float((model(found).argmax(1) == y).double().mean())
    ours = evaluate(model, x, y, attacks=[APGD(eps, norm, loss)]).attacks[0].robust_accuracy
    assert expected - 0.1 < ours <= expected + 0.01


@pytest.mark.slow
@pytest.mark.usefixtures("autoattack")
def test_autoattack_on_a_linear_model_is_the_closed_form_in_any_box() -> None:
    """In the box [−10, 10] the attack works on (x + 10) / 20 and ε / 20; two classes, inputs that are no
    images.
    """
    weight = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 1.0, 0.25]])
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    falls = 0.3 * torch.linalg.vector_norm(weight[0] - weight[1])
    expected = float((x @ (weight[0] - weight[1]) - falls > 0).double().mean())
    y, attack = torch.zeros(60, dtype=torch.long), AutoAttack(0.3, "l2")
    for head in ((), (nn.Softmax(1),)):
        model = nn.Sequential(linear(weight), *head).eval()
        report = evaluate(model, x, y, attacks=[attack], input_bounds=WIDE)
        assert report.attacks[0].robust_accuracy == pytest.approx(expected)
    left_out = (
        "targeted APGD-DLR, which needs four classes",
        "Square, which in L2 needs images of at least 5×5",
    )
    for reason in left_out:
        assert any(f"ran without {reason}" in warning for warning in report.warnings)
    moved = run(attack, linear(weight), x, y, WIDE)
    assert float(torch.linalg.vector_norm(moved - x, dim=1).max()) <= 0.3 + 1e-5


@pytest.mark.long
@pytest.mark.usefixtures("autoattack")
def test_autoattack_sees_what_gradients_do_not_and_says_so() -> None:
    model, x, y = blobs()

    class Stepped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return model((16 * x).round() / 16)  # type: ignore[no-any-return]

    report = evaluate(Stepped().eval(), x[:30], y[:30], attacks=[PGD(0.1), AutoAttack(0.1)], batch_size=15)
    pgd, auto = (row.robust_accuracy for row in report.attacks)
    assert auto < pgd - 0.2
    said = [w for w in report.warnings if w.startswith("autoattack_linf_eps0.1: there are")]
    assert len(said) == 1 and "points with zero gradient" in said[0] and "See" not in said[0]


@pytest.mark.usefixtures("autoattack")
def test_autoattack_refuses_boxes_that_it_cannot_scale() -> None:
    model, x, y = blobs()
    with pytest.raises(
        InputError, match="one finite width for all features, these are 1 to 2 wide; use APGD"
    ):
        evaluate(
            model,
            x,
            y,
            attacks=[AutoAttack(0.1)],
            input_bounds=(0.0, torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 2.0])),
        )


def test_without_the_package_the_command_to_install_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(InputError, match="pip install pyautoattack"):
        AutoAttack(0.1)


# --- names and errors ---------------------------------------------------------------------------------------


def test_names_tell_norm_loss_and_restarts() -> None:
    assert FGSM(0.5, "l2").name == "fgsm_l2_eps0.5"
    assert PGD(0.5, norm="l2", loss="dlr", restarts=2).name == "pgd20x2-dlr_l2_eps0.5"
    assert APGD(0.1).name == "apgd100_linf_eps0.1"
    assert APGD(0.1, loss="margin", steps=50, restarts=5).name == "apgd50x5-margin_linf_eps0.1"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: FGSM(0.1, "l1"), "norm='l1': give the norm of the radius: linf or l2"),
        (lambda: APGD(-1.0), "radius in input units: a number of at least 0"),
        (lambda: APGD(0.1, loss="hinge"), "loss='hinge': give the loss that is increased: ce, margin or dlr"),
        (lambda: PGD(0.1, loss="hinge"), "loss='hinge': give the loss that is increased: ce, margin or dlr"),
        (lambda: APGD(0.1, steps=0), "at least 1"),
        (lambda: APGD(0.1, restarts=0), "at least 1"),
    ],
)
def test_attack_without_sense_is_refused(make: Callable[[], Attack], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()


@dataclass(frozen=True)
class Careless(Attack):
    """An attack that returns whatever `moved` makes of the images."""

    key: ClassVar[str] = "careless"
    summary: ClassVar[str] = "returns what it should not"

    moved: Callable[[Tensor], Any]
    eps: float = 0.1
    norm: Norm = "linf"

    steps = restarts = 1

    def perturb(self, target: Target, x0: Tensor, y: Tensor, rows: Tensor, restart: int) -> Any:
        return self.moved(x0)


@pytest.mark.parametrize(
    ("moved", "said"),
    [
        (lambda x: x + 0.2, r"at a distance of 0\.2\d* \(linf\), and eps is 0\.1"),
        (lambda x: x - 0.55, "leave the input box by 0.05"),
        (lambda x: x * torch.nan, "NaN or infinite"),
        (lambda x: x.double(), r"torch\.float64 on cpu, for images of shape"),
        (lambda x: x[:1], r"images of shape \(1, 3\)"),
        (lambda x: None, "a NoneType and no tensor"),
    ],
)
def test_what_an_attack_returns_is_checked(moved: Callable[[Tensor], Any], said: str) -> None:
    model, x = nn.Linear(3, 2).eval(), torch.full((4, 3), 0.5)
    with pytest.raises(InputError, match=f"careless_linf_eps0.1: perturb returned .*{said}"):
        evaluate(model, x, model(x).argmax(1), attacks=[Careless(moved)])


def test_an_attack_of_ones_own_is_counted() -> None:
    model, x = nn.Linear(3, 2).eval(), torch.full((4, 3), 0.5)
    report = evaluate(model, x, model(x).argmax(1), attacks=[Careless(lambda x: x + 0.1)])
    assert report.attacks[0].name == "careless_linf_eps0.1"


@pytest.mark.parametrize("key", ATTACKS)
def test_each_attack_of_the_table_keeps_the_contract(key: str) -> None:
    if key == "autoattack":
        pytest.importorskip("pyautoattack", reason="AutoAttack needs pyautoattack: pip install pyautoattack")
    kind = ATTACKS[key]
    attack = attack_from(f"{key}:0.1", norm="l2", seed=3)
    assert type(attack) is kind and attack.name.startswith(key)
    assert repr(attack).startswith(f"{kind.__name__}(eps=0.1, ")
    assert (attack.eps, attack.norm) == (0.1, "l2")
    assert {f.name for f in fields(kind)} == options_of(kind).keys()  # type: ignore[arg-type]
    for name, text in described_options(kind):
        assert name in options_of(kind) and text.endswith(".")


def test_attacks_by_their_names() -> None:
    assert attack_from("pgd:eps=8/255,steps=40,random-start=false") == PGD(
        8 / 255, steps=40, random_start=False
    )
    assert attack_from("pgd:0.1,step_size=none,loss=dlr") == PGD(0.1, loss="dlr")
    assert attack_from("fgsm:0.1", steps=3, loss="dlr", norm="l2") == FGSM(0.1, "l2")  # which it has not
    for text, said in {
        "pdg:0.1": "no attack 'pdg'; there are fgsm, pgd",
        "pgd": "eps is missing: give the radius .* as in pgd:eps=0.01",
        "pgd:0.1,step=3": "'step' is no field; the fields are eps, steps",
        "pgd:0.1,eps=0.2": "'eps' is given twice",
        "pgd:1/0": "eps=1/0: give the radius",
        "pgd:0.1,steps=2.5": "steps=2.5: give the number of gradient steps: a whole number of at least 1",
        "pgd:0.1,random_start=2": "True or False",
        "apgd:0.1,norm=l1": "norm='l1': give the norm of the radius: linf or l2",
        "apgd:inf": "eps=inf: give the radius",
    }.items():
        with pytest.raises(InputError, match=said):
            attack_from(text)


def test_nothing_is_attacked_where_nothing_is_right() -> None:
    model, x, _ = blobs()
    wrong = (model(x).argmax(1) + 1) % 4
    target = target_of(model, "logits", input_box(x, (0.0, 1.0)), None)
    outcome = run_attack(target, x, wrong, APGD(0.1), correct=torch.zeros(len(x), dtype=torch.bool))
    assert outcome.robust_share == 0.0
    assert evaluate(model, x, wrong, attacks=[APGD(0.1)]).attacks[0].robust_accuracy == 0.0
