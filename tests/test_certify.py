"""Certificates: what they bound holds on every network, nothing found violates them, and they say what they
are.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import secateur
from architectures import ARCHITECTURES
from helpers import coupled
from secateur.certify import Certificate, certify
from secateur.certify.certificate import InputSet
from secateur.certify.checking import check_certificate
from secateur.certify.embed import embedded
from secateur.errors import (
    InputError,
    SecateurWarning,
    TargetMissedError,
    UnsupportedOpError,
    VerificationError,
)
from secateur.graph.capture import capture
from secateur.graph.coupling import couple
from secateur.report.recipe import fingerprint
from secateur.types import Samples
from secateur.validation import split
from trained import blobs

HIDDEN_COUNTS = {
    "attention_fixed_heads",
    "channel_slice",
}  # their shared axes do not tell how many units are left


@cache
def pruned(remove: float = 0.3, method: str = "reconstruct") -> nn.Module:
    model, x, _ = blobs()
    return secateur.prune(model, x[:2], remove=remove, method=method).model


# --- a pruned model in the original's graph -----------------------------------------------------------------


@pytest.mark.sweep
@pytest.mark.slow
@pytest.mark.parametrize("method", ["reconstruct", "saliency"])
@pytest.mark.parametrize(
    "name", ["mlp_relu", "resnet_basic", "densenet", "mobilenet", "vision_transformer", "lstm"]
)
def test_a_pruned_model_is_found_in_the_original(name: str, method: str) -> None:
    check_embedding(name, method)


@pytest.mark.sweep
@pytest.mark.parametrize("name", sorted(ARCHITECTURES.keys() - HIDDEN_COUNTS))
def test_every_architecture_is_found(name: str) -> None:
    check_embedding(name, "scale")


def check_embedding(name: str, method: str) -> None:
    architecture = ARCHITECTURES[name]
    model, x = architecture.build(), architecture.example()
    how: dict[str, Any] = {"attention": "heads", "input_bounds": (-1, 1), "samples": 64}
    small = secateur.prune(model, x, remove=0.5, method=method, **how).model
    graph, coupling = coupled(name)
    other = capture(small, x)
    full = embedded(graph, coupling, other, graph.example)  # compares the outputs, too
    assert all(full[name].shape == tensor.shape for name, tensor in graph.tensors.items())


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["attention_attributes", "vision_transformer", "multihead_no_weights"])
def test_heads_without_some_of_their_widths_are_refused(name: str) -> None:
    architecture = ARCHITECTURES[name]
    model, x = architecture.build(), architecture.example()
    small = secateur.prune(model, x, remove=0.5, method="scale", input_bounds=(-1, 1), samples=64).model
    with pytest.raises(InputError, match="widths cannot be certified: prune with attention='heads'"):
        embedded(*coupled(name), capture(small, x), x)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(HIDDEN_COUNTS))
def test_sizes_that_do_not_tell_are_named(name: str) -> None:
    with pytest.raises(
        InputError, match=r"how many of its units are left cannot be told|split_with_sizes in the other"
    ):
        check_embedding(name, "scale")


@pytest.mark.slow
def test_units_are_found_where_their_weights_are() -> None:
    """A wrong guess would be sound and wide; the merge of close units must not confuse it."""
    model, x, _ = blobs()
    result = secateur.prune(model, x[:2], remove=0.4)
    graph = capture(model, x[:2])
    full = embedded(graph, couple(graph), capture(result.model, x[:2]), [x[:8].double()])
    kept = {group.group: list(group.kept) for group in result.recipe.groups}
    for name, reader in (("0.weight", "2.weight"), ("2.weight", "4.weight")):
        alive = full[reader].abs().sum(0) > 0
        assert alive.nonzero().flatten().tolist() == kept[name.removesuffix(".weight")]


def numbers(rows: tuple[tuple[float, ...], ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# --- soundness ----------------------------------------------------------------------------------------------


@torch.no_grad()
def drift_at(model: nn.Module, small: nn.Module, x: Tensor) -> Tensor:
    return copy.deepcopy(small).double()(x) - copy.deepcopy(model).double()(x)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["linear", "interval"])
@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.03, 2.0])
def test_no_point_of_a_ball_is_outside_and_smaller_balls_say_less(eps: float, method: str) -> None:
    model, x, _ = blobs()
    small, centres = pruned(), x[:20]
    found = certify(model, small, inputs=centres, eps=eps, method=method)
    wider = certify(model, small, inputs=centres, eps=1.5 * eps, method=method, attack_steps=0)
    low, high = numbers(found.lower), numbers(found.upper)
    generator = torch.Generator().manual_seed(1)
    for corner in (False, True) * 20:
        share = torch.rand(centres.shape, generator=generator, dtype=torch.float64)
        share = share.round() if corner else share
        point = (centres.double() + eps * (2 * share - 1)).clamp(0, 1)
        drift = drift_at(model, small, point)
        assert bool((drift >= low - 1e-12).all() and (drift <= high + 1e-12).all())
    assert found.found is not None and all(f <= d for f, d in zip(found.found, found.drift, strict=True))
    slack = 1e-9 + 1e-6 * high.abs()
    assert bool((numbers(wider.lower) <= low + slack).all() and (numbers(wider.upper) >= high - slack).all())
    for share_of in (found.agreement, found.stable_original, found.stable_pruned):
        assert share_of is not None and share_of.empirical is not None
        assert 0 <= share_of.certified <= share_of.empirical <= 1


@pytest.mark.slow
def test_linear_bounds_are_tighter_than_intervals_and_near_what_is_found() -> None:
    model, x, _ = blobs()
    linear, interval = (
        certify(model, pruned(), inputs=x[:30], eps=0.01, method=method) for method in ("linear", "interval")
    )
    assert all(a <= b + 1e-12 for a, b in zip(linear.drift, interval.drift, strict=True))
    assert linear.found is not None and interval.found is not None
    assert sum(linear.drift) < 0.7 * sum(interval.drift)
    assert sum(linear.drift) < 2 * sum(linear.found)
    assert linear.agreement is not None and linear.agreement.certified > 0.5


@pytest.mark.slow
def test_the_box_holds_all_balls() -> None:
    model, x, _ = blobs()
    box = certify(model, pruned(), x[:2])
    balls = certify(model, pruned(), inputs=x[:40], eps=0.05)
    assert len(box.lower) == 1 and box.agreement is None and box.input_set.inputs is None
    for k in range(len(box.lower[0])):
        assert box.lower[0][k] - 1e-9 <= min(row[k] for row in balls.lower)
        assert box.upper[0][k] + 1e-9 >= max(row[k] for row in balls.upper)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp_relu", "resnet_basic", "vision_transformer"])
def test_a_model_does_not_drift_from_itself(name: str) -> None:
    architecture = ARCHITECTURES[name]
    model, x = architecture.build(), architecture.example()
    found = certify(model, model, x, input_bounds=(-1.0, 1.0), attack_steps=3)
    assert max(found.drift) <= 1e-9


@pytest.mark.slow
def test_a_point_is_known_exactly() -> None:
    model, x, _ = blobs()
    found = certify(model, pruned(), inputs=x[:5], eps=0.0)
    exact = drift_at(model, pruned(), x[:5].double())
    torch.testing.assert_close(numbers(found.lower), exact, rtol=0, atol=1e-9)
    torch.testing.assert_close(numbers(found.upper), exact, rtol=0, atol=1e-9)


class Tiny(nn.Module):
    """f(x) = relu(x₀ + x₁) + relu(x₀ − x₁) · w: two hidden units, by hand."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(2, units), nn.Linear(units, 1)
        with torch.no_grad():
            self.hidden.weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]])[:units])
            self.hidden.bias.zero_()
            self.out.weight.copy_(torch.tensor([[1.0, 0.5]])[:, :units])
            self.out.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.hidden(x)))


