"""Accuracy, attacks and cost against values worked out by hand."""

from __future__ import annotations

import importlib.util
import io
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers import perturb
from secateur.decisions import Head, decide
from secateur.errors import InputError
from secateur.evaluate.accuracy import predict, resolve_head, top_k_correct
from secateur.evaluate.attacks.apgd import APGD
from secateur.evaluate.attacks.base import Attack
from secateur.evaluate.attacks.fgsm import FGSM
from secateur.evaluate.attacks.pgd import PGD
from secateur.evaluate.attacks.run import run_attack
from secateur.evaluate.attacks.target import target_of
from secateur.evaluate.attacks.types import Loss, Norm
from secateur.evaluate.box import input_box
from secateur.evaluate.cost import latency_ms, macs, parameters, state_bytes
from secateur.evaluate.measure import evaluate
from secateur.evaluate.report import Evaluation
from secateur.formats.arrays import load_arrays
from secateur.progress import track

WIDE = (-10.0, 10.0)
CPU = torch.device("cpu")


def linear(weight: Any, bias: Any = None, *after: nn.Module) -> nn.Module:
    """A linear model with the given weight (outputs, inputs), then `after`."""
    weight = torch.tensor(weight, dtype=torch.float32)
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight = nn.Parameter(weight)
    layer.bias = nn.Parameter(torch.zeros(len(weight)) if bias is None else torch.tensor(bias))
    return nn.Sequential(layer, *after).eval()


def network(seed: int = 0, outputs: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, outputs)).eval()


