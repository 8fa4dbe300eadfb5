"""What a recipe records of the outcome: the units that each group keeps, and the refitted weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import safetensors.torch
from torch import Tensor

from secateur.report.recipe import KeptUnits
from secateur.run import Run
from secateur.types import Group


def solved_tensors(run: Run) -> dict[str, Any]:
    """Two fields of the recipe, or none if nothing was refitted.

    `tensors` is the content of a safetensors file with the refitted weights in the model's precision;
    `solved` is its SHA-256.
    """
    graph = run.graph
    found = graph.as_stored(
        {name: run.weights[name].to(graph.tensors[name].dtype) for name in sorted(run.solved)}
    )
    if not found:
        return {}
    content = safetensors.torch.save({name: value.contiguous() for name, value in found.items()})
    return {"tensors": content, "solved": hashlib.sha256(content).hexdigest()}


def kept_units(groups: Sequence[Group], alive: Mapping[str, Tensor]) -> tuple[KeptUnits, ...]:
    """The units that each group keeps, by their original numbers."""
    return tuple(
        KeptUnits(
            group=group.name,
            units=group.units,
            kept=tuple(alive[group.name].nonzero().flatten().tolist()),
            slots=tuple(f"{slot.tensor}:{slot.axis}" for slot in group.slots),
        )
        for group in groups
    )