@pytest.mark.slow
def test_by_hand() -> None:
    """g lacks 0.5 · relu(x₀ − x₁), which is between 0 and 0.5 on the unit square: the drift is in [−0.5,
    0].
    """
    found = certify(Tiny(2).eval(), Tiny(1).eval(), torch.rand(2, 2), arithmetic="real")
    assert found.lower[0][0] == pytest.approx(-0.5, abs=1e-9) and found.upper[0][0] == pytest.approx(
        0.0, abs=1e-9
    )
    assert found.lower[0][0] <= -0.5 and found.upper[0][0] >= 0
    assert found.found is not None and found.found[0] == pytest.approx(0.5, abs=1e-6)
    # where x₀ < x₁ the unit is silent, whatever it weighs
    silent = certify(Tiny(2).eval(), Tiny(1).eval(), inputs=torch.tensor([[0.2, 0.8]]), eps=0.1)
    assert max(silent.drift) <= 1e-12
    # one output: its sign is the class; x₀ + x₁ > 0 all over the ball
    assert silent.agreement is not None and silent.agreement.certified == 1.0


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.2, 0.5]), st.floats(0.0, 0.3), st.booleans())
def test_random_networks(seed: int, remove: float, eps: float, deep: bool) -> None:
    torch.manual_seed(seed)
    act = [nn.ReLU(), nn.GELU(), nn.Tanh(), nn.LeakyReLU(0.2)][seed % 4]
    layers = [
        nn.Conv2d(1, 6, 3, padding=seed % 2),
        act,
        *([nn.BatchNorm2d(6), nn.MaxPool2d(2)] if deep else []),
    ]
    side = 6 + 2 * (seed % 2) - 2
    side = side // 2 if deep else side
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(6 * side**2, 8), act, nn.Linear(8, 3)).eval()
    x = torch.rand(4, 1, 6, 6)
    small = secateur.prune(model, x[:2], remove=remove, method="scale").model
    found = certify(model, small, inputs=x, eps=eps, attack_steps=10)
    assert found.found is not None and all(
        f <= d + 1e-12 for f, d in zip(found.found, found.drift, strict=True)
    )


