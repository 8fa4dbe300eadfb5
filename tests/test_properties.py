"""Properties that hold for any network: drawn graphs, drawn weights, drawn merges."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

import secateur
from helpers import cut, outputs, same_bits, snapshot
from secateur.compensate import merged
from secateur.cost import macs_after, parameters_after
from secateur.graph.capture import capture
from secateur.graph.coupling import couple
from secateur.graph.graph import Graph
from secateur.graph.interpret import run
from secateur.graph.node import kind
from secateur.surgery import shrink
from secateur.types import Removal

few = settings(derandomize=True, deadline=None, max_examples=12, database=None)
several = settings(few, max_examples=30)

# --- drawn networks -----------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Beside(nn.Module):
    """The input and what the layers make of it, concatenated."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.layers(x)], dim=1)


ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.GELU, nn.Sigmoid)


def block(name: str, channels: int, width: int) -> tuple[nn.Module, int]:
    """One block of a convolutional network on `channels` channels, and how many it makes."""
    match name:
        case "conv":
            return nn.Conv2d(channels, width, 3, padding=1), width
        case "norm":
            return nn.BatchNorm2d(channels), channels
        case "residual":
            inner = nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, channels, 1)
            return Residual(*inner), channels
        case "beside":
            return Beside(nn.Conv2d(channels, width, 1), nn.Tanh()), channels + width
        case "depthwise":
            return nn.Conv2d(channels, 2 * channels, 3, padding=1, groups=channels), 2 * channels
        case "grouped":
            even = 2 * width
            return nn.Sequential(
                nn.Conv2d(channels, even, 1), nn.ReLU(), nn.Conv2d(even, even, 1, groups=2)
            ), even
        case "pool":
            return nn.AvgPool2d(3, stride=1, padding=1), channels
    return ACTIVATIONS[width % len(ACTIVATIONS)](), channels


BLOCKS = ("conv", "norm", "residual", "beside", "depthwise", "grouped", "pool", "activation")


def network(
    blocks: Sequence[tuple[str, int]], hidden: Sequence[int], flatten: bool, seed: int
) -> nn.Sequential:
    """A float64 network: the drawn blocks, flattened or averaged, linear layers of the `hidden` widths, three
    outputs.

    A convolution stands first, so that something can go.
    """
    layers: list[nn.Module] = [nn.Conv2d(2, 4, 3, padding=1)]
    channels = 4
    for name, width in blocks:
        layer, channels = block(name, channels, width)
        layers.append(layer)
    size = 3 if flatten else 1
    layers += [nn.AdaptiveAvgPool2d(size), nn.Flatten()]
    widths = [channels * size * size, *hidden, 3]
    for inputs, made in pairwise(widths):
        layers += [nn.Linear(inputs, made), nn.ReLU()]
    model = nn.Sequential(*layers[:-1]).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                scale = 1.0 if value.ndim < 2 else (2.0 / value[0].numel()) ** 0.5
                value.copy_(noise.abs() + 0.5 if name.endswith("running_var") else scale * noise)
    return model


def networks(hidden_layers: int = 0) -> st.SearchStrategy[nn.Sequential]:
    """Networks of one to four blocks and at least `hidden_layers` hidden linear layers."""
    return st.builds(
        network,
        blocks=st.lists(st.tuples(st.sampled_from(BLOCKS), st.integers(2, 6)), min_size=1, max_size=4),
        hidden=st.lists(st.integers(2, 8), min_size=hidden_layers, max_size=2),
        flatten=st.booleans(),
        seed=st.integers(0, 1000),
    )


IMAGES = torch.randn(2, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.long
@several
@given(model=networks(), seed=st.integers(0, 1000), share=st.sampled_from([0.2, 0.5, 0.9]))
def test_shrunk_is_masked(model: nn.Module, seed: int, share: float) -> None:
    graph = capture(model, IMAGES)
    coupling = couple(graph)
    state = cut(graph, coupling, share, seed)
    small = shrink(model, graph, coupling, state.weights, state.alive)
    assert type(small) is nn.Sequential
    inputs = (torch.randn(3, 2, 6, 6, dtype=torch.float64),)
    (mine,), (wanted,) = outputs(small, inputs), run(graph, inputs, state.weights)
    torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-9)
    assert parameters_after(graph, coupling, state.alive) == sum(p.numel() for p in small.parameters())
    before = parameters_after(graph, coupling, {}), macs_after(graph, coupling, {})
    assert before[0] == sum(p.numel() for p in model.parameters())
    assert macs_after(graph, coupling, state.alive) < before[1]


@pytest.mark.long
@few
@given(model=networks())
def test_more_asked_is_never_larger_and_the_model_is_untouched(model: nn.Module) -> None:
    before = snapshot(model)
    sizes = []
    for ratio in (0.3, 0.5, 0.8):
        result = secateur.prune(model, IMAGES, remove=ratio, method="scale", step=1.0)
        sizes.append(sum(p.numel() for p in result.model.parameters()))
    assert sizes == sorted(sizes, reverse=True)
    assert same_bits(before, snapshot(model))


