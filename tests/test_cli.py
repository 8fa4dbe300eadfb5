"""The command, run as a user types it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from command import COMMAND, run
from secateur.formats.pt2.program import load_program

pytestmark = pytest.mark.slow

FACTORY = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 16, 4)
    )

class Stepped(nn.Sequential):
    def forward(self, x):
        return super().forward((16 * x).round() / 16)

def stepped():
    return Stepped(*build())

def bloated():
    model = build()
    with torch.no_grad():
        model[0].bias[1] = -100.0
        model[0].weight[5], model[0].bias[5] = 2 * model[0].weight[3], 2 * model[0].bias[3]
        model[2].weight[7], model[2].bias[7] = model[2].weight[0], model[2].bias[0]
    return model

def frozen():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a factory, weights, labelled images, and a model pruned once."""
    path = tmp_path_factory.mktemp("user")
    (path / "net.py").write_text(FACTORY)
    names: dict[str, object] = {}
    exec(FACTORY, names)
    model = names["build"]()  # type: ignore[operator]
    save_file(model.state_dict(), path / "weights.safetensors")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    with torch.no_grad():
        labels = model(torch.from_numpy(images[:, None].astype(np.float32) / 255)).argmax(1).numpy()
    np.savez(path / "data.npz", images=images, labels=labels)
    done = run(path, *PRUNE, "-o", "small.pt2", "--json")
    assert done.returncode == 0, done.stderr
    (path / "pruned.json").write_text(done.stdout)
    return path


EVALUATE = ("evaluate", "small.pt2", "--data", "data.npz")
PRUNE = "prune net:build --weights weights.safetensors --example-shape 1,8,8 --remove 50%".split()


def test_prune_writes_a_smaller_program_and_its_recipe(folder: Path) -> None:
    report = json.loads((folder / "pruned.json").read_text())
    assert report["units"] == [20, 10]
    assert report["parameters"][1] < report["parameters"][0]
    assert report["latency_runtime"] == "torch" and min(report["latency_ms"]) > 0
    recipe = json.loads((folder / "small.recipe.json").read_text())
    assert [len(group["kept"]) for group in recipe["groups"]] == [4, 6]
    program = load_program(folder / "small.pt2")
    assert program.module(check_guards=False)(torch.rand(7, 1, 8, 8)).shape == (7, 4)


def test_inspect_lists_groups_and_reasons(folder: Path) -> None:
    done = run(folder, "inspect", "net:build", "--example-shape", "1,8,8")
    assert done.returncode == 0
    assert "2.weight[0]" in done.stdout and "5.weight[1]×16" in done.stdout
    assert "pinned: an output of the model" in done.stdout
    done = run(folder, "inspect", "small.pt2", "--json")
    groups = json.loads(done.stdout)["groups"]
    assert [group["units"] for group in groups] == [4, 6, 4]


