"""Whether to trust a pruned model: what judges it is not what it was solved on, and the word follows the
figures.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.errors import InputError, SecateurWarning
from secateur.fidelity import Fidelity, fidelity
from secateur.graph.capture import capture
from secateur.surrogates import SURROGATES
from secateur.types import Samples
from secateur.validation import split, validation_surrogate
from secateur.verdict import judge
from trained import blobs

pytestmark = pytest.mark.judged


def of_classes(first: list[int], second: list[int], moved: float = 0.1) -> Fidelity:
    a, b = (torch.tensor(x).reshape(-1, 1, 1) for x in (first, second))
    return Fidelity(torch.full((len(a),), moved), 0.05, a, b)


def test_figures_by_hand() -> None:
    """100 inputs, 4 of which change: 3 of class 1, of which there are 30, and 1 of class 0."""
    first = [0] * 70 + [1] * 30
    second = [1, *first[1:-3], 0, 0, 0]
    found = judge(of_classes(first, second), "inputs kept apart")
    assert found.agreement == pytest.approx(0.96) and found.interval is not None
    assert found.interval == pytest.approx((0.90074, 0.98900), abs=1e-5)  # Clopper and Pearson of 96 in 100
    assert found.worst_class is not None
    assert (found.worst_class.label, found.worst_class.inputs, found.worst_class.agreement) == (1, 30, 0.9)
    assert found.word == "fine" and not found.reasons and found.vanished == ()


@pytest.mark.parametrize(
    ("changed", "inputs", "basis", "word", "reason"),
    [
        (0, 100, "inputs kept apart", "fine", ""),
        (
            0,
            20,
            "inputs kept apart",
            "check",
            "20 inputs do not show that agreement is above 83%; give about 120",
        ),
        (8, 100, "inputs kept apart", "check", "about 8% of its decisions"),
        (20, 100, "inputs kept apart", "do not use", "about 20% of its decisions"),
        (2, 500, "surrogates", "fine", ""),
        (10, 200, "surrogates", "check", "200 surrogates do not show that agreement is above 72%"),
        (40, 200, "surrogates", "check", "about 8% of its decisions"),
        (80, 200, "surrogates", "do not use", "about 18% of its decisions"),
    ],
)
def test_the_word(changed: int, inputs: int, basis: str, word: str, reason: str) -> None:
    first = [i % 2 for i in range(inputs)]
    second = [1 - c if i < changed else c for i, c in enumerate(first)]
    found = judge(of_classes(first, second), basis, "shapes" if basis == "surrogates" else "")  # type: ignore[arg-type]
    assert found.word == word and reason in " ".join(found.reasons)
    assert found.lines()[0].startswith(f"verdict: {word} (on {inputs}") and reason in str(found)


def test_a_class_that_vanishes_and_outputs_that_are_not_finite() -> None:
    first = [0] * 480 + [1] * 20
    gone = judge(of_classes(first, [0] * 500), "inputs kept apart")
    assert gone.word == "do not use" and gone.vanished == (1,) and "never predicts: 1" in gone.reasons[0]
    few = judge(of_classes(first[:-1], [0] * 499), "inputs kept apart")
    assert few.vanished == ()  # 19 inputs may be chance
    wild = judge(of_classes([0] * 99, [0] * 99, moved=float("inf")), "inputs kept apart")
    assert wild.word == "do not use" and "not finite" in wild.reasons[0]


def test_a_class_of_a_dense_output_vanishes() -> None:
    """Of 40 positions of each of 50 inputs, one is of class 2."""
    first = torch.zeros(50, 40, 1, dtype=torch.int64)
    first[:, 0], first[:, 1:20] = 2, 1
    second = first.clone()
    second[:, 0] = 0
    found = judge(Fidelity(torch.full((50,), 0.1), 0.05, first, second), "inputs kept apart")
    assert found.word == "do not use" and found.vanished == (2,) and found.agreement == pytest.approx(0.975)


def test_outputs_that_move_far_are_never_fine() -> None:
    both = [0, 1] * 50
    moved = Fidelity(torch.ones(100), 1.5, *(torch.tensor(both).reshape(-1, 1, 1),) * 2)
    found = judge(moved, "inputs kept apart")
    assert found.word == "check" and "the outputs move by 150% of their spread" in found.reasons


def test_whole_numbers_are_not_judged() -> None:
    class Best(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x))).argmax(1)  # type: ignore[no-any-return]

    with pytest.warns(SecateurWarning, match="there is no verdict: the model gives no floating-point output"):
        assert secateur.prune(Best().eval(), torch.zeros(2, 4), remove=0.5, method="scale").verdict is None


def test_inputs_of_bfloat16() -> None:
    model, x, _ = blobs()
    half = copy.deepcopy(model).bfloat16()
    result = secateur.prune(half, x[:2].bfloat16(), remove=0.3, method="scale", calibration=x[:60].bfloat16())
    assert result.recipe.used.calibration and result.verdict is not None


def test_inputs_of_one_class_tell_little() -> None:
    found = judge(of_classes([3] * 99, [3] * 99), "inputs kept apart")
    assert found.word == "check" and found.reasons == (
        "the original assigns all of these inputs to class 3, which shows little",
    )


def test_a_doubt_from_elsewhere() -> None:
    both = [0, 1] * 50
    found = judge(of_classes(both, both), "inputs kept apart", doubts=["the inputs are doubtful"])
    assert found.word == "check" and found.reasons == ("the inputs are doubtful",)
    assert found.advice == "say the normalisation"


def test_fidelity_in_batches_is_that_of_all() -> None:
    """Two linear models whose outputs differ by 0.5 in the second place, on four inputs."""
    model = nn.Sequential(nn.Linear(2, 2)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[0].bias.zero_()
    graph = capture(model, torch.zeros(2, 2))
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.4, 0.0], [2.0, 1.8]])
    bias = next(n for n in graph.tensors if n.endswith("bias"))
    found = fidelity(graph, {**graph.tensors, bias: torch.tensor([0.0, 0.5])}, Samples((x,)))
    assert found.agreement is None and found.moved.tolist() == [0.5] * 4 and found.drift == 0.5
    spread = (x.double().var(0, unbiased=False)).mean()
    assert found.relative == pytest.approx(float((0.125 / spread).sqrt()))


def test_outputs_that_do_not_vary_tell_little() -> None:
    model = nn.Sequential(nn.Linear(2, 2)).eval()
    graph = capture(model, torch.zeros(2, 2))
    found = fidelity(graph, graph.tensors, Samples((torch.ones(30, 2),)))
    assert found.relative is None
    verdict = judge(found, "inputs kept apart")
    assert verdict.word == "check" and "do not vary" in verdict.reasons[0] and "spread" not in str(verdict)


def test_inputs_are_split() -> None:
    x = torch.arange(31.0)[:, None]
    solve, apart = (s.inputs[0].flatten().tolist() for s in split(Samples((x,)), seed=3))
    assert len(apart) == 10 and sorted(solve + apart) == x.flatten().tolist()
    assert [len(s.inputs[0]) for s in split(Samples((x[:2],)), 0)] == [1, 1]
    assert validation_surrogate("auto") == "shapes" and validation_surrogate("shapes") != "shapes"


def test_the_verdict_of_a_run_on_a_users_inputs() -> None:
    """The interval holds the agreement on inputs that the run has never seen."""
    model, x, _ = blobs()
    result = secateur.prune(model, x[:2], remove=0.7, calibration=x[:150])
    verdict = result.verdict
    assert verdict is not None and verdict.basis == "inputs kept apart" and verdict.inputs == 50
    assert result.recipe.used.own == 100 and result.recipe.verdict == verdict
    unseen = agreement(model, result.model, x[150:])
    assert verdict.interval is not None and verdict.interval[0] <= unseen <= verdict.interval[1]
    assert str(verdict.word) in repr(result)


def test_a_method_that_solves_nothing_is_judged_on_all() -> None:
    model, x, _ = blobs()
    verdict = secateur.prune(model, x[:2], remove=0.3, method="scale", calibration=x[:60]).verdict
    assert verdict is not None and verdict.inputs == 60
    drawn = secateur.prune(model, x[:2], remove=0.3, method="scale").verdict
    assert drawn is not None and drawn.basis == "surrogates" and drawn.surrogate == "shapes"


def test_a_regression_is_judged_by_how_far_its_outputs_move() -> None:
    model, x, _ = blobs()
    verdict = secateur.prune(model, x[:2], remove=0.6, method="scale", head="none").verdict
    assert verdict is not None and verdict.agreement is None and verdict.interval is None
    assert (
        verdict.word != "fine"
        and "the outputs move by" in verdict.reasons[0]
        and verdict.relative_drift > 0.1
    )


def test_exact_changes_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        model[0].weight[2:4] = model[0].weight[:2]
        model[0].bias[2:4] = model[0].bias[:2]
    verdict = secateur.prune(model, torch.zeros(2, 4), method="exact", round_to=1).verdict
    assert verdict is not None and verdict.agreement == 1 and verdict.drift < 1e-5 and verdict.word == "fine"


def test_a_model_that_cannot_be_judged_is_still_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> object:
        raise InputError("nothing can be drawn")

    monkeypatch.setitem(SURROGATES, "shapes", refuse)
    model, x, _ = blobs()
    with pytest.warns(SecateurWarning, match="there is no verdict: nothing can be drawn"):
        result = secateur.prune(model, x[:2], method="scale", remove=0.5)
    assert result.verdict is None and "verdict" not in repr(result)
    with pytest.raises(InputError, match="nothing can be drawn"):
        secateur.prune(model, x[:2], method="scale", remove=0.5, guard={"agreement": 0.9})


def agreement(first: nn.Module, second: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((first(x).argmax(1) == second(x).argmax(1)).float().mean())
