"""Write networks of a search from their recipes, in the format of the model."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from secateur.evaluate.latency import example_of
from secateur.files import written_together
from secateur.formats.models import save_model
from secateur.formats.registry import format_of, suffixes_written
from secateur.quantize import quantize_again
from secateur.replay import replay
from secateur.report.recipe import Recipe
from secateur.search.bench import Job, Model


def suffix_for(model: Model, job: Job) -> str:
    """Of the file that the model came from, none for a folder; .onnx where some networks are quantised; else
    .pt2.
    """
    if job.in_onnx:
        return ".onnx"
    if isinstance(job.source, str | os.PathLike):
        own = Path(job.source).suffix.lower()
        if own in suffixes_written() and Path(job.source).is_file():
            return own
    found = format_of(model)
    if found is not None and found.folder:
        return ""
    return found.suffixes[0] if found is not None else ".pt2"


def write_network(path: Path, model: Model, recipe: Recipe, job: Job) -> nn.Module:
    """Write the network of a recipe, with the recipe beside it; the float network."""
    small = replay(model, recipe, job.example_inputs)
    with written_together():
        if recipe.quantized is None:
            save_model(path, small, example_of(model, job.example_inputs))
        else:
            quantize_again(small, recipe.quantized, job.example_inputs).save(path)
        recipe.save(path.with_name(f"{path.stem}.recipe.json"))
    return small
