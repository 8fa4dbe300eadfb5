"""Passes hold copies of the tensors of one layer at a time; loops over batches those of all, where they are small."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.graph import interpret, stages
from secateur.graph.capture import capture
from secateur.graph.node import kind

LAYERS = 6
INPUTS = (torch.rand(3, 4, generator=torch.Generator().manual_seed(0)),)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(layer for _ in range(LAYERS) for layer in (nn.Linear(4, 4), nn.ReLU()))).eval()


class Copies:
    """Counts the converted tensors of two axes, the weights, that are held at a time."""

    def __init__(self, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = list[Any]()
        real = module.as_work

        def counted(value: Tensor, like: Tensor) -> Tensor:
            found = real(value, like)
            if found.shape == (4, 4):
                self.made.append(weakref.ref(found))
            return found

        monkeypatch.setattr(module, "as_work", counted)

    @property
    def held(self) -> int:
        return sum(found() is not None for found in self.made)


def test_a_pass_converts_the_weights_of_one_layer_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    graph, copies, held = capture(model, INPUTS), Copies(interpret, monkeypatch), list[int]()
    (out,) = interpret.run(graph, INPUTS, dtype=torch.float64, observe=lambda *_: held.append(copies.held))
    assert len(copies.made) == LAYERS and max(held) == 1
    torch.testing.assert_close(out, model.double()(INPUTS[0].double()))


def test_a_sweep_forgets_the_weights_that_it_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """At each stop: those of the layers since the last one."""
    graph = capture(network(), INPUTS)
    stops = [node for node in graph.nodes if node.op == "call_function" and kind(node) == "linear"]
    tensors = {name: value.double() for name, value in graph.tensors.items()}
    copies, held = Copies(stages, monkeypatch), list[int]()

    class Visitor:
        def wants(self, node: Any, differs: bool) -> bool:
            return True

        def measure(self, arrival: stages.Arrival) -> Tensor:
            output = arrival.output()
            assert isinstance(output, Tensor)
            return output

        def add(self, found: Tensor) -> None:
            held.append(copies.held)

        def finish(self, node: Any) -> None:
            pass

    stages.run_stages(graph, stops, tensors, tensors, INPUTS, Visitor(), 2**20)
    assert len(held) == len(copies.made) == LAYERS and max(held) <= 2


@pytest.mark.parametrize(("most", "converted"), [(2**30, LAYERS), (4, 0)])
def test_loops_convert_once_what_is_small(most: int, converted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = capture(network(), INPUTS)
    tensors = {name: tensor.double() for name, tensor in graph.tensors.items()}
    monkeypatch.setattr(interpret, "_COPIED", most)
    used = interpret.for_passes(graph, tensors, INPUTS)
    assert sum(x.dtype == torch.float32 for x in used.values() if x.ndim == 2) == converted
    for found, expected in zip(
        interpret.run(graph, INPUTS, used), interpret.run(graph, INPUTS, tensors), strict=True
    ):
        assert torch.equal(found, expected)
