"""Attention in every form: what is a unit, that pruning it equals the masked original, and what turns and refits do."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur
from architectures import TransformerBlock, randomise
from attention_forms import DIM, FEED_FORWARD, FORMS, TOKENS, Heads
from helpers import batch_of, cut, doubled, outputs, same_bits, snapshot
from secateur.cost import macs_after, parameters_after
from secateur.graph.capture import capture
from secateur.graph.coupling import Coupling, couple
from secateur.graph.graph import Graph
from secateur.graph.interpret import run
from secateur.graph.widths import QK, V, crossed_by_widths, is_width
from secateur.plan import selected
from secateur.reconstruct import Settings, layer_statistics
from secateur.reconstruct.widths import Widths, _balanced, _principal, widths_of, with_turned
from secateur.surgery import shrink
from secateur.types import Samples

EVERY = pytest.mark.parametrize("name", FORMS)


@cache
def formed(name: str) -> tuple[nn.Module, Graph, Coupling]:
    architecture = FORMS[name].architecture
    model = architecture.build()
    graph = capture(model, architecture.example())
    return model, graph, couple(graph)


@pytest.mark.sweep
@EVERY
def test_heads_and_widths_are_units(name: str) -> None:
    """Every form that computes attention has the units that its row says."""
    form, (_, _, coupling) = FORMS[name], formed(name)
    heads = crossed_by_widths(coupling.groups)
    units = {group.name: group.units for group in coupling.prunable}
    assert {units[head] for head in heads & units.keys()} == {form.heads}
    widths = {group.name: group.units for group in coupling.prunable if is_width(group)}
    if name == "heads_first_fused":  # q, k and v stand in one reshaped value
        assert widths == {"body.attn.qkv/qkv": 4}
        return
    assert {n for name, n in widths.items() if name.endswith(QK)} == ({form.qk} if form.qk else set())
    assert {n for name, n in widths.items() if name.endswith(V)} == {form.v}


@pytest.mark.sweep
@EVERY
@pytest.mark.parametrize("attention", ["both", "widths"])
def test_pruned_attention_is_the_masked_original(name: str, attention: Any) -> None:
    """In float64, with random merges in heads, widths and hidden units at once; nothing hides in what goes."""
    model, graph, coupling = formed(name)
    state = cut(graph, coupling, share=0.45, attention=attention)
    small = shrink(model, graph, coupling, state.weights, state.alive).double()
    inputs = doubled(batch_of(graph.example, 3))
    types = {name: tensor.dtype for name, tensor in graph.tensors.items()}
    rounded = {name: w.to(types[name]).to(w.dtype) for name, w in state.weights.items()}
    noise = torch.Generator().manual_seed(3)
    for group in coupling.prunable:
        for slot in group.having("producer"):
            gone = slot.positions[~state.alive[group.name]].flatten()
            rows = rounded[slot.tensor].index_select(slot.axis, gone)
            if not any(_zeroes(other, slot.tensor, slot.axis, gone) for other in coupling.prunable):
                other = torch.randn(rows.shape, generator=noise, dtype=rows.dtype)
                rounded[slot.tensor] = rounded[slot.tensor].index_copy(slot.axis, gone, other)
    wanted = run(graph, inputs, rounded, dtype=torch.float64)
    exact = 1e-6 if name == "rotary_halves" else 1e-9  # the graph holds its angles in float32
    for mine, reference in zip(outputs(small, inputs), wanted, strict=True):
        torch.testing.assert_close(mine, reference, rtol=exact, atol=exact)
    assert parameters_after(graph, coupling, state.alive) == sum(p.numel() for p in small.parameters())
    assert macs_after(graph, coupling, state.alive) < macs_after(graph, coupling, {})


def _zeroes(group: secateur.Group, tensor: str, axis: int, indices: Tensor) -> bool:
    slots = group.slots if group.normed else group.having("consumer")
    slots = [slot for slot in slots if (slot.tensor, slot.axis) == (tensor, axis)]
    return any(bool(torch.isin(indices, slot.positions).any()) for slot in slots)


@pytest.mark.parametrize("name", FEED_FORWARD)
def test_hidden_units_of_gates_and_experts(name: str) -> None:
    architecture, hidden = FEED_FORWARD[name]
    graph = capture(architecture.build(), architecture.example())
    coupling = couple(graph)
    assert {group.units for group in coupling.prunable if group.name.startswith("body.attn")} == hidden
    state = cut(graph, coupling)
    shrink(architecture.build(), graph, coupling, state.weights, state.alive)  # checks itself


def test_what_leaves_from_attention() -> None:
    _, _, coupling = formed("separate")
    names = {what: [g.name for g in selected(coupling, (), what)] for what in ("heads", "widths", "both")}
    assert names["heads"] == ["body.attn.q", "body.mlp.0"]
    assert names["widths"] == ["body.mlp.0", "body.attn.q/qk", "body.attn.v/v"]
    assert names["both"] == ["body.attn.q", "body.mlp.0", "body.attn.q/qk", "body.attn.v/v"]
    assert [g.name for g in selected(coupling, ["*/v"], "widths")] == ["body.mlp.0", "body.attn.q/qk"]


def test_rows_of_keys_read_queries() -> None:
    """Merging one query dimension into another adds up the rows of the keys."""
    _, _, coupling = formed("no_bias")
    group = next(group for group in coupling.prunable if group.name.endswith(QK))
    slots = {(slot.tensor, slot.role): slot.positions.tolist() for slot in group.slots}
    dimensions = [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]
    assert slots == {
        ("body.attn.q.weight", "producer"): dimensions,
        ("body.attn.k.weight", "consumer"): dimensions,
    }


def test_a_key_bias_behind_an_activation_pins_the_width() -> None:
    """elu(k) + 1 is not 0 where k is: a removed dimension would leave its mark on all logits."""

    class Linear(Heads):
        def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            scores = (F.elu(q) + 1) @ (F.elu(k) + 1).transpose(-2, -1)
            return scores / scores.sum(-1, keepdim=True) @ v

    coupling = couple(capture(Linear().eval(), torch.randn(2, TOKENS, DIM)))
    assert not any(group.name.endswith(QK) for group in coupling.prunable)
    assert any(group.name.endswith(V) for group in coupling.prunable)


# --- turns --------------------------------------------------------------------------------------------------


def turned(name: str) -> tuple[Graph, Widths, dict[str, Tensor], dict[str, Tensor]]:
    """A form, its turns, and its tensors before and after."""
    _, graph, coupling = formed(name)
    plain = {n: w.double() if w.is_floating_point() else w for n, w in graph.tensors.items()}
    samples = Samples(batch_of(graph.example, 64))
    stats = layer_statistics(graph, coupling, plain, samples, (), Settings(), 0, 2**28)
    widths = widths_of(stats, coupling, coupling.prunable)
    after = with_turned(stats, widths)
    assert after.original is not stats.original
    return graph, widths, plain, dict(after.original)


@pytest.mark.sweep
@EVERY
def test_turned_heads_compute_the_same(name: str) -> None:
    graph, widths, before, after = turned(name)
    inputs = doubled(batch_of(graph.example, 4, seed=9))
    for a, b in zip(run(graph, inputs, before), run(graph, inputs, after), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)
    rotary = name in ("rotary_halves", "rotary_interleaved")
    normed = "normed" in name or name == "rms_by_hand"
    if name not in ("heads_first_fused", "rms_shared"):
        assert widths.costs
        moved = {turn.tensor.rpartition(".")[0].rpartition(".")[2] for turn in widths.turns}
        assert bool(moved & {"q", "k", "q_proj", "k_proj"}) <= (not rotary and not normed)


def test_no_other_map_of_this_rank_leaves_smaller_errors_of_logits() -> None:
    """Eckart and Young: the tail of the singular values is the error, and no choice of dimensions has less."""
    torch.manual_seed(0)
    q = torch.randn(4000, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64)
    k = torch.randn(4000, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64)
    moments = (q.mT @ q / len(q), k.mT @ k / len(k))
    turn, back, s = (x[0] for x in _balanced(*(m[None] for m in moments)))
    torch.testing.assert_close((q @ turn.T) @ (k @ back.T).T, q @ k.T)

    def error(map_of_keys: Tensor) -> Tensor:
        """E(q·k − q·Mk)² for independent q and k."""
        missed = torch.eye(6, dtype=torch.float64) - map_of_keys
        return torch.trace(moments[0] @ missed @ moments[1] @ missed.T)

    for rank in (2, 4):
        kept = torch.diag((torch.arange(6) < rank).double())
        best = error(turn.T @ kept @ back)
        torch.testing.assert_close(best, s[rank:].square().sum(), rtol=2e-2, atol=1e-6)
        chosen = [
            error(torch.diag(torch.isin(torch.arange(6), subset).double()))
            for subset in torch.combinations(torch.arange(6), rank)
        ]
        assert best < min(chosen)


def test_values_are_turned_to_what_is_read_of_them() -> None:
    torch.manual_seed(0)
    x = torch.randn(3000, 5, dtype=torch.float64) @ torch.randn(5, 5, dtype=torch.float64)
    columns = torch.randn(7, 5, dtype=torch.float64)
    turn, back = (m[0] for m in _principal((columns.T @ columns)[None], (x.T @ x / len(x))[None]))
    wanted = x @ columns.T
    torch.testing.assert_close((x @ turn.T) @ (back @ columns.T), wanted)
    torch.testing.assert_close(turn.norm(dim=1), torch.ones(5, dtype=torch.float64))
    tails = [float((wanted - (x @ turn.T)[:, :r] @ (back @ columns.T)[:r]).square().sum()) for r in range(6)]
    spectrum = torch.linalg.svdvals(wanted).square()
    for rank, tail in enumerate(tails):
        assert tail == pytest.approx(float(spectrum[rank:].sum()), rel=1e-2, abs=1e-6)


# --- pruning ------------------------------------------------------------------------------------------------

SETTINGS: dict[str, Any] = {"input_bounds": (-9.0, 9.0), "surrogate": "none", "remove": 0.5}


def of_low_rank(make: Any) -> nn.Module:
    """Queries and keys, and values, of each head span half of its width, in directions of its own."""
    torch.manual_seed(0)
    block = TransformerBlock(make(), DIM, 20)
    with torch.no_grad():
        randomise(block)
        attention, halves = block.attn, torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0]))
        for head in range(3):
            rows = slice(4 * head, 4 * head + 4)
            projector = torch.linalg.qr(torch.randn(4, 4)).Q
            projector = projector @ halves @ projector.T
            for layer in (attention.q, attention.v):
                layer.weight[rows], layer.bias[rows] = (
                    projector @ layer.weight[rows],
                    projector @ layer.bias[rows],
                )
    return nn.Sequential(nn.Linear(7, DIM), block, nn.Linear(DIM, 5)).eval()


def test_redundant_widths_leave_at_no_loss() -> None:
    """No dimension is redundant by itself; in the turned heads half of them are."""
    model = of_low_rank(lambda: Heads(value=4))
    x = torch.randn(200, TOKENS, 7)
    kept = {"attention": "widths", "calibration": x, "ignore": "1.mlp.0", "options": {"ridge": 1e-8}}
    result = secateur.prune(model, x[:2], **SETTINGS, **kept)
    assert {g.group: len(g.kept) for g in result.recipe.groups} == {"1.attn.q/qk": 2, "1.attn.v/v": 2}
    torch.testing.assert_close(outputs(result.model, [x])[0], outputs(model, [x])[0], rtol=2e-3, atol=2e-3)
    without = secateur.prune(model, x[:2], **SETTINGS, **(kept | {"options": {}}), method="scale")
    moved = (outputs(without.model, [x])[0] - outputs(model, [x])[0]).abs().max()
    assert moved > 0.1


@pytest.mark.sweep
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["separate", "fused", "rotary_halves", "gqa_repeat", "heads_first_fused", "multihead"]
)
@pytest.mark.parametrize("attention", ["widths", "both"])
def test_prune_and_replay(name: str, attention: str, tmp_path: Any) -> None:
    model, graph, _ = formed(name)
    x = batch_of(graph.example, 96)[0]
    settings = SETTINGS | {"attention": attention, "calibration": x, "step": 0.3}
    result = secateur.prune(model, x[:2], **settings)
    assert result.recipe.achieved >= 0.4
    result.recipe.save(tmp_path / "small.recipe.json")
    again = secateur.replay(model, secateur.Recipe.load(tmp_path / "small.recipe.json"), x[:2])
    assert same_bits(snapshot(again), snapshot(result.model))
    same = secateur.prune(model, x[:2], **settings)
    assert same_bits(snapshot(same.model), snapshot(result.model))


def test_keys_of_removed_dimensions_stay_zero_after_a_refit() -> None:
    """The second block's keys are refitted, since their inputs have changed; those that left do not come back."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(7, DIM), *(TransformerBlock(Heads(), DIM, 20) for _ in range(2)), nn.Linear(DIM, 5)
    ).eval()
    x = torch.randn(64, TOKENS, 7)
    result = secateur.prune(model, x[:2], **SETTINGS, attention="both", calibration=x)
    assert all(len(g.kept) * 2 <= g.units + 1 for g in result.recipe.groups)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["separate", "fused", "rotary_halves"])
