"""Residual streams: what is one, that turning it changes nothing, and that cutting it is made up for."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import command
import huggingface_models
import secateur
from architectures import randomise, transformer
from attention_forms import ByHand
from helpers import outputs, same_bits
from secateur.errors import InputError, NothingToPruneError, SecateurError, VerificationError
from secateur.formats.huggingface.model import HuggingFaceModel
from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.graph.interpret import run
from secateur.graph.stream import Stream
from secateur.graph.streams import coupled
from secateur.reconstruct import streams
from secateur.reconstruct.streams import _contrasts, rotated, written
from secateur.surgery import shrink, sizes

DIM, WORDS, TOKENS = 16, 23, 6


class Decoder(nn.Module):
    """Tokens in, next-token scores out: RMS norms, gated layers, a tied head."""

    def __init__(self, written_out: bool = False) -> None:
        super().__init__()
        norm = WrittenOut if written_out else (lambda dim: nn.RMSNorm(dim, 1e-5))
        self.tokens = nn.Embedding(WORDS, DIM)
        self.norms = nn.ModuleList(norm(DIM) for _ in range(3))
        self.gate, self.up = (nn.ModuleList(nn.Linear(DIM, 20, False) for _ in range(2)) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(20, DIM, False) for _ in range(2))
        self.head = nn.Linear(DIM, WORDS, False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        for norm, gate, up, down in zip(self.norms, self.gate, self.up, self.down, strict=False):
            n = norm(x)
            x = x + down(F.silu(gate(n)) * up(n))
        return self.head(self.norms[-1](x))


class WrittenOut(nn.Module):
    """RMS norm as transformers has it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(dim)), 1e-5

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * x


class PostNorm(nn.Module):
    """Norms behind the sums: what a norm gives is the stream of the next block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norms = nn.Linear(7, DIM), nn.ModuleList(nn.LayerNorm(DIM) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(DIM, 20), nn.GELU(), nn.Linear(20, DIM))
        self.head = nn.Linear(DIM, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](self.stem(x))
        return self.head(self.norms[1](x + self.mlp(x)))


def classifier(scaled: bool = False) -> nn.Module:
    return transformer(lambda: ByHand("queries"), scaled)


def made(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = build()
    with torch.no_grad():
        randomise(model)
        for name, value in model.named_parameters():
            if "norm" in name:
                value += 0.2 * torch.randn(value.shape)
    return model.eval()


IDS = torch.randint(WORDS, (64, TOKENS), generator=torch.Generator().manual_seed(1))
VECTORS = torch.rand(64, 9, 7, generator=torch.Generator().manual_seed(1))
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "rms": (Decoder, IDS),
    "written out": (lambda: Decoder(written_out=True), IDS),
    "layer": (classifier, VECTORS),
}
EVERY = pytest.mark.parametrize("name", MODELS)


@cache
def captured(name: str) -> tuple[nn.Module, Graph, Coupling, Tensor]:
    build, inputs = MODELS[name]
    model = made(build)
    return model, *coupled(model, inputs[:2], streams=True), inputs


def doubles(graph: Graph) -> dict[str, Tensor]:
    return {n: t.double() if t.is_floating_point() else t for n, t in graph.tensors.items()}


def group_of(coupling: Coupling) -> tuple[Stream, secateur.Group]:
    (stream,) = coupling.streams
    return stream, next(group for group in coupling.groups if group.name == stream.group)


@EVERY
def test_a_rotated_stream_computes_the_same(name: str) -> None:
    """In float64, with norms that have no weights any more."""
    _, graph, coupling, inputs = captured(name)
    stream, _ = group_of(coupling)
    tensors = doubles(graph)
    found = rotated(graph, coupling, tensors, (inputs,))
    assert all(bool((found[norm.weight] == 1).all()) for norm in stream.norms)
    given = [inputs.double() if inputs.is_floating_point() else inputs]
    before = run(graph, given, tensors, dtype=torch.float64)
    after = run(graph, given, {**tensors, **found}, dtype=torch.float64)
    torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-10)
    moment = streams._moment(graph, stream, {**tensors, **found}, (inputs,)).diagonal()
    assert bool(moment[: len(moment) // 2].mean() > 2 * moment[len(moment) // 2 :].mean())


def test_contrasts_are_orthonormal_and_nested() -> None:
    """(1, −1, 0)/√2 and (1, 1, −2)/√6."""
    expected = torch.tensor([[1.0, -1, 0], [1, 1, -2]], dtype=torch.float64)
    expected /= torch.tensor([[2.0], [6.0]], dtype=torch.float64).sqrt()
    torch.testing.assert_close(_contrasts(3), expected)
    rows = _contrasts(9)
    torch.testing.assert_close(rows @ rows.T, torch.eye(8, dtype=torch.float64))
    torch.testing.assert_close(rows[:4, :5], _contrasts(5))


@EVERY
def test_the_pruned_network_is_the_masked_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`shrink` compares them in float64; without the factor of the norms it refuses."""
    model, graph, coupling, inputs = captured(name)
    _, group = group_of(coupling)
    alive = torch.arange(group.units) < group.units - 5
    masked = cut(graph, coupling, inputs, alive)
    small = shrink(model, graph, coupling, masked, {group.name: alive})
    assert type(small) is type(model)
    left = dict(small.named_parameters())
    assert {left[slot.tensor].shape[slot.axis] for slot in group.slots} == {group.units - 5}
    monkeypatch.setattr(sizes, "shrinkage", lambda *_: 1.0)
    with pytest.raises(VerificationError):
        shrink(model, graph, coupling, masked, {group.name: alive})


