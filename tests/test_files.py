"""Files: none is lost, none is half there, and those that belong together are one set."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import secateur
from secateur import outputs
from secateur.errors import InputError, RecipeError
from secateur.files import staged_files, write_atomically, written_together
from secateur.outputs import Output, check_outputs, claim_outputs, model_files, model_outputs
from secateur.report.recipe import Recipe, refitted_path, seal_of


def put(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- one set ------------------------------------------------------------------------------------------------


def test_a_set_appears_whole(tmp_path: Path) -> None:
    put(tmp_path / "a", b"old")
    with written_together():
        put(tmp_path / "a", b"new")
        with written_together():  # belongs to the outer one
            put(tmp_path / "b", b"new")
        assert (tmp_path / "a").read_bytes() == b"old" and not (tmp_path / "b").exists()
        assert set(staged_files(tmp_path)) == {"a", "b"}
    assert (tmp_path / "a").read_bytes() == b"new" == (tmp_path / "b").read_bytes()
    assert names(tmp_path) == {"a", "b"}


def test_a_set_that_fails_leaves_the_old_files(tmp_path: Path) -> None:
    put(tmp_path / "a", b"old")
    with pytest.raises(ZeroDivisionError), written_together():
        put(tmp_path / "a", b"new")
        put(tmp_path / "b", b"new")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_bytes() == b"old" and names(tmp_path) == {"a"}


def test_a_name_that_cannot_be_taken_gives_the_others_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third of four files is refused on renaming: the first gets its content back, the second goes."""
    put(tmp_path / "a", b"old")
    replace = os.replace

    def refusing(source: Path, target: Path) -> None:
        if Path(target).name == "c" and str(source).endswith(".tmp") and not (tmp_path / "c").exists():
            raise OSError(errno.EPERM, "Operation not permitted")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refusing)
    with pytest.raises(InputError, match=r"cannot write .*c: Operation not permitted"), written_together():
        for name in "abcd":
            put(tmp_path / name, b"new")
    assert (tmp_path / "a").read_bytes() == b"old" and names(tmp_path) == {"a"}


# --- what the file system refuses ---------------------------------------------------------------------------


def test_refusals_are_one_message(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    for path, text in (
        (tmp_path / ("x" * 300), "File name too long"),
        (tmp_path / "loop", "a loop of symbolic links"),
        (tmp_path / "pipe", "is no regular file"),
        (tmp_path, "is a folder"),
        (tmp_path / "absent" / "a", "does not exist; create it first"),
    ):
        with pytest.raises(InputError, match=text):
            put(path, b"new")
    assert names(tmp_path) == {"loop", "pipe"}


def test_a_name_of_the_longest_length_can_be_written(tmp_path: Path) -> None:
    put(tmp_path / ("x" * 255), b"new")
    assert names(tmp_path) == {"x" * 255}


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    put(tmp_path / "a", b"old")

    def writer(file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match="No space left on device; free some space, or write elsewhere"):
        write_atomically(tmp_path / "a", writer)
    assert (tmp_path / "a").read_bytes() == b"old" and names(tmp_path) == {"a"}


KILLED = """
import sys, time
from pathlib import Path
from secateur.files import write_atomically

def writer(file):
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)

write_atomically(Path(sys.argv[1]), writer)
"""


@pytest.mark.slow
def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    put(tmp_path / "a", b"old")
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "a")], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"writing\n"
    put(tmp_path / "b", b"new")
    assert len(names(tmp_path)) == 3  # the file of a run that goes on stays
    process.kill()
    process.wait()
    process.stdout.close()
    time.sleep(0.05)
    put(tmp_path / "b", b"newer")
    assert names(tmp_path) == {"a", "b"} and (tmp_path / "a").read_bytes() == b"old"


# --- outputs that are something else already ----------------------------------------------------------------


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """A user's folder: a model, data, a recipe, a certificate, notes, and other names of the model."""
    (tmp_path / "net.pt2").write_bytes(b"PK\3\4 a model")
    (tmp_path / "net.onnx").write_bytes(b"\x08\x07 a model")
    (tmp_path / "net.yaml").write_text("mean: 0.5")
    (tmp_path / "d.npz").write_bytes(b"PK\3\4 data")
    (tmp_path / "notes.json").write_text('{"mine": 1}')
    (tmp_path / "notes.onnx").write_text("not a model")
    (tmp_path / "old.recipe.json").write_text('{"schema_version": 1, "steps": [], "groups": []}')
    (tmp_path / "empty.json").touch()
    (tmp_path / "soft.pt2").symlink_to("net.pt2")
    os.link(tmp_path / "net.pt2", tmp_path / "hard.pt2")
    return tmp_path