@pytest.mark.long
@few
@given(model=networks(), method=st.sampled_from(["saliency", "stochastic"]), seed=st.integers(0, 9))
def test_same_seed_same_bits(model: nn.Module, method: str, seed: int) -> None:
    first, second = (
        secateur.prune(copy.deepcopy(model), IMAGES, remove=0.4, method=method, step=0.25, seed=seed)
        for _ in range(2)
    )
    assert same_bits(snapshot(first.model), snapshot(second.model))
    assert first.recipe == second.recipe


# --- what a merge does --------------------------------------------------------------------------------------


def consumer(form: str, units: int) -> nn.Sequential:
    """A layer of `units` units, an activation, and a layer that reads it, in one of three forms."""
    layers: dict[str, list[nn.Module]] = {
        "linear": [nn.Linear(5, units), nn.Tanh(), nn.Linear(units, 4)],
        "conv": [nn.Conv2d(2, units, 3), nn.Tanh(), nn.Conv2d(units, 4, 3, padding=1)],
        "flatten": [
            nn.Conv2d(2, units, 3),
            nn.Tanh(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * units, 4),
        ],
    }
    return nn.Sequential(*layers[form]).double().eval()


FORMS = pytest.mark.parametrize("form", ["linear", "conv", "flatten"])


def values(model: nn.Module, x: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What the last layer reads and what it makes."""
    seen: list[tuple[fx.Node, Tensor]] = []
    graph = capture(model, x)
    run(graph, [x], weights, observe=lambda node, args, value: seen.append((node, value)))
    last = next(i for i in reversed(range(len(seen))) if kind(seen[i][0]) in ("linear", "conv2d"))
    return seen[last - 1][1], seen[last][1]


def response(model: nn.Sequential, h: Tensor, weight: Tensor) -> Tensor:
    """The last layer on `h`, with another weight and without bias."""
    layer = model[-1]
    if isinstance(layer, nn.Conv2d):
        return nn.functional.conv2d(h, weight, padding=layer.padding)
    return nn.functional.linear(h, weight)


def merge(
    form: str, seed: int, units: int, a: int, b: int
) -> tuple[nn.Sequential, Tensor, Graph, dict[str, Tensor]]:
    """A model, inputs, its graph, and the consumer's weights after a→b."""
    torch.manual_seed(seed)
    model = consumer(form, units)
    x = (torch.randn(3, 5) if form == "linear" else torch.randn(3, 2, 6, 6)).double()
    graph = capture(model, x)
    (group,) = couple(graph).prunable
    return (
        model,
        x,
        graph,
        merged(graph.tensors, group, Removal(group.name, torch.tensor([a]), torch.tensor([b]))),
    )


@pytest.mark.slow
@FORMS
@settings(few, max_examples=8)
@given(seed=st.integers(0, 1000), units=st.integers(2, 7), data=st.data())
def test_merge_changes_the_next_layer_as_predicted(
    form: str, seed: int, units: int, data: st.DataObject
) -> None:
    """z′ − z = W[:, a]·(h_b − h_a) for a→b."""
    a, b = data.draw(st.permutations(range(units)))[:2]
    model, x, _, edited = merge(form, seed, units, a, b)

    h, before = values(model, x, {})
    _, after = values(model, x, edited)
    width = h.shape[1] // units
    of = lambda unit: h[:, unit * width : (unit + 1) * width]  # noqa: E731
    columns = model[-1].weight.detach()[:, a * width : (a + 1) * width]
    predicted = response(model, of(b) - of(a), columns)
    assert float((after - before - predicted).abs().max()) < 1e-10


@pytest.mark.slow
@FORMS
@settings(few, max_examples=8)
@given(seed=st.integers(0, 1000), units=st.integers(2, 7), data=st.data())
def test_merge_is_as_if_one_unit_computed_the_other(
    form: str, seed: int, units: int, data: st.DataObject
) -> None:
    """Giving unit a the weights of b is the same function as a→b; the code of the papers' authors zeroed b
    instead.
    """
    a, b = data.draw(st.permutations(range(units)))[:2]
    _, x, graph, edited = merge(form, seed, units, a, b)
    copied = {name: graph.tensors[name].clone() for name in ("0.weight", "0.bias")}
    for tensor in copied.values():
        tensor[a] = tensor[b]
    difference = run(graph, [x], edited)[0] - run(graph, [x], copied)[0]
    assert float(difference.abs().max()) < 1e-12


@pytest.mark.slow
@few
@given(model=networks(hidden_layers=1))
def test_merging_copies_changes_nothing(model: nn.Sequential) -> None:
    """Two equal units of the last hidden layer: one goes at no loss, whatever the network before it."""
    maker = [m for m in model if isinstance(m, nn.Linear)][-2]
    with torch.no_grad():
        maker.weight[0], maker.bias[0] = maker.weight[-1].clone(), maker.bias[-1].clone()
    graph = capture(model, IMAGES)
    coupling = couple(graph)
    name = next(n for n, m in model.named_modules() if m is maker)
    (group,) = (g for g in coupling.prunable if g.name == name)
    edited = merged(graph.tensors, group, Removal(name, torch.tensor([0]), torch.tensor([group.units - 1])))
    difference = run(graph, [IMAGES], edited)[0] - run(graph, [IMAGES])[0]
    assert float(difference.abs().max()) < 1e-10
