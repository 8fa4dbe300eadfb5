"""The demo runs as it is, on a few images and one quick method."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_demo_shows_a_table_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    demo = importlib.import_module("demo")
    few = {name: array[:60] for name, array in demo.load_arrays(demo.HERE / "test.npz").items()}
    monkeypatch.setattr(demo, "load_arrays", lambda path: few)
    for name, value in {"OUTPUT": tmp_path, "RATIOS": (0.5,), "ATTACKED": 10, "METHODS": ("scale",)}.items():
        monkeypatch.setattr(demo, name, value)
    demo.main()
    shown = capsys.readouterr().out
    assert "original" in shown and "scale" in shown and "50%" in shown
    assert {path.name for path in tmp_path.iterdir()} == {
        "fashion_cnn.png",
        "fashion_cnn-scale-50.pt2",
        "fashion_cnn-scale-50.recipe.json",
    }