# --- what it says -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_inputs_give_the_same_certificate() -> None:
    model, x, _ = blobs()
    first, again = (certify(model, pruned(), inputs=x[:6], eps=0.02, seed=3) for _ in range(2))
    when = {"seconds", "date"}
    assert first.model_dump(exclude=when) == again.model_dump(exclude=when)


@pytest.mark.slow
def test_a_certificate_belongs_to_its_models_and_inputs(tmp_path: Path) -> None:
    model, x, _ = blobs()
    small, other = pruned(), pruned(method="scale")
    certify(model, small, inputs=x[2:5], eps=0.02, indices=[2, 3, 4], attack_steps=0).save(
        tmp_path / "c.json"
    )
    found = Certificate.load(tmp_path / "c.json")
    assert found.input_set.indices == (2, 3, 4) and found.input_set.digest and found.date.endswith("+00:00")
    check_certificate(found, model, small, inputs=x[2:5], prove=True)
    with pytest.raises(VerificationError, match=r"the pruned model is not the one that was certified$"):
        check_certificate(found, model, other, inputs=x[2:5])
    with pytest.raises(VerificationError, match="the inputs are not those it is about"):
        check_certificate(found, model, small, inputs=x[1:4])
    with pytest.raises(VerificationError, match="give them"):
        check_certificate(found, model, small, x[:2])
    edited = found.model_copy(update={"upper": tuple(tuple(u - 1e-3 for u in row) for row in found.upper)})
    with pytest.raises(VerificationError, match="12 of 12 bounds cannot be proved"):
        check_certificate(edited, model, small, inputs=x[2:5], prove=True)


def test_a_certificate_of_a_box_with_bounds_of_every_shape() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    x, low = torch.zeros(2, 4), torch.linspace(-1, 0, 4)
    small = secateur.prune(model, x, remove=0.5, method="scale", input_bounds=(low, 1.0)).model
    found = certify(model, small, x, input_bounds=(low, 1.0), mean=0.5, std=2.0, attack_steps=0)
    check_certificate(found, model, small, x, prove=True)
    with pytest.raises(InputError, match="indices: 1 of them"):
        certify(model, small, x, inputs=x, eps=0.1, indices=[1])


