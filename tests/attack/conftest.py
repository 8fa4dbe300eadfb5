"""What the suites attack: models, recipes and data, made once; and how many cases are run."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from arena import Tally, stormed

import secateur
from architectures import ARCHITECTURES
from secateur.files import written_together


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`net.onnx`, `small.onnx` with its recipe and refitted weights, other models in both formats, and
    `data.npz`.
    """
    folder = tmp_path_factory.mktemp("originals")
    encoder = ARCHITECTURES["encoder_layer_pre_norm"]
    for suffix in (".onnx", ".pt2"):
        secateur.save_model(folder / f"encoder{suffix}", encoder.build(), encoder.example())
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(216, 8), torch.nn.ReLU(),
        torch.nn.Linear(8, 4),
    ).eval()  # fmt: skip
    secateur.save_model(folder / "net.onnx", model, torch.zeros(2, 1, 8, 8))
    secateur.save_model(folder / "net.pt2", model, torch.zeros(2, 1, 8, 8))
    net = secateur.load_model(folder / "net.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nobody has trained it, so that any normalisation may fit
        result = secateur.prune(net, samples=64, remove=0.3)
    with written_together():
        secateur.save_model(folder / "small.onnx", result.model, torch.zeros(2, 1, 8, 8))
        result.recipe.save(folder / "small.recipe.json")
    rng = np.random.default_rng(0)
    np.savez(
        folder / "data.npz", images=rng.integers(0, 256, (20, 8, 8), np.uint8), labels=rng.integers(0, 4, 20)
    )
    return folder


@pytest.fixture
def folder_with(originals: Path, tmp_path: Path) -> Callable[..., Callable[[str], Path]]:
    """`folder_with("net.onnx", …)(case)`: a new folder with copies of these files."""

    def with_files(*names: str) -> Callable[[str], Path]:
        def folder(case: str) -> Path:
            made = tmp_path / f"case{len(list(tmp_path.iterdir()))}"
            made.mkdir()
            for name in names:
                shutil.copy(originals / name, made / name)
            return made

        return folder

    return with_files


@pytest.fixture
def attack(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Callable[..., None]:
    """`attack(suite, cases, folder_of, …)`: run `stormed`, note the figures for the table, and fail on any
    fault.
    """

    def run(suite: str, cases: list, folder_of: Callable[[str], Path], **more: object) -> None:
        every = 1 if request.config.getoption("--attack") else max(1, len(cases) // SHORT)
        tally = stormed(Tally(suite), cases[::every], folder_of, **more)  # type: ignore[arg-type]
        record_property("attack", tally.row())
        assert not tally.faults, f"{len(tally.faults)} of {tally.cases}:\n" + "\n".join(tally.faults[:10])

    return run


SHORT = 6  # cases of a suite in an ordinary run of the tests
