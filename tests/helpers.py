"""What several test files need: architectures captured once, inputs of any batch size, random removals."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from architectures import ARCHITECTURES
from secateur.decisions import Head
from secateur.evaluate.attacks.base import Attack
from secateur.evaluate.attacks.run import perturbed
from secateur.evaluate.attacks.target import target_of
from secateur.evaluate.box import Box
from secateur.graph.capture import capture
from secateur.graph.coupling import Coupling, couple
from secateur.graph.graph import Graph
from secateur.plan import Attention, selected
from secateur.run import Run
from secateur.types import Group, Removal


@cache
def coupled(name: str) -> tuple[Graph, Coupling]:
    """The graph and the groups of one architecture; shared by all tests, so leave them as they are."""
    architecture = ARCHITECTURES[name]
    graph = capture(architecture.build(), architecture.example())
    return graph, couple(graph)


def batch_of(example: Sequence[Tensor], batch: int, seed: int = 5) -> tuple[Tensor, ...]:
    """Other inputs of the same shapes and types: random numbers, or the example's own ids shuffled."""
    generator = torch.Generator().manual_seed(seed)

    def like(x: Tensor) -> Tensor:
        if x.is_floating_point():
            return torch.randn(batch, *x.shape[1:], generator=generator, dtype=torch.float64).to(x.dtype)
        ids = x.reshape(-1)
        return ids[torch.randint(len(ids), (batch, *x.shape[1:]), generator=generator)]

    return tuple(like(x) for x in example)


def doubled(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The inputs with floating ones in float64."""
    return tuple(x.double() if x.is_floating_point() else x for x in inputs)


def outputs(model: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The tensors that the model returns, flattened."""
    with torch.no_grad():
        return [x for x in pytree.tree_leaves(model(*inputs)) if isinstance(x, Tensor)]


def random_removal(group: Group, count: int, generator: torch.Generator) -> Removal:
    """`count` random units leave; each is stood in for by one that stays, or (one in four) by nothing."""
    order = torch.randperm(group.units, generator=generator)
    gone, stay = order[:count], order[count:]
    into = stay[torch.randint(len(stay), (count,), generator=generator)]
    return Removal(group.name, gone, torch.where(torch.rand(count, generator=generator) < 0.25, -1, into))


def cut(
    graph: Graph, coupling: Coupling, share: float = 0.4, seed: int = 3, attention: Attention = "heads"
) -> Run:
    """A run in which every prunable group has lost about `share` of its units, at least one, by random
    merges.
    """
    run, generator = Run(graph, coupling), torch.Generator().manual_seed(seed)
    for group in selected(coupling, (), attention):
        count = min(group.units - 1, max(1, round(share * group.units)))
        run.apply(group, random_removal(group, count, generator))
    return run


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


def perturb(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    rows: Tensor,
    restart: int,
    head: Head,
    box: Box,
) -> Tensor:
    """One run of `attack` on one batch: images (b, …) within eps of the given ones and inside the box.

    `rows` (b,) are the images' places in the data, from which their random starts follow.
    """
    return perturbed(attack, target_of(model, head, box, None), images, labels, rows, restart)


def places(content: Any) -> Any:
    """Every place in plain data, as its holder and the key or index there."""
    items = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for key, value in items:
        yield content, key
        yield from places(value)