def data(n: int = 60, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, images in [0, 1] and labels of which it gets most right."""
    model = network(seed)
    x = torch.rand(n, 6, generator=torch.Generator().manual_seed(seed))
    labels = model(x).argmax(1)
    labels[::7] = (labels[::7] + 1) % 4
    return model, x, labels


def attacked(model: nn.Module, x: Tensor, attack: Attack, labels: Tensor, head: Head = "logits") -> Tensor:
    box = input_box(x, (0.0, 1.0))
    return perturb(model, x, labels, attack, torch.arange(len(x)), 0, head, box)


# --- accuracy -----------------------------------------------------------------------------------------------


def test_accuracy_top_k_and_agreement_by_hand() -> None:
    model = linear(torch.eye(3).tolist())
    original = linear([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])  # swaps the first two classes
    images = torch.tensor([[0.9, 0.5, 0.1], [0.1, 0.9, 0.5], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]])
    result = evaluate(model, images, torch.tensor([0, 2, 2, 1]), original=original, top_k=(1, 2, 3))
    assert result.accuracy == {1: 0.5, 2: 0.75, 3: 1.0}
    assert result.original_accuracy == {1: 0.5, 2: 1.0, 3: 1.0}
    assert result.agreement == 0.25
    assert result.samples == 4 and result.head == "logits" and result.attacks == ()


def test_accuracy_class_by_class_by_hand() -> None:
    model, original = linear(torch.eye(3).tolist()), linear([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])
    images = torch.tensor(
        [[0.9, 0.5, 0.1], [0.1, 0.9, 0.5], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5], [0.1, 0.5, 0.9]]
    )
    labels = torch.tensor([0, 2, 2, 0, 2])  # no input of class 1
    result = evaluate(model, images, labels, original=original)
    assert [(row.label, row.samples, row.accuracy, row.original_accuracy) for row in result.classes] == [
        (0, 2, 1.0, 0.0),
        (2, 3, pytest.approx(2 / 3), pytest.approx(2 / 3)),
    ]
    assert [row.change for row in result.classes] == [1.0, 0.0]
    assert result.worst_class_accuracy == pytest.approx(2 / 3) and result.original_worst_class_accuracy == 0.0
    alone = evaluate(model, images, labels)
    assert [row.change for row in alone.classes] == [
        None,
        None,
    ] and alone.original_worst_class_accuracy is None


def test_of_equal_outputs_the_lower_class_comes_first() -> None:
    outputs = torch.zeros(3, 3)
    assert decide(outputs, "logits").tolist() == [0, 0, 0]
    labels = torch.tensor([0, 1, 2])
    assert top_k_correct(outputs, labels, 1, "logits").tolist() == [True, False, False]
    assert top_k_correct(outputs, labels, 2, "logits").tolist() == [True, True, False]


def opaque(function: Callable[[Tensor], Tensor]) -> nn.Module:
    """A model that cannot be captured, since its control flow depends on the data."""

    class Opaque(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x) if float(x.sum()) > -1e9 else x

    return Opaque().eval()


HEADS: dict[str, tuple[nn.Module, Head]] = {
    "many logits": (linear([[1.0, 0], [0, 1]]), "logits"),
    "logits inside [0, 1]": (linear([[0.1, 0], [0, 0.1]]), "logits"),
    "softmax": (linear([[1.0, 0], [0, 1]], None, nn.Softmax(1)), "probabilities"),
    "many sigmoids": (linear([[1.0, 0], [0, 1]], None, nn.Sigmoid()), "probabilities"),
    "log-softmax": (linear([[1.0, 0], [0, 1]], None, nn.LogSoftmax(1)), "logits"),
    "one logit": (linear([[3.0, -3.0]]), "binary_logit"),
    "one logit inside [0, 1]": (linear([[0.1, 0.1]]), "binary_logit"),
    "one sigmoid": (linear([[1.0, -1.0]], None, nn.Sigmoid()), "binary_probability"),
    "one flat sigmoid": (linear([[1.0, -1.0]], None, nn.Sigmoid(), nn.Flatten(0)), "binary_probability"),
    "uncapturable sigmoid": (opaque(lambda x: x[:, 0].sigmoid()), "binary_probability"),
    "uncapturable softmax": (opaque(lambda x: x.softmax(1)), "probabilities"),
    "uncapturable logits": (opaque(lambda x: x), "logits"),
}


@pytest.mark.parametrize("case", HEADS)
def test_head_is_found(case: str) -> None:
    model, expected = HEADS[case]
    images = torch.rand(20, 2)
    assert resolve_head(model, "auto", predict(model, images), images[:2]) == expected


def test_head_of_an_exported_program_is_found() -> None:
    model = linear([[1.0, -1.0]], None, nn.Sigmoid())
    program = torch.export.export(model, (torch.rand(2, 2),), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    images = torch.tensor([[0.9, 0.1], [0.2, 0.4], [0.7, 0.8]])
    for subject in (program, program.module()):
        result = evaluate(subject, images, torch.tensor([1, 0, 1]), attacks=[FGSM(0.05)])
        assert result.head == "binary_probability"
        assert result.accuracy == {1: pytest.approx(2 / 3)}
        assert result.cost.parameters == 3


def test_binary_thresholds_by_hand() -> None:
    images = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.6, 0.5], [0.5, 0.6]])
    labels = torch.tensor([1, 0, 0, 0])
    cases: list[tuple[list[nn.Module], Head]] = [([], "binary_logit"), ([nn.Sigmoid()], "binary_probability")]
    for after, head in cases:
        result = evaluate(linear([[1.0, -1.0]], None, *after), images, labels, head=head, top_k=(1, 2))
        assert result.accuracy == {1: 0.75, 2: 1.0}


# --- outputs in parts ---------------------------------------------------------------------------------------


@dataclass
class Parts:
    """As the models of transformers give it."""

    logits: Any
    hidden: Tensor | None = None


class PartsByName(OrderedDict[str, Any]):
    """As above: a dict whose values are attributes, too."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class InParts(nn.Module):
    def __init__(self, model: nn.Module, together: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.model, self.together = model, together
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.together(self.model(x), x)


TOGETHER: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "dataclass": lambda z, x: Parts(z, x),
    "dict": lambda z, x: {"hidden": x, "logits": z},
    "dict of one": lambda z, x: {"logits": z},
    "subclass of dict": lambda z, x: PartsByName(loss=x.sum(), logits=z),
    "tuple of one": lambda z, x: (z,),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_of_several_outputs_the_logits_are_taken(name: str) -> None:
    plain, x, labels = data()
    model = InParts(plain, TOGETHER[name])
    attacks = [PGD(0.05, steps=3)]
    expected = evaluate(plain, x, labels, attacks=attacks)
    assert evaluate(model, x, labels, attacks=attacks) == expected
    report = evaluate(model, x, original=plain, attacks=attacks)
    assert report.agreement == 1.0 and report.head == "logits"


@pytest.mark.parametrize("name", ["dict", "dict of one"])
def test_the_head_is_that_of_the_logits(name: str) -> None:
    """The other part holds no probabilities, the logits do; the ops tell, not the values."""
    model = InParts(linear([[0.1, 0], [0, 0.1]], None, nn.Sigmoid()), TOGETHER[name])
    program = torch.export.export(model, (torch.rand(2, 2),), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    images = torch.rand(20, 2)
    for subject in (model, program):
        assert evaluate(subject, images, torch.zeros(20).long()).head == "probabilities"
        assert evaluate(subject, images, original=model).head == "multi_label"


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("many logits", "logits"),
        ("logits inside [0, 1]", "logits"),
        ("softmax", "probabilities"),
        ("many sigmoids", "multi_label"),
        ("one logit", "binary_logit"),
        ("uncapturable sigmoid", "binary_probability"),
        ("uncapturable softmax", "probabilities"),
    ],
)
def test_head_without_labels(case: str, expected: str) -> None:
    images = torch.rand(20, 2)
    model = HEADS[case][0]
    assert resolve_head(model, "auto", predict(model, images), images[:2], one_of_k=None) == expected
    assert evaluate(model, images, original=model).head == expected


def test_uncapturable_logits_are_told_by_their_values() -> None:
    model = opaque(lambda x: 4 * x - 2)
    assert evaluate(model, torch.rand(20, 2), original=model).head == "logits"


# --- attacks ------------------------------------------------------------------------------------------------


def test_fgsm_on_a_linear_model_is_the_closed_form() -> None:
    """The margin (w_y − w_o)·x falls by exactly ε‖w_y − w_o‖₁ under the best L∞ attack."""
    weight = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 1.0, 0.25]])
    model = linear(weight.tolist())
    images = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(200, dtype=torch.long)
    difference = weight[0] - weight[1]
    for eps in (0.05, 0.3):
        expected = (images @ difference - eps * difference.abs().sum() > 0).double().mean()
        result = evaluate(model, images, labels, attacks=[FGSM(eps), PGD(eps, steps=30)], input_bounds=WIDE)
        for row in result.attacks:
            assert row.robust_accuracy == pytest.approx(float(expected))
            assert row.robust_instances_per_1000 == pytest.approx(1000 * float(expected))