def test_widths_leave_onnx_files(name: str, tmp_path: Any) -> None:
    """The scale is still that of the full width; of a fused layer all three widths leave alike."""
    pytest.importorskip("onnxruntime")
    model, graph, _ = formed(name)
    x = batch_of(graph.example, 96)[0]
    secateur.save_model(tmp_path / "net.onnx", model, x[:2])
    own = secateur.load_model(tmp_path / "net.onnx")
    result = secateur.prune(own, x[:2], **SETTINGS, attention="both", calibration=x)
    assert type(result.model) is type(own)
    assert sum(bool(g.group.endswith((QK, V, "/qkv"))) for g in result.recipe.groups) == (
        1 if name == "fused" else 2
    )
    secateur.save_model(tmp_path / "small.onnx", result.model)
    again = secateur.load_model(tmp_path / "small.onnx")
    torch.testing.assert_close(outputs(again, [x[:2]])[0], outputs(result.model, [x[:2]])[0])


def test_what_attention_may_be() -> None:
    model, graph, _ = formed("separate")
    with pytest.raises(secateur.InputError, match="attention='tokens': give auto, heads, widths or both"):
        secateur.prune(model, graph.example, remove=0.5, attention="tokens")


@pytest.mark.long
def test_what_auto_stands_for() -> None:
    """Widths; heads for certificates, which hold for heads alone, and for exact removal."""
    model, graph, _ = formed("separate")
    own = 2 * torch.rand(6, *graph.example[0].shape[1:]) - 1
    how: dict[str, Any] = {"input_bounds": (-1.0, 1.0), "calibration": own, "remove": 0.4}
    certified = {"certified_drift": 1e9, "eps": 1e-6}

    def leaving(**more: Any) -> set[str]:
        recipe = secateur.prune(model, graph.example, **how, **more).recipe
        return {g.group for g in recipe.groups if g.group != "body.mlp.0"}

    widths = {"body.attn.q/qk", "body.attn.v/v"}
    assert leaving() == widths
    assert leaving(guard=certified) == {"body.attn.q"}
