"""Where nobody says how much to remove: shares are tried, and the largest that is close enough is taken."""

from __future__ import annotations

import inspect
import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur
from command import Limits, run
from secateur.errors import InputError, NothingToPruneError, TargetMissedError
from secateur.report.verdict import Verdict
from secateur.request import Request
from secateur.shares import largest_share

COMMON: dict[str, Any] = {"samples": 64, "normalize": "none"}


def dense(width: int = 16) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3)).eval()


def forgiving() -> nn.Sequential:
    """Of 40 units, 32 hardly reach the outputs: half of them may go."""
    net = dense(40)
    with torch.no_grad():
        list(net.parameters())[2][:, 8:] *= 1e-4
    return net


def undecided() -> nn.Sequential:
    """Its three outputs are equal on average, so that a unit less changes many decisions."""
    net = dense(20)
    with torch.no_grad():
        list(net.parameters())[3] -= net(torch.rand(256, 4)).mean(0)
    return net


def asked(**given: Any) -> Request:
    parameters = inspect.signature(secateur.prune).parameters.values()
    return Request.parse(**{p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY} | given)


def verdicts(basis: str = "inputs kept apart", **given: Sequence[float | None]) -> list[Verdict]:
    """One for each of 50, 25 and 10 %, with these figures."""
    found = secateur.prune(dense(), torch.zeros(1, 4), method="scale", remove=0.5).verdict
    assert found is not None
    rows = zip(*given.values(), strict=True)
    return [found.model_copy(update={"basis": basis, **dict(zip(given, row, strict=True))}) for row in rows]


def chosen(made: Sequence[Verdict | Exception], **given: Any) -> tuple[secateur.Result, list[Request]]:
    """The result where runs end in these verdicts or errors; and what was run."""
    result = secateur.prune(dense(), torch.zeros(1, 4), method="scale", remove=0.5)
    left, seen = iter(made), list[Request]()

    def once(request: Request) -> secateur.Result:
        seen.append(request)
        found = next(left)
        if isinstance(found, Exception):
            raise found
        recipe = result.recipe.model_copy(update={"verdict": found, "shortfall": str(request.remove)})
        return secateur.Result(**{**vars(result), "recipe": recipe})

    return largest_share(asked(**given), once), seen


@pytest.mark.parametrize(
    ("agreements", "share"),
    [((0.99, 1.0, 1.0), "50%"), ((0.97, 0.98, 1.0), "25%"), ((0.979, 0.9, 0.981), "10%")],
)
def test_the_largest_share_that_keeps_the_decisions(agreements: tuple[float, ...], share: str) -> None:
    """Agreements at 50, 25 and 10 %; the first from 98 % is taken."""
    found, seen = chosen(verdicts(agreement=agreements))
    assert found.recipe.shortfall == share and [request.remove for request in seen] == ["50%", "25%", "10%"]
    assert [line.partition(" ")[0] for line in found.tried] == ["10%", "25%", "50%"]
    assert f"tried: 25% of the units: {1 - agreements[1]:.1%} of the decisions differ" in repr(found)


def test_on_surrogates_the_agreement_on_real_inputs_counts() -> None:
    """Where 5.8 % of the decisions differ on surrogates, odds of a third make that 2.0 % on real inputs."""
    found, _ = chosen(verdicts("surrogates", agreement=(0.94, 0.943, 1.0)))
    assert found.recipe.shortfall == "25%"
    assert "5.7% of the decisions differ" in found.tried[1] and "about 2.0% on real inputs" in found.tried[1]


def test_without_decisions_outputs_must_stay_near() -> None:
    found, _ = chosen(verdicts(agreement=(None,) * 3, relative_drift=(0.2, 0.1, 0.01)))
    assert found.recipe.shortfall == "25%" and "outputs move by 20.0% of their spread" in found.tried[2]


