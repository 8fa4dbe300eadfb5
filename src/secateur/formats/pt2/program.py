"""Programs of `torch.export` in and out of `.pt2` files. Never pickle."""

from __future__ import annotations

import io
import os
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from secateur.errors import InputError
from secateur.files import write_atomically
from secateur.formats.pt2.archive import REEXPORT
from secateur.formats.pt2.copy import clean_copy
from secateur.graph.example import ExampleInputs, at_least_two, split_inputs
from secateur.graph.export import export_program, first_line, quiet_export
from secateur.graph.fitness import check_fit


def load_program(path: str | os.PathLike[str]) -> ExportedProgram:
    """The program in the `.pt2` file at `path`, loaded without running anything that the file holds.

    The program is put on the CPU; node metadata and input guards are left out. Raises `InputError` for a file
    that is not such an archive, is damaged, or holds more than plain data (pickles, compiled code, code in
    expressions: see `copy.py`).
    """
    with clean_copy(path) as copy, quiet_export():
        try:
            # torch.export.load calls this first, but hides why it failed behind its older layouts.
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
    """Export `module` (in eval mode, with a batch of any size) and write it to the `.pt2` at `path`.

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