def test_a_certificate_without_decisions_can_be_proved_again() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval(), torch.zeros(2, 4)
    found = certify(model, model, x, attack_steps=0)
    assert found.undecided
    check_certificate(found, model, model, x, prove=True)
    with pytest.raises(VerificationError, match="undecided"):
        check_certificate(found.model_copy(update={"undecided": ""}), model, model, x, prove=True)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(2, 6), nn.Linear(2, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.c(torch.relu(self.a(x)) + torch.relu(self.b(y)))  # type: ignore[no-any-return]


def test_bounds_of_two_inputs_are_recorded_in_one_way() -> None:
    """(zeros, ones) for both inputs, and [(0, 0), (1, 1)], a point for each, are two boxes."""
    model, x = Two().eval(), (torch.zeros(2, 2), torch.zeros(2, 2))
    small = secateur.prune(model, x, method="scale", remove=0.5).model
    box = certify(model, small, x, input_bounds=(torch.zeros(2), torch.ones(2)), attack_steps=0)
    points = certify(model, small, x, input_bounds=[(0.0, 1e-9), (1.0, 1.0 + 1e-9)], attack_steps=0)
    assert box.input_set.input_bounds == [[[0.0, 0.0], [1.0, 1.0]]] * 2 and max(points.drift) < max(box.drift)
    check_certificate(box, model, small, x, prove=True)
    with pytest.raises(VerificationError, match="cannot be proved"):
        forged = box.model_copy(update={"lower": points.lower, "upper": points.upper})
        check_certificate(forged, model, small, x, prove=True)


@pytest.mark.slow
def test_shares_with_labels_need_the_labels() -> None:
    model, x, labels = blobs()
    found = certify(model, pruned(), inputs=x[:4], eps=0.02, labels=labels[:4], attack_steps=0)
    check_certificate(found, model, pruned(), inputs=x[:4], labels=labels[:4], prove=True)
    for others, said in ((None, "other labels"), (1 - labels[:4] % 2, "other labels")):
        with pytest.raises(VerificationError, match=said):
            check_certificate(found, model, pruned(), inputs=x[:4], labels=others, prove=True)


def test_the_fingerprint_holds_which_values_are_given() -> None:
    class Both(nn.Module):
        def __init__(self, order: int) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.order = nn.Linear(3, 2), order

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            h = self.a(x)
            return (h, torch.relu(h))[:: self.order]

    first, second = (fingerprint(capture(Both(order).eval(), torch.zeros(2, 3))) for order in (1, -1))
    assert first.tensors == second.tensors and first.ops != second.ops


def test_a_long_proof_is_said_before() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU(), nn.Flatten()).eval()
    small = secateur.prune(model, torch.zeros(2, 1, 48, 48), method="scale", remove=0.25).model
    images = torch.rand(20, 1, 48, 48)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            SecateurWarning, match=r"of 49,\d+ activations may have either sign.*about \d+ minutes"
        ):
            certify(model, small, inputs=images, eps=0.3, attack_steps=0)


@pytest.mark.slow
def test_labels_count_only_what_is_right() -> None:
    model, x, labels = blobs()
    with torch.no_grad():
        right = float((model(x[:50]).argmax(1) == labels[:50]).double().mean())
    plain = certify(model, pruned(), inputs=x[:50], eps=0.0)
    found = certify(model, pruned(), inputs=x[:50], eps=0.0, labels=labels[:50])
    assert plain.stable_original is not None and found.stable_original is not None
    assert plain.stable_original.certified == 1.0 and found.stable_original.certified == pytest.approx(right)
    assert found.agreement == plain.agreement


def test_a_certificate_survives_its_file(tmp_path: Path) -> None:
    model, x, _ = blobs()
    found = certify(model, pruned(), inputs=x[:3], eps=0.02, arithmetic="real")
    found.save(tmp_path / "c.json")
    assert Certificate.load(tmp_path / "c.json") == found
    record = json.loads((tmp_path / "c.json").read_text())
    assert (
        record["dtype"] == "float64" and record["rounding"] == "outward" and len(record["assumptions"]) == 3
    )
    assert record["original"] != record["pruned"]
    bounds = {"lower": ((-inf,),), "upper": ((inf,),), "input_set": InputSet(input_bounds=[-inf, 1.0])}
    infinite = found.model_copy(update={**bounds, "found": None, "agreement_margin": None})
    infinite.save(tmp_path / "c.json")
    record = json.loads((tmp_path / "c.json").read_text(), parse_constant=pytest.fail)
    assert record["lower"] == [["-Infinity"]] and record["input_set"]["input_bounds"] == ["-Infinity", 1.0]
    assert Certificate.load(tmp_path / "c.json") == infinite
    (tmp_path / "c.json").write_text('{"schema_version": 9}')
    with pytest.raises(InputError, match=r"this certificate is of version 9, which is newer .* \(up to 1\)"):
        Certificate.load(tmp_path / "c.json")
    (tmp_path / "c.json").write_text('{"schema_version": 0}')
    with pytest.raises(InputError, match="is not a certificate of version 1"):
        Certificate.load(tmp_path / "c.json")
    with pytest.raises(InputError, match=r"cannot read .*none\.json"):
        Certificate.load(tmp_path / "none.json")


