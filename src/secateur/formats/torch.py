"""PyTorch models in and out: `.pt2` programs, and a factory function with `.safetensors` weights. Never
pickle.
"""

from __future__ import annotations

import importlib
import io
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.export import ExportedProgram

from secateur.errors import InputError, few
from secateur.files import write_atomically
from secateur.formats.foreign import refuse_foreign
from secateur.formats.pt2 import REEXPORT, clean_copy
from secateur.graph.example import ExampleInputs, at_least_two, split_inputs
from secateur.graph.export import export_program, first_line, quiet_export
from secateur.graph.fitness import check_fit


def load_program(path: str | os.PathLike[str]) -> ExportedProgram:
    """The program in the `.pt2` file at `path`, loaded without running anything that the file holds.

    The program is put on the CPU; node metadata and input guards are left behind. Raises `InputError` for a
    file that is not such an archive, is damaged, or holds more than plain data (pickles, compiled code, code
    in expressions: see `formats/pt2.py`).
    """
    refuse_foreign(path)
    with clean_copy(path) as copy, quiet_export():
        try:
            # What torch.export.load calls first; that one hides the reason of a failure behind its older
            # layouts.
            from torch.export.pt2_archive._package import load_pt2

            return load_pt2(copy).exported_programs["model"]
        except Exception as error:
            raise InputError(
                f"torch {torch.__version__} cannot load {path}: {first_line(error)}. {REEXPORT}"
            ) from error


def save_program(
    path: str | os.PathLike[str],
    module: nn.Module | ExportedProgram,
    example_inputs: ExampleInputs | None = None,
) -> None:
    """Export `module` (in eval mode, axis 0 a free batch) on `example_inputs` and write it to the `.pt2` at
    `path`.

    An `ExportedProgram` is written as it is. The file appears whole or not at all. Raises `CaptureError`
    where the module cannot be exported, `InputError` for a wrong path or missing example inputs.
    """
    if Path(path).suffix.lower() != ".pt2":
        raise InputError(f"{path}: the name of a saved program must end in .pt2")
    if isinstance(module, ExportedProgram):
        program = module
    elif example_inputs is None:
        raise InputError("example_inputs is needed to export an nn.Module: give one tensor of a legal input")
    else:
        if not isinstance(module, torch.fx.GraphModule):  # an exported graph has its mode baked in
            check_fit(module)
        program = export_program(module, *at_least_two(*split_inputs(example_inputs)), to_file=True)
    content = io.BytesIO()  # torch's own writer aborts the process where a disk is full
    with quiet_export():
        torch.export.save(program, content)
    write_atomically(path, lambda file: file.write(content.getbuffer()))


def save_weights(path: str | os.PathLike[str], module: nn.Module) -> None:
    """Write the parameters and buffers of `module` to the `.safetensors` at `path`; of tied ones the first
    name only.

    The file appears whole or not at all.
    """
    first = {_storage(value): name for name, value in reversed(module.state_dict().items())}
    state = {name: value for name, value in module.state_dict().items() if first[_storage(value)] == name}
    write_atomically(
        path, lambda file: file.write(save({name: value.contiguous() for name, value in state.items()}))
    )


def load_factory(factory: str, weights: str | os.PathLike[str] | None = None) -> nn.Module:
    """Call the function `package.module:name` without arguments and give its module, with `weights`, in eval
    mode.

    `weights` is a `.safetensors` file that must fit exactly; of tied weights one name is enough. Raises
    `InputError` where the function cannot be imported or called, gives no nn.Module, or the weights do not
    fit.
    """
    module_name, _, function_name = factory.partition(":")
    if not module_name or not function_name:
        raise InputError(f"{factory!r} does not name a factory; write package.module:function")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except ImportError as error:
        raise InputError(f"cannot import {module_name}: {error}. Is its folder on PYTHONPATH?") from error
    except AttributeError as error:
        raise InputError(f"{module_name} has no {function_name}") from error
    try:
        model = function()
    except Exception as error:
        raise InputError(
            f"{factory}() failed: {first_line(error)}. It must work without arguments"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{factory}() gave a {type(model).__name__}, not a torch.nn.Module")
    if weights is not None:
        _load_weights(model, weights)
    return model.eval()


def _load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    if refuse_foreign(path) != "safetensors":
        raise InputError(f"{path}: weights must be a .safetensors file")
    try:
        state = load_file(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file, or is cut short or damaged: {error}") from error
    expected = model.state_dict()
    stored = {_storage(expected[name]) for name in state if name in expected}
    missing = [
        name for name, value in expected.items() if name not in state and _storage(value) not in stored
    ]
    shapes = [
        f"{name} is {tuple(value.shape)}, the model has {tuple(expected[name].shape)}"
        for name, value in state.items()
        if name in expected and value.shape != expected[name].shape
    ]
    problems = {
        "missing": missing,
        "not in the model": [name for name in state if name not in expected],
        "of another shape": shapes,
    }
    prefix = _prefix(missing, problems["not in the model"])
    told = [f"{few(names)} ({what})" for what, names in problems.items() if names]
    if told:
        hint = (
            f". Take {prefix!r} off the beginning of its names: name.removeprefix({prefix!r})"
            if prefix
            else ""
        )
        raise InputError(f"{path} does not fit {type(model).__name__}: {'; '.join(told)}{hint}")
    model.load_state_dict(state, strict=False)


def _prefix(missing: list[str], extra: list[str]) -> str:
    """What all names in the file have before those of the model, such as the `module.` of DataParallel."""
    found = (
        {extra[0].removesuffix(own) for own in missing if extra[0].endswith(f".{own}")} if extra else set()
    )
    return next(
        (p for p in found if all(n.startswith(p) and n.removeprefix(p) in missing for n in extra)), ""
    )


def _storage(value: Tensor) -> tuple[int, tuple[int, ...]]:
    """Equal for tied weights: where the tensor lies, and its shape; an empty tensor is only equal to
    itself.
    """
    return value.data_ptr() or id(value), tuple(value.shape)