def test_none_is_close_enough(tmp_path: Path) -> None:
    """Nothing is written, and the message says what each would lose; a share that is missed is none."""
    made = [TargetMissedError("cannot go"), *verdicts(agreement=(0.9, 0.97))]
    with pytest.raises(TargetMissedError) as error:
        chosen(made)
    said = str(error.value)
    assert (
        "no share stays close enough to the original (10% of the units: 3.0% of the decisions differ" in said
    )
    assert "50% of the units: cannot go)" in said and "--remove 10%" in said
    with pytest.raises(TargetMissedError, match="no share stays close enough"):
        secateur.prune(undecided(), torch.zeros(1, 4), resume=tmp_path / "a", method="scale", **COMMON)
    assert not (tmp_path / "a").exists(), "there is nothing to go on with"


def test_small_groups_lose_no_unit_at_small_shares() -> None:
    made = [
        *verdicts(agreement=(0.9, 0.99))[:1],
        NothingToPruneError("no whole unit"),
        *verdicts(agreement=(1.0,)),
    ]
    found, _ = chosen(made)
    assert found.recipe.shortfall == "10%" and "25% of the units: no whole unit" in found.tried
    with pytest.raises(NothingToPruneError, match="no whole unit"):
        chosen([NothingToPruneError("no whole unit")])


def test_a_budget_and_a_checkpoint_are_divided(tmp_path: Path) -> None:
    _, seen = chosen(verdicts(agreement=(1.0, 1.0, 1.0)), budget=60, resume=tmp_path / "a")
    assert [request.budget for request in seen] == [20.0] * 3
    assert seen[0].resume == tmp_path / "a" / "50%" and seen[2].resume == tmp_path / "a" / "10%"


@pytest.mark.sweep
@pytest.mark.parametrize("given", [{}, {"remove": "auto"}])
def test_the_result_is_that_of_the_share(given: dict[str, str]) -> None:
    found = secateur.prune(forgiving(), torch.zeros(1, 4), **given, **COMMON)
    assert found.recipe.request.remove == "50%" and len(found.tried) == 3
    same = secateur.prune(forgiving(), torch.zeros(1, 4), remove="50%", **COMMON)
    assert found.recipe == same.recipe and not same.tried


def test_other_defaults() -> None:
    """A guard says how far to go; `exact` knows."""
    assert asked(guard={"drift": 1.0}).remove == 0.5
    assert asked(method="exact").remove is None and asked().remove == "auto"
    with pytest.raises(
        InputError, match="remove='auto' has a budget of its own; say how much to remove at most"
    ):
        asked(remove="auto", guard={"drift": 1.0})


def test_nothing_to_compare() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = dense()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.body(x).argmax(1)
            return found

    with (
        pytest.warns(secateur.errors.SecateurWarning, match="there is no verdict"),
        pytest.raises(secateur.SecateurError, match="nothing can be compared here, so that no share"),
    ):
        secateur.prune(Whole().eval(), torch.zeros(1, 4), method="scale", normalize="none")


def test_on_the_command_line(tmp_path: Path) -> None:
    """Killed in the second share, it goes on; then the files are those of `--remove 50%`."""
    secateur.save_model(tmp_path / "net.pt2", forgiving(), torch.zeros(2, 4))
    common = "prune net.pt2 --normalize none --samples 64 --no-latency --json".split()
    killed = run(tmp_path, *common, "--resume", "-o", "small.pt2", limits=Limits(kill_at_file=4))
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "small.pt2.partial" / "50%" / "run.json").exists()
    done = run(tmp_path, *common, "--resume", "-o", "small.pt2")
    assert done.returncode == 0 and "small.pt2.partial/50%: going on after step 1" in done.stderr
    assert "10% of the units: " in done.stderr and "taken: 50%;" in done.stderr
    assert len(json.loads(done.stdout)["tried"]) == 3
    assert {path.suffix for path in tmp_path.iterdir()} == {".pt2", ".json", ".safetensors"}
    run(tmp_path, *common, "--remove", "50%", "-o", "same.pt2")
    recipes = [secateur.Recipe.load(tmp_path / f"{name}.recipe.json") for name in ("small", "same")]
    assert recipes[0].result == recipes[1].result and recipes[0].request == recipes[1].request


def test_a_command_that_finds_none(tmp_path: Path) -> None:
    secateur.save_model(tmp_path / "net.pt2", undecided(), torch.zeros(2, 4))
    done = run(tmp_path, "prune", "net.pt2", "--method", "scale", "--no-latency", "-o", "small.pt2")
    assert done.returncode == 3 and "no share stays close enough" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt2"]