def cut(graph: Graph, coupling: Coupling, inputs: Tensor, alive: Tensor) -> dict[str, Tensor]:
    """The rotated network without the last coordinates, and nothing to make up for them."""
    stream, group = group_of(coupling)
    tensors = {**doubles(graph), **rotated(graph, coupling, doubles(graph), (inputs,))}
    for slot in group.having("consumer"):
        gone = slot.positions[~alive].flatten()
        tensors[slot.tensor] = tensors[slot.tensor].index_fill(slot.axis, gone, 0.0)
    return {**tensors, **written(stream, group, tensors, alive, {slot.tensor for slot in group.slots})}


@EVERY
def test_refits_make_up_for_what_is_cut(name: str) -> None:
    model, graph, coupling, inputs = captured(name)
    _, group = group_of(coupling)
    others = [other.name for other in coupling.prunable if other.name != group.name]
    result = prune(name, remove=0.25, ignore=[f"{other}*" for other in others])
    (kept,) = [g for g in result.recipe.groups if g.group == group.name]
    assert kept.kept == tuple(range(group.units - group.units // 4))
    alive = torch.arange(group.units) < len(kept.kept)
    plain = shrink(model, graph, coupling, cut(graph, coupling, inputs, alive), {group.name: alive})
    wanted = outputs(model, (inputs,))[0]
    lost = [float((outputs(m, (inputs,))[0] - wanted).square().mean()) for m in (result.model, plain)]
    assert lost[0] < 0.7 * lost[1]


def prune(name: str, **settings: Any) -> secateur.Result:
    model, _, _, inputs = captured(name)
    how = {"calibration": inputs, "surrogate": "none", "streams": True, "round_to": 1, **settings}
    return secateur.prune(model, inputs[:1], **how)


@pytest.mark.sweep
@EVERY
def test_steps_and_replay_give_the_same_bits(name: str) -> None:
    model, _, _, inputs = captured(name)
    result = prune(name, remove=0.4, step=0.2)
    again = secateur.replay(model, result.recipe, inputs[:1])
    assert same_bits(result.model.state_dict(), again.state_dict())
    assert all(len(group.kept) < group.units for group in result.recipe.groups)


def test_a_tied_table_becomes_two_and_the_sizes_say_so() -> None:
    model, graph, *_ = captured("rms")
    assert graph.copies and model.head.weight is model.tokens.weight
    result = prune("rms", remove="params=20%")
    small = result.model
    assert isinstance(small, Decoder) and small.head.weight is not small.tokens.weight
    assert result.before.parameters == sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in small.parameters()) == result.history[-1].parameters
    assert result.history[-1].parameters <= 0.8 * result.before.parameters
    assert model.head.weight is model.tokens.weight  # the caller's stays
    assert small.norms[0].normalized_shape == (small.tokens.embedding_dim,)


@pytest.mark.parametrize(
    "build, wanted",
    [
        (PostNorm, "a norm behind the sum.* at add"),
        (lambda: classifier(scaled=True), "neither moved, added nor normed at mul"),
        (lambda: nn.Sequential(nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 3)), "has no layer norm or RMS norm"),
    ],
)
def test_a_network_without_a_stream_is_refused_with_what_stands_in_the_way(
    build: Callable[[], nn.Module], wanted: str
) -> None:
    with pytest.raises(NothingToPruneError, match=f"streams: no stream of this model can be cut: .*{wanted}"):
        secateur.prune(made(build), VECTORS[:1], streams=True, remove=0.3, samples=32)


