"""Hugging Face folders to torch modules."""

from __future__ import annotations

import os
import warnings

from secateur.errors import SecateurWarning, few
from secateur.formats.huggingface.folder import GRAPH, Folder, read_folder
from secateur.formats.huggingface.headers import refuse
from secateur.formats.huggingface.model import FromFolder, HuggingFaceGraph, model_of
from secateur.formats.pt2.program import load_program
from secateur.graph.export import as_module


def load_folder(path: str | os.PathLike[str]) -> FromFolder:
    """The model in the folder, as a torch module in eval mode that computes in float32.

    Weights are read file by file and tensor by tensor. Nothing in the folder is unpickled or run, and nothing
    is fetched. Raises `InputError` for a folder that is damaged, does not fit its configuration, or asks for
    code of its own; a `SecateurWarning` names tensors that the class does not use.
    """
    folder = read_folder(path)
    if not folder.tensors:
        return _graph(folder)
    model, unused = model_of(folder)
    if unused:
        warnings.warn(
            f"{path}: {type(model.network).__name__} does not use {few(unused)}; a smaller folder will be "
            "without them",
            SecateurWarning,
            stacklevel=3,
        )
    return model


def _graph(folder: Folder) -> HuggingFaceGraph:
    """The model of a folder that holds a graph in place of weights."""
    program = load_program(folder.path / GRAPH)
    args, kwargs = program.example_inputs or ((), {})
    if kwargs or not args:
        refuse(folder.path / GRAPH, "has no example of its inputs; prune the original again")
    return HuggingFaceGraph(as_module(program), folder, args)