REFUSED = {
    "an input": ("net.pt2", outputs.MODEL, "which is read and stays as it is"),
    "a symbolic link to it": ("soft.pt2", outputs.MODEL, "which is read and stays as it is"),
    "a hard link to it": ("hard.pt2", outputs.MODEL, "which is read and stays as it is"),
    "data": ("d.npz", outputs.RECIPE, r"the name of a recipe must end in \.json"),
    "a model as a certificate": ("net.pt2", outputs.CERTIFICATE, r"must end in \.json"),
    "a file of the user": ("notes.json", outputs.RECIPE, "is no recipe that this command could have written"),
    "another record": ("old.recipe.json", outputs.CERTIFICATE, "is no certificate that"),
    "a text": ("notes.onnx", outputs.MODEL, "is no model that"),
    "a network for a claim": ("net.onnx", outputs.CLAIM_NETWORK, "is no network of a VNN-LIB property that"),
    "no folder": ("absent/x.json", outputs.RECIPE, "does not exist; create it first"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_outputs_that_would_cost_a_file(user: Path, case: str) -> None:
    name, kind, text = REFUSED[case]
    with pytest.raises(InputError, match=text):
        check_outputs([user / "net.pt2", user / "d.npz"], [Output("--output", user / name, kind)])


def test_outputs_that_are_one_file(user: Path) -> None:
    twice = [
        Output("--output", user / "o.safetensors", outputs.MODEL),
        Output("--recipe", user / "o.safetensors", outputs.SOLVED),
    ]
    with pytest.raises(InputError, match=r"--recipe .* is also the file of --output"):
        check_outputs([], twice)


def test_outputs_of_the_same_kind_are_replaced_and_overwrite_allows_all(user: Path) -> None:
    check_outputs([], [Output("--output", user / "net.onnx", outputs.MODEL)])
    check_outputs([], [Output("--recipe", user / "old.recipe.json", outputs.RECIPE)])
    check_outputs([], [Output("--recipe", user / "empty.json", outputs.RECIPE)])
    check_outputs([], [Output("--recipe", user / "notes.json", outputs.RECIPE)], overwrite=True)
    with pytest.raises(InputError, match="which is read"):
        check_outputs(
            [user / "notes.json"], [Output("--recipe", user / "notes.json", outputs.RECIPE)], overwrite=True
        )


def test_all_files_of_a_model_and_of_a_claim_count(user: Path) -> None:
    assert [o.path.name for o in model_outputs(user / "x.onnx")] == ["x.onnx", "x.onnx.data"]
    assert [o.path.name for o in claim_outputs(user / "net")] == ["net.onnx", "net.vnnlib"]
    with pytest.raises(InputError, match=r"net\.onnx.*which is read"):
        check_outputs(model_files(str(user / "net.onnx")), claim_outputs(user / "net"))


# --- recipes are evidence -----------------------------------------------------------------------------------


def dense() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that `reconstruct` has pruned, with its recipe and refitted tensors."""
    folder = tmp_path_factory.mktemp("set")
    result = secateur.prune(dense(), torch.rand(2, 6), remove=0.5, samples=64)
    with written_together():
        secateur.save_model(folder / "s.pt2", result.model, torch.rand(2, 6))
        result.recipe.save(folder / "s.recipe.json")
    return folder


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    for path in written.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.slow
def test_the_set_replays(copy: Path) -> None:
    assert names(copy) == {"s.pt2", "s.recipe.json", "s.recipe.solved.safetensors"}
    recipe = Recipe.load(copy / "s.recipe.json")
    assert list(recipe.files) == ["s.pt2"] and len(recipe.result) == 64
    small = secateur.replay(dense(), recipe)
    same = secateur.load_model(copy / "s.pt2").module(check_guards=False)  # type: ignore[union-attr]
    x = torch.rand(5, 6)
    assert torch.equal(small(x), same(x))
    (copy / "s.pt2").unlink()  # the recipe stands alone, too
    secateur.replay(dense(), Recipe.load(copy / "s.recipe.json"))


def test_a_new_model_beside_an_old_recipe(copy: Path) -> None:
    other = secateur.prune(dense(), torch.rand(2, 6), remove=0.5, method="scale").model
    secateur.save_model(copy / "s.pt2", other, torch.rand(2, 6))
    with pytest.raises(RecipeError, match=r"s\.pt2 is not the file that was written with the recipe"):
        Recipe.load(copy / "s.recipe.json")


def edited(folder: Path, change: object) -> Recipe:
    path = folder / "s.recipe.json"
    content = json.loads(path.read_text())
    change(content)  # type: ignore[operator]
    content["seal"] = seal_of(content)
    path.write_text(json.dumps(content))
    return Recipe.load(path)


def test_any_change_of_a_recipe_is_seen(copy: Path) -> None:
    """Also of what a replay does not need."""
    path = copy / "s.recipe.json"
    text = path.read_text()
    path.write_text(json.dumps(json.loads(text), sort_keys=True))  # the layout of the file does not matter
    Recipe.load(path)
    for old, new in (
        ('"seed": 0', '"seed": 1'),
        ('"method": "reconstruct"', '"method": "scale"'),
        ('"shortfall": ""', '"shortfall": "x"'),
    ):
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(RecipeError, match="was changed after it was written"):
            Recipe.load(path)


def _swap_units(content: dict) -> None:
    edit, group = content["steps"][0]["edits"][0], content["groups"][0]
    gone, kept = edit["units"][0], group["kept"][0]
    edit["units"][0] = kept
    group["kept"] = sorted({*group["kept"], gone} - {kept})


def _set(*path: object) -> object:
    *where, last, value = path

    def change(content: dict) -> None:
        for key in where:
            content = content[key]
        content[last] = value

    return change


EDITS = {
    "steps": (
        lambda c: c["steps"][0]["edits"][0]["units"].reverse() or c["steps"].clear(),
        "contradicts itself",
    ),
    "units and groups alike": (_swap_units, "not those that the recipe was written for"),
    "groups": (lambda c: c["groups"][0]["kept"].pop(), "contradicts itself"),
    "a huge unit": (_set("steps", 0, "edits", 0, "units", 0, 2**63), r"steps.0.edits.0.units.0"),
    "a negative unit": (_set("steps", 0, "edits", 0, "units", 0, -2), r"steps.0.edits.0.units.0"),
    "a dtype that is a function": (_set("inputs", 0, "dtype", "load"), "'load' is no type of a tensor"),
    "an absurd shape": (_set("inputs", 0, "shape", [2, 10**6, 10**6]), "too large to be run"),
    "an empty shape": (_set("inputs", 0, "shape", [0, 6]), "inputs.0.shape.0"),
    "a shape of words": (_set("inputs", 0, "shape", ["a"]), "inputs.0.shape.0"),
    "no digest of the result": (_set("result", ""), "result"),
    "an unknown field": (_set("trust", "me"), "trust"),
}


@pytest.mark.parametrize("case", EDITS)
def test_an_edited_recipe_is_refused(copy: Path, case: str) -> None:
    change, text = EDITS[case]
    with pytest.raises(RecipeError, match=text):
        secateur.replay(dense(), edited(copy, change))


TENSORS = {
    "changed": (lambda t: t[sorted(t)[0]].add_(1.0), "not those that the recipe was written for"),
    "NaN": (lambda t: t[sorted(t)[0]].fill_(torch.nan), "NaN or too large"),
    "missing": (lambda t: t.pop(sorted(t)[0]), "not those that the recipe was written for"),
    "of another type": (lambda t: t.update({sorted(t)[0]: t[sorted(t)[0]].double()}), "is none of the model"),
    "extra": (lambda t: t.update(extra=torch.zeros(2)), "is none of the model"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_edited_tensors_are_refused(copy: Path, case: str) -> None:
    """Even where the digest of the file was put right."""
    import hashlib

    from safetensors.torch import load, save

    change, text = TENSORS[case]
    path = refitted_path(copy / "s.recipe.json")
    tensors = load(path.read_bytes())
    change(tensors)
    path.write_bytes(save(tensors))
    with pytest.raises(RecipeError, match="is not the file that was written with the recipe"):
        Recipe.load(copy / "s.recipe.json")
    recipe = edited(copy, _set("solved", hashlib.sha256(path.read_bytes()).hexdigest()))
    with pytest.raises(RecipeError, match=text):
        secateur.replay(dense(), recipe)
