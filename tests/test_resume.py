"""A run that was interrupted goes on from its checkpoint, with the bits of one that was not."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur
from architectures import ARCHITECTURES
from command import Limits, run
from secateur.cli.prune import _told_to_go_on
from secateur.errors import InputError, SecateurError
from secateur.methods import Goal, Method, Task
from secateur.report.recipe import Edit, digest_of
from secateur.types import Removal

COMMON: dict[str, Any] = {"samples": 32, "normalize": "none", "remove": 0.5, "step": 0.125}


def dense() -> nn.Sequential:
    """Of the first 16 units, number 3 is constant."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    with torch.no_grad():
        next(net.parameters())[3] = 0.0
    return net


def at_random(context: Any, group: Any, count: int) -> Removal:
    """A method that draws which units leave from the generator of the run."""
    left = context.alive[group.name].nonzero().flatten()
    units = left[torch.randperm(len(left), generator=context.generator)[:count]]
    return Removal(group.name, units, torch.full_like(units, -1))


def outcome(result: secateur.Result) -> tuple[Any, ...]:
    """The whole recipe and the weights; only times may differ."""
    return result.recipe.sealed(), result.recipe.tensors, digest_of(dict(result.model.state_dict()))


class Broken(Exception):
    pass


def broken_at(step: int) -> list[Callable[[secateur.HistoryRow], None]]:
    """Callbacks of which one interrupts the run before the checkpoint of a step."""

    def callback(row: secateur.HistoryRow) -> None:
        if row.step == step:
            raise Broken

    return [callback]


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("mlp_relu", {"method": at_random}),
        ("mlp_relu", {"method": "saliency", "recursive": False}),  # remembers which units absorbed others
        ("attention_separate", {"attention": "both", "allocation": "global"}),  # turns heads at first
        ("cnn_batch_norm", {}),  # batch norms of the samples' own
    ],
)
def test_interrupted_at_every_second_step(tmp_path: Path, name: str, more: dict[str, Any]) -> None:
    architecture = ARCHITECTURES[name]
    given = {**COMMON, **more, "input_bounds": (-1.0, 1.0)}
    expected = secateur.prune(architecture.build(), architecture.example(), **given)
    steps = len(expected.history)
    assert steps > 3
    folder = tmp_path / "partial"
    for step in range(2, steps + 1, 2):
        with pytest.raises(Broken):
            secateur.prune(
                architecture.build(),
                architecture.example(),
                resume=folder,
                callbacks=broken_at(step),
                **given,
            )
        assert len(list(folder.iterdir())) == 2, "a record and the tensors of one step"
    seen = list[int]()
    found = secateur.prune(
        architecture.build(),
        architecture.example(),
        resume=folder,
        callbacks=[lambda row: seen.append(row.step)],
        **given,
    )
    assert outcome(found) == outcome(expected)
    assert seen == list(range(2 * (steps // 2), steps + 1)), "callbacks hear of the steps that are taken now"
    times = [row.seconds for row in found.history]
    assert times == sorted(times) and [row.step for row in found.history] == list(range(1, steps + 1))
    assert not folder.exists()


def test_with_a_guard_and_exact_removal_first(tmp_path: Path) -> None:
    """The constant unit leaves in step 1, with others; the guard ends the run before the plan is carried out."""
    given = {**COMMON, "remove": 0.8, "exact_first": True, "guard": {"drift": 0.02}}
    expected = secateur.prune(dense(), torch.zeros(1, 4), **given)
    assert 3 in expected.recipe.steps[0].edits[0].units and expected.stopped
    last = len(expected.history)
    assert last > 2
    for step in (1, 2, last):
        with pytest.raises(Broken):
            secateur.prune(
                dense(), torch.zeros(1, 4), resume=tmp_path / "a", callbacks=broken_at(step), **given
            )
    found = secateur.prune(dense(), torch.zeros(1, 4), resume=tmp_path / "a", **given)
    assert outcome(found) == outcome(expected) and found.stopped == expected.stopped


def test_a_callback_that_ends_the_run_is_asked_again(tmp_path: Path) -> None:
    """Its step is in no checkpoint, since nobody would know that the run should end there."""

    def enough(row: secateur.HistoryRow) -> None:
        if row.step == 3:
            raise secateur.StopPruning("enough")

    given = {**COMMON, "method": "scale", "callbacks": [enough]}
    expected = secateur.prune(dense(), torch.zeros(1, 4), **given)
    with pytest.raises(Broken):
        secateur.prune(
            dense(),
            torch.zeros(1, 4),
            resume=tmp_path / "a",
            **{**given, "callbacks": [enough, *broken_at(3)]},
        )
    found = secateur.prune(dense(), torch.zeros(1, 4), resume=tmp_path / "a", **given)
    assert outcome(found) == outcome(expected) and found.stopped == "by a callback: enough"


KILLED = """
import os, signal, sys, torch, secateur
sys.path.insert(0, {tests!r})
from test_resume import COMMON, dense

def kill(row):
    if row.step == {step}:
        os.kill(os.getpid(), signal.SIGKILL)

secateur.prune(dense(), torch.zeros(1, 4), method={method!r}, resume="partial", callbacks=kill, **COMMON)
"""


@pytest.mark.sweep
@pytest.mark.judged  # as in the processes, where nothing is patched
@pytest.mark.parametrize("method", ["reconstruct", "saliency"])
def test_a_process_that_is_killed(tmp_path: Path, method: str) -> None:
    """Between steps, and while the two files of a checkpoint are written, before either has its name."""
    killed = [
        (0, Limits(kill_at_file=1)),
        (2, Limits()),
        (0, Limits(kill_at_file=2)),
        (0, Limits(kill_at_file=3)),
        (4, Limits()),
    ]
    for step, limits in killed:
        code = KILLED.format(tests=str(Path(__file__).parent), step=step, method=method)
        done = run(tmp_path, "-c", code, limits=limits)
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert json.loads((tmp_path / "partial" / "run.json").read_text())["goals"] == 3
    given = {**COMMON, "method": method}
    found = secateur.prune(dense(), torch.zeros(1, 4), resume=tmp_path / "partial", **given)
    assert outcome(found) == outcome(secateur.prune(dense(), torch.zeros(1, 4), **given))
    assert not (tmp_path / "partial").exists()


@pytest.mark.sweep
@pytest.mark.parametrize("method", ["reconstruct", "stochastic"])
def test_a_command_that_is_killed(tmp_path: Path, method: str) -> None:
    secateur.save_model(tmp_path / "net.pt2", dense(), torch.zeros(2, 4))
    (tmp_path / "whole").mkdir()
    common = f"prune net.pt2 --normalize none --samples 32 --no-latency --method {method}".split()
    common += ["--remove", "50%", "--step", "0.125"]
    assert run(tmp_path, *common, "-o", "whole/small.pt2").returncode == 0
    resumed = [*common, "--resume", "-o", "small.pt2"]
    for number in (1, 4, 3):  # with one step whole, then two
        assert run(tmp_path, *resumed, limits=Limits(kill_at_file=number)).returncode == -signal.SIGKILL
    assert not (tmp_path / "small.pt2").exists()
    done = run(tmp_path, *resumed)
    assert done.returncode == 0 and "small.pt2.partial: going on after step 2" in done.stderr, done.stderr
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()
    assert not (tmp_path / "small.pt2.partial").exists()


def test_what_a_command_says_of_a_checkpoint(tmp_path: Path) -> None:
    secateur.save_model(tmp_path / "net.pt2", dense(), torch.zeros(2, 4))
    common = ("prune", "net.pt2", "--method", "scale", "--remove", "50%", "--no-latency", "-o", "small.pt2")
    assert run(tmp_path, *common, "--resume", limits=Limits(kill_at_file=3)).returncode == -signal.SIGKILL
    other = run(tmp_path, *common, "--resume", "--seed", "3")
    assert other.returncode == 1 and "with other seed (0 there, 3 here)" in other.stderr
    plain = run(tmp_path, *common)
    assert plain.returncode == 0 and "--resume would go on from there" in plain.stderr
    assert (tmp_path / "small.pt2.partial" / "run.json").exists(), "it belongs to a run that may go on"


def test_an_interrupted_command_says_how_to_go_on(
    interrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt), _told_to_go_on(interrupted, resume=True):
        raise KeyboardInterrupt
    assert f"{interrupted} holds the steps so far; the same command goes on" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt), _told_to_go_on(interrupted.parent, resume=True):
        raise KeyboardInterrupt
    assert not capsys.readouterr().err


# --- refusals -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counting(Method):
    """Removes the last unit, and counts in what it has prepared how often."""

    name = "counting"

    def prepare(self, task: Task) -> list[int]:
        return [0]

    def step(self, task: Task, state: list[int], goal: Goal) -> list[Edit]:
        state[0] += 1
        edits = []
        for group in task.groups:
            left = task.run.alive[group.name].nonzero().flatten()
            units = left[group.units - goal.gone[group.name] :]
            edits.append(task.run.apply(group, Removal(group.name, units, torch.full_like(units, -1))))
        return edits


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """The checkpoint of a run with `saliency` after its first step."""
    with pytest.raises(Broken):
        secateur.prune(dense(), torch.zeros(1, 4), resume=tmp_path / "a", callbacks=broken_at(2), **SETTINGS)
    return tmp_path / "a"


SETTINGS: dict[str, Any] = {**COMMON, "method": "saliency"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seed": 1, "remove": 0.4}, 'with other remove ("0.5" there, "0.4" here), seed (0 there, 1 here)'),
        ({"input_bounds": (0.0, 2.0)}, "with other input_bounds ([0.0, 1.0] there, [0.0, 2.0] here)"),
        ({"guard": {"drift": 1.0}}, "with other guard"),
        ({"calibration": torch.rand(20, 4)}, "with other inputs"),
    ],
)
def test_other_settings_are_refused(interrupted: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        secateur.prune(dense(), torch.zeros(1, 4), resume=interrupted, **{**SETTINGS, **given})
    assert said in str(error.value) and "remove the folder to begin anew" in str(error.value)


def test_another_model_is_refused(interrupted: Path) -> None:
    net = dense()
    with torch.no_grad():
        next(net.parameters())[0, 0] += 1.0
    with pytest.raises(InputError, match="with other weights of the model; give"):
        secateur.prune(net, torch.zeros(1, 4), resume=interrupted, **SETTINGS)
    net[1] = nn.Tanh().eval()
    with pytest.raises(InputError, match="with other weights of the model, graph of the model; give"):
        secateur.prune(net, torch.zeros(1, 4), resume=interrupted, **SETTINGS)


def test_damaged_files_are_refused(interrupted: Path) -> None:
    (tensors,) = interrupted.glob("*.safetensors")
    content = tensors.read_bytes()
    tensors.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(InputError, match=r"step-0001.safetensors was changed or damaged; remove the folder"):
        secateur.prune(dense(), torch.zeros(1, 4), resume=interrupted, **SETTINGS)
    tensors.unlink()
    with pytest.raises(InputError, match=r"cannot read .*step-0001.safetensors"):
        secateur.prune(dense(), torch.zeros(1, 4), resume=interrupted, **SETTINGS)
    (interrupted / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"run.json is not a checkpoint of version 1"):
        secateur.prune(dense(), torch.zeros(1, 4), resume=interrupted, **SETTINGS)


def test_what_cannot_go_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"resume: remove='latency=30%' is measured"):
        secateur.prune(dense(), torch.zeros(1, 4), resume=tmp_path / "a", remove="latency=30%")
    with pytest.raises(InputError, match=r"resume=.*: give the path of a folder, in one that exists"):
        secateur.prune(dense(), torch.zeros(1, 4), remove=0.5, resume=tmp_path / "none" / "a")
    given = {**COMMON, "method": Counting()}
    with pytest.raises(SecateurError, match="resume: what the method counting prepares is computed again"):
        secateur.prune(dense(), torch.zeros(1, 4), resume=tmp_path / "a", **given)
    one_step = {**given, "step": 1.0}
    secateur.prune(dense(), torch.zeros(1, 4), resume=tmp_path / "a", **one_step)


def test_other_files_in_the_folder_stay(interrupted: Path) -> None:
    (interrupted / "notes.txt").touch()
    secateur.prune(dense(), torch.zeros(1, 4), resume=interrupted, **SETTINGS)
    assert [path.name for path in interrupted.iterdir()] == ["notes.txt"]
