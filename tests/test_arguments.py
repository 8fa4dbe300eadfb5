"""Every argument is checked before any work; the error says which it was, what it was, and what it may be."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur import request
from secateur.errors import InputError
from secateur.methods import METHODS


class Untouchable(nn.Module):
    """A model that must not be run."""

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("work was done before the arguments were checked")


def dense(normalise: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.fixture(scope="module")
def result() -> secateur.Result:
    return secateur.prune(dense(), torch.rand(2, 6), remove=0.5, method="scale")


PRUNE: list[tuple[str, Any]] = [
    *(("remove", value) for value in (None, 0, 2.0, "half", True, [0.5], torch.tensor(0.5))),
    *(("method", value) for value in ("magic", 3, None, torch.relu)),
    *(
        ("options", value)
        for value in (3, [("ridge", 1)], {"ridge": -1.0}, {"ridge": torch.nan}, {"ridge": True})
    ),
    *(("options", value) for value in ({"rows": -5}, {"rows": 2.5}, {"repair": -5}, {"robust": "1"}, {3: 1})),
    *(
        ("input_bounds", value)
        for value in (None, 3, "0,1", (0, 1, 2), (0, torch.nan), (None, 1), [], (True, 1))
    ),
    *(("mean", value) for value in ("0.5", [None], torch.nan, True)),
    *(("std", value) for value in (0, [0.5, -1], "1")),
    *(("normalize", value) for value in ("imagenet1k", 1, True)),
    *(("surrogate", value) for value in ("nonsense", 3, None)),
    *(("calibration", value) for value in (3, object(), "")),
    *(("tokenizer", value) for value in (3, "", b"here")),
    *(("samples", value) for value in (0, -3, 2.5, None, True, "many", torch.nan)),
    *(("memory", value) for value in (0, "2 gibi", True, [1], "1KB")),
    *(("budget", value) for value in (0, "soon", True, "-5s", torch.nan)),
    *(("resume", value) for value in (3, "", "nowhere/partial", __file__)),
    *(("allocation", value) for value in ("fair", None, 1)),
    *(("attention", value) for value in ("tokens", None, 1)),
    *(
        ("guard", value)
        for value in (0.98, [0.9], {"agreement": 2}, {"agreement": None}, {"harm": 1}, {3: 1})
    ),
    *(("head", value) for value in ("softmax", None, 1)),
    *(("step", value) for value in (0, 1.5, torch.nan, "1", True, [0.5])),
    *(("recursive", value) for value in (None, "yes", 1)),
    *(("exact_first", value) for value in (None, 0)),
    *(("uniform_layers", value) for value in (None, "yes", 1)),
    *(("streams", value) for value in (None, "yes", 1)),
    *(("ignore", value) for value in (None, 3, [nn.ReLU(), 3], [None])),
    *(("round_to", value) for value in (0, -8, 2.5, None, True, "fast")),
    *(("seed", value) for value in (None, 1.5, "a", 2**70, True)),
    *(("device", value) for value in ("nope", "cuda:99", "meta", 3.5, [])),
    *(("callbacks", value) for value in (3, [3], None, "f")),
    *(("progress", value) for value in (None, "yes")),
]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(*case, id=f"{case[0]}-{number}")
        for number, case in enumerate(PRUNE)
        if case != ("remove", None)
    ],
)
@pytest.mark.parametrize("method", ["reconstruct", "exact"])
def test_prune_names_the_argument(name: str, value: Any, method: str) -> None:
    """Names are checked where a method ignores them, too."""
    if name == "options" and method == "exact" and isinstance(value, dict):
        pytest.skip("exact has no options, which another test says")
    settings = {"method": method, name: value}
    with pytest.raises(InputError, match=name):
        secateur.prune(Untouchable().eval(), torch.rand(2, 6), **settings)


def test_every_argument_of_prune_has_a_rule() -> None:
    arguments = {
        p.name for p in inspect.signature(secateur.prune).parameters.values() if p.kind is p.KEYWORD_ONLY
    }
    assert arguments == request.RULES.keys()
    assert {name for name, _ in PRUNE} == arguments


def test_every_option_has_a_rule_that_its_default_keeps() -> None:
    for method in METHODS.values():
        for option in method.known_options.values():
            assert option.rule.parse(option.default) == option.default


def test_what_an_error_says() -> None:
    expected = {
        "samples": (-3, "samples=-3: give a whole number of inputs, at least 1"),
        "device": ("nope", "device='nope': give a device that torch can use here, such as cpu, or None"),
        "surrogate": (3, "surrogate=3: give one of uniform, pink, .*, or a function"),
        "mean": ("x" * 200, "mean='xxx.*…: give the mean subtracted"),
        "calibration": (object(), "calibration=<object>: give"),
        "step": (
            np.zeros((2, 2)),
            r"step=<ndarray of shape \(2, 2\), float64>: give the share of a group's units",
        ),
    }
    for name, (value, text) in expected.items():
        with pytest.raises(InputError, match=text):
            secateur.prune(dense(), torch.rand(2, 6), **{name: value})


@pytest.mark.slow
def test_numbers_of_numpy_and_whole_floats_are_numbers() -> None:
    plain = secateur.prune(dense(), torch.rand(2, 6), samples=64, remove=0.5, seed=1, options={"ridge": 0.5})
    same = secateur.prune(
        dense(),
        torch.rand(2, 6),
        samples=np.int64(64),
        remove=np.float64(0.5),
        seed=np.int32(1),
        options={"ridge": np.float64(0.5)},
        input_bounds=np.array([0.0, 1.0]),
    )
    assert plain.recipe.groups == same.recipe.groups and torch.equal(
        plain.model[2].weight, same.model[2].weight
    )


def measured(**changes: Any) -> object:
    settings = {
        "model": dense(),
        "images": torch.rand(4, 6),
        "labels": torch.zeros(4, dtype=torch.int64),
    } | changes
    return secateur.evaluate(**settings)


def certified(**changes: Any) -> object:
    return secateur.certify(
        **({"original": dense(), "pruned": dense(), "example_inputs": torch.rand(2, 6)} | changes)
    )


WRONG: list[tuple[Callable[..., object], str, Any, str]] = [
    (measured, "attacks", secateur.FGSM(0.1), "a list of attacks"),
    (measured, "attacks", ["fgsm"], "a list of attacks"),
    (measured, "corruptions", "gaussian_noise", "a list of corruptions"),
    (measured, "top_k", 1, "a list of whole numbers"),
    (measured, "top_k", [0], "a list of whole numbers"),
    (measured, "batch_size", 0, "at least 1"),
    (measured, "images", [["a"] * 6], "a tensor, an array"),
    (measured, "labels", ["cat"], "a tensor, an array"),
    (measured, "device", "nope", "a device"),
    (measured, "input_bounds", None, "lower, upper"),
    (measured, "runtime", "tflite", "torch or onnxruntime"),
    (measured, "latency", 1, "True or False"),
    (certified, "method", "exact", "linear or interval"),
    (certified, "attack_steps", -1, "at least 0"),
    (certified, "seed", None, "64 bits"),
    (certified, "input_bounds", None, "lower, upper"),
    (certified, "eps", torch.nan, "a radius"),
    (certified, "labels", ["cat"], "a tensor, an array"),
    (certified, "original", "net.onnx", "a torch.nn.Module in eval mode"),
]


@pytest.mark.parametrize(("call", "name", "value", "text"), WRONG)
def test_evaluate_and_certify_name_the_argument(
    call: Callable[..., object], name: str, value: Any, text: str
) -> None:
    with pytest.raises(InputError, match=f"{name}=.*: give .*{text}"):
        call(**{name: value})


def test_a_result_is_told_where_its_model_is(result: secateur.Result) -> None:
    with pytest.raises(InputError, match=r"pruned=.*of a Result, its `model`"):
        certified(pruned=result)
    with pytest.raises(InputError, match=r"model=.*of a Result, its `model`"):
        measured(model=result)


def test_truth_values_are_labels_of_two_classes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 1)).eval()
    labels = torch.tensor([True, False, True, True])
    assert measured(model=model, labels=labels) == measured(model=model, labels=labels.long())


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.block, self.head = (
            nn.Conv2d(3, 16, 1),
            nn.Sequential(nn.Conv2d(16, 8, 1)),
            nn.Conv2d(8, 4, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.conv1(x).relu()).relu())  # type: ignore[no-any-return]


@pytest.mark.slow
def test_ignore_takes_a_glob_a_list_or_modules() -> None:
    model = Named().eval()
    for ignore in ("conv1", ["conv1"], "conv*", model.conv1, [model.conv1], ("conv1.weight",)):
        small = secateur.prune(model, torch.rand(2, 3, 4, 4), remove=0.5, method="scale", ignore=ignore).model
        assert (small.conv1.out_channels, small.block[0].out_channels) == (16, 4), ignore
    small = secateur.prune(
        model, torch.rand(2, 3, 4, 4), remove=0.5, method="scale", ignore=[model.block]
    ).model
    assert (small.conv1.out_channels, small.block[0].out_channels) == (8, 8)
    with pytest.raises(InputError, match="ignore: a Conv2d that is no part of the model"):
        secateur.prune(model, torch.rand(2, 3, 4, 4), remove=0.5, ignore=Named().conv1)


@pytest.mark.slow
def test_mean_and_std_are_those_of_images(tmp_path: Path) -> None:
    """The same as bounds and samples of what the model itself takes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)).eval()
    mean, std = torch.tensor([0.25, 0.5]), torch.tensor([0.5, 0.25])
    shape, images = (2, 1, 1), torch.rand(80, 2, 4, 4)
    low, high = ((end - mean.double()) / std.double() for end in (0.0, 1.0))
    inside = {"input_bounds": (low.reshape(shape), high.reshape(shape))}
    taken = ((images - mean.double().reshape(shape)) / std.double().reshape(shape)).float()
    outside = {"mean": mean, "std": std.tolist()}
    for settings, same in (({}, {}), ({"calibration": images}, {"calibration": taken})):
        by_images = secateur.prune(model, images[:2], remove=0.5, samples=80, **settings, **outside)
        by_inputs = secateur.prune(model, images[:2], remove=0.5, samples=80, **same, **inside)
        assert by_images.recipe.result == by_inputs.recipe.result
        assert by_images.recipe.request.input_bounds == by_inputs.recipe.request.input_bounds
        assert torch.equal(by_images.model[0].weight, by_inputs.model[0].weight)
    small, labels = by_images.model, torch.randint(3, (80,))
    report = secateur.evaluate(small, images, labels, original=model, **outside)
    assert report.accuracy == secateur.evaluate(small, taken, labels).accuracy
    ours = secateur.certify(model, small, inputs=images[:3], eps=0.01, attack_steps=0, **outside)
    assert ours.input_set.input_bounds == [0.0, 1.0] and len(ours.lower) == 3
    with pytest.raises(InputError, match="mean and std go with one pair of input_bounds"):
        secateur.prune(model, images[:2], input_bounds=[(0, 1)], **outside)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: secateur.prune(None, remove=0.5), "model=None: give a torch.nn.Module"),  # type: ignore[arg-type]
        (lambda: secateur.inspect(0), "model=0: give"),  # type: ignore[arg-type]
        (lambda: secateur.replay(dense(), None), "recipe=None: give a Recipe"),  # type: ignore[arg-type]
        (lambda: secateur.load_model(None), "source=None: give the path"),  # type: ignore[arg-type]
        (lambda: secateur.load_model("a\0b"), "source="),
        (lambda: secateur.load_model("/"), "source='/'"),
        (lambda: secateur.save_model("x.pt2", 0), "model=0"),  # type: ignore[arg-type]
        (lambda: secateur.save_model(None, dense()), "path=None"),  # type: ignore[arg-type]
        (lambda: secateur.FGSM(None), "eps=None: give the radius"),  # type: ignore[arg-type]
        (
            lambda: secateur.PGD(0.1, steps=0),
            "steps=0: give the number of gradient steps: a whole number of at least 1",
        ),
        (lambda: secateur.PGD(0.1, step_size="x"), "step_size='x'"),  # type: ignore[arg-type]
        (
            lambda: secateur.prune(
                dense(), torch.rand(2, 6), remove=0.5, input_bounds=(torch.zeros(6).to_sparse(), 1)
            ),
            "input_bounds",
        ),
        (
            lambda: secateur.prune(dense(), torch.rand(2, 6), remove=0.5, mean=torch.zeros(6, device="meta")),
            "mean=",
        ),
        (lambda: secateur.certify(dense(), dense(), inputs=["a"], eps=0.1, labels=torch.zeros(1)), "inputs="),
    ],
)
def test_what_is_no_model_path_or_tensor_is_named(call: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        call()


def test_a_minute_step_is_one_unit_at_a_time() -> None:
    result = secateur.prune(dense(), torch.rand(2, 6), remove=0.5, method="scale", step=1e-300)
    assert [row.units_removed for row in result.history] == [1, 2, 3, 4]


def test_a_seed_of_numpy_does_for_certificates() -> None:
    found = secateur.certify(dense(), dense(), torch.rand(2, 6), seed=np.int64(2), attack_steps=0)
    assert found.drift
