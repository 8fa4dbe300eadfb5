"""Rounding of models as they are run stays within its bounds, for every op with a rule."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from bound_cases import CASES, captured
from secateur.bounds.arithmetic import as_interval
from secateur.bounds.inference import Format, NoRuleError, format_of
from secateur.bounds.inference_rows import Inference
from secateur.bounds.inference_rules import RULES
from secateur.bounds.interval import RULES as BOUNDED
from secateur.bounds.joint import Networks
from secateur.bounds.maxima import without_max_pools
from secateur.bounds.tighten import bounded
from secateur.graph.capture import capture
from secateur.graph.graph import Graph
from secateur.graph.interpret import run
from secateur.types import Interval

POINTS = 4
# a root at 0, a norm of values that may be equal
INFINITE = {("pow", 0.05), ("transformer", 0.05)}
# whose rounding is not bounded, and why: a row for each is left out of RULES, or refused by its rule
WITHOUT = {
    "gru": "recurrent",
    "lstm": "recurrent",
    "rms_norm": "eps of the format",
    "shrinks": "hardshrink jumps",
    "steps": "they jump",
    "upsample": "places are rounded",
    "upsample_3d": "places are rounded",
}


def networks_of(graph: Graph, seed: int = 0) -> Networks:
    """A network and one whose parameters are a little off."""
    generator = torch.Generator().manual_seed(seed)
    second = {
        name: x + 0.01 * torch.rand(x.shape, generator=generator) if x.is_floating_point() else x
        for name, x in graph.tensors.items()
    }
    like = torch.empty(0, dtype=torch.float64)
    return Networks.of(without_max_pools(graph), graph.tensors, second, like)


def balls(graph: Graph, radius: float, count: int = 2, seed: int = 1) -> tuple[list[Interval], list[Tensor]]:
    """Boxes (count, 1, …) round float32 inputs, and float32 points of each, (count, POINTS, …)."""
    generator = torch.Generator().manual_seed(seed)
    boxes, points = [], []
    for x in graph.example:
        if not x.is_floating_point():
            ids = torch.randint(0, 7, (count, 1, *x.shape[1:]), generator=generator)
            boxes.append(Interval(ids, ids))
            points.append(ids.expand(count, POINTS, *x.shape[1:]))
            continue
        centre = torch.rand((count, 1, *x.shape[1:]), generator=generator) * 2 - 1
        inside = centre + radius * (torch.rand((count, POINTS, *x.shape[1:]), generator=generator) * 2 - 1)
        points.append(inside)
        low, high = inside.amin(1, keepdim=True).double(), inside.amax(1, keepdim=True).double()
        boxes.append(Interval(low - radius / 4, high + radius / 4))
    return boxes, points


def inference(graph: Graph, networks: Networks, boxes: list[Interval], second: bool) -> Inference:
    return Inference.of(bounded(networks, boxes, linear=False), second, format_of(graph))


@pytest.mark.sweep
@pytest.mark.parametrize("radius", [0.0, 0.05])
@pytest.mark.parametrize("name", sorted(CASES.keys() - WITHOUT.keys()))
def test_float32_is_within_its_bounds(name: str, radius: float) -> None:
    graph = captured(name)
    networks = networks_of(graph)
    boxes, points = balls(graph, radius)
    for second, tensors in enumerate((networks.first, networks.second)):
        of_run = inference(graph, networks, boxes, bool(second))
        stored = {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}
        bounds = [of_run.errors_at(node, 2) for node in networks.graph.outputs]
        for box, point in product(range(2), range(POINTS)):
            inputs = [p[box, point : point + 1] for p in points]
            ours, exact = (run(graph, inputs, stored, dtype=dtype) for dtype in (torch.float32, torch.float64))
            for bound, a, b in zip(bounds, ours, exact, strict=True):
                if a.is_floating_point():
                    assert ((a.double() - b).flatten().abs() <= bound[box] * (1 + 1e-9)).all()
                    assert (name, radius) in INFINITE or torch.isfinite(bound).all()


@pytest.mark.parametrize("name", sorted(WITHOUT))
def test_ops_without_a_bound_say_so(name: str) -> None:
    graph = captured(name)
    networks = networks_of(graph)
    boxes, _ = balls(graph, 0.0)
    with pytest.raises(NoRuleError, match="the rounding of .* has no bound: "):
        inference(graph, networks, boxes, False)
