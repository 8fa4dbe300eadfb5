"""Outputs that would cost a file, runs that are killed, disks that are full: no file is lost, no set is
half.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from arena import LIMITS, contents

from command import run
from secateur.errors import SecateurError
from secateur.formats.models import load_model
from secateur.report.recipe import Recipe

pytestmark = pytest.mark.slow

PRUNE = ("prune", "net.onnx", "--method", "scale", "--remove", "50%", "--no-latency")
FILES = (
    "net.onnx",
    "net.pt2",
    "small.onnx",
    "small.recipe.json",
    "small.recipe.solved.safetensors",
    "data.npz",
)

# Command → its options that name outputs; every file of the user is tried as each of them.
WRITING: dict[tuple[str, ...], tuple[str, ...]] = {
    (*PRUNE, "-o", "out.onnx"): ("-o", "--recipe"),
    (
        "prune",
        "net.onnx",
        "--remove",
        "50%",
        "--calibration",
        "data.npz",
        "--samples",
        "16",
        "-o",
        "o.onnx",
    ): ("-o", "--recipe"),
    ("replay", "net.onnx", "small.recipe.json"): ("-o",),
    ("evaluate", "net.onnx", "--data", "data.npz"): ("-o",),
    ("certify", "net.onnx", "small.onnx", "--method", "interval", "--attack-steps", "0"): ("-o", "--vnnlib"),
}
REPLACED = {
    "net.pt2",
    "small.onnx",
    "small.recipe.json",
    "small.recipe.solved.safetensors",
}  # by their own kind
READ = {"prune": set[str](), "replay": {"small.recipe.json", "small.recipe.solved.safetensors"}}


def test_collisions(attack: Callable[..., None], folder_with: Callable[..., Any]) -> None:
    """Outputs onto inputs and onto each other, by name and through links; and onto files of another kind."""
    cases = [
        (f"{command[0]} {option} {how} {name}", partial(_onto, command, option, how, name))
        for command, options in WRITING.items()
        for option in options
        for how in ("name", "link", "hard link", "dotted")
        for name in FILES
        if not (
            command[0] in ("prune", "replay") and option != "--vnnlib" and name in REPLACED - READ[command[0]]
        )
    ]
    attack("outputs onto files", cases, folder_with(*FILES))


def _onto(command: tuple[str, ...], option: str, how: str, name: str, folder: Path) -> tuple[str, ...]:
    target = name
    if how in ("link", "hard link"):
        target = f"linked{Path(name).suffix}"
        (os.symlink if how == "link" else os.link)(folder / name, folder / target)
    elif how == "dotted":
        (folder / "sub").mkdir()
        target = f"sub/../{name}"
    return (*command, option, target)


@pytest.mark.long
def test_killed_at_any_moment(
    folder_with: Callable[..., Any], originals: Path, request: Any, record_property: Any
) -> None:
    """After `kill -9` the inputs are whole, and what was written is the old set, the new set, or refused as
    neither. The next run succeeds and leaves nothing behind.
    """
    tally = {"old": 0, "new": 0, "told": 0}
    count = 36 if request.config.getoption("--attack") else 4
    folder_of = folder_with("net.onnx", "small.onnx", "small.recipe.json", "small.recipe.solved.safetensors")
    command = ("prune", "net.onnx", "--samples", "64", "--remove", "0.5", "--no-latency", "-o", "small.onnx")
    whole = _seconds(folder_of("time"), command)
    old = contents(originals)
    for number in range(count):
        folder, rng = folder_of(str(number)), random.Random(number)
        # Every other one in the last tenth, where files are written.
        moment = whole * (rng.uniform(0.9, 1.05) if number % 2 else rng.uniform(0.02, 0.9))
        run(folder, *command, limits=replace(LIMITS, kill_after=moment))
        assert contents(folder)["net.onnx"] == old["net.onnx"]
        tally[_state_of(folder, old)] += 1
        assert run(folder, *command, "--overwrite").returncode == 0
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            ["net.onnx", "small.onnx", "small.recipe.json", "small.recipe.solved.safetensors"]
        )
        assert _state_of(folder, old) == "new"
    record_property(
        "attack", ("killed by SIGKILL", count, tally["told"], tally["old"] + tally["new"], round(whole, 1))
    )


def _seconds(folder: Path, command: tuple[str, ...]) -> float:
    import time

    begin = time.monotonic()
    assert run(folder, *command).returncode == 0
    return time.monotonic() - begin


def _state_of(folder: Path, old: dict[str, str]) -> str:
    load_model(folder / "small.onnx")  # whole, in any case
    if all(contents(folder).get(name) == old[name] for name in ("small.onnx", "small.recipe.json")):
        return "old"
    try:
        Recipe.load(folder / "small.recipe.json")
    except SecateurError:
        return "told"
    return "new"


@pytest.mark.long
def test_files_that_may_not_grow(attack: Callable[..., None], folder_with: Callable[..., Any]) -> None:
    """The system refuses a write half-way, as on a full disk."""
    for size in (4096, 9000):
        cases = [(f"{size}-{i}", lambda folder, c=command: c) for i, command in enumerate(_WRITES)]
        attack(
            f"at most {size:,} bytes a file", cases, folder_with(*FILES), limits=replace(LIMITS, file=size)
        )


_WRITES = (
    (*PRUNE, "-o", "out.onnx"),
    (*PRUNE, "-o", "out.pt2"),
    ("prune", "net.pt2", "--method", "scale", "--remove", "50%", "--no-latency", "-o", "out.pt2"),
    (*PRUNE, "-o", "out.safetensors"),
    ("prune", "net.onnx", "--remove", "50%", "--samples", "16", "--no-latency", "-o", "out.onnx"),
    ("replay", "net.onnx", "small.recipe.json", "-o", "out.onnx"),
    ("evaluate", "net.onnx", "--data", "data.npz", "-o", "report.json"),
    ("certify", "net.onnx", "small.onnx", "--method", "interval", "--attack-steps", "0", "--vnnlib", "claim"),
    ("certify", "net.onnx", "small.onnx", "--method", "interval", "--attack-steps", "0", "-o", "c.json"),
)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if not made or made.returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=False)


@pytest.mark.long
def test_full_disk(attack: Callable[..., None], originals: Path, full_disk: Path) -> None:
    def folder(case: str) -> Path:
        for path in full_disk.iterdir():
            path.unlink()
        for name in FILES:
            shutil.copy(originals / name, full_disk / name)
        free = os.statvfs(full_disk).f_bavail * os.statvfs(full_disk).f_frsize
        (full_disk / "filler").write_bytes(b"\0" * max(0, free - 4096))
        return full_disk

    cases = [(str(i), lambda folder, c=command: c) for i, command in enumerate(_WRITES)]
    attack("full disk", cases, folder)


@pytest.mark.long
def test_folders_that_may_not_be_written(
    attack: Callable[..., None], folder_with: Callable[..., Any]
) -> None:
    of_files = folder_with(*FILES)

    def read_only(case: str) -> Path:
        folder = of_files(case)
        for parent in (folder.parent, folder.parent.parent):
            parent.chmod(0o755)
        folder.chmod(0o555)
        return folder

    cases = [(str(i), lambda folder, c=command: c) for i, command in enumerate(_WRITES)]
    attack("read-only folder", cases, read_only, limits=replace(LIMITS, user=65534))