@pytest.mark.parametrize(("after", "head"), [((), "binary_logit"), ((nn.Sigmoid(),), "binary_probability")])
def test_attack_on_one_output_is_the_closed_form(after: tuple[nn.Module, ...], head: str) -> None:
    weight = torch.tensor([1.0, -2.0, 0.5])
    images = torch.randn(200, 3, generator=torch.Generator().manual_seed(1))
    labels = (images @ weight > 0).long()
    labels[:20] = 1 - labels[:20]
    robust = ((images @ weight).abs() > 0.2 * weight.abs().sum()) & (torch.arange(200) >= 20)
    result = evaluate(
        linear([weight.tolist()], None, *after), images, labels, attacks=[FGSM(0.2)], input_bounds=WIDE
    )
    assert result.head == head
    assert result.attacks[0].robust_accuracy == pytest.approx(float(robust.double().mean()))


def test_attack_goes_through_a_softmax_head() -> None:
    plain, softmax = network(), nn.Sequential(network(), nn.Softmax(1)).eval()
    _, x, labels = data()
    attack = PGD(0.1, steps=5, random_start=False)
    torch.testing.assert_close(
        attacked(softmax, x, attack, labels, "probabilities"), attacked(plain, x, attack, labels, "logits")
    )


@settings(max_examples=15, deadline=None)
@given(st.floats(0, 0.6), st.integers(1, 4), st.booleans(), st.integers(0, 5))
def test_attacked_images_stay_near_and_inside_the_box(eps: float, steps: int, start: bool, seed: int) -> None:
    model, x, labels = data(20, seed)
    for attack in (FGSM(eps), PGD(eps, steps=steps, random_start=start, seed=seed)):
        changed = attacked(model, x, attack, labels)
        assert float((changed - x).abs().max()) <= eps + 1e-6
        assert float(changed.min()) >= 0 and float(changed.max()) <= 1


