"""A model beside its original, without labels: agreement and its interval, drift and classes, worked out by
hand.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.evaluate.attacks.apgd import APGD
from secateur.evaluate.attacks.autoattack import AutoAttack
from secateur.evaluate.attacks.fgsm import FGSM
from secateur.evaluate.intervals import clopper_pearson
from secateur.evaluate.measure import evaluate
from secateur.evaluate.report import Evaluation

X = torch.tensor([[0.9, 0.5, 0.1], [0.1, 0.9, 0.5], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]])


def linear(weight: Any, *after: nn.Module) -> nn.Module:
    """A linear model without a bias, with the given weight (outputs, inputs), then `after`."""
    weight = torch.tensor(weight, dtype=torch.float32)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight)
    return nn.Sequential(layer, *after).eval()


PLAIN = [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]  # classes 0, 1, 2, 0
SWAPPED = [[0.0, 1, 0], [1, 0, 0], [0, 0, 1]]  # classes 1, 0, 2, 1
BLIND = [[1.0, 0, 0], [0, 1, 0], [0, 0, 0]]  # classes 0, 1, 1, 0


# --- the interval -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trials", [1, 2, 7, 100, 10_000, 1_000_000])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.983, 1.0])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.9999])
def test_the_interval_is_that_of_scipy(trials: int, share: float, confidence: float) -> None:
    successes = round(share * trials)
    expected = binomtest(successes, trials).proportion_ci(confidence, "exact")
    assert clopper_pearson(successes, trials, confidence) == pytest.approx(
        (expected.low, expected.high), abs=1e-9
    )


def test_the_interval_by_hand() -> None:
    assert clopper_pearson(0, 1) == (0.0, pytest.approx(0.975))
    assert clopper_pearson(1, 1) == (pytest.approx(0.025), 1.0)
    assert clopper_pearson(0, 10, 0.9) == (0.0, pytest.approx(1 - 0.05**0.1))
    assert clopper_pearson(10, 10, 0.9) == (pytest.approx(0.05**0.1), 1.0)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 500), st.data())
def test_the_interval_holds_the_share_and_mirrors(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    low, high = clopper_pearson(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1 and low < high
    mirrored = clopper_pearson(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0, 0), "trials=0: give a whole number, at least 1"),
        ((-1, 5), "successes=-1: give a whole number"),
        ((6, 5), "successes=6: give at most the number of trials, 5"),
        ((1, 5, 0.0), "confidence=0.0: give a number between 0 and 1"),
        ((1, 5, 1.0), "confidence=1.0: give a number between 0 and 1"),
        ((1.5, 5), "successes=1.5: give a whole number"),
    ],
)
def test_an_interval_that_there_is_not(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        clopper_pearson(*arguments)


# --- without labels -----------------------------------------------------------------------------------------


def test_agreement_and_drift_by_hand() -> None:
    report = evaluate(linear(SWAPPED), X, original=linear(PLAIN))
    assert report.samples == 4 and report.head == "logits"
    assert report.agreement == 0.25 and report.agreement_interval == clopper_pearson(1, 4)
    # |x_0 − x_1| of the four inputs: 0.4, 0.8, 0.4, 0.8.
    assert (
        report.drift
        and report.drift.largest == pytest.approx(0.8)
        and report.drift.median == pytest.approx(0.6)
    )
    assert report.accuracy == {} and report.original_accuracy is None and report.classes == ()
    assert report.worst_class_accuracy is None and report.attacks == report.agreement_attacks == ()
    assert report.cost.parameters == 9 and report.cost_before and report.cost_before.parameters == 9
    assert report.warnings == ()
    assert Evaluation.model_validate_json(report.model_dump_json()) == report


def test_a_class_that_vanished_by_hand() -> None:
    report = evaluate(linear(BLIND), X, original=linear(PLAIN), latency=True)
    assert [(row.label, row.share, row.original_share, row.agreement) for row in report.class_shares] == [
        (0, 0.5, 0.5, 1.0),
        (1, 0.5, 0.25, 1.0),
        (2, 0.0, 0.25, 0.0),
    ]
    assert report.vanished_classes == (2,) and report.worst_class == 2 and report.worst_class_agreement == 0.0
    assert report.cost.latency_ms and report.latency_runtime == "torch"
    back = evaluate(linear(PLAIN), X, original=linear(BLIND))
    assert back.class_shares[2].agreement is None and back.vanished_classes == ()
    assert back.worst_class == 1 and back.worst_class_agreement == 0.5


def test_with_labels_all_of_it_is_told_too() -> None:
    labels = torch.tensor([0, 1, 2, 0])
    report = evaluate(linear(BLIND), X, labels, original=linear(PLAIN), attacks=[FGSM(0.01)])
    without = evaluate(linear(BLIND), X, original=linear(PLAIN))
    assert report.accuracy == {1: 0.75} and len(report.attacks) == 1 and report.agreement_attacks == ()
    for name in (
        "agreement",
        "agreement_interval",
        "drift",
        "class_shares",
        "vanished_classes",
        "worst_class",
    ):
        assert getattr(report, name) == getattr(without, name)
    alone = evaluate(linear(BLIND), X, labels)
    assert alone.agreement_interval is None and alone.drift is None and alone.class_shares == ()


def test_agreement_on_corrupted_images() -> None:
    class Counts(nn.Module):
        """Whether the mean is above a threshold; more contrast lost moves no mean, so that nothing
        changes.
        """

        def __init__(self, threshold: float) -> None:
            super().__init__()
            self.threshold = threshold

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).mean(1, keepdim=True) - self.threshold

    images = torch.tensor([0.2, 0.45, 0.55, 0.8]).reshape(4, 1, 1, 1).expand(4, 1, 2, 2).contiguous()
    model, original = Counts(0.5).eval(), Counts(0.4).eval()
    given: dict[str, Any] = {"original": original, "corruptions": ["contrast"], "head": "binary_logit"}
    for labels in (None, torch.tensor([0, 0, 1, 1])):
        rows = evaluate(model, images, labels, **given).corruptions
        assert [row.agreement for row in rows] == [0.75] * 3
        assert [row.accuracy for row in rows] == [None if labels is None else 1.0] * 3
        assert [row.original_accuracy for row in rows] == [None if labels is None else 0.75] * 3


def test_of_many_labels_classes_are_counted_by_label() -> None:
    original = linear([[4.0, 0, -2], [0, 4, -2]], nn.Sigmoid())  # labels 11, 01, 01, 10
    model = linear([[0.0, 0, -2], [0, 4, -2]], nn.Sigmoid())  # the first label never
    report = evaluate(model, X, original=original)
    assert report.head == "multi_label" and report.agreement == 0.5 and report.vanished_classes == (0,)
    assert [(row.label, row.share, row.original_share, row.agreement) for row in report.class_shares] == [
        (0, 0.0, 0.5, 0.0),
        (1, 0.75, 0.75, 1.0),
    ]
    with pytest.raises(
        InputError, match="attacks: they need one decision for each input, and the head multi_label"
    ):
        evaluate(model, X, original=original, attacks=[FGSM(0.1)])


def test_no_drift_between_scores_and_probabilities() -> None:
    report = evaluate(linear(PLAIN, nn.Softmax(1)), X, original=linear(PLAIN))
    assert report.agreement == 1.0 and report.drift is None
    assert report.warnings == (
        "no drift is given: the model's outputs are probabilities, the original's logits",
    )


def test_infinite_outputs_that_are_equal_do_not_drift() -> None:
    x = torch.tensor([[0.5, 1.0], [0.0, 1.0]])
    head: Any = {"head": "binary_logit"}

    class Ratio(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale = scale

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * x[:, 1:] / x[:, :1]

    report = evaluate(Ratio(2.0).eval(), x, original=Ratio(1.0).eval(), **head)
    assert report.drift and report.drift.largest == 2.0 and report.drift.median == 1.0
    report = evaluate(Ratio(-1.0).eval(), x, original=Ratio(1.0).eval(), **head)
    assert report.drift is None and report.warnings == (
        "no drift is given: it is infinite for 1 of 2 images",
    )


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (
            linear(PLAIN),
            {},
            r"labels=None: without labels the original is needed; give original=.*\(--original\)",
        ),
        (
            linear(PLAIN),
            {"original": linear(PLAIN), "top_k": (1, 2)},
            r"top_k=\(1, 2\): top-k accuracy needs labels",
        ),
        (linear(PLAIN), {"original": linear(PLAIN[:2])}, "3 classes apart, the original 2"),
        (linear(PLAIN), {"original": linear(PLAIN).train()}, "original is in training mode"),
        (
            linear(PLAIN),
            {"original": linear(PLAIN), "labels": "x"},
            "labels='x': give a tensor, an array.*or None",
        ),
        (
            linear(PLAIN),
            {"original": linear(PLAIN, nn.Sigmoid())},
            "taken for logits, the original's for multi_label",
        ),
        (linear(PLAIN, nn.ReLU()), {"original": linear(PLAIN)}, "decides nothing that could be measured"),
        (linear(PLAIN), {"original": linear(PLAIN), "attacks": [APGD(0.1), APGD(0.1)]}, "same name"),
    ],
)
def test_what_cannot_be_measured_without_labels_is_named(
    model: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        evaluate(model, X, **options)


def test_autoattack_needs_labels() -> None:
    pytest.importorskip("pyautoattack")
    with pytest.raises(InputError, match=r"autoattack_linf_eps0.1 needs labels; .* FGSM, PGD or APGD"):
        evaluate(linear(PLAIN), X, original=linear(PLAIN), attacks=[AutoAttack(0.1)])
