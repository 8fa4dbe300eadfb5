"""A model's weights to a `.safetensors` file and back. Names and shapes must fit exactly."""

from __future__ import annotations

import os
from collections.abc import Mapping

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.export import ExportedProgram

from secateur.errors import InputError, few
from secateur.files import write_atomically


def save_weights(path: str | os.PathLike[str], module: nn.Module | ExportedProgram) -> None:
    """Write the parameters and buffers of `module`; of tied ones the first name only.

    The file appears whole or not at all. Raises `InputError` for an exported program, which has a graph that
    a file of weights cannot hold.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"{path}: a program is written with its graph, to a file that ends in .pt2 or .onnx")
    first = {_storage(value): name for name, value in reversed(module.state_dict().items())}
    state = {name: value for name, value in module.state_dict().items() if first[_storage(value)] == name}
    content = save({name: value.contiguous() for name, value in state.items()})
    write_atomically(path, lambda file: file.write(content))


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Put the weights in the file into `model`; of tied weights one name is enough.

    Raises `InputError` for a damaged file, and for names and shapes that are not those of the model.
    """
    try:
        state = load_file(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file, or is cut short or damaged: {error}") from error
    missing, extra, reshaped = _misfits(model.state_dict(), state)
    problems = ((missing, "missing"), (extra, "not in the model"), (reshaped, "of another shape"))
    told = [f"{few(names)} ({what})" for names, what in problems if names]
    if told:
        raise InputError(
            f"{path} does not fit {type(model).__name__}: {'; '.join(told)}{_hint(missing, extra)}"
        )
    model.load_state_dict(state, strict=False)


def _misfits(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[list[str], list[str], list[str]]:
    """Names that the file lacks, names that the model lacks, and what has another shape."""
    common = state.keys() & expected.keys()
    stored = {_storage(expected[name]) for name in common}
    missing = [n for n, value in expected.items() if n not in state and _storage(value) not in stored]
    extra = [name for name in state if name not in expected]
    reshaped = [
        f"{name} is {tuple(value.shape)}, the model has {tuple(expected[name].shape)}"
        for name, value in state.items()
        if name in common and value.shape != expected[name].shape
    ]
    return missing, extra, reshaped


def _hint(missing: list[str], extra: list[str]) -> str:
    prefix = _prefix(missing, extra)
    if not prefix:
        return ""
    return f". Take {prefix!r} off the beginning of its names: name.removeprefix({prefix!r})"


def _prefix(missing: list[str], extra: list[str]) -> str:
    """What all names in the file have before those of the model, such as the `module.` of DataParallel."""
    if not extra:
        return ""
    found = {extra[0].removesuffix(own) for own in missing if extra[0].endswith(f".{own}")}
    return next(
        (p for p in found if all(n.startswith(p) and n.removeprefix(p) in missing for n in extra)), ""
    )


def _storage(value: Tensor) -> tuple[int, tuple[int, ...]]:
    """Equal for tied weights: the address and the shape. An empty tensor is equal only to itself."""
    return value.data_ptr() or id(value), tuple(value.shape)
