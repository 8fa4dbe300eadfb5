"""What is said of a model's inputs, on the command line or beside the model, and the model seen through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur.errors import InputError
from secateur.graph.capture import capture
from secateur.inputs import Inputs, numbers, read_inputs


def conv() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).eval()


def test_settings_beside_the_model_and_what_goes_before_them(tmp_path: Path) -> None:
    text = "input_bounds: [0, 255]\nmean: [1, 2, 3]\nstd: 2\nexample_shape: [3, 4, 4]\n"
    (tmp_path / "net.yaml").write_text(text)
    found = read_inputs(tmp_path / "net.onnx")
    assert found == Inputs(input_bounds=(0, 255), mean=(1, 2, 3), std=(2,), example_shape=("3,4,4",))
    said = read_inputs(tmp_path / "net.onnx", input_bounds=[0, 1], mean=None)
    assert said.input_bounds == (0, 1) and said.mean == (1, 2, 3)
    assert read_inputs(tmp_path / "other.onnx") == Inputs() == read_inputs("package:factory")


def test_the_box_of_what_the_model_takes() -> None:
    assert Inputs(input_bounds=(0, 2)).box() == (0, 2)
    low, high = Inputs(mean=(0.5, 0.25), std=(0.5, 0.25)).box()
    assert low.shape == (2, 1, 1) and low.flatten().tolist() == [-1, -1] and high.flatten().tolist() == [1, 3]
    low, high = Inputs(input_bounds=(0, 255), mean=(127.5,), std=(127.5,)).box()
    assert (float(low), float(high)) == (-1, 1)


@pytest.mark.parametrize("exported", [False, True])
def test_images_are_normalised_first(exported: bool) -> None:
    model, x = conv(), torch.rand(2, 3, 4, 4)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    given = Inputs(mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    seen = given.around(torch.export.export(model, (x,)) if exported else model)
    assert isinstance(seen, nn.Module) and not any(part.training for part in seen.modules())
    expected = model((x - mean[:, None, None]) / std[:, None, None])
    torch.testing.assert_close(seen(x), expected)
    torch.testing.assert_close(model(given.taken(x)), expected)
    if not exported:
        assert len(capture(seen, x).inputs) == 1
        assert Inputs().around(model) is model


WRONG: dict[str, tuple[str, str]] = {
    "no YAML": ("mean: [1, 2", "is no YAML file"),
    "a list": ("- 1\n- 2\n", "must hold settings"),
    "unknown": ("means: [1]\n", "means: Extra inputs are not permitted"),
    "text": ("mean: much\n", "mean"),
    "zero": ("std: [1, 0]\n", "std: .*must be above 0"),
    "three bounds": ("input_bounds: [0, 1, 2]\n", "input_bounds"),
    "an object": ("mean: !!python/object/apply:os.getcwd []\n", "is no YAML file"),
    "large": ("# " + "x" * 2**16, "are a few lines"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_are_named(case: str, tmp_path: Path) -> None:
    text, message = WRONG[case]
    (tmp_path / "net.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_inputs(tmp_path / "net.pt2")
    assert "net.yaml" in str(caught.value)


def test_unequal_channels_and_texts() -> None:
    with pytest.raises(InputError, match="mean has 3 values and std 2"):
        Inputs(mean=(1, 2, 3), std=(1, 2)).box()
    assert numbers("0.5,1", "--mean") == [0.5, 1.0] and numbers(None, "--mean") is None
    with pytest.raises(InputError, match=r"--mean a,b: give numbers with commas"):
        numbers("a,b", "--mean")


def test_settings_do_not_change() -> None:
    given: Any = Inputs()
    with pytest.raises(ValueError, match="frozen"):
        given.mean = (1.0,)