def test_more_attack_never_leaves_more() -> None:
    model, x, labels = data(200)
    clean = evaluate(model, x, labels).accuracy[1]
    radii = [0.0, 0.05, 0.1, 0.2, 0.4]
    makers: tuple[Callable[[float], Attack], ...] = (FGSM, lambda eps: PGD(eps, steps=10))
    attacks: list[Attack] = [make(eps) for make in makers for eps in radii]
    shares = [row.robust_accuracy for row in evaluate(model, x, labels, attacks=attacks).attacks]
    for series in (shares[:5], shares[5:]):
        assert series[0] == clean
        assert series == sorted(series, reverse=True) and series[-1] < clean
    once, thrice = (
        evaluate(model, x, labels, attacks=[PGD(0.1, steps=3, restarts=n)]).attacks[0].robust_accuracy
        for n in (1, 3)
    )
    assert thrice <= once


def test_inputs_that_are_wrong_before_the_attack_are_not_robust() -> None:
    model, x, labels = data()
    correct = model(x).argmax(1) == labels
    target = target_of(model, "logits", input_box(x, (0.0, 1.0)), None)
    outcome = run_attack(target, x, labels, FGSM(0.0), correct=correct)
    assert torch.equal(outcome.robust, correct) and torch.equal(outcome.correct, correct)
    assert outcome.robust_instances_per_1000 == pytest.approx(1000 * int(correct.sum()) / len(x))


@pytest.mark.parametrize("batch_size", [1, 7, 60, 1000])
def test_nothing_depends_on_the_batch_size(batch_size: int) -> None:
    model, x, labels = data()
    attacks = [FGSM(0.08), PGD(0.08, steps=4, restarts=2, seed=3)]
    expected = evaluate(model, x, labels, attacks=attacks, top_k=(1, 2), batch_size=13)
    assert evaluate(model, x, labels, attacks=attacks, top_k=(1, 2), batch_size=batch_size) == expected


def test_random_start_depends_on_seed_restart_and_place_only() -> None:
    model, x, labels = data(30)
    attack, box, places = PGD(0.1, steps=1, step_size=1e-6), input_box(x, (0.0, 1.0)), torch.arange(30)
    whole = perturb(model, x, labels, attack, places, 0, "logits", box)
    part = perturb(model, x[10:], labels[10:], attack, places[10:], 0, "logits", box)
    torch.testing.assert_close(whole[10:], part)
    assert not torch.allclose(whole, perturb(model, x, labels, attack, places, 1, "logits", box))
    other = PGD(0.1, steps=1, step_size=1e-6, seed=1)
    assert not torch.allclose(whole, perturb(model, x, labels, other, places, 0, "logits", box))


def test_bounds_per_channel_are_kept() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 3)).eval()
    lower, upper = torch.tensor([0.0, -2.0]), torch.tensor([1.0, 3.0])
    x = torch.rand(4, 2, 4, 4) * (upper - lower).view(2, 1, 1) + lower.view(2, 1, 1)
    box = input_box(x, (lower, upper))
    labels = model(x).argmax(1)
    changed = perturb(model, x, labels, PGD(0.5), torch.arange(4), 0, "logits", box)
    assert bool((changed >= lower.view(2, 1, 1)).all()) and bool((changed <= upper.view(2, 1, 1)).all())
    assert float(changed[:, 1].max()) > 1
    evaluate(model, x, labels, attacks=[FGSM(0.1)], input_bounds=(lower, upper))