@pytest.mark.parametrize(
    "how, wanted",
    [
        ({"method": "saliency"}, "method='saliency'; use method='reconstruct'"),
        ({"allocation": "global"}, "allocation='global'; use allocation='uniform'"),
        ({"exact_first": True}, "exact_first=True; use exact_first=False"),
    ],
)
def test_options_that_know_nothing_of_streams_are_refused(how: dict[str, Any], wanted: str) -> None:
    with pytest.raises(InputError, match=f"streams: cannot be cut with {wanted}"):
        secateur.prune(made(Decoder), IDS[:1], streams=True, **how)


def test_a_bias_beside_a_weight_of_zero_is_refused() -> None:
    model = made(classifier)
    with torch.no_grad():
        model.norm.weight[3] = 0.0
    with pytest.raises(SecateurError, match=r"1 of the 12 weights of norm\.weight are 0 beside a bias"):
        secateur.prune(model, VECTORS[:1], streams=True, remove=0.3, calibration=VECTORS, surrogate="none")


def test_a_stream_that_is_ignored_is_refused() -> None:
    with pytest.raises(NothingToPruneError, match="streams: the stream stays whole, by ignore"):
        prune("rms", remove=0.3, ignore="tokens")


def test_a_rotation_that_changes_the_outputs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_rotation", lambda stream, moment: 2 * torch.eye(len(moment)).double())
    with pytest.raises(SecateurError, match=r"output 0 of the network with its stream \(tokens\) rotated"):
        prune("rms", remove=0.3)


@pytest.mark.long
def test_the_command_cuts_streams(tmp_path: Path) -> None:
    program = torch.export.export(
        made(classifier), (VECTORS[:2],), dynamic_shapes=({0: torch.export.Dim("n")},)
    )
    torch.export.save(program, tmp_path / "net.pt2")
    how = "--remove params=30% --samples 64 --streams --no-latency --json"
    done = command.run(tmp_path, *f"prune net.pt2 -o small.pt2 {how}".split())
    assert done.returncode == 0, done.stderr
    recipe = json.loads((tmp_path / "small.recipe.json").read_text())
    assert recipe["request"]["streams"] and any(g["units"] == 12 for g in recipe["groups"])
    small = secateur.load_model(tmp_path / "small.pt2")
    assert isinstance(small, torch.export.ExportedProgram)
    assert small.state_dict["stem.weight"].shape[0] == small.state_dict["head.weight"].shape[1] < 12


@pytest.mark.sweep
@pytest.mark.parametrize(
    "family, ignore, width", [("llama", "*q_proj*", 40), ("qwen2", (), 34)], ids=["llama", "qwen2"]
)
def test_a_folder_says_the_smaller_width(family: str, ignore: Any, width: int, tmp_path: Path) -> None:
    """With embeddings tied to the head: transformers loads it and computes the same."""
    network = huggingface_models.built(family, tie_word_embeddings=True)
    model = secateur.load_model(huggingface_models.saved(tmp_path / "whole", model=network))
    assert isinstance(model, HuggingFaceModel)
    how: dict[str, Any] = {"surrogate": "uniform", "samples": 32, "round_to": 1, "ignore": ignore}
    small = secateur.prune(model, remove=0.3, streams=True, uniform_layers=True, **how).model
    assert isinstance(small, HuggingFaceModel)
    secateur.save_model(tmp_path / "small", small)
    again = huggingface_models.by_transformers(tmp_path / "small", type(network).__name__)
    config = again.config
    assert (config.hidden_size, config.tie_word_embeddings) == (width, False)
    assert config.rms_norm_eps == pytest.approx(network.config.rms_norm_eps * 48 / width)
    inputs = huggingface_models.inputs_for(model)
    for a, b in zip(huggingface_models.answers(again, model, inputs), outputs(small, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
