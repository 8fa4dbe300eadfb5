"""Rebuild a pruned model from the original and a recipe, without choosing anything again."""

from __future__ import annotations

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from secateur.arguments import MODEL, instance, parsed
from secateur.budget import check_input
from secateur.errors import RecipeError, SecateurError
from secateur.graph.example import ExampleInputs
from secateur.graph.streams import coupled
from secateur.report.recipe import InputSpec, Recipe, digest_of, fingerprint
from secateur.run import Run
from secateur.surgery import shrink
from secateur.surgery.sizes import typed_tensors
from secateur.torch_state import reproducible
from secateur.types import Removal


def replay(
    model: nn.Module | ExportedProgram, recipe: Recipe, example_inputs: ExampleInputs | None = None
) -> nn.Module:
    """Rebuild the pruned model, bit for bit, from the original and its recipe.

    No method is run: the recipe lists the units to remove and holds the refitted weights.

    Args:
        model: The original model, as it was given to `prune`.
        recipe: `Result.recipe`, or a recipe read by `Recipe.load`.
        example_inputs: As for `prune`; needed only if the model takes more than plain positional tensors.

    Returns:
        The pruned model. It equals `Result.model`.

    Raises:
        RecipeError: The recipe belongs to another model, or was changed.

    Examples:
        >>> import torch, secateur
        >>> _ = torch.manual_seed(1)
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)).eval()
        >>> result = secateur.prune(net, torch.zeros(1, 4), remove=0.5, samples=256)
        >>> again = secateur.replay(net, result.recipe)
        >>> torch.equal(again[0].weight, result.model[0].weight)
        True
    """
    parsed("model", model, MODEL)
    parsed("recipe", recipe, instance(Recipe, "a Recipe; Recipe.load reads one"))
    with reproducible(model):
        return _replayed(model, recipe, example_inputs)


def _replayed(
    model: nn.Module | ExportedProgram, recipe: Recipe, example_inputs: ExampleInputs | None
) -> nn.Module:
    if example_inputs is None and not isinstance(model, ExportedProgram):
        example_inputs = tuple(_zeros(spec) for spec in recipe.inputs)
    graph, coupling = coupled(model, example_inputs, recipe.request.streams)
    found = fingerprint(graph)
    if found != recipe.model:
        part = "graph" if found.ops != recipe.model.ops else "weights"
        raise RecipeError(
            f"the recipe belongs to another model: its {part} differ ({recipe.model.parameters} parameters "
            f"there, {found.parameters} here); replay it on the model that was pruned, with the same "
            "example_inputs where these held None, truth values, numbers or text"
        )
    run = Run(graph, coupling)
    replay_on(run, recipe)
    return shrink(model, graph, coupling, run.weights, run.alive)


def replay_on(run: Run, recipe: Recipe) -> None:
    """Bring a run that has not begun to its end, as the recipe tells it.

    Raises `RecipeError` where the recipe was changed.
    """
    _replay_edits(recipe, run)
    _take_solved(recipe, run)
    _check_outcome(recipe, run)


def _zeros(spec: InputSpec) -> Tensor:
    dtype = getattr(torch, spec.dtype)
    check_input("the recipe's inputs", spec.shape, dtype)
    return torch.zeros(spec.shape, dtype=dtype)


def _replay_edits(recipe: Recipe, run: Run) -> None:
    by_name = {group.name: group for group in run.coupling.prunable}
    for step in recipe.steps:
        for edit in step.edits:
            if edit.group not in by_name:
                raise RecipeError(f"the recipe names the group {edit.group!r}, which the model cannot prune")
            units, into = (torch.tensor(numbers, dtype=torch.int64) for numbers in (edit.units, edit.into))
            try:
                run.apply(by_name[edit.group], Removal(edit.group, units, into))
            except SecateurError as error:
                raise RecipeError(f"step {step.step} of the recipe cannot be replayed: {error}") from error


def _take_solved(recipe: Recipe, run: Run) -> None:
    """Set the refitted tensors; each must have the shape and type of one of the model's."""
    try:
        found = safetensors.torch.load(recipe.tensors) if recipe.solved else {}
    except safetensors.SafetensorError as error:
        raise RecipeError(
            f"the recipe's refitted tensors cannot be read ({error}); load it with Recipe.load"
        ) from error
    for name, value in found.items():
        own = run.graph.tensors.get(name)
        if own is None or (tuple(value.shape), value.dtype) != (run.graph.stored_shape(name), own.dtype):
            raise RecipeError(
                f"the recipe's refitted tensor {name!r} of shape {tuple(value.shape)} and type {value.dtype} "
                "is none of the model"
            )
    try:
        run.solve({name: value.double() for name, value in run.graph.as_read(found).items()})
    except SecateurError as error:
        raise RecipeError(f"the recipe's refitted tensors cannot be used: {error}") from error


def _check_outcome(recipe: Recipe, run: Run) -> None:
    """Compare the kept units and the digest of all tensors with those in the recipe."""
    for group in recipe.groups:
        kept = run.alive[group.group].nonzero().flatten().tolist() if group.group in run.alive else None
        if kept != list(group.kept):
            raise RecipeError(
                f"the recipe contradicts itself: its steps do not leave the units of {group.group!r} that "
                "`groups` names; it was edited. Prune the model again"
            )
    made = digest_of(typed_tensors(run.graph, run.coupling, run.weights, run.alive))
    if made != recipe.result:
        raise RecipeError(
            "the replayed weights are not those that the recipe was written for: its steps or refitted "
            "tensors were changed, or come from another run. Prune the model again"
        )
