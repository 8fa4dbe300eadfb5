"""What a user says of inputs on the command line, in whatever form they are, and what is told of the
result.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import secateur
from command import run
from pictures import folded, pictures, trained
from secateur.inputs import read_inputs

pytestmark = pytest.mark.slow

PRUNE = ("prune", "net.pt2", "--samples", "128", "--no-latency")
HALF = (*PRUNE, "--remove", "50%")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file from a stranger, 60 photographs as files and as an array, and the labelled others."""
    images = pytest.importorskip("PIL.Image")
    path = tmp_path_factory.mktemp("user")
    secateur.save_model(path / "net.pt2", folded(trained("imagenet")), torch.zeros(2, 3, 16, 16))
    drawn, labels = pictures()
    pixels = (255 * drawn).round().byte().permute(0, 2, 3, 1).numpy()
    order = np.random.default_rng(0).permutation(len(pixels))
    (path / "photographs").mkdir()
    for number in order[:60]:
        images.fromarray(pixels[number]).save(path / "photographs" / f"{number}.png")
    np.save(path / "mine.npy", pixels[order[:60]])
    np.savez(path / "test.npz", images=pixels[order[60:260]], labels=labels.numpy()[order[60:260]])
    done = run(
        path, *HALF, "--normalize", "imagenet", "--calibration", "photographs", "-o", "small.pt2", "--json"
    )
    assert done.returncode == 0, done.stderr
    (path / "pruned.json").write_text(done.stdout)
    return path


@pytest.mark.long
def test_a_folder_of_photographs_judges(folder: Path) -> None:
    verdict = json.loads((folder / "pruned.json").read_text())["verdict"]
    assert verdict["basis"] == "inputs kept apart" and verdict["inputs"] == 20
    recipe = json.loads((folder / "small.recipe.json").read_text())
    assert recipe["verdict"] == verdict and recipe["request"]["mean"] == [0.485, 0.456, 0.406]
    assert recipe["used"]["own"] == 40 and recipe["used"]["judged_on"] == 20
    models = ("small.pt2", "--original", "net.pt2")
    done = run(folder, "evaluate", *models, "--data", "test.npz", "--normalize", "imagenet", "--json")
    low, high = verdict["interval"]
    assert low <= json.loads(done.stdout)["agreement"] <= high


def test_the_verdict_and_what_to_do_next_are_printed(folder: Path) -> None:
    done = run(folder, *HALF, "--normalize", "imagenet", "--calibration", "mine.npy", "-o", "other.pt2")
    assert "verdict: " in done.stdout and "on 20 of your inputs, kept apart" in done.stdout
    assert "evaluate other.pt2 --original net.pt2 --normalize=imagenet --data DATA" in " ".join(
        done.stdout.split()
    )
    assert "warning" not in done.stderr and "are taken to lie between" not in done.stderr


def test_a_forgotten_normalisation_is_said_twice(folder: Path) -> None:
    done = run(folder, *HALF, "-o", "wrong.pt2")
    assert "inputs are taken to lie between 0 and 1, not normalised" in done.stderr
    assert (
        "warning: the inputs were taken as they are, but the model seems to take images normalised"
        in done.stderr
    )


def test_evaluate_without_labels(folder: Path) -> None:
    arguments = ("evaluate", "small.pt2", "--data", "photographs", "--normalize", "imagenet")
    done = run(folder, *arguments, "--original", "net.pt2", "--per-class", "--apgd", "0.01")
    assert done.returncode == 0, done.stderr
    assert "agreement with the original" in done.stdout and "agreement that stands" in done.stdout
    assert "share of inputs" in done.stdout and "accuracy" not in done.stdout
    done = run(folder, *arguments)
    assert done.returncode == 1 and "photographs holds no labels; give --original" in done.stderr


@pytest.mark.long
def test_a_certificate_is_checked_and_proved_again(folder: Path) -> None:
    models = ("certify", "net.pt2", "small.pt2")
    about = ("--data", "mine.npy", "--samples", "3", "--eps", "0.001", "--normalize", "imagenet")
    made = run(folder, *models, *about, "-o", "c.json")
    assert made.returncode == 0, made.stderr
    done = run(folder, *models, "--data", "mine.npy", "--check", "c.json", "--prove")
    assert done.returncode == 0 and "c.json is about these models and inputs" in done.stdout, done.stderr
    assert "its bounds and shares were proved again" in done.stdout
    forged = json.loads((folder / "c.json").read_text())
    for change in ({"lower": [[0.0] * 4] * 3, "upper": [[1e10] * 4] * 3}, {"assumptions": ["Approved."]}):
        (folder / "forged.json").write_text(json.dumps(forged | change))
        done = run(folder, *models, "--data", "mine.npy", "--check", "forged.json", "--prove")
        assert done.returncode == 1 and "does not hold here" in done.stderr
    for change in (
        {"lower": [["NaN"] * 4] * 3},
        {"lower": forged["upper"], "upper": forged["lower"]},
        {"lower": []},
    ):
        (folder / "forged.json").write_text(json.dumps(forged | change))
        done = run(folder, *models, "--data", "mine.npy", "--check", "forged.json")
        assert done.returncode == 1 and "is not a certificate" in done.stderr
    done = run(folder, *models, "--data", "test.npz", "--check", "c.json")
    assert done.returncode == 1 and "the inputs are not those it is about" in done.stderr
    done = run(folder, "certify", "net.pt2", "net.pt2", "--data", "mine.npy", "--check", "c.json")
    assert done.returncode == 1 and "the pruned model is not the one that was certified" in done.stderr