def test_evaluate_reports_agreement_robustness_and_cost(folder: Path) -> None:
    arguments = ("evaluate", "small.pt2", "--data", "data.npz", "--original", "net:build")
    attacks = (
        "--original-weights",
        "weights.safetensors",
        "--fgsm",
        "0.01",
        "--pgd",
        "0.02",
        "--pgd-steps",
        "3",
    )
    done = run(folder, *arguments, *attacks, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["samples"] == 40
    assert report["original_accuracy"]["1"] == 1.0
    assert report["agreement"] == report["accuracy"]["1"]  # the labels are the original's own answers
    assert [row["name"] for row in report["attacks"]] == ["fgsm_linf_eps0.01", "pgd3_linf_eps0.02"]
    assert report["cost"]["parameters"] < report["cost_before"]["parameters"]


def test_evaluate_reports_classes_corruptions_and_other_attacks(folder: Path) -> None:
    arguments = ("evaluate", "small.pt2", "--data", "data.npz", "--original", "net:build", "--per-class")
    attacks = ("--original-weights", "weights.safetensors", "--norm", "l2", "--apgd", "0.1", "--pgd", "0.1")
    more = (
        "--loss",
        "margin",
        "--restarts",
        "2",
        "--corruption",
        "gaussian_noise:0.1",
        "--corruption",
        "contrast",
    )
    done = run(folder, *arguments, *attacks, *more)
    assert done.returncode == 0, done.stderr
    for said in ("accuracy of the worst class", "pgd20x2-margin_l2_eps0.1", "apgd100x2-margin_l2_eps0.1"):
        assert said in done.stdout
    assert "gaussian_noise:0.1: accuracy" in done.stdout and "contrast:0.75: accuracy" in done.stdout
    assert "change" in done.stdout and "100.00%" in done.stdout
    more += ("--attack", "fgsm:8/255", "--attack", "pgd:eps=0.1,steps=3,norm=linf")
    report = json.loads(run(folder, *arguments, *attacks, *more, "--json").stdout)
    assert [row["norm"] for row in report["attacks"]] == ["l2", "l2", "l2", "linf"]
    assert report["attacks"][3]["name"] == "pgd3x2-margin_linf_eps0.1"
    assert [row["original_accuracy"] for row in report["classes"]] == [1.0] * len(report["classes"])
    assert [row["kind"] for row in report["corruptions"]] == ["gaussian_noise", *["contrast"] * 3]


def test_evaluate_warns_of_masked_gradients_on_stderr(folder: Path) -> None:
    arguments = ("evaluate", "net:stepped", "--weights", "weights.safetensors", "--data", "data.npz")
    done = run(folder, *arguments, "--pgd", "0.1", "--json")
    assert done.returncode == 0, done.stderr
    assert "secateur: warning: the gradient of the loss (ce) is zero at" in done.stderr
    assert json.loads(done.stdout)["warnings"]


def test_replay_rebuilds_the_same_weights(folder: Path) -> None:
    done = run(
        folder,
        "replay",
        "net:build",
        "small.recipe.json",
        "--weights",
        "weights.safetensors",
        "-o",
        "again.pt2",
    )
    assert done.returncode == 0, done.stderr
    first, again = (load_program(folder / name).state_dict for name in ("small.pt2", "again.pt2"))
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)


def test_weights_alone_as_safetensors(folder: Path) -> None:
    done = run(folder, *PRUNE, "--remove", "params=30%", "--method", "saliency", "-o", "small.safetensors")
    assert done.returncode == 0, done.stderr
    assert (folder / "small.safetensors").is_file() and (folder / "small.recipe.json").is_file()
    assert "parameters" in done.stdout


def test_latency_may_be_left_out_and_is_told_otherwise(folder: Path) -> None:
    quick = (*PRUNE, "--method", "scale", "-o", "quick.pt2")
    done = run(folder, *quick, "--no-latency", "--json")
    report = json.loads(done.stdout)
    assert (
        report["latency_ms"] is None and report["latency_runtime"] is None and "less time" not in done.stderr
    )
    done = run(folder, *quick)
    assert done.returncode == 0 and "ms for one sample (torch)" in done.stdout, done.stderr


WIDER = """
from torch import nn

class Growing(nn.Sequential):
    def forward(self, x):
        for _ in range(1 if self[0].out_features > 300 else 300):
            y = super().forward(x)
        return y

def slower():
    return Growing(nn.Linear(8, 400), nn.ReLU(), nn.Linear(400, 2)).eval()
"""


def test_a_model_that_is_no_faster_is_named(folder: Path) -> None:
    """Its class takes longer where it is narrower, and the way out is told."""
    (folder / "grows.py").write_text(WIDER)
    arguments = (
        "prune",
        "grows:slower",
        "--example-shape",
        "8",
        "--method",
        "scale",
        "--remove",
        "50%",
        "-o",
        "grown.safetensors",
    )
    done = run(folder, *arguments)
    assert done.returncode == 0
    assert "one sample takes no less time in torch than before" in done.stderr
    assert "try --round-to 16, or to remove more" in done.stderr


