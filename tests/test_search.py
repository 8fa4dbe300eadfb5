"""A search finds the smallest network within a budget, whatever interrupts it, and says what it has done."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur
from architectures import ARCHITECTURES
from command import run
from secateur.errors import InputError
from secateur.prune import pruned
from secateur.request import Request
from secateur.search import bisection
from secateur.search.engine import Engine
from secateur.search.front import front, within
from secateur.search.space import Setting, Space
from secateur.search.store import Question, Store
from secateur.search.study import Study
from secateur.search.trial import Sizes, Trial, Wanted
from secateur.shared import Shared
from secateur.torch_state import reproducible
from trained import blobs

SMALL: dict[str, Any] = {"samples": 64, "min_agreement": 0.9}


@cache
def dense() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


def searched(folder: Path, **more: Any) -> secateur.SearchResult:
    return secateur.search(dense(), torch.zeros(1, 4), output=folder, **{**SMALL, **more})


def told(result: secateur.SearchResult) -> list[dict[str, Any]]:
    """All of the front but the seconds that it took."""
    return [trial.model_dump(exclude={"seconds"}) for trial in result.front]


def made(number: int, params: int, agreement: float | None, **more: Any) -> Trial:
    sizes = Sizes(params=params, macs=2 * params, bytes=4 * params)
    return Trial(number=number, setting=Setting(remove="0.5"), sizes=sizes, agreement=agreement, **more)


def failed(number: int) -> Trial:
    return Trial(number=number, setting=Setting(remove="0.9"), error="cannot go")


# --- the front, by hand -------------------------------------------------------------------------------------


def test_the_front_holds_what_nothing_beats() -> None:
    """(70, .9) is beaten by (60, .95), (60, .94) too; of two equal ones the first stays."""
    rows = [(100, 1.0), (70, 0.90), (60, 0.95), (60, 0.95), (60, 0.94), (30, 0.80)]
    trials = [made(n, *row) for n, row in enumerate(rows, 1)] + [failed(7)]
    wanted = Wanted(agreement=0.95)
    assert [t.number for t in front(trials, "params", wanted)] == [6, 3, 1]
    assert [t.number for t in within(trials, "params", wanted)] == [3, 1]


def test_what_a_trial_lacks() -> None:
    both = Wanted(agreement=0.9, drift=1.0)
    assert both.lacks(made(1, 5, 0.95, drift=3.0)) == pytest.approx(2.0)
    assert both.lacks(made(1, 5, 0.8, drift=0.5)) == pytest.approx(0.1)
    assert both.kept_by(made(1, 5, 0.9, drift=1.0))
    assert not both.kept_by(failed(1)) and not both.kept_by(made(1, 5, None, drift=0.0))
    assert not Wanted(drift=1.0).kept_by(made(1, 5, 1.0, drift=float("nan")))


class Made(Study):
    """A study whose networks keep the budget up to a share."""

    def __init__(self, most: int, nothing_below: int = 0) -> None:
        self.trials, self.most, self.nothing_below = [], most, nothing_below

    def measured(self, settings: Any, of: int | None = None) -> list[Trial]:
        (setting,) = settings
        share = int(setting.remove.removeprefix("params=").removesuffix("%"))
        agreement = 0.95 if share <= self.most else 0.5
        found = made(len(self.trials) + 1, 100 - share, agreement)
        if share < self.nothing_below:
            found = failed(found.number).model_copy(update={"unchanged": True})
        self.trials.append(found)
        return [found]


@pytest.mark.parametrize("most", [0, 1, 37, 50, 98, 99])
def test_bisection_finds_the_largest_share(most: int) -> None:
    study, wanted = Made(most), Wanted(agreement=0.9)
    bisection.bisect(study, "params", {}, wanted, seed=0)
    best = within(study.trials, "params", wanted)
    assert len(study.trials) <= 7
    assert [100 - int(t.sizes.params) for t in best[:1] if t.sizes] == ([most] if most else [])


def test_bisection_goes_on_where_nothing_can_be_removed() -> None:
    study, wanted = Made(most=80, nothing_below=60), Wanted(agreement=0.9)
    bisection.bisect(study, "params", {}, wanted, seed=0)
    assert within(study.trials, "params", wanted)[0].sizes == made(1, 20, 1.0).sizes


# --- the whole search ---------------------------------------------------------------------------------------


def test_a_search_for_one_number(tmp_path: Path) -> None:
    """The pick is the network that `prune` makes with the same arguments; the files hold it."""
    found = searched(tmp_path)
    assert found.pick is not None and found.model is not None and found.summary.look is not None
    assert found.pick.agreement is not None and found.pick.agreement >= 0.9
    assert found.summary.look.agreement is not None and found.summary.look.agreement >= 0.9
    alone = secateur.prune(dense(), torch.zeros(1, 4), samples=64, remove=found.pick.setting.remove)
    assert found.recipe is not None and found.recipe.result == alone.recipe.result == found.pick.result
    sizes = found.pick.sizes
    assert sizes is not None and (sizes.params, sizes.macs) == (alone.after.parameters, alone.after.macs)
    assert sizes.bytes == 4 * sizes.params and found.summary.original.params == 131
    assert alone.verdict is not None and found.pick.agreement == alone.verdict.agreement
    program = secateur.load_model(tmp_path / "pick.pt2")
    x = torch.rand(5, 4)
    assert torch.equal(program.module()(x), found.model(x))  # type: ignore[operator]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["pick"] == found.pick.number and len(summary["trials"]) == len(found.summary.trials)
    assert {p.stem for p in (tmp_path / "front").glob("*.pt2")} == {f"{t.number:04d}" for t in found.front}
    kept = {p.name for p in (tmp_path / "trials").glob("*.recipe.json")}
    assert kept == {f"{t.number:04d}.recipe.json" for t in found.front}
    assert "second look: " in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "(pick)" in (tmp_path / "summary.md").read_text() and "second look" in repr(found)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("name", "method"),
    [("mlp_relu", "stochastic"), ("mlp_relu", "reconstruct"), ("attention_separate", "reconstruct")],
)
def test_runs_that_share_are_those_by_themselves(name: str, method: str) -> None:
    """Whatever ran before on the same capture, samples and statistics."""
    architecture = ARCHITECTURES[name]
    model, example, shared = architecture.build(), architecture.example(), Shared()
    given = {**defaults(), "method": method, "samples": 32, "attention": "both", "input_bounds": (-1.0, 1.0)}
    for remove, allocation in [(0.3, "global"), (0.5, "uniform")]:
        arguments = {**given, "remove": remove, "allocation": allocation}
        with reproducible(model):
            found = pruned(model, example, Request.parse(**arguments), 1, shared)
    assert found.recipe.result == secateur.prune(model, example, **arguments).recipe.result


def test_a_search_that_is_repeated_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = searched(tmp_path)
    monkeypatch.setattr(Engine, "outcomes", lambda self, asked: iter(()) if not asked else pytest.fail())
    assert searched(tmp_path).summary == first.summary


def test_a_folder_with_another_search_is_refused(tmp_path: Path) -> None:
    searched(tmp_path)
    with pytest.raises(InputError, match="holds another search, with other samples, wanted; give another"):
        searched(tmp_path, samples=65, min_agreement=0.8)
    anew = searched(tmp_path, max_drift=0.5, min_agreement=None, overwrite=True)
    assert {p.stem for p in (tmp_path / "front").glob("*.pt2")} == {f"{t.number:04d}" for t in anew.front}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"holds thesis.tex and no search"):
        searched(tmp_path / "other")


def test_a_budget_that_nothing_keeps(tmp_path: Path) -> None:
    with pytest.warns(secateur.errors.SecateurWarning, match="no network was found with drift of at most 0"):
        found = searched(tmp_path, min_agreement=None, max_drift=0.0)
    assert found.pick is None and found.model is None and found.front
    assert not (tmp_path / "pick.pt2").exists()


@pytest.mark.long
def test_labelled_data_choose_only_where_that_is_asked(tmp_path: Path) -> None:
    model, images, labels = blobs()
    given = {"images": images, "labels": labels, "samples": 64}
    plain = secateur.search(model, images[:1], output=tmp_path / "a", min_agreement=0.9, **given)
    without = secateur.search(model, images[:1], output=tmp_path / "b", min_agreement=0.9, samples=64)
    assert plain.pick is not None and without.pick is not None and plain.pick.accuracy is not None
    assert plain.pick.result == without.pick.result and not plain.summary.notes
    with pytest.warns(secateur.errors.SecateurWarning, match="the labelled data chose this network"):
        chosen = secateur.search(model, images[:1], output=tmp_path / "c", min_accuracy=0.8, **given)
    assert chosen.pick is not None and (chosen.pick.accuracy or 0) >= 0.8
    assert "the labelled data chose this network" in (tmp_path / "c" / "summary.md").read_text()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"objective": "speed"}, "objective='speed': give params, macs, bytes or latency"),
        ({"min_agreement": 1.5}, "min_agreement=1.5: give a share from 0 to 1"),
        ({"method": ["reconstruct", "magic"]}, "method='magic'"),
        ({"method": "exact"}, "nothing to search; use prune"),
        ({"quantize": "int3"}, "int3"),
        ({"remove": 0.5}, "remove: no argument of a search"),
        ({"guard": {"drift": 1}}, "guard: no argument of a search"),
        ({"min_accuracy": 0.5}, "min_accuracy needs images and labels"),
        ({"min_worst_class": 0.5}, "min_worst_class needs images and labels"),
        ({"min_robust_accuracy": 0.5}, "min_robust_accuracy needs attacks (--attack)"),
        ({"attacks": [secateur.PGD(0.1)]}, "attacks and certified need images and labels (--data)"),
        ({"attacks": ["pgd"]}, "a list of attacks, such as [secateur.PGD(0.01)]"),
        ({"min_certified": 0.5}, "min_certified needs certified (--certified)"),
        ({"certified": 0.0}, "certified=0.0: give a radius above 0"),
        ({"images": torch.rand(3, 4)}, "images and labels go together"),
        ({"objective": "latency", "workers": 2}, "disturb them; take workers=1"),
        ({"quantize": "int8", "max_drift": 1.0}, "no drift is measured of quantised networks"),
        ({"workers": 0}, "workers=0"),
        ({"engine": "spark://head"}, "give the address of a Dask scheduler, as dask://host:8786; or the"),
        ({"engine": "ray://"}, "of a Ray cluster, or ray://local for this machine, as ray://host:10001"),
        ({"engine": "dask://head:8786", "workers": 2}, "a cluster has workers of its own"),
        ({"samples": 0}, "samples=0"),
        ({"head": "none"}, "the model decides nothing"),
    ],
)
def test_arguments_are_checked(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        searched(tmp_path / "new", **given)
    assert said in str(error.value)
    assert not (tmp_path / "new").exists()


# --- several choices ----------------------------------------------------------------------------------------

MANY: dict[str, Any] = {"method": ["reconstruct", "scale"], "allocation": ["uniform", "global"], "trials": 10}


@pytest.mark.long
@pytest.mark.judged  # in the processes of workers, nothing is patched
def test_several_choices_and_several_processes(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    one = searched(tmp_path / "one", **MANY)
    assert len(one.summary.trials) == 10 and len({t.setting for t in one.summary.trials}) == 10
    assert {t.setting.method for t in one.summary.trials} == {"reconstruct", "scale"}
    two = searched(tmp_path / "two", workers=2, **MANY)
    assert told(one) == told(two) and one.summary.pick == two.summary.pick


class Dying(Engine):
    """The first time, a worker is killed as it begins its trial."""

    def __init__(self, job: Any, workers: int, flag: Path) -> None:
        super().__init__(job, workers)
        self.flag = flag

    def _in_processes(self, asked: Any) -> Any:
        import joblib

        if not self.flag.exists():
            self.flag.touch()
            list(joblib.Parallel(n_jobs=2)(joblib.delayed(os._exit)(1) for _ in range(2)))
        return super()._in_processes(asked)


@pytest.mark.long
@pytest.mark.judged
def test_trials_of_a_killed_worker_are_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("joblib")
    given = {"method": ["scale", "saliency"], "remove": ["25%"], "samples": 64}
    alone = secateur.sweep(dense(), torch.zeros(1, 4), output=tmp_path / "a", **given)
    module = sys.modules["secateur.search.sweep"]
    monkeypatch.setattr(
        module, "Engine", lambda job, workers, address: Dying(job, workers, tmp_path / "flag")
    )
    with pytest.warns(secateur.errors.SecateurWarning, match="a worker process ended early"):
        killed = secateur.sweep(dense(), torch.zeros(1, 4), output=tmp_path / "b", workers=2, **given)
    assert [t.result for t in killed.trials] == [t.result for t in alone.trials]


def test_nsga_gives_the_same_again(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    given = {"method": ["scale", "saliency"], "trials": 12, "sampler": "nsga2"}
    assert told(searched(tmp_path / "a", **given)) == told(searched(tmp_path / "b", **given))


@pytest.mark.long
def test_quantised_networks_are_among_them(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    given = {"quantize": ["none", "fp16-weights"], "trials": 6, "objective": "bytes"}
    found = searched(tmp_path, **given)
    schemes = {t.setting.quantize for t in found.summary.trials if t.sizes is not None}
    assert schemes == {"none", "fp16-weights"}
    assert found.pick is not None and found.summary.look is not None and found.summary.look.agreement
    assert (tmp_path / "pick.onnx").is_file()


# --- interrupted --------------------------------------------------------------------------------------------

STUDY = f"""
import sys, torch, secateur
sys.path.insert(0, {str(Path(__file__).parent)!r})
from secateur import validation
validation.MOST = validation.FEWEST
from test_search import KILLED, dense
secateur.search(dense(), torch.zeros(1, 4), output=sys.argv[1], **KILLED)
"""
KILLED: dict[str, Any] = {**SMALL, "method": ["reconstruct", "scale"], "trials": 24, "normalize": "none"}


@pytest.mark.long
def test_a_study_that_is_killed_three_times_ends_in_the_same_front(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    for stored in (3, 9, 17):
        process = subprocess.Popen([sys.executable, "-c", STUDY, str(tmp_path / "killed")])
        while len(list((tmp_path / "killed").glob("trials/????.json"))) < stored:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    killed = secateur.search(dense(), torch.zeros(1, 4), output=tmp_path / "killed", **KILLED)
    undisturbed = secateur.search(dense(), torch.zeros(1, 4), output=tmp_path / "undisturbed", **KILLED)
    assert len(killed.summary.trials) == 24 and told(killed) == told(undisturbed)
    assert killed.summary.pick == undisturbed.summary.pick
    assert not list((tmp_path / "killed").rglob(".secateur-*"))


def test_a_trial_that_was_not_written_to_its_end_is_run_again(tmp_path: Path) -> None:
    """A recipe without its trial is what a kill between the two leaves."""
    first = searched(tmp_path)
    assert first.pick is not None
    (tmp_path / "trials" / f"{first.pick.number:04d}.json").unlink()
    assert told(searched(tmp_path)) == told(first)


def test_a_folder_that_was_changed_is_refused(tmp_path: Path) -> None:
    searched(tmp_path)
    path = tmp_path / "trials" / "0001.json"
    path.write_text(path.read_text().replace("params=50%", "params=51%"))
    with pytest.raises(InputError, match="trial 1 is stored as params=51%"):
        searched(tmp_path)
    path.write_text("{")
    with pytest.raises(InputError, match=r"0001.json was changed, or comes from another version"):
        searched(tmp_path)


def test_a_folder_that_was_just_begun_can_be_used(tmp_path: Path) -> None:
    """With a temporary file of a killed run, before the question was written."""
    (tmp_path / ".secateur-0123.tmp").touch()
    Store(tmp_path, Question(kind="search", versions={}, asked={}))
    assert (tmp_path / "question.json").is_file()


def test_spaces_are_lists_without_repetitions() -> None:
    space = Space.parse(["scale", "scale"], "uniform", ["auto", 8], "none")
    assert space.methods == ("scale",) and space.roundings == ("auto", 8) and space.several


# --- sweep --------------------------------------------------------------------------------------------------


def test_a_sweep_is_prune_in_every_combination(tmp_path: Path) -> None:
    given = {"method": ["scale", "reconstruct"], "remove": [0.25, "params=50%"], "seed": [0, 1]}
    found = secateur.sweep(dense(), torch.zeros(1, 4), output=tmp_path, samples=64, **given)
    assert len(found.trials) == 8
    for trial in found.trials:
        arguments = trial.setting.arguments()
        alone = secateur.prune(dense(), torch.zeros(1, 4), samples=64, **arguments)
        assert trial.result == alone.recipe.result
    table = repr(found).splitlines()
    assert len(table) == 2 + 4 and " to " in table[2]  # a row for two seeds
    assert table[2:] == (tmp_path / "summary.md").read_text().splitlines()[4:]


# --- on the command line ------------------------------------------------------------------------------------


def test_the_commands(tmp_path: Path) -> None:
    """A pick and a table on stdout, progress on stderr; exit code 3 where no network keeps the budget."""
    secateur.save_model(tmp_path / "net.pt2", dense(), torch.zeros(2, 4))
    common = ("net.pt2", "--normalize", "none", "--samples", "64")
    done = run(tmp_path, "search", *common, "--max-loss", "10%", "-o", "best")
    assert done.returncode == 0, done.stderr
    assert "(pick)" in done.stdout and "second look" in done.stdout and "trial 1: params=50%" in done.stderr
    assert (tmp_path / "best" / "pick.pt2").is_file()
    none = run(tmp_path, "search", *common, "--max-drift", "0", "-o", "none", "--json")
    assert none.returncode == 3 and json.loads(none.stdout)["pick"] is None
    swept = run(
        tmp_path, "sweep", *common, "--method", "scale", "--remove", "25%,50%", "--seed", "0,x", "-o", "a"
    )
    assert swept.returncode == 1 and "--seed 0,x: give whole numbers" in swept.stderr
    swept = run(tmp_path, "sweep", *common, "--method", "scale", "--remove", "25%,50%", "--json", "-o", "a")
    assert swept.returncode == 0 and len(json.loads(swept.stdout)["trials"]) == 2


def defaults() -> dict[str, Any]:
    parameters = inspect.signature(secateur.prune).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "remove"}


def test_a_folder_without_trials_has_nothing_to_lose(tmp_path: Path) -> None:
    """Such as one of a search that was refused."""
    first, second = (Question(kind="search", versions={}, asked={"samples": n}) for n in (1, 2))
    Store(tmp_path, first, overwrite=False)
    store = Store(tmp_path, second, overwrite=False)
    (store.folder / "trials" / "0.json").write_text("{}")
    with pytest.raises(InputError, match="holds another search"):
        Store(tmp_path, first, overwrite=False)
