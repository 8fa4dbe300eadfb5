"""Models in and out of files, in the format that a file is of."""

from __future__ import annotations

import os

from torch import nn
from torch.export import ExportedProgram

from secateur.arguments import MODEL, PATH, parsed
from secateur.errors import InputError
from secateur.formats.factory import load_factory
from secateur.formats.kinds import refuse_foreign
from secateur.formats.registry import FORMATS, by_path, format_of, listed, suffixes_read, suffixes_written
from secateur.graph.example import ExampleInputs
from secateur.torch_state import ALONE


def load_model(
    source: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None
) -> nn.Module | ExportedProgram:
    """Load a model from a file or a folder, or from a function that builds it.

    Args:
        source: a `.pt2`, `.onnx`, `.keras` or `.h5` file, a Hugging Face folder, or
            `package.module:function`. The format of a file is told by its content before its name.
        weights: a `.safetensors` file with the weights of a model that a function builds.

    Returns:
        The model in eval mode: a module, or an `ExportedProgram` for `.pt2` files. Nothing that the file
        holds is unpickled or run.

    Raises:
        InputError: the file is absent, damaged, or of another format; the message then says how to convert
            it.

    Examples:
        >>> import os, tempfile, torch, secateur
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()).eval()
        >>> path = os.path.join(tempfile.mkdtemp(), "net.pt2")
        >>> secateur.save_model(path, net, torch.zeros(1, 4))
        >>> program = secateur.load_model(path)
        >>> x = torch.rand(5, 4)
        >>> torch.equal(program.module()(x), net(x))
        True
    """
    text = os.fspath(parsed("source", source, PATH))
    found = FORMATS.get(refuse_foreign(text))
    if found is not None and found.load is not None:
        if weights is not None:
            raise InputError(f"{text} holds its own weights; leave {weights} out")
        return found.load(text)
    if ":" in text and found is None:
        return load_factory(text, weights)
    absent = "" if os.path.exists(text) else "; there is no such file"
    raise InputError(
        f"{text}: give a {listed(suffixes_read())} file, a Hugging Face folder, or package.module:factory "
        f"together with a .safetensors file of weights{absent}"
    )


def save_model(
    path: str | os.PathLike[str],
    model: nn.Module | ExportedProgram,
    example_inputs: ExampleInputs | None = None,
) -> None:
    """Write a model in the format that the name of the file says. The file appears whole or not at all.

    A model that was read from ONNX is written to `.onnx` as that file made smaller, and one from Keras to
    `.keras` or `.h5` likewise; any other is exported by torch, with a batch of any size. A model that was
    read from a Hugging Face folder is written to a folder, with its tokenizer and the like, where the name
    has none of these endings.

    Args:
        path: the name ends in `.pt2`, `.onnx`, `.keras` or `.h5` (models that came from such a file), or
            `.safetensors` (weights alone); or the name of a folder.
        model: an `nn.Module` in eval mode, or an `ExportedProgram`.
        example_inputs: one tensor of a legal input, a tuple of them, or a dict by argument; axis 0 is the
            batch. Not needed where nothing is exported: for programs, models that were read from a file, and
            weights alone.

    Raises:
        InputError: the path or the example does not fit, or the format cannot hold the model.
        CaptureError: the model cannot be exported.
        VerificationError: onnxruntime computes another function than the model.

    Examples:
        >>> import os, tempfile, torch, secateur
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()).eval()
        >>> folder = tempfile.mkdtemp()
        >>> secateur.save_model(os.path.join(folder, "net.pt2"), net, torch.zeros(1, 4))
        >>> secateur.save_model(os.path.join(folder, "weights.safetensors"), net)
        >>> sorted(os.listdir(folder))
        ['net.pt2', 'weights.safetensors']
    """
    parsed("model", model, MODEL)
    found = by_path(parsed("path", path, PATH), format_of(model))
    if found is None or found.save is None:
        raise InputError(f"{path}: the name of a model must end in {listed(suffixes_written())}")
    with ALONE:
        found.save(path, model, example_inputs)