def test_rounding_is_asked_as_auto_or_a_number(folder: Path) -> None:
    done = run(folder, *PRUNE, "--method", "scale", "--round-to", "often", "-o", "x.pt2")
    assert done.returncode == 1
    assert "round_to='often': give a whole number of units, at least 1, or 'auto'" in done.stderr
    done = run(
        folder, *PRUNE, "--method", "scale", "--round-to", "4", "--no-latency", "-o", "four.pt2", "--json"
    )
    assert json.loads(done.stdout)["units"] == [20, 12]
    assert json.loads((folder / "four.recipe.json").read_text())["request"]["round_to"] == 4


BLOATED = ("prune", "net:bloated", "--example-shape", "1,8,8")


def test_exact_removes_all_that_is_free_and_says_how_much(folder: Path) -> None:
    done = run(folder, *BLOATED, "--method", "exact", "-o", "exact.pt2", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["units"] == [20, 17] and report["shortfall"] is None
    request = json.loads((folder / "exact.recipe.json").read_text())["request"]
    assert request["remove"] == "all" and not request["exact_first"]
    done = run(folder, "replay", "net:bloated", "exact.recipe.json", "-o", "exact_again.pt2")
    assert done.returncode == 0, done.stderr
    first, again = (load_program(folder / name).state_dict for name in ("exact.pt2", "exact_again.pt2"))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_exact_says_where_less_is_free_than_asked(folder: Path) -> None:
    done = run(folder, *BLOATED, "--method", "exact", "--remove", "0.5", "-o", "exact_half.pt2")
    assert done.returncode == 0 and "no more can go exactly" in done.stderr


def test_exact_first_is_a_step_of_its_own(folder: Path) -> None:
    more = ("--method", "saliency", "--remove", "0.5", "--step", "1", "--exact-first")
    done = run(folder, *BLOATED, *more, "-o", "first.pt2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["units"] == [20, 10]
    recipe = json.loads((folder / "first.recipe.json").read_text())
    assert [step["units_removed"] for step in recipe["steps"]] == [3, 10] and recipe["request"]["exact_first"]


CERTIFY = ("certify", "net:build", "small.pt2", "--weights", "weights.safetensors")


def test_certify_bounds_the_drift_and_writes_the_claim(folder: Path) -> None:
    done = run(
        folder, *CERTIFY, "--data", "data.npz", "--eps", "0.01", "--samples", "9", "-o", "c.json", "--json"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((folder / "c.json").read_text())
    assert len(report["lower"]) == 9 and len(report["lower"][0]) == 4
    assert report["agreement"]["certified"] <= report["agreement"]["empirical"]
    done = run(folder, *CERTIFY, "--data", "data.npz", "--eps", "0.01", "--samples", "9")
    assert (
        "largest drift of an output" in done.stdout and "both models keep the original's class" in done.stdout
    )
    one = (
        "--data",
        "data.npz",
        "--eps",
        "0.01",
        "--samples",
        "1",
        "--attack-steps",
        "0",
        "--vnnlib",
        "claim",
    )
    assert run(folder, *CERTIFY, *one).returncode == 0
    assert (folder / "claim.onnx").is_file() and "(declare-const Y_3 Real)" in (
        folder / "claim.vnnlib"
    ).read_text()


def test_certify_the_whole_box_by_intervals(folder: Path) -> None:
    done = run(
        folder, *CERTIFY, "--example-shape", "1,8,8", "--method", "interval", "--input-bounds", "0,0.5"
    )
    assert done.returncode == 0, done.stderr
    assert "the input box" in done.stdout and "interval bounds, float64, rounded outward" in done.stdout


def test_a_certified_guard_keeps_the_last_good_step(folder: Path) -> None:
    budgets = ("--max-certified-drift", "0.01", "--eps", "0.001", "--samples", "32")
    own = ("--calibration", "data.npz", "--surrogate", "none")
    done = run(folder, *PRUNE, "--remove", "0.9", *own, *budgets, "-o", "proved.pt2", "--json")
    assert done.returncode == 3, done.stderr
    assert "certified drift rose" in json.loads(done.stdout)["stopped"] and (folder / "proved.pt2").is_file()


@pytest.fixture(scope="module")
def exported(folder: Path) -> Path:
    """The same network as an ONNX file, pruned a little on the way."""
    pytest.importorskip("onnxruntime")
    done = run(folder, *PRUNE, "--remove", "0.2", "--method", "saliency", "-o", "net.onnx")
    assert done.returncode == 0, done.stderr
    assert "torch.onnx" not in done.stdout
    return folder


def test_onnx_in_and_out(exported: Path) -> None:
    before = (exported / "net.onnx").read_bytes()
    groups = json.loads(run(exported, "inspect", "net.onnx", "--json").stdout)["groups"]
    assert [group["units"] for group in groups] == [7, 10, 4]
    done = run(exported, "prune", "net.onnx", "--remove", "50%", "-o", "less.onnx", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["class"] == "OnnxModel" and report["latency_runtime"] == "onnxruntime"
    assert (exported / "net.onnx").read_bytes() == before
    done = run(exported, "replay", "net.onnx", "less.recipe.json", "-o", "again.onnx")
    assert done.returncode == 0, done.stderr
    assert (exported / "again.onnx").read_bytes() == (exported / "less.onnx").read_bytes()
    done = run(
        exported,
        "evaluate",
        "less.onnx",
        "--original",
        "net.onnx",
        "--data",
        "data.npz",
        "--latency",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["latency_runtime"] == "onnxruntime" and report["cost"]["latency_ms"] > 0
    assert report["cost"]["parameters"] < report["cost_before"]["parameters"]
    done = run(
        exported, "certify", "net.onnx", "less.onnx", "--data", "data.npz", "--eps", "0.01", "--samples", "3"
    )
    assert done.returncode == 0 and "largest drift of an output" in done.stdout, done.stderr


@pytest.mark.long
def test_onnx_to_pt2_and_back(exported: Path) -> None:
    by = ("--method", "scale", "--remove")
    assert run(exported, "prune", "net.onnx", "-o", "from_onnx.pt2", *by, "0.5").returncode == 0
    done = run(exported, "prune", "from_onnx.pt2", "-o", "back.onnx", *by, "0.2")
    assert done.returncode == 0, done.stderr
    arguments = ("evaluate", "from_onnx.pt2", "--data", "data.npz", "--latency", "--runtime", "onnxruntime")
    done = run(exported, *arguments)
    assert done.returncode == 0 and "latency in ms (onnxruntime), batch of 40" in done.stdout, done.stderr


@pytest.mark.long
def test_settings_beside_a_model(exported: Path) -> None:
    (exported / "normal.onnx").write_bytes((exported / "net.onnx").read_bytes())
    (exported / "normal.yaml").write_text("mean: 0.5\nstd: 0.25\n")
    plain, seen = (
        json.loads(run(exported, "evaluate", f"{name}.onnx", "--data", "data.npz", "--json").stdout)
        for name in ("net", "normal")
    )
    assert plain["accuracy"] != seen["accuracy"]
    said = ("evaluate", "net.onnx", "--data", "data.npz", "--json", "--mean", "0.5", "--std", "0.25")
    assert json.loads(run(exported, *said).stdout)["accuracy"] == seen["accuracy"]
    half = ("--remove", "50%", "-o")
    done = run(exported, "prune", "normal.onnx", "--method", "scale", *half, "normal_small.onnx")
    assert done.returncode == 0, done.stderr
    request = json.loads((exported / "normal_small.recipe.json").read_text())["request"]
    assert request["input_bounds"] == [-2.0, 2.0]
    digests = []
    for name in ("net", "normal"):  # own inputs are images, too
        done = run(exported, "prune", f"{name}.onnx", "--calibration", "data.npz", *half, f"{name}_own.onnx")
        assert done.returncode == 0, done.stderr
        digests.append(json.loads((exported / f"{name}_own.recipe.json").read_text())["used"]["calibration"])
    assert len(digests[0]) == 64 and digests[0] != digests[1]


FAILURES = {
    "no model": (("inspect", "data.onnx"), 1, "cannot read data.onnx"),
    "bounds": ((*PRUNE, "-o", "x.pt2", "--input-bounds", "0"), 1, "give two numbers, low,high"),
    "a mean": ((*PRUNE, "-o", "x.pt2", "--mean", "grey"), 1, "--mean grey: give numbers with commas"),
    "eps without data": ((*CERTIFY, "--eps", "0.1"), 1, "--data and --eps belong together"),
    "no pruned form": (
        ("certify", "net:build", "net:frozen", "--example-shape", "1,8,8"),
        1,
        "differ in more than",
    ),
    "many claims": (
        (
            *CERTIFY,
            "--data",
            "data.npz",
            "--eps",
            "0.01",
            "--samples",
            "2",
            "--vnnlib",
            "x",
            "--attack-steps",
            "0",
        ),
        1,
        "VNN-LIB holds one claim, the certificate makes 2",
    ),
    "pickle": (("prune", "model.pth", "-o", "x.pt2"), 1, "unpickling can run any code"),
    "no name": ((*PRUNE, "-o", "."), 1, "give the path of a file"),
    "no model's name": (("inspect", ""), 1, "give the path of a file"),
    "a superscript": ((*PRUNE, "-o", "x.pt2", "--round-to", "²"), 1, "round_to='²': give a whole number"),
    "an odd type": (("inspect", "small.pt2", "--example-shape", "1,8,8:complex64"), 1, "1,8,8:complex64"),
    "missing file": (("inspect", "nowhere.pt2"), 1, "nowhere.pt2"),
    "no shape": (("inspect", "net:build"), 1, "--example-shape 3,32,32"),
    "onto itself": (("prune", "small.pt2", "-o", "small.pt2"), 1, "stays as it is"),
    "no folder": ((*PRUNE, "-o", "nowhere/x.pt2"), 1, "does not exist"),
    "wrong suffix": ((*PRUNE, "-o", "x.txt"), 1, ".keras, .h5"),
    "wrong shape": (("inspect", "net:build", "--example-shape", "3,8,8"), 1, "refuses the example inputs"),
    "unknown option": (
        (*PRUNE, "-o", "x.pt2", "--method", "impact", "--option", "gamma=1"),
        1,
        "it has alpha, beta, pool",
    ),
    "unknown method": ((*PRUNE, "-o", "x.pt2", "--method", "magic"), 1, "saliency"),
    "nothing is free": (
        (*PRUNE, "-o", "x.pt2", "--method", "exact"),
        1,
        "no unit can go without changing the function",
    ),
    "bad ratio": ((*PRUNE, "-o", "x.pt2", "--remove", "1.5"), 1, "between 0 and 1"),
    "beyond half": (
        (*PRUNE, "-o", "x.pt2", "--remove", "0.8", "--method", "saliency", "--no-recursive"),
        3,
        "recursive=True",
    ),
    "guard at once": ((*PRUNE, "-o", "x.pt2", "--max-drift", "0"), 3, "the guard stopped the first step"),
    "unknown corruption": ((*EVALUATE, "--corruption", "fog"), 1, "there are gaussian_noise"),
    "corruption without a number": ((*EVALUATE, "--corruption", "contrast:much"), 1, "e.g. contrast:0.1"),
    "AutoAttack in an endless box": (
        (*EVALUATE, "--autoattack", "0.1", "--input-bounds", "0,inf"),
        1,
        "give two finite numbers",
    ),
    "unknown norm": ((*EVALUATE, "--norm", "l1"), 2, "linf"),
    "calibration": ((*PRUNE, "-o", "x.pt2", "--calibration", "none.npz"), 1, "cannot read none.npz"),
    "beyond reach": ((*PRUNE, "-o", "x.pt2", "--remove", "params=99.9%"), 3, "cannot go"),
    "nothing to prune": (
        ("prune", "net:frozen", "--example-shape", "1,8,8", "-o", "x.pt2"),
        1,
        "no group can lose",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures_are_one_message_and_an_exit_code(folder: Path, case: str) -> None:
    arguments, code, message = FAILURES[case]
    done = run(folder, *arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "x.pt2").exists()


def test_debug_shows_the_traceback(folder: Path) -> None:
    done = run(folder, "inspect", "nowhere.pt2", "--debug")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_a_shortfall_is_said(folder: Path) -> None:
    done = run(folder, *PRUNE, "--remove", "0.3", "--method", "scale", "-o", "third.pt2")
    assert done.returncode == 0
    assert "where 30.00% was asked" in done.stderr


def test_a_guard_keeps_the_last_good_step(folder: Path) -> None:
    done = run(folder, *PRUNE, "--remove", "0.9", "--max-drift", "0.05", "-o", "guarded.pt2", "--json")
    assert done.returncode == 3, done.stderr
    assert (
        "drift on samples rose" in done.stderr
        and "drift on samples rose" in json.loads(done.stdout)["stopped"]
    )
    assert (folder / "guarded.pt2").is_file()


def test_own_inputs_and_global_allocation(folder: Path) -> None:
    more = ("--calibration", "data.npz", "--allocation", "global", "--remove", "params=40%")
    done = run(folder, *PRUNE, *more, "-o", "own.pt2", "--json")
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout)["parameters"]
    assert after <= 0.6 * before
    recipe = json.loads((folder / "own.recipe.json").read_text())
    assert recipe["request"]["allocation"] == "global"
    assert recipe["used"]["calibration"] and recipe["used"]["own"] and recipe["used"]["surrogate"] == "auto"


@pytest.mark.long
def test_interrupt_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import pathlib\nfrom torch import nn\n"
        "def build():\n"
        "    pathlib.Path('started').touch()\n"
        "    return nn.Sequential(*[nn.Sequential(nn.Linear(900, 900), nn.ReLU()) for _ in range(9)])\n"
    )
    arguments = [
        str(COMMAND),
        "prune",
        "slow:build",
        "--example-shape",
        "900",
        "-o",
        "x.pt2",
        "--step",
        "0.001",
        "--method",
        "saliency",
        "--remove",
        "50%",
    ]
    process = subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "started").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in message and "Traceback" not in message
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"slow.py", "started"}


def test_interrupted_while_torch_is_imported(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [str(COMMAND), "inspect", "net.pt2"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert (
        process.returncode == 130
        and message.startswith("secateur: interrupted")
        and "Traceback" not in message
    )


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    script = f"cd {tmp_path} && rmdir {tmp_path} && {COMMAND} inspect net.pt2"
    done = subprocess.run(["sh", "-c", script], cwd="/", capture_output=True, text=True)
    assert (
        done.returncode == 1
        and done.stderr == "secateur: the current folder is gone; change to another one\n"
    )


@pytest.mark.sweep
@pytest.mark.parametrize("stream", ["2>&-", ">&-", ">/dev/full"])
def test_streams_that_cannot_be_written(tmp_path: Path, stream: str) -> None:
    done = subprocess.run(
        f"{COMMAND} inspect net.pt2 {stream}", shell=True, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1 and "fault in secateur" not in done.stderr


@pytest.mark.sweep
@pytest.mark.parametrize("command", ["inspect small.pt2", "replay small.pt2 small.recipe.json -o again.pt2"])
def test_modules_beside_a_model_are_not_run(folder: Path, tmp_path: Path, command: str) -> None:
    """As in an archive that someone sent; only a factory is looked for in the current folder."""
    for name in ("small.pt2", "small.recipe.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    for name in ("onnx", "yaml", "sympy", "torch"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    subprocess.run([str(COMMAND), *command.split()], cwd=tmp_path, capture_output=True, check=False)
    assert not (tmp_path / "marker").exists()
