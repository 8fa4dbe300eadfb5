"""From a recipe back to the pruned model: every edit again, and nothing chosen."""

from __future__ import annotations

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from secateur.errors import RecipeError, SecateurError
from secateur.graph.capture import ExampleInputs, capture
from secateur.graph.coupling import couple
from secateur.report.recipe import Recipe, fingerprint
from secateur.run import Run
from secateur.surgery import shrink
from secateur.types import Removal


def replay(
    model: nn.Module | ExportedProgram, recipe: Recipe, example_inputs: ExampleInputs | None = None
) -> nn.Module:
    """Rebuild the pruned model, bit for bit, from the original and its recipe. No method is run, nothing is chosen.

    `example_inputs` is needed only where the model takes more than plain positional tensors. Raises `RecipeError`
    where the recipe belongs to another model.
    """
    if example_inputs is None and not isinstance(model, ExportedProgram):
        example_inputs = tuple(torch.zeros(s.shape, dtype=getattr(torch, s.dtype)) for s in recipe.inputs)
    graph = capture(model, example_inputs)
    found = fingerprint(graph)
    if found != recipe.model:
        part = "graph" if found.ops != recipe.model.ops else "weights"
        raise RecipeError(
            f"the recipe belongs to another model: its {part} differ ({recipe.model.parameters} parameters there, "
            f"{found.parameters} here); replay it on the model that was pruned, with the same example_inputs where "
            "these held None, truth values, numbers or text"
        )
    coupling = couple(graph)
    by_name = {group.name: group for group in coupling.groups}
    run = Run(graph, coupling)
    for step in recipe.steps:
        for edit in step.edits:
            if edit.group not in run.alive:
                raise RecipeError(f"the recipe names the group {edit.group!r}, which the model cannot prune")
            units, into = (torch.tensor(numbers, dtype=torch.int64) for numbers in (edit.units, edit.into))
            try:
                run.apply(by_name[edit.group], Removal(edit.group, units, into))
            except SecateurError as error:
                raise RecipeError(f"step {step.step} of the recipe cannot be replayed: {error}") from error
    run.solve(_read_solved(recipe, run))
    return shrink(model, graph, coupling, run.weights, run.alive)


def _read_solved(recipe: Recipe, run: Run) -> dict[str, Tensor]:
    try:
        found = safetensors.torch.load(recipe.tensors) if recipe.solved else {}
    except safetensors.SafetensorError as error:
        raise RecipeError(f"the recipe's solved tensors cannot be read ({error}); load it with Recipe.load") from error
    for name, value in found.items():
        if name not in run.weights or value.shape != run.weights[name].shape:
            raise RecipeError(f"the recipe's solved tensor {name!r} of shape {tuple(value.shape)} is not the model's")
    return {name: value.double() for name, value in found.items()}