@pytest.mark.slow
def test_bounds_of_each_channel_and_half_precision() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 3)).eval()
    x = torch.rand(3, 2, 6, 6) * torch.tensor([1.0, 0.1])[:, None, None]
    bounds = (torch.zeros(2, 1, 1), torch.tensor([1.0, 0.1])[:, None, None])
    small = secateur.prune(model, x[:2], remove=0.5, input_bounds=bounds).model
    wide, narrow = certify(model, small, x[:2]), certify(model, small, x[:2], input_bounds=bounds)
    assert max(narrow.drift) < max(wide.drift)
    half = certify(model.half(), small.half(), x[:2].half(), input_bounds=bounds)
    assert max(half.drift) == pytest.approx(max(narrow.drift), rel=0.05)


def test_ids_stay_as_they_are() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.hidden, self.out = nn.Embedding(9, 5), nn.Linear(5, 8), nn.Linear(8, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.out(torch.relu(self.hidden(self.embed(ids))).mean(1))

    torch.manual_seed(0)
    model, ids = Words().eval(), torch.randint(0, 9, (6, 4))
    small = secateur.prune(model, ids[:2], remove=0.4, method="saliency").model
    found = certify(model, small, inputs=ids, eps=0.1, arithmetic="real")
    with torch.no_grad():
        exact = small.double()(ids) - model.double()(ids)
    torch.testing.assert_close(numbers(found.lower), exact, rtol=0, atol=1e-9)
    torch.testing.assert_close(numbers(found.upper), exact, rtol=0, atol=1e-9)


def other_widths() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, 4)).eval()


def other_op() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).eval()