@pytest.mark.long
def test_goals_in_users_words(folder: Path) -> None:
    done = run(
        folder,
        *PRUNE,
        "--normalize",
        "imagenet",
        "--faster",
        "2x",
        "--round-to",
        "1",
        "-o",
        "f.pt2",
        "--json",
    )
    before, after = json.loads(done.stdout)["macs"]
    assert after <= before / 2
    done = run(folder, *PRUNE, "--normalize", "imagenet", "--remove", "size=50%", "-o", "s.pt2", "--json")
    before, after = json.loads(done.stdout)["parameters"]
    assert after <= before / 2
    arguments = (
        "--normalize",
        "imagenet",
        "--remove",
        "0.9",
        "--max-loss",
        "5%",
        "--step",
        "0.1",
        "-o",
        "l.pt2",
    )
    done = run(folder, *PRUNE, *arguments, "--json")
    assert done.returncode == 3 and "agreement on samples fell to" in json.loads(done.stdout)["stopped"]
    assert json.loads(done.stdout)["verdict"]["agreement"] >= 0.95


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--normalize", "imagenet2"), "there are imagenet, cifar10, minus1to1, none"),
        (
            ("--normalize", "imagenet", "--mean", "0.5", "--std", "0.5"),
            "stands for a mean and std of its own",
        ),
        (("--mean", "0.5"), "mean is given without std"),
        (("--faster", "half"), "--faster half: give how many times faster"),
        (("--faster", "2x", "--remove", "0.5"), "say the same"),
        (("--max-loss", "101%"), "--max-loss 101%: give the share"),
        (("--max-loss", "1%", "--min-agreement", "0.9"), "say the same"),
        (("--calibration", "net.pt2"), "give a folder of images"),
    ],
)
def test_what_cannot_be_meant(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    done = run(folder, *PRUNE, *arguments, "-o", "x.pt2")
    assert done.returncode == 1 and said in done.stderr
    assert not (folder / "x.pt2").exists()


def test_init_writes_settings_that_the_commands_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes((folder / "net.pt2").read_bytes())
    done = run(tmp_path, "init", "net.pt2")
    assert done.returncode == 0 and "wrote net.yaml" in done.stdout, done.stderr
    text = (tmp_path / "net.yaml").read_text()
    assert (
        "3,16,16" in text
        and "# A guess: the model seems to take images normalised" in text
        and "std:" in text
    )
    done = run(tmp_path, *HALF, "-o", "small.pt2")
    assert done.returncode == 0 and "taken to lie" not in done.stderr and "warning" not in done.stderr
    done = run(tmp_path, "init", "net.pt2")
    assert done.returncode == 1 and "is there already" in done.stderr
    assert (tmp_path / "net.yaml").read_text() == text


def test_init_of_several_inputs_is_read_again_and_replaced(tmp_path: Path) -> None:
    secateur.save_model(tmp_path / "net.pt2", Two().eval(), (torch.zeros(2, 6), torch.zeros(2, 4)))
    assert run(tmp_path, "init", "net.pt2").returncode == 0
    assert read_inputs(tmp_path / "net.pt2").example_shape == ("6", "4")
    assert run(tmp_path, "inspect", "net.pt2").returncode == 0
    (tmp_path / "net.yaml").write_text("example_shape: {")
    done = run(tmp_path, "init", "net.pt2", "--overwrite")
    assert done.returncode == 0 and read_inputs(tmp_path / "net.pt2").example_shape == ("6", "4"), done.stderr
    done = run(tmp_path, "init", ".")
    assert done.returncode == 1 and "fault" not in done.stderr


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.a(x) + self.b(y)  # type: ignore[no-any-return]


def test_settings_of_a_preprocessor(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes((folder / "net.pt2").read_bytes())
    settings = {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
    }
    place = tmp_path / "preprocessor_config.json"
    place.write_text(json.dumps({**settings, "image_std": [0.229, 0.224, 0.225]}))
    done = run(tmp_path, *HALF, "-o", "small.pt2")
    assert done.returncode == 0 and "warning" not in done.stderr
    assert json.loads((tmp_path / "small.recipe.json").read_text())["request"]["std"] == [0.229, 0.224, 0.225]
    place.write_text(json.dumps(settings))
    done = run(tmp_path, *HALF, "-o", "small.pt2")
    assert done.returncode == 1 and "has no image_mean and image_std" in done.stderr
    place.write_text("[" * 100_000)
    done = run(tmp_path, *HALF, "-o", "small.pt2")
    assert done.returncode == 1 and "preprocessor" in done.stderr and "fault" not in done.stderr
