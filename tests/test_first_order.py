"""The first-order ranking of merges, and how `impact` uses it where there are many pairs."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.bounds.box import input_box
from secateur.compensate import merged
from secateur.graph.capture import capture
from secateur.graph.coupling import couple
from secateur.graph.graph import Graph
from secateur.graph.interpret import run
from secateur.methods.context import Context
from secateur.methods.first_order import first_order_changes
from secateur.methods.impact import impact
from secateur.types import Group, Removal


def made(model: nn.Module, example: Tensor) -> tuple[Context, Group]:
    """What a method sees of the first prunable group, with inputs in [0, 1]."""
    graph: Graph = capture(model.eval(), (example,))
    group = couple(graph).prunable[0]
    alive = {group.name: torch.ones(group.units, dtype=torch.bool)}
    used = {group.name: torch.zeros(group.units, dtype=torch.bool)}
    weights = {n: t.double() if t.is_floating_point() else t for n, t in graph.tensors.items()}
    box = input_box(graph, (0.0, 1.0), dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    return Context(graph, weights, box, generator, alive, used, recursive=False), group


def convolutions(units: int) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, units, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(units * 9, 4)
    ).eval()


def test_of_a_linear_network_by_hand() -> None:
    """y = v·(W x): the merge a→b changes y by v_a (w_b − w_a)·x, and its square does not depend on the sign."""
    model = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [2.0], [2.0]]))
        model[1].weight.copy_(torch.tensor([[3.0, 1.0, 5.0]]))
    context, group = made(model, torch.rand(2, 1))
    found = first_order_changes(context, group, torch.tensor([0, 1, 2]), torch.tensor([1, 0, 1]))
    # 3·(2 − 1), 1·(1 − 2) and 5·(2 − 2), each times the mean of x²
    torch.testing.assert_close(found / found[1], torch.tensor([9.0, 1.0, 0.0], dtype=torch.float64))
    assert 0.0 < float(found[1]) < 1.0


def test_ranks_merges_nearly_as_the_changes_that_they_make() -> None:
    context, group = made(convolutions(24), torch.rand(2, 2, 6, 6))
    a, b = torch.arange(24), torch.arange(24).roll(1)
    estimate = first_order_changes(context, group, a, b)
    inputs = (torch.rand(256, 2, 6, 6, generator=torch.Generator().manual_seed(1)),)
    before = run(context.graph, inputs)[0]
    changes = []
    for unit, into in zip(a, b, strict=True):
        removal = Removal(group.name, unit[None], into[None])
        after = run(context.graph, inputs, merged(context.graph.tensors, group, removal))[0]
        changes.append(float((after - before).square().sum(1).mean()))
    ranks = torch.stack([estimate, torch.tensor(changes, dtype=torch.float64)]).argsort(1).argsort(1).double()
    assert float(torch.corrcoef(ranks)[0, 1]) > 0.7


def test_impact_bounds_only_the_pairs_about_the_cut() -> None:
    """With more pairs than are bounded, it removes as many, without a unit that takes part in two merges."""
    context, group = made(convolutions(40), torch.rand(2, 2, 6, 6))
    removal = impact(context, group, 10, bounded=8)
    units = torch.cat([removal.units, removal.into])
    assert len(removal.units) == 10 and len(units.unique()) == 20
    every = impact(context, group, 10)
    shared = set(removal.units.tolist()) & set(every.units.tolist())
    assert len(shared) >= 5


def test_all_pairs_are_bounded_where_there_are_few() -> None:
    context, group = made(convolutions(12), torch.rand(2, 2, 6, 6))
    few, all_of_them = impact(context, group, 3, bounded=6), impact(context, group, 3)
    assert torch.equal(few.units, all_of_them.units) and torch.equal(few.into, all_of_them.into)


def test_prune_takes_the_option() -> None:
    result = secateur.prune(
        convolutions(32),
        torch.rand(2, 2, 6, 6),
        method="impact",
        options={"bounded": 4},
        round_to=1,
        remove=0.25,
    )
    assert result.model[0].out_channels == 24


def test_fewer_pairs_are_bounded_on_networks_of_many_macs(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(**options: int) -> Removal:
        context, group = made(convolutions(40), torch.rand(2, 2, 6, 6))
        return impact(context, group, 10, **options)

    usual, eight = chosen(), chosen(bounded=8)
    module = sys.modules["secateur.methods.impact"]
    context, _ = made(convolutions(40), torch.rand(2, 2, 6, 6))
    monkeypatch.setattr(module, "MACS", 8 * module._macs(context) * len(context.alive))
    assert torch.equal(chosen().units, eight.units)
    assert not torch.equal(usual.units, eight.units)
