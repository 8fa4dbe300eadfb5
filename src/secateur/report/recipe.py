"""The recipe: a versioned JSON record of every decision, in the original model's own indices."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from secateur.errors import RecipeError
from secateur.files import write_atomically
from secateur.graph.capture import Graph, kind


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Fingerprint(Record):
    """What the model was: a digest of its tensors (names, shapes, types, values) and one of its graph's ops."""

    tensors: str
    ops: str
    parameters: int


class InputSpec(Record):
    """Shape (batch first) and type of one input of the model."""

    shape: tuple[int, ...]
    dtype: str


class Edit(Record):
    """Units `units` of a group leave; `into[i]` stands in for `units[i]` (−1: nothing does)."""

    group: str
    units: tuple[int, ...]
    into: tuple[int, ...]


class Step(Record):
    """One step of a progressive run, and the size of the model after it."""

    step: int
    edits: tuple[Edit, ...]
    units_removed: int
    parameters: int
    macs: int


class KeptUnits(Record):
    """The original numbers of the units that a group keeps, in their new order, and where its units stand."""

    group: str
    units: int
    kept: tuple[int, ...]
    slots: tuple[str, ...]  # "tensor:axis"


class Request(Record):
    """What the caller asked for."""

    remove: str
    method: str
    options: dict[str, float | int]
    step: float
    recursive: bool
    ignore: tuple[str, ...]
    round_to: int
    input_bounds: Any
    seed: int
    surrogate: str = ""  # where samples were looked at
    calibration: str = ""  # SHA-256 of the user's own samples
    samples: int = 0
    allocation: str = "uniform"
    guard: dict[str, float] = {}
    exact_first: bool = False


class Recipe(Record):
    """Everything that `secateur.replay` needs, and what a reader wants to know."""

    schema_version: Literal[1] = 1
    versions: dict[str, str]
    model: Fingerprint
    inputs: tuple[InputSpec, ...]
    request: Request
    achieved: float
    shortfall: str
    steps: tuple[Step, ...]
    groups: tuple[KeptUnits, ...]
    solved: str = ""  # SHA-256 of `tensors`, where there are any
    tensors: bytes = Field(default=b"", exclude=True, repr=False)  # safetensors: values that no edit tells; full size

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the recipe as JSON, and solved tensors beside it (`<name>.solved.safetensors`); each atomically."""
        if self.tensors:
            write_atomically(beside(path), lambda file: file.write(self.tensors))
        write_atomically(path, lambda file: file.write((self.model_dump_json(indent=1) + "\n").encode()))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe; `RecipeError` where it is not one, or of a version that this secateur does not know."""
        try:
            recipe = Recipe.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise RecipeError(f"cannot read {path}: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise RecipeError(f"{path} is not a recipe of version 1: {where}: {first['msg']}") from error
        return recipe.model_copy(update={"tensors": _read_solved(beside(path), recipe.solved)})


def beside(path: str | os.PathLike[str]) -> Path:
    """Where the solved tensors of the recipe at `path` stand."""
    return Path(path).with_suffix(".solved.safetensors")


def _read_solved(path: Path, digest: str) -> bytes:
    if not digest:
        return b""
    try:
        found = path.read_bytes()
    except OSError as error:
        raise RecipeError(
            f"the recipe needs the solved tensors in {path}: {error.strerror}; keep both files together"
        ) from error
    if hashlib.sha256(found).hexdigest() != digest:
        raise RecipeError(f"{path} is not the file that was written with the recipe, or is cut short")
    return found


def fingerprint(graph: Graph) -> Fingerprint:
    """Digests of the model; equal for equal weights and ops, whatever object or file holds them."""
    tensors = hashlib.sha256()
    stored = graph.as_stored(graph.tensors)
    for name in sorted(stored):
        value = stored[name].detach().cpu().contiguous()
        tensors.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        tensors.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    ops = hashlib.sha256("\n".join(map(str, _signatures(graph))).encode())
    count = sum(graph.tensors[name].numel() for name in graph.parameters)
    return Fingerprint(tensors=tensors.hexdigest(), ops=ops.hexdigest(), parameters=count)


def _signatures(graph: Graph) -> Iterator[tuple[Any, ...]]:
    """Each op with its constants; other nodes by number, since their names depend on how the model was written."""
    number = {node: i for i, node in enumerate(graph.nodes)}

    def plain(leaf: Any) -> Any:
        return f"#{number[leaf]}" if isinstance(leaf, fx.Node) else "" if isinstance(leaf, torch.device) else leaf

    for node in graph.nodes:
        if node.op == "call_function":
            yield kind(node), *tree_map(plain, (node.args, dict(node.kwargs)))


def input_specs(example: Sequence[Tensor]) -> tuple[InputSpec, ...]:
    return tuple(InputSpec(shape=tuple(x.shape), dtype=str(x.dtype).removeprefix("torch.")) for x in example)


def versions() -> dict[str, str]:
    return {"secateur": version("secateur"), "torch": torch.__version__, "python": platform.python_version()}