def shallower() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4)).eval()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"method": "magic"}, "method='magic': give linear or interval"),
    "eps alone": ({"eps": 0.1}, "inputs and eps belong together"),
    "inputs alone": ({"inputs": torch.rand(3, 6)}, "inputs and eps belong together"),
    "negative": ({"inputs": torch.rand(3, 6), "eps": -1.0}, "eps=-1.0: give a radius of at least 0"),
    "not a number": ({"inputs": torch.rand(3, 6), "eps": float("nan")}, "eps=nan"),
    "outside": (
        {"inputs": torch.rand(3, 6) + 2, "eps": 0.1},
        "the values for .* range from .* outside of input_bounds 0 to 1",
    ),
    "NaN": (
        {"inputs": torch.full((3, 6), torch.nan), "eps": 0.1, "x": torch.rand(2, 6)},
        "holds NaN or infinite values",
    ),
    "shape": (
        {"inputs": torch.rand(3, 5), "eps": 0.1, "x": torch.rand(2, 6)},
        r"inputs of shape \(3, 5\).*\(6,\)",
    ),
    "labels": (
        {"inputs": torch.rand(3, 6), "eps": 0.1, "labels": torch.rand(3)},
        "give one class number for each of 3 inputs",
    ),
    "fewer labels": (
        {"inputs": torch.rand(3, 6), "eps": 0.1, "labels": torch.zeros(2, dtype=torch.int64)},
        "give one class number for each of 3 inputs",
    ),
    "wider": ({"pruned": other_widths}, "is no whole number of units|does not follow from"),
    "other op": ({"pruned": other_op}, "differ in more than sizes: .* is relu in one, tanh in the other"),
    "shallower": ({"pruned": shallower}, "differ in more than sizes: 5 ops in one|differ in more than sizes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    given_settings, message = REFUSED[case]
    settings_of = dict(given_settings)
    model, x, _ = blobs()
    small = settings_of.pop("pruned", pruned)()
    example = settings_of.pop("x", None if "inputs" in settings_of else x[:2])
    with pytest.raises(InputError, match=message):
        certify(model, small, example, **settings_of)


# --- the guard ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_guard_on_certified_drift_holds() -> None:
    model, x, _ = blobs()
    settings_of: dict[str, Any] = {"calibration": x[:60], "step": 0.1, "remove": 0.8}
    budgets = {"certified_drift": 0.2, "eps": 0.01}
    result = secateur.prune(model, x[:2], guard=budgets, **settings_of)
    assert "certified drift rose to" in result.stopped and 0 < result.history[-1].units_removed < 0.8 * 64
    assert max(certify(model, result.model, inputs=x[:60], eps=0.01).drift) <= 0.2


@pytest.mark.slow
def test_a_guard_on_certified_agreement_holds() -> None:
    model, x, _ = blobs()
    budgets = {"certified_agreement": 0.85, "eps": 0.02}
    result = secateur.prune(model, x[:2], remove=0.9, step=0.1, calibration=x[:150], guard=budgets)
    assert "certified agreement fell to" in result.stopped
    apart = split(Samples((x[:150],)), seed=0)[1].inputs[0]
    found = certify(model, result.model, inputs=apart, eps=0.02).agreement
    assert found is not None and found.certified >= budgets["certified_agreement"]
    with pytest.raises(TargetMissedError, match="the guard stopped the first step: certified agreement"):
        secateur.prune(model, x[:2], calibration=x[:60], guard={"certified_agreement": 1.0, "eps": 0.5})


@pytest.mark.slow
def test_a_guard_over_the_whole_box() -> None:
    model, x, _ = blobs()
    loose = max(certify(model, pruned(0.2), x[:2], attack_steps=0, arithmetic="real").drift)
    result = secateur.prune(model, x[:2], remove=0.8, step=0.1, guard={"certified_drift": loose})
    assert max(certify(model, result.model, x[:2], arithmetic="real").drift) <= loose


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        ({"certified_agreement": 0.9, "eps": 0.1}, "needs eps, and inputs of your own"),
        ({"eps": 0.1, "drift": 1.0}, "eps is the radius of certified_agreement and certified_drift"),
        ({"certified_drift": -1.0}, "certified_drift=-1.0; give a number from 0"),
    ],
)
def test_budgets_that_are_refused(budgets: dict[str, float], message: str) -> None:
    model, x, _ = blobs()
    with pytest.raises(InputError, match=message):
        secateur.prune(model, x[:2], guard=budgets)


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.function, self.last = nn.Linear(3, 4), function, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def test_softplus_that_falls_is_refused() -> None:
    model = Function(lambda x: nn.functional.softplus(x, -1.0, 1.0)).eval()
    with pytest.raises(UnsupportedOpError, match="beta=-1 cannot be bounded"):
        secateur.certify(model, model, torch.rand(2, 3))


def test_outputs_that_are_no_numbers_are_named() -> None:
    model = Function(torch.sqrt).eval()
    with torch.no_grad():
        model.first.weight.fill_(20.0)
        model.first.bias.fill_(-10.0)
    with pytest.raises(InputError, match="NaN at some points of box 0 of 1"):
        secateur.certify(model, model, torch.rand(2, 3))
    around = secateur.certify(model, model, inputs=torch.full((1, 3), 0.9), eps=0.01)  # where it is defined
    assert f"{around.drift[0]:g}" == "0"


def test_what_is_stated_of_the_normalisation_is_what_is_bounded() -> None:
    """In real arithmetic, with a deviation that magnifies what float32 rounds of the mean."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[3].weight.mul_(1.3)
    x = torch.rand(1, 3, 4, 4)
    how: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.001, 0.224, 0.225), "arithmetic": "real"}
    found = secateur.certify(model, other, inputs=x, eps=0.0, attack_steps=0, **how)
    mean, std = (
        torch.tensor(v, dtype=torch.float64).reshape(3, 1, 1)
        for v in (found.input_set.mean, found.input_set.std)
    )
    f, g = (copy.deepcopy(m).double()((x.double() - mean) / std)[0] for m in (model, other))
    for drift, low, high in zip((g - f).tolist(), found.lower[0], found.upper[0], strict=True):
        assert low <= drift <= high
