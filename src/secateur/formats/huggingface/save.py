"""Pruned models to Hugging Face folders: weights that `from_pretrained` takes, or else a graph."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.errors import InputError, SecateurWarning
from secateur.files import write_folder_atomically
from secateur.formats.huggingface.folder import CONFIG, GRAPH, INDEX, WEIGHTS, is_written
from secateur.formats.huggingface.model import FromFolder, HuggingFaceGraph, HuggingFaceModel
from secateur.formats.huggingface.shards import Written, shards, write_shard
from secateur.formats.pt2.program import save_program
from secateur.graph.example import ExampleInputs

SHARD = 5 * 10**9  # bytes of a file of weights, at most
LOADER = "load.py"
_LOADER = '''"""Run the model of this folder, a graph of torch.export that holds its own weights.

config.json is that of the model before it was pruned; it cannot say the smaller sizes.
"""

from pathlib import Path

import torch

model = torch.export.load(Path(__file__).with_name("model.pt2")).module()
print(model(*({examples})))
'''


def save_folder(
    path: str | os.PathLike[str], model: Any, example_inputs: ExampleInputs | None = None
) -> None:
    """Write a model that was read from a folder, as a folder, whole or not at all.

    A `SecateurWarning` says where the folder holds a graph, since the configuration cannot say its sizes.
    Raises `InputError` for any other model, and where the path is a folder that holds something else.
    """
    if not isinstance(model, FromFolder):
        raise InputError(
            f"{path}: only a model that was read from a Hugging Face folder is written as one; give a name "
            "that ends in .onnx or .pt2"
        )
    along = list(model.folder.files_along())

    def write(folder: Path) -> None:
        _write_json(folder / CONFIG, model.folder.config)
        for file in along:
            shutil.copyfile(file, folder / file.name)
        if isinstance(model, HuggingFaceModel):
            write_weights(folder, model.stored_state())
        else:
            _write_graph(folder, model, example_inputs)

    write_folder_atomically(path, write, replaceable=is_written)
    if isinstance(model, HuggingFaceGraph):
        warnings.warn(
            f"{path}: from_pretrained cannot load it, since {CONFIG} of the family {model.folder.family} "
            f"cannot say the smaller sizes. It holds a graph, which secateur and {LOADER} in it load. "
            "Prune with uniform_layers (--uniform-layers) to change only what the configuration can say",
            SecateurWarning,
            stacklevel=3,
        )


def write_weights(folder: Path, state: Mapping[str, Written], limit: int = SHARD) -> None:
    """One file, or several of at most `limit` bytes each (a larger tensor alone) and an index of them."""
    parts = list(shards(state, limit))
    if len(parts) == 1:
        write_shard(folder / WEIGHTS, parts[0])
        return
    places = {}
    for number, shard in enumerate(parts, 1):
        name = f"model-{number:05}-of-{len(parts):05}.safetensors"
        write_shard(folder / name, shard)
        places.update(dict.fromkeys(shard, name))
    size = sum(written.size for written in state.values())
    _write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": places})


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_graph(folder: Path, model: FromFolder, example_inputs: ExampleInputs | None) -> None:
    examples = model.example_inputs if example_inputs is None else example_inputs
    save_program(folder / GRAPH, model, examples)
    shapes = [f"torch.zeros({tuple(x.shape)}, dtype={x.dtype})" for x in model.example_inputs]
    (folder / LOADER).write_text(_LOADER.format(examples=", ".join(shapes) + ","), encoding="utf-8")