def test_bounds_may_have_every_shape_that_prune_takes() -> None:
    images = torch.rand(5, 3, 4, 2)
    whole = torch.arange(1.0, 25).reshape(3, 4, 2)
    cases: list[tuple[Any, tuple[int, ...]]] = [
        (1, ()),
        (torch.tensor([1.0, 2.0, 3.0]), (3, 1, 1)),
        ([1.0, 2.0, 3.0], (3, 1, 1)),
        (torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1), (3, 1, 1)),
        (torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1), (3, 1, 1)),
        (torch.tensor([1.0, 2.0]), (2,)),  # not the channels: broadcasts to the columns
        (torch.tensor([3.0]), (1, 1, 1)),
        (whole, (3, 4, 2)),
        (whole[None], (3, 4, 2)),
    ]
    for upper, shape in cases:
        lower, found = input_box(images, (0.0, upper))
        assert lower.shape == () and found.shape == shape
    fixed = torch.tensor([0.0, 1.0, 1.0])  # a channel that never changes, as prune takes it
    images[:, 0] = 0
    assert input_box(images, (0.0, fixed))[1].shape == (3, 1, 1)
    with pytest.raises(
        InputError, match=r"shape \(4, 3\) do not fit images of shape \(3, 4, 2\); give a number, one"
    ):
        input_box(images, (0.0, torch.ones(4, 3)))
    with pytest.raises(InputError, match="holds 3 values; give a pair"):
        input_box(images, (0.0, 1.0, 2.0))  # type: ignore[arg-type]


def test_model_is_left_as_it_was() -> None:
    model, x, labels = data()
    model[0].weight.requires_grad_(False)  # type: ignore[index]
    model[2].bias.grad = torch.ones(4)  # type: ignore[index]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, x, labels, original=model, attacks=[PGD(0.1, steps=2)], latency=True)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert [p.grad is not None for p in model.parameters()] == [False, False, False, True]
    assert float(model[2].bias.grad.sum()) == 4  # type: ignore[index]


def test_names_of_attacks() -> None:
    assert FGSM(0.01).name == "fgsm_linf_eps0.01"
    assert PGD(0.02).name == "pgd20_linf_eps0.02" and PGD(0.02).step == pytest.approx(0.0025)
    assert PGD(8 / 255, steps=40, restarts=5).name == "pgd40x5_linf_eps0.0313725"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: FGSM(-0.1), "radius in input units: a number of at least 0"),
        (lambda: PGD(float("nan")), "radius in input units: a number of at least 0"),
        (lambda: PGD(0.1, steps=0), "at least 1"),
        (lambda: PGD(0.1, step_size=0.0), "a number above 0"),
        (lambda: PGD(0.1, random_start=False, restarts=2), "repeat the same attack"),
    ],
)
def test_attack_without_sense_is_refused(make: Callable[[], Attack], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()


# --- cost ---------------------------------------------------------------------------------------------------


def test_cost_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 16, 10)
    ).eval()
    assert parameters(model) == (3 * 9 * 8 + 8) + 16 + (128 * 10 + 10)
    assert macs(model, torch.rand(1, 3, 4, 4)) == 16 * 27 * 8 + 1280
    assert (
        state_bytes(model) == 4 * (parameters(model) + 16) + 8
    )  # running mean and variance, and an int64 counter


def test_tied_weights_cost_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)).eval()
    model[1].weight = model[0].weight
    assert parameters(model) == 16 and state_bytes(model) == 64


