"""What a search measures of its front alone: attacks, the worst class, proofs; and that it may choose by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import secateur
from command import run
from secateur.errors import InputError, SecateurWarning
from secateur.search import checks as checks_module
from secateur.search.checks import Checking
from secateur.search.trial import Checks, Sizes, Trial, Wanted
from trained import blobs

ATTACK = secateur.PGD(0.05, steps=5)


def searched(folder: Path, **more: Any) -> secateur.SearchResult:
    model, images, labels = blobs()
    given = {"min_agreement": 0.8, "samples": 64, "images": images, "labels": labels, **more}
    return secateur.search(model, images[:1], output=folder, **given)


def test_budgets_by_hand() -> None:
    two = Checks(
        asked="", result="", robust_accuracy={"a": 0.9, "b": 0.6}, robust_agreement={"a": 0.8}, certified=0.5
    )
    for asked, kept in (
        ({"robust_accuracy": 0.6}, True),
        ({"robust_accuracy": 0.61}, False),  # the worst of two attacks counts
        ({"robust_agreement": 0.8}, True),
        ({"certified_agreement": 0.5}, True),
        ({"certified_agreement": 0.51}, False),
        ({"robust_accuracy": 0.6, "certified_agreement": 0.6}, False),
        ({}, True),
    ):
        assert Checking(**asked).kept_by(two) is kept, asked
    nothing = Checks(asked="", result="")
    assert not Checking(robust_accuracy=0.1).kept_by(nothing)
    sizes = Sizes(params=1, macs=1, bytes=4)
    worst = Trial(number=1, setting={"remove": "1"}, sizes=sizes, accuracy=0.9, worst_class=0.4)  # type: ignore[arg-type]
    assert Wanted(worst_class=0.5).lacks(worst) == pytest.approx(0.1)
    assert Wanted(worst_class=0.5).loss(worst) == pytest.approx(0.6)
    with pytest.raises(InputError, match="an attack that needs no labels"):
        Checking(attacks=(secateur.AutoAttack(0.1),), robust_agreement=0.5).check(True, False)
    with pytest.raises(InputError, match="they need float networks"):
        Checking(attacks=(ATTACK,)).check(labelled=True, quantises=True)


@pytest.mark.long
def test_figures_of_the_front_are_those_of_evaluate_and_certify(tmp_path: Path) -> None:
    model, images, labels = blobs()
    found = searched(tmp_path, attacks=[ATTACK], certified=0.001, certified_inputs=5)
    assert found.pick is not None and found.model is not None and not found.summary.notes
    checks = found.summary.checks[found.pick.number]
    wrong = secateur.evaluate(found.model, images, labels, attacks=[ATTACK])
    apart = secateur.evaluate(found.model, images, original=model, attacks=[ATTACK])
    assert checks.robust_accuracy == {ATTACK.name: wrong.attacks[0].robust_accuracy}
    assert checks.robust_agreement == {ATTACK.name: apart.agreement_attacks[0].robust_agreement}
    assert (found.pick.accuracy, found.pick.worst_class) == (wrong.accuracy[1], wrong.worst_class_accuracy)
    proved = secateur.certify(model, found.model, inputs=images[:5], eps=0.001, attack_steps=0)
    assert proved.agreement is not None and checks.certified == proved.agreement.certified
    assert checks.certified_drift == max(proved.drift)
    # Of the front alone, and of that only what keeps the budgets.
    assert set(found.summary.checks) == {t.number for t in found.front if (t.agreement or 0) >= 0.8}
    assert f"robust accuracy, {ATTACK.name}" in (tmp_path / "summary.md").read_text()
    page = (tmp_path / "report.html").read_text()
    for name in (f"robust accuracy, {ATTACK.name}", "accuracy of the worst class", "certified agreement"):
        assert name in page, name


@pytest.mark.long
def test_what_was_checked_is_not_checked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trials do not depend on it: another attack on the same folder measures no trial again."""
    first = searched(tmp_path, attacks=[ATTACK])
    with monkeypatch.context() as patched:
        patched.setattr(checks_module, "evaluate", lambda *given, **more: pytest.fail("measured again"))
        assert searched(tmp_path, attacks=[ATTACK]).summary == first.summary
    other = searched(tmp_path, attacks=[secateur.FGSM(0.05)])
    assert other.summary.trials == first.summary.trials
    assert all("fgsm" in name for c in other.summary.checks.values() for name in c.robust_accuracy)


@pytest.mark.long
def test_a_budget_under_attack_chooses_a_larger_network_or_none(tmp_path: Path) -> None:
    free = searched(tmp_path, attacks=[ATTACK])
    shares = {n: min(c.robust_accuracy.values()) for n, c in free.summary.checks.items()}
    assert free.pick is not None and len(set(shares.values())) > 1
    least = max(shares.values())
    with pytest.warns(SecateurWarning, match="the labelled data chose this network"):
        chosen = searched(tmp_path, attacks=[ATTACK], min_robust_accuracy=least)
    assert chosen.pick is not None and shares[chosen.pick.number] == least
    assert "robust accuracy of at least" in repr(chosen)
    with pytest.warns(SecateurWarning, match=r"none has robust accuracy of at least 100.00% \(the largest: "):
        none = searched(tmp_path, attacks=[ATTACK], min_robust_accuracy=1.0)
    assert none.pick is None and not list(tmp_path.glob("pick*"))  # nor one of the budgets before


@pytest.mark.long
def test_on_the_command_line(tmp_path: Path) -> None:
    model, images, labels = blobs()
    secateur.save_model(tmp_path / "net.pt2", model, images[:2])
    np.savez(tmp_path / "data.npz", images=images[:60].numpy(), labels=labels[:60].numpy())
    common = ("search", "net.pt2", "--normalize", "none", "--samples", "64", "--data", "data.npz")
    done = run(tmp_path, *common, "--attack", "pgd:eps=0.05,steps=3", "--certified", "0.001",
               "--certified-inputs", "3", "--min-certified", "0", "--json", "-o", "best")  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    checks = told["checks"][str(told["pick"])]
    assert list(checks["robust_accuracy"]) == ["pgd3_linf_eps0.05"] and checks["certified"] is not None
    wrong = run(tmp_path, *common, "--attack", "pgd:steps=3", "-o", "other")
    assert wrong.returncode == 1 and "--attack pgd:steps=3: eps is missing" in wrong.stderr


@pytest.mark.long
def test_a_second_look_is_at_the_budgets_of_surrogates_alone(tmp_path: Path) -> None:
    found = searched(tmp_path, attacks=[ATTACK])
    assert found.summary.look is not None and found.summary.look.agreement is not None
    assert torch.isfinite(torch.tensor(found.summary.look.agreement))
