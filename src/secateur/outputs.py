"""What a command is about to write: nothing that it reads, nothing twice, and no file of another kind.

Checked for all outputs of a command at once, before any work.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from secateur.arguments import PATH, parsed
from secateur.errors import InputError
from secateur.files import refusals_named
from secateur.formats.huggingface.folder import is_written
from secateur.formats.kinds import kind_of
from secateur.formats.registry import FORMATS, by_path, by_suffix, companions, listed, suffixes_written
from secateur.inputs import settings_path

_HEAD = 4096  # bytes by which the kind of a file is told
_LARGEST_JSON = 2**28  # bytes


@dataclass(frozen=True)
class Kind:
    """A kind of file: how its name ends, and whether an existing file is one, so that it may be replaced."""

    what: str
    suffixes: tuple[str, ...]
    is_one: Callable[[Path], bool]


@dataclass(frozen=True)
class Output:
    """A file that a command writes; `option` is what names it on the command line."""

    option: str
    path: Path
    kind: Kind


def check_outputs(
    reads: Iterable[str | os.PathLike[str] | None], writes: Sequence[Output], overwrite: bool = False
) -> None:
    """Raise `InputError` for an output that is an input, another output, or an existing file of another kind.

    Links are followed. `overwrite` allows the last. Folders must exist, and names end as their kind asks.
    """
    read = {_identity(path): path for path in reads if path is not None}
    written = dict[object, Output]()
    for output in writes:
        named = f"{output.option} {output.path}"
        if output.kind.suffixes and output.path.suffix.lower() not in output.kind.suffixes:
            ends = listed(output.kind.suffixes)
            raise InputError(f"{named}: the name of {output.kind.what} must end in {ends}")
        if not output.path.parent.is_dir():
            raise InputError(f"{named}: the folder {output.path.parent} does not exist; create it first")
        with refusals_named(f"cannot write {output.path}"):
            same = _identity(output.path)
            if same in read:
                raise InputError(
                    f"{named} is {read[same]}, which is read and stays as it is; write to another file"
                )
            if same in written:
                raise InputError(
                    f"{named} is also the file of {written[same].option}; give each a name of its own"
                )
            if output.kind is FOLDER and output.path.is_dir() and not is_written(output.path):
                raise InputError(
                    f"{named} is a folder that holds something else than such a model; give another name, or "
                    "move it away"
                )
            if not overwrite and _is_other(output):
                raise InputError(
                    f"{named} is there, and is no {output.kind.what.removeprefix('a ')} that this command "
                    "could have written; give another name, or --overwrite"
                )
        written[same] = output


def _identity(path: str | os.PathLike[str]) -> object:
    """Equal for two names of one file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return os.path.realpath(path)
    return found.st_dev, found.st_ino


def _is_other(output: Output) -> bool:
    path = output.path
    if not path.exists() or path.is_dir():  # in place of a file, folders are refused on writing
        return False
    return not path.is_file() or (path.stat().st_size > 0 and not output.kind.is_one(path))


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_HEAD)


def _is_model(path: Path) -> bool:
    """By the first bytes that the format of that suffix has."""
    found = by_suffix(path)
    return found is not None and found.can_be(_head(path))


def _holds(*keys: str) -> Callable[[Path], bool]:
    """Whether a file is a JSON object with these keys."""

    def is_one(path: Path) -> bool:
        if path.stat().st_size > _LARGEST_JSON:
            return False
        try:
            found = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            return False
        return isinstance(found, dict) and all(key in found for key in keys)

    return is_one


def _is_claim(path: Path) -> bool:
    return _head(path).startswith(b"; X: the inputs; Y: the drift")


def _is_statement(path: Path) -> bool:
    return _head(path).startswith(b"# Equivalence statement") or _holds("claims", "not_covered")(path)


MODEL = Kind("a model", suffixes_written(), _is_model)
FOLDER = Kind("a folder of a model", (), is_written)
EXTERNAL = Kind("a file of weights", (".data",), lambda path: path.with_suffix("").exists())
RECIPE = Kind("a recipe", (".json",), _holds("schema_version", "steps", "groups"))
SOLVED = Kind("a file of refitted weights", (".safetensors",), _is_model)
CERTIFICATE = Kind("a certificate", (".json",), _holds("input_set", "lower", "upper"))
SAMPLED = Kind("a statistical certificate", (".json",), _holds("distribution", "confidence", "overall"))
STATEMENT = Kind("an equivalence statement", (".json", ".md"), _is_statement)
CLAIM = Kind("a VNN-LIB property", (".vnnlib",), _is_claim)
CLAIM_NETWORK = Kind(
    "a network of a VNN-LIB property",
    (".onnx",),
    lambda path: path.with_suffix(".vnnlib").is_file() and _is_claim(path.with_suffix(".vnnlib")),
)


PAGE = Kind("a report", (".html", ".htm"), lambda path: b'content="secateur"' in _head(path))
CARD = Kind("a model card", (".md",), lambda path: b"\n- secateur\n" in _head(path))


def model_outputs(path: Path, source: str = "") -> list[Output]:
    """The file of a model, and those that may hold its weights; or its folder, for a `source` that is one."""
    found = by_path(path, FORMATS.get(kind_of(source)) if source else None)
    if found is not None and found.folder:
        return [Output("--output", path, FOLDER)]
    beside = () if found is None else found.companions(path)
    return [Output("--output", path, MODEL), *(Output("--output", other, EXTERNAL) for other in beside)]


def recipe_path(path: Path, source: str) -> Path:
    """The recipe beside a model: `small.recipe.json` for `small.onnx`; the whole name of a folder stays."""
    whole = model_outputs(path, source)[0].kind is FOLDER
    return path.with_name(f"{path.name}.recipe.json") if whole else path.with_suffix(".recipe.json")


def claim_outputs(path: Path) -> list[Output]:
    """The two files of a claim for other verifiers."""
    return [
        Output("--vnnlib", Path(f"{path}.onnx"), CLAIM_NETWORK),
        Output("--vnnlib", Path(f"{path}.vnnlib"), CLAIM),
    ]


def model_files(model: str, *more: str | os.PathLike[str] | None) -> list[str | os.PathLike[str] | None]:
    """What belongs to a model that is read: its weights beside it, and the settings of its inputs."""
    parsed("model", model, PATH)
    return [model, *companions(model), settings_path(model), *more]
