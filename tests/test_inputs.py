"""What is said of a model's inputs, on the command line or beside the model, and the model seen through
it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur.errors import InputError
from secateur.graph.capture import capture
from secateur.inputs import InputSpec, numbers, read_inputs


def conv() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).eval()


def test_settings_beside_the_model_and_what_goes_before_them(tmp_path: Path) -> None:
    text = "input_bounds: [0, 255]\nmean: [1, 2, 3]\nstd: 2\nexample_shape: [3, 4, 4]\n"
    (tmp_path / "net.yaml").write_text(text)
    found = read_inputs(tmp_path / "net.onnx")
    assert found == InputSpec(input_bounds=(0, 255), mean=(1, 2, 3), std=(2,), example_shape=("3,4,4",))
    said = read_inputs(tmp_path / "net.onnx", input_bounds=[0, 1], mean=None)
    assert said.input_bounds == (0, 1) and said.mean == (1, 2, 3)
    assert read_inputs(tmp_path / "other.onnx") == InputSpec() == read_inputs("package:factory")


def test_numbers_in_every_way_to_write_them(tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text("mean: [1e-3, 5.0e-1, .25, -1]\nstd: 1e+2\nexample_shape: 4,4,4\n")
    found = read_inputs(tmp_path / "net.pt2")
    assert found.mean == (0.001, 0.5, 0.25, -1) and found.std == (100,) and found.example_shape == ("4,4,4",)


def test_a_billion_laughs_end_at_once(tmp_path: Path) -> None:
    """Each line doubles the one before: 2^40 numbers, were aliases read."""
    lines = ["a0: &a0 [1]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))]
    (tmp_path / "net.yaml").write_text("\n".join(lines))
    with pytest.raises(InputError, match="anchors, aliases and tags are not read"):
        read_inputs(tmp_path / "net.pt2")


def test_settings_that_are_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.yaml")
    with pytest.raises(InputError, match="is no regular file"):
        read_inputs(tmp_path / "net.pt2")


def test_the_box_of_what_the_model_takes() -> None:
    assert InputSpec(input_bounds=(0, 2)).box() == (0, 2)
    low, high = InputSpec(mean=(0.5, 0.25), std=(0.5, 0.25)).box()
    assert low.shape == (2, 1, 1) and low.flatten().tolist() == [-1, -1] and high.flatten().tolist() == [1, 3]
    low, high = InputSpec(input_bounds=(0, 255), mean=(127.5,), std=(127.5,)).box()
    assert (float(low), float(high)) == (-1, 1)


@pytest.mark.parametrize("exported", [False, True])
def test_images_are_normalised_first(exported: bool) -> None:
    model, x = conv(), torch.rand(2, 3, 4, 4)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    given = InputSpec(mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    seen = given.wrapped(torch.export.export(model, (x,)) if exported else model)
    assert isinstance(seen, nn.Module) and not any(part.training for part in seen.modules())
    expected = model((x - mean[:, None, None]) / std[:, None, None])
    torch.testing.assert_close(seen(x), expected)
    torch.testing.assert_close(model(given.normalised(x)), expected)
    if not exported:
        assert len(capture(seen, x).inputs) == 1
        assert InputSpec().wrapped(model) is model


WRONG: dict[str, tuple[str, str]] = {
    "no YAML": ("mean: [1, 2", "is no plain YAML file"),
    "a list": ("- 1\n- 2\n", "must hold settings"),
    "nothing": ("", "must hold settings"),
    "unknown": ("means: [1]\n", "means: Extra inputs are not permitted"),
    "text": ("mean: much\n", "mean"),
    "zero": ("std: [1, 0]\n", "std: .*must be above 0"),
    "infinite": ("std: .inf\n", "std: .*inf is no finite number"),
    "no number": ("mean: .nan\n", "mean: .*nan is no finite number"),
    "a truth value": ("mean: true\n", "mean: .*True"),
    "a date": ("mean: 2026-01-01\n", "mean"),
    "a huge number": (f"mean: {'9' * 5000}\n", "mean: .*inf is no finite number"),
    "three bounds": ("input_bounds: [0, 1, 2]\n", "input_bounds"),
    "bounds without width": ("input_bounds: [1, 1]\n", "input_bounds: .*must lie below the upper bound 1"),
    "an object": (
        "mean: !!python/object/apply:os.getcwd []\n",
        "line 1: anchors, aliases and tags are not read",
    ),
    "an alias": ("mean: &a [1, 2, 3]\nstd: *a\n", "line 1: anchors, aliases and tags are not read"),
    "a merge": ("<<: {mean: 1}\n", "<<: Extra inputs are not permitted"),
    "deep": ("mean: " + "[" * 2000 + "]" * 2000 + "\n", "line 1: nested too deeply"),
    "twice": ("mean: 1\nmean: 2\n", "line 2: 'mean' is there twice"),
    "a list as a name": ("[mean]: 1\n", "a name of a setting must be one word"),
    "large": ("# " + "x" * 2**16, "are a few lines"),
}


def test_images_with_colours_last_are_normalised_alike() -> None:
    given = InputSpec(mean=(0.5, 0.25, 0.1), std=(0.5, 0.25, 0.2)).normalisation
    x = torch.rand(2, 3, 8, 7)
    last = x.movedim(1, -1)
    expected = given.normalised(x)
    torch.testing.assert_close(given.normalised(last).movedim(-1, 1), expected)
    torch.testing.assert_close(given.denormalised(given.normalised(last)), last)
    torch.testing.assert_close(given.wrapped(nn.Identity().eval())(last).movedim(-1, 1), expected)  # type: ignore[operator]
    low, _ = given.box((0.0, 1.0), last.shape[1:])
    assert (low + torch.zeros(8, 7, 3, dtype=torch.float64)).shape == (8, 7, 3)


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_are_named(case: str, tmp_path: Path) -> None:
    text, message = WRONG[case]
    (tmp_path / "net.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_inputs(tmp_path / "net.pt2")
    assert "net.yaml" in str(caught.value)


def test_unequal_channels_and_texts() -> None:
    with pytest.raises(InputError, match="mean has 3 values and std 2"):
        InputSpec(mean=(1, 2, 3), std=(1, 2)).box()
    assert numbers("0.5,1", "--mean") == [0.5, 1.0] and numbers(None, "--mean") is None
    with pytest.raises(InputError, match=r"--mean a,b: give numbers with commas"):
        numbers("a,b", "--mean")


def test_settings_do_not_change() -> None:
    given: Any = InputSpec()
    with pytest.raises(ValueError, match="frozen"):
        given.mean = (1.0,)
