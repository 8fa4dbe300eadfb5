"""Where trained networks lie, and `load`.

FOLDER/index.json          a row for each: recipe, half, measures on test samples, seconds
FOLDER/NAME.safetensors    weights, float32
FOLDER/data/DATA.npz       test and oracle samples of data sets that are not shared

`weights/` beside this file holds most of the networks as they were trained once: SECATEUR_NETWORKS names
it, and training goes on where its index ends, or where a recipe has changed since.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from . import data, training
from .families import build
from .recipes import RECIPES, Half, Recipe

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("SECATEUR_SHARED", ROOT.parent / "shared"))
FOLDER = Path(os.environ.get("SECATEUR_NETWORKS", ROOT / "out" / "networks"))

BY_NAME = {recipe.name: recipe for recipe in RECIPES}


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network, and samples to measure it on.

    Images are inputs in [0, 1] before they are normalised. `model` takes (images − mean) / std, or images as
    they are where both are empty; so `prune(model, example, **options)` is all that pruning may know.

    Attributes:
        model: in eval mode.
        input_shape: of one sample, without the batch.
        measures: on all test samples, as `training.measure` gives them.
        test: images and labels to report with.
        oracle: training images and labels, at most 2,000. Only for the comparison with pruning on real data:
            they must never reach a data-free method.
    """

    recipe: Recipe
    model: nn.Module
    input_shape: tuple[int, ...]
    input_bounds: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    measures: training.Metrics
    test: data.Samples
    oracle: data.Samples

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def half(self) -> Half:
        return self.recipe.half

    @property
    def task(self) -> data.Task:
        return data.DATA[self.recipe.data].task

    @property
    def options(self) -> dict[str, Any]:
        """What a user would say of the inputs, as `secateur.prune` takes it."""
        normalised = {"mean": self.mean, "std": self.std} if self.mean else {}
        return {"input_bounds": self.input_bounds, **normalised}

    @property
    def example(self) -> Tensor:
        """One input without data, which tells the shape."""
        return self.taken(torch.full((1, *self.input_shape), 0.5))

    @cached_property
    def test_inputs(self) -> Tensor:
        """The test images as the model takes them."""
        return self.taken(self.test.images)

    def taken(self, images: Tensor) -> Tensor:
        return training.taken(images, self.mean, self.std)

    def measure(self, model: nn.Module, count: int | None = None) -> training.Metrics:
        """The measures of a (pruned) model on the first `count` test samples, or all."""
        test = data.Samples(*(None if v is None else v[:count] for v in vars(self.test).values()))
        return training.measure(self.task, training.outputs_of(model, self.taken(test.images)), test)


def read_index(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """The rows of all trained networks, by name."""
    path = folder / "index.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def is_trained(recipe: Recipe, index: dict[str, dict[str, Any]]) -> bool:
    """Whether the index has a network of this very recipe."""
    return json.dumps(asdict(recipe)) == json.dumps(index.get(recipe.name, {}).get("recipe"))


def names(half: Half | None = None, folder: Path = FOLDER) -> tuple[str, ...]:
    """Names of the trained networks, of one half or both, in the order of the table."""
    trained = read_index(folder)
    return tuple(r.name for r in RECIPES if r.name in trained and half in (None, r.half))


def load(name: str, folder: Path = FOLDER, shared: Path = SHARED) -> Network:
    """A trained network. KeyError for a name that is not in the index."""
    recipe, row = BY_NAME[name], read_index(folder)[name]
    shape = tuple(row["input_shape"])
    model = build(recipe, shape, data.DATA[recipe.data].outputs)
    model.load_state_dict(load_file(folder / f"{name}.safetensors"))
    where = shared / "data" if data.DATA[recipe.data].shared else folder / "data"
    test, oracle = data.published(recipe.data, where)
    return Network(
        recipe,
        model.eval(),
        shape,
        (row["input_bounds"][0], row["input_bounds"][1]),
        tuple(row["mean"]),
        tuple(row["std"]),
        row["measures"],
        test,
        oracle,
    )


def save(recipe: Recipe, model: nn.Module, row: dict[str, Any], folder: Path = FOLDER) -> None:
    """Write the weights, then the row of the index with the recipe and its half."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / f"{recipe.name}.safetensors"
    )
    index = {**read_index(folder), recipe.name: {"half": recipe.half, **row, "recipe": asdict(recipe)}}
    part = folder / "index.json.part"
    part.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    part.replace(folder / "index.json")
