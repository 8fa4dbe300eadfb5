"""What queries and keys cost the outputs, and what those that are left make up for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from architectures import RotaryAttention, SequenceClassifier, TransformerBlock, randomise
from attention_forms import DIM, FORMS, Heads
from helpers import batch_of, outputs
from secateur.graph.capture import capture
from secateur.graph.coupling import Coupling, couple
from secateur.graph.graph import Graph
from secateur.graph.interpret import run
from secateur.graph.widths import QK, is_width
from secateur.reconstruct import LayerStatistics, Settings, layer_statistics
from secateur.reconstruct.gates import Gates, gates_of
from secateur.reconstruct.heads import Parts, factors_of
from secateur.reconstruct.turns import turned
from secateur.reconstruct.widths import widths_of, with_turned
from secateur.types import Samples


def measured(name: str, samples: int = 64) -> tuple[Graph, Coupling, LayerStatistics, Gates]:
    """A form of attention, the statistics of its turned network, and the gates of its queries and keys."""
    architecture = FORMS[name].architecture
    graph = capture(architecture.build(), architecture.example())
    coupling = couple(graph)
    plain = {n: w.double() if w.is_floating_point() else w for n, w in graph.tensors.items()}
    inputs = Samples(batch_of(graph.example, samples))
    stats = layer_statistics(graph, coupling, plain, inputs, (), Settings(), 0, 2**28)
    stats = with_turned(stats, widths_of(stats, coupling, coupling.prunable))
    group = next(group for group in coupling.prunable if group.name.endswith(QK))
    part = Parts.of(stats, coupling, group)
    assert part is not None
    return graph, coupling, stats, gates_of(stats, coupling, [part])[group.name]


def features(graph: Graph, coupling: Coupling, stats: LayerStatistics) -> Tensor:
    """q ∂outputs/∂q of each unit at each position, by autograd; shape: (outputs, samples, heads, units, tokens)."""
    group = next(group for group in coupling.prunable if group.name.endswith(QK))
    queries = factors_of(coupling, graph, group)[0]
    held: list[Tensor] = []

    def call(node: Any, args: Any, kwargs: Any, *, like: Tensor) -> Any:
        from secateur.graph.interpret import call_op

        value = call_op(node, args, kwargs, like=like)
        if node is queries.node:
            value = value.detach().requires_grad_()
            held.append(value)
        return value

    with torch.enable_grad():
        (out,) = run(
            graph, stats.samples.inputs, stats.original, dtype=torch.float64, call=call, gradients=True
        )
        rows = [torch.autograd.grad(y.sum(), held[0], retain_graph=True)[0] for y in out.unbind(1)]
    values = torch.stack([held[0].detach() * row for row in rows])
    values = values.permute(0, *(axis + 1 for axis in queries.order)).flatten(4)
    summed = values.new_zeros(*values.shape[:3], group.units, values.shape[4])
    return summed.index_add_(3, queries.units, values)


@pytest.mark.parametrize("name", ["separate", "rotary_halves", "rms_normed", "gqa_repeat"])
def test_moments_are_those_of_the_jacobian(name: str) -> None:
    graph, coupling, stats, gates = measured(name, samples=256)
    f = features(graph, coupling, stats)
    if gates.tensors and len(gates.tensors[0][2]) == 1:
        f = f.sum(2, keepdim=True)
    wanted = torch.einsum("oshut,oshvt->huv", f, f) / f.shape[1]
    found = gates.moments[:, :: gates.numbers, :: gates.numbers]
    assert (found - wanted).norm() < 0.2 * wanted.norm()  # random signs, one for each sample


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("name", "numbers", "taken"),
    [
        ("separate", 1, set()),  # turned: nothing is left to make up for
        ("rotary_halves", 2, {"q_proj.weight"}),
        ("rotary_interleaved", 2, {"q.weight", "q.bias"}),
        ("rms_normed", 1, {"q_norm.weight"}),
        ("layer_normed", 1, {"q_norm.weight", "q_norm.bias"}),
        ("rms_by_hand", 1, {"q_scale"}),
    ],
)
def test_which_tensors_take_factors(name: str, numbers: int, taken: set[str]) -> None:
    *_, gates = measured(name)
    assert gates.numbers == numbers
    assert {tensor.removeprefix("body.attn.") for tensor, *_ in gates.tensors} == taken
    assert (gates.shares is not None) == ("norm" in name or "hand" in name)


def test_the_other_unit_takes_over_what_it_can() -> None:
    """Two units: f_1 is best replaced by f_0 A_01 / A_00, which leaves A_11 − A_01² / A_00."""
    at = torch.tensor([[[0, 1]]])
    moments = torch.tensor([[[4.0, 2.0], [2.0, 3.0]]], dtype=torch.float64)
    gates = Gates(moments, 1, (("q", 0, at),), None, ridge=1e-12)
    units, costs = gates.cheapest(torch.ones(2, dtype=torch.bool), 1)
    assert units.tolist() == [1]
    torch.testing.assert_close(costs, torch.tensor([3.0 - 2.0**2 / 4.0], dtype=torch.float64))
    (turn,) = gates.turns(torch.tensor([True, False]))
    weight = turn.of(torch.ones(2, 3, dtype=torch.float64))
    torch.testing.assert_close(weight[0], torch.full((3,), 1.5, dtype=torch.float64))
    alone = gates.in_order(torch.tensor([1, 0]))
    torch.testing.assert_close(alone, torch.tensor([3.0, 11.0 - 3.0], dtype=torch.float64))


def test_a_pair_is_turned_by_an_angle() -> None:
    """Places (0, 2) and (1, 3) are pairs; unit 0 is turned by the quarter turn that its second number asks for."""
    at = torch.tensor([[[0, 1], [2, 3]]])
    moments = torch.eye(4, dtype=torch.float64)[None].clone()
    moments[0, 1, 2] = moments[0, 2, 1] = 0.5  # unit 0 turned looks like unit 1
    gates = Gates(moments, 2, (("q", 0, at),), None, ridge=1e-12)
    (turn,) = gates.turns(torch.tensor([True, False]))
    weight = turn.of(torch.eye(4, dtype=torch.float64))
    wanted = torch.tensor([[1.0, 0, -0.5, 0], [0.5, 0, 1.0, 0]], dtype=torch.float64)
    torch.testing.assert_close(weight[[0, 2]], wanted)
    back = turned({"q": weight}, [turn.back()])["q"]
    torch.testing.assert_close(back, torch.eye(4, dtype=torch.float64))


def test_a_norm_is_scaled_to_what_is_left_of_the_squares() -> None:
    shares = torch.tensor([[0.64, 0.36], [0.25, 0.75]], dtype=torch.float64)
    moments = torch.eye(2, dtype=torch.float64)[None]
    gates = Gates(moments, 1, (("q_norm", 0, torch.tensor([[[0, 1]]])),), shares, ridge=0.0)
    (turn,) = gates.turns(torch.tensor([True, False]))
    assert float(turn.of(torch.ones(2, dtype=torch.float64))[0]) == pytest.approx(0.8 * 0.5)
    assert gates.turns(torch.tensor([True, True])) == []


# --- pruning ------------------------------------------------------------------------------------------------


def block_of(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(4)
    architecture = FORMS[name].architecture
    model = architecture.build()
    return model, batch_of(architecture.example(), 400)[0]


def moved_by(model: nn.Module, x: Tensor, **how: Any) -> float:
    result = secateur.prune(
        model, x[:2], attention="widths", ignore=["*mlp*", "*/v"], calibration=x, surrogate="none",
        input_bounds=(-9.0, 9.0), round_to=1, **{"remove": 0.5, **how},
    )  # fmt: skip
    assert {g.group.endswith(QK) for g in result.recipe.groups if len(g.kept) < g.units} == {True}
    return float((outputs(result.model, [x])[0] - outputs(model, [x])[0]).square().mean())


def alike_pairs() -> nn.Module:
    """Rotary heads of eight pairs, all of which look at the same two directions."""
    torch.manual_seed(0)
    block = TransformerBlock(RotaryAttention(DIM, 3, 16), DIM, 20)
    with torch.no_grad():
        randomise(block)
        for layer, scale in ((block.attn.q_proj, 0.5), (block.attn.k_proj, 1.0)):
            seen = torch.randn(3, 2, DIM) / DIM**0.5
            layer.weight.copy_(scale * (torch.randn(3, 16, 2) @ seen).reshape(48, DIM))
    return SequenceClassifier(block).eval()


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "gain"), [("pairs", 0.5), ("rms_normed", 0.95), ("rms_by_hand", 0.95)])
def test_what_is_left_makes_up_for_what_goes(name: str, gain: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = (alike_pairs(), torch.randn(400, 6, 7)) if name == "pairs" else block_of(name)
    with_factors = moved_by(model, x)
    monkeypatch.setattr(Gates, "turns", lambda self, alive: [])
    assert with_factors < gain * moved_by(model, x)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["rotary_halves", "rms_normed"])
def test_factors_of_steps_are_those_of_one(name: str) -> None:
    """Each step takes the factors of the one before off; its own are those of the original."""
    model, x = block_of(name)
    assert moved_by(model, x, step=0.25) == pytest.approx(moved_by(model, x), rel=1e-2)


def test_global_allocation_removes_queries_and_keys() -> None:
    """Half of the heads' width spans nothing: it costs nothing, and leaves first."""
    torch.manual_seed(0)
    block = TransformerBlock(Heads(), DIM, 20)
    with torch.no_grad():
        randomise(block)
        for head in range(3):
            block.attn.q.weight[4 * head + 2 : 4 * head + 4] *= 1e-3
            block.attn.q.bias[4 * head + 2 : 4 * head + 4] *= 1e-3
    model = SequenceClassifier(block).eval()
    x = torch.randn(64, 6, 7)
    result = secateur.prune(
        model, x[:2], remove="params=8%", allocation="global", calibration=x, surrogate="none", round_to=1,
        input_bounds=(-9.0, 9.0),
    )  # fmt: skip
    kept = {g.group: len(g.kept) for g in result.recipe.groups}
    assert kept["body.attn.q/qk"] == 2 < kept["body.attn.v/v"]


def test_factors_of_a_partial_rotation_are_of_their_own_dimensions() -> None:
    """Both groups stand along the width of the same product."""
    architecture = FORMS["rotary_partial"].architecture
    model, example = architecture.build(), architecture.example()
    graph = capture(model, example)
    coupling = couple(graph)
    groups = [group for group in coupling.prunable if is_width(group) and group.name.endswith("/qk")]
    found = [factors_of(coupling, graph, group)[0] for group in groups]
    assert sorted(sorted(factor.at.tolist()) for factor in found) == [[0, 1, 2, 3], [4, 5]]
    assert {tuple(factor.places.shape) for factor in found} == {(2, 2), (1, 2)}
    result = secateur.prune(model, example, remove=0.5, samples=48, surrogate="uniform", input_bounds=(-1, 1))
    assert result.history[-1].parameters < result.before.parameters