def test_attention_and_recurrent_layers_count() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.lstm = nn.LSTM(8, 6, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            h: Tensor = self.attention(x, x, x, need_weights=False)[0]
            return self.lstm(h)[0][:, -1]  # type: ignore[no-any-return]

    projections, products, recurrent = 5 * 8 * 8 * 4, 2 * 5 * 5 * 8, 5 * 4 * 6 * (8 + 6)
    assert macs(Last().eval(), torch.rand(1, 5, 8)) == projections + products + recurrent


def test_latency_tells_a_large_model_from_a_small_one() -> None:
    small, large = nn.Linear(8, 2).eval(), nn.Sequential(nn.Linear(8, 3000), nn.Linear(3000, 2000)).eval()
    x = torch.rand(16, 8)
    times = latency_ms([lambda: small(x), lambda: large(x)], x.device, repeats=5, warm_up=1)
    assert 0 < times[0] < times[1]
    model, x, labels = data()
    result = evaluate(model, x, labels, original=model, latency=True, batch_size=16)
    assert result.cost.latency_ms and result.cost_before and result.cost_before.latency_ms
    assert result.latency_batch == 16 and result.latency_runtime == "torch"


def test_report_goes_through_json_and_cannot_be_changed() -> None:
    model, x, labels = data()
    result = evaluate(model, x, labels, original=network(1), attacks=[FGSM(0.1)], top_k=(1, 3))
    assert Evaluation.model_validate_json(result.model_dump_json()) == result
    with pytest.raises(ValueError, match="frozen"):
        result.samples = 3


# --- errors -------------------------------------------------------------------------------------------------

X, Y = torch.rand(4, 6), torch.tensor([0, 1, 2, 3])


class Gives(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Any:
        return self.value


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :4].detach()


@pytest.mark.parametrize(
    ("model", "images", "labels", "options", "said"),
    [
        (network(), torch.rand(4, 5), Y, {}, r"refuses images of shape \(4, 5\)"),
        (network(), X, Y[:3], {}, "4 images but 3 labels"),
        (network(), X, torch.tensor([0, 1, 2, 4]), {}, r"labels range from 0 to 4.*4 classes"),
        (network(), X, torch.tensor([0, 1, 2, -1]), {}, "labels range from -1"),
        (network(), X, Y.float(), {}, "one class number each"),
        (network(), X, Y[:, None], {}, "one class number each"),
        (network(), X[:0], Y[:0], {}, "at least one of them"),
        (network(), X / 0, Y, {}, "4 of 4 images hold NaN or infinite"),
        (network().train(), X, Y, {}, r"training mode \(\(the model\), 0, 1.*\); call eval"),
        (network(), X, Y, {"original": network().train()}, "original is in training mode"),
        (network(), X, Y, {"original": network(outputs=3)}, "4 classes apart, the original 3"),
        (network(), X, Y, {"head": "binary_logit"}, "does not fit a model with 4 outputs"),
        (network(), X, Y, {"head": "votes"}, "head='votes': give auto, logits"),
        (network(), X, Y, {"top_k": (5,)}, "top_k=5 does not fit a model with 4 classes"),
        (network(), X, Y, {"batch_size": 0}, "at least 1"),
        (network(), 2 * X + 1, Y, {"attacks": [FGSM(0.1)]}, "range from .* outside of input_bounds 0 to 1"),
        (network(), X, Y, {"attacks": [FGSM(0.1)], "input_bounds": (1.0, 0.0)}, "must lie below"),
        (
            network(),
            X,
            Y,
            {"attacks": [FGSM(0.1)], "input_bounds": (torch.zeros(5), 1.0)},
            r"shape \(5,\) do not fit",
        ),
        (network(), X, Y, {"attacks": [FGSM(0.1), FGSM(0.1)]}, "same name"),
        (
            nn.Sequential(nn.Flatten(), nn.Embedding(9, 4), nn.Flatten()).eval(),
            X.long(),
            Y,
            {"attacks": [FGSM(1)]},
            "int64",
        ),
        (Detached().eval(), X, X[:, :4].argmax(1), {"attacks": [FGSM(0.1)]}, "has no gradient"),
        (Gives({"scores": X}).eval(), X, Y, {}, "gives a dict, neither one tensor nor .* with logits"),
        (Gives({"logits": "X"}).eval(), X, Y, {}, "gives a dict, neither one tensor"),
        (Gives(torch.zeros(4, 2, 2)).eval(), X, Y, {}, r"has shape \(4, 2, 2\)"),
        (Gives(torch.full((4, 4), torch.nan)).eval(), X, Y, {}, "NaN for 4 of 4 images"),
        (lambda x: x, X, Y, {}, "model=<function.*give a torch.nn.Module"),
    ],
)
def test_what_cannot_be_measured_is_named(
    model: Any, images: Tensor, labels: Tensor, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        evaluate(model, images, labels, **options)


def test_rounding_at_the_ends_of_the_box_is_tolerated() -> None:
    model, x, labels = data()
    x[0, 0], x[1, 1] = 1 + 5e-7, -5e-7
    evaluate(model, x, labels, attacks=[FGSM(0.1)])


# --- progress -----------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "enabled", "speaks"),
    [(Terminal, True, True), (Terminal, False, False), (io.StringIO, True, False)],
)
def test_progress_speaks_only_at_a_terminal(
    stream: type[io.StringIO], enabled: bool, speaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = stream()
    monkeypatch.setattr(sys, "stderr", written)
    assert list(track(range(3), "counting", enabled)) == [0, 1, 2]
    assert bool(written.getvalue()) == speaks


# --- trained networks ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared() -> Iterator[Path]:
    folder = Path(os.environ.get("SECATEUR_SHARED", Path(__file__).parents[1] / ".." / "shared")).resolve()
    if not (folder / "zoo" / "zoo.py").exists():
        pytest.skip(
            f"no trained networks in {folder}; set SECATEUR_SHARED to the folder that holds zoo/ and data/"
        )
    yield folder


def of_the_zoo(shared: Path, name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A trained network, its test images and labels."""
    spec = importlib.util.spec_from_file_location("zoo_of_a_test", shared / "zoo" / "zoo.py")
    assert spec and spec.loader
    zoo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(zoo)
    arrays = load_arrays(shared / "data" / f"{zoo.DATA[name]}.npz")
    return zoo.load(name), arrays["images"], arrays["labels"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "clean", "eps", "robust"),
    [("paoding_mlp", 0.9787, 0.02, 0.888), ("mnist_mlp_sigmoid", 0.9731, 0.02, 0.829)],
)
def test_trained_networks_have_their_known_accuracy(
    name: str, clean: float, eps: float, robust: float, shared: Path
) -> None:
    model, images, labels = of_the_zoo(shared, name)
    assert evaluate(model, images, labels).accuracy[1] == pytest.approx(clean, abs=5e-5)
    row = evaluate(model, images[:1000], labels[:1000], attacks=[PGD(eps)]).attacks[0]
    assert row.robust_accuracy == pytest.approx(robust, abs=0.003)


@pytest.mark.slow
def test_on_a_trained_network_apgd_leaves_no_more_than_pgd(shared: Path) -> None:
    model, images, labels = of_the_zoo(shared, "mnist_mlp_sigmoid")
    radii: dict[Norm, float] = {"linf": 0.05, "l2": 0.5}
    losses: tuple[Loss, ...] = ("ce", "margin", "dlr")
    for norm, eps in radii.items():
        pairs = ((PGD(eps, norm=norm, loss=loss), APGD(eps, norm, loss)) for loss in losses)
        report = evaluate(
            model, images[:200], labels[:200], attacks=[attack for pair in pairs for attack in pair]
        )
        left = [row.robust_accuracy for row in report.attacks]
        for pgd, apgd in zip(left[::2], left[1::2], strict=True):
            assert 0.1 < apgd <= pgd + 0.01 < 0.9
        assert report.warnings == ()
