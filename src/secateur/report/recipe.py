"""The recipe: a versioned JSON record of every decision, in the original model's own indices."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import from_json
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from secateur.errors import RecipeError
from secateur.files import staged_files, write_atomically, written_together
from secateur.graph.graph import Graph
from secateur.graph.node import kind
from secateur.report.quantization import Quantization
from secateur.report.record import Plain, Record, read_record
from secateur.report.times import LatencyRecord
from secateur.report.verdict import Verdict
from secateur.strict_json import dumps, read, written

PLAIN: Final = 2  # the version of recipes without quantisation, which older versions of secateur read
SCHEMA: Final = 3
_MOST = 2**31  # numbers in an input, units in a group
_SHA256 = r"^[0-9a-f]{64}$"
_DTYPES = {str(kind).removeprefix("torch.") for kind in vars(torch).values() if isinstance(kind, torch.dtype)}


class Fingerprint(Record):
    """Identifies a model: digests of its tensors and of its graph."""

    tensors: str  # SHA-256 of names, shapes, types and values
    ops: str  # SHA-256 of the graph's ops and their constants
    parameters: int  # how many


class InputSpec(Record):
    """Shape (batch first) and type of one input of the model."""

    shape: tuple[Annotated[int, Field(ge=1, le=_MOST)], ...] = Field(max_length=16)
    dtype: str

    @model_validator(mode="after")
    def _plausible(self) -> InputSpec:
        if self.dtype not in _DTYPES:
            raise ValueError(f"{self.dtype!r} is no type of a tensor")
        if math.prod(self.shape) > _MOST:
            raise ValueError(f"an input of shape {self.shape} is too large to be run")
        return self


class Edit(Record):
    """Units `units` of a group are removed; `into[i]` absorbs `units[i]` (−1: no unit does)."""

    group: str
    units: tuple[Annotated[int, Field(ge=0, lt=_MOST)], ...]
    into: tuple[Annotated[int, Field(ge=-1, lt=_MOST)], ...]


class Step(Record):
    """One step of a progressive run, and the size of the model after it."""

    step: int
    edits: tuple[Edit, ...]
    units_removed: int
    parameters: int
    macs: int


class KeptUnits(Record):
    """The units that a group keeps, by their original numbers in their new order, and its slots."""

    group: str
    units: int
    kept: tuple[int, ...]
    slots: tuple[str, ...]  # "tensor:axis"


class RecordedRequest(Record):
    """What the caller asked for, defaults filled in (see `secateur.request.Request`)."""

    remove: str
    method: str
    options: dict[str, float | int]
    step: float
    recursive: bool
    ignore: tuple[str, ...]
    round_to: int | Literal["auto"]
    uniform_layers: bool = False
    input_bounds: Plain  # of the model's own inputs, after normalisation
    mean: tuple[float, ...] = ()  # subtracted from images
    std: tuple[float, ...] = ()  # by which images are then divided
    seed: int
    surrogate: str = ""
    samples: int = 0
    budget: float | None = None  # seconds
    allocation: str = "uniform"
    attention: str = "heads"
    streams: bool = False
    guard: Annotated[dict[str, float | str], BeforeValidator(read)] = Field(default_factory=dict)
    head: str = "auto"
    exact_first: bool = False


class UsedInputs(Record):
    """The inputs that a run has used."""

    samples: int = 0  # number of samples for scoring and refitting; 0: the method uses none
    surrogate: str = ""  # from which they were drawn, or those beside a few own inputs
    drawn: str = ""  # how, where the surrogate chose that
    own: int = 0  # inputs of the user's own among them, before they are repeated; 0: all or none are
    calibration: str = ""  # SHA-256 of the user's own inputs, if given
    judged_on: int = 0  # number of validation samples, for the guard and the verdict alone


class Recipe(Record):
    """A record of a run, in the original model's own indices, from which `replay` rebuilds the same model.

    In a file, numbers that are not finite are the texts "Infinity", "-Infinity" and "NaN".

    Attributes:
        schema_version: The version of the format.
        versions: Versions of secateur, torch and Python, and the processor's arithmetic.
        model: Identifies the original model.
        inputs: Shape and type of each input.
        request: The arguments of `prune`, defaults filled in.
        used: The inputs that the run used.
        achieved: The share that was removed, of what `remove` counts; of latency, as measured in the end.
        latency: For a target in latency: what was predicted and measured, and the table of times.
        shortfall: Why less was removed than requested; empty if nothing is missing.
        steps: The edits of each step, and the size of the model after it.
        groups: The units that each group keeps.
        verdict: The verdict on the result.
        quantized: For a quantised model: how it was made and what was measured; `result` and the verdict are
            about the float model.
        result: SHA-256 of the smaller model's tensors, which `replay` must produce.
        files: SHA-256 of the files that were written with the recipe, by their paths relative to it.
        solved: SHA-256 of `tensors`; empty if there are none.
        seal: In a file, SHA-256 of all that is above.
        tensors: The refitted weights at full size, as the content of a safetensors file; not in the JSON.

    Examples:
        >>> import os, tempfile, torch, secateur
        >>> _ = torch.manual_seed(1)
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()
        >>> recipe = secateur.prune(net, torch.zeros(1, 4), remove=0.5, method="saliency").recipe
        >>> path = os.path.join(tempfile.mkdtemp(), "net.recipe.json")
        >>> recipe.save(path)
        >>> again = secateur.Recipe.load(path)
        >>> again.groups[0].kept == recipe.groups[0].kept, again.request.method
        (True, 'saliency')
    """

    schema_version: Literal[2, 3] = PLAIN
    versions: dict[str, str]
    model: Fingerprint
    inputs: tuple[InputSpec, ...]
    request: RecordedRequest
    used: UsedInputs = UsedInputs()
    achieved: float
    shortfall: str
    steps: tuple[Step, ...]
    groups: tuple[KeptUnits, ...]
    verdict: Verdict | None = None
    # for a target in latency: what was measured, and the table of the plan
    latency: LatencyRecord | None = None
    quantized: Quantization | None = None
    result: str = Field(pattern=_SHA256)
    files: dict[str, str] = Field(default_factory=dict)
    solved: str = ""
    seal: str = ""
    tensors: bytes = Field(default=b"", exclude=True, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _of_version_1(cls, content: Any) -> Any:
        """Read version 1, which kept the fields of `used` in the request."""
        if not isinstance(content, dict) or content.get("schema_version") != 1:
            return content
        request = content.get("request")
        moved = dict(request) if isinstance(request, dict) else {}
        used = {name: moved[name] for name in UsedInputs.model_fields if name in moved}
        kept = {name: value for name, value in moved.items() if name in RecordedRequest.model_fields}
        return {**content, "schema_version": PLAIN, "request": kept, "used": used}

    def with_quantization(self, record: Quantization) -> Recipe:
        """The same recipe for a quantised form of the smaller model."""
        return self.model_copy(update={"schema_version": SCHEMA, "quantized": record})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the recipe as JSON, and the refitted weights to `<name>.solved.safetensors` next to it.

        Either both files are written or none. Inside `written_together`, files that were written before (the
        model) belong to the set, and the recipe holds their digests.
        """
        complete = self.model_copy(update={"files": staged_files(Path(path).parent)})
        with written_together():
            if self.tensors:
                write_atomically(refitted_path(path), lambda file: file.write(self.tensors))
            write_atomically(path, lambda file: file.write(complete.sealed()))

    def sealed(self) -> bytes:
        """The recipe as JSON, with a digest of its content."""
        left_out = {"quantized"} if self.quantized is None else set()
        content = written(self.model_dump(mode="json", exclude=left_out))
        return (dumps({**content, "seal": seal_of(content)}) + "\n").encode()

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe and the refitted weights next to it.

        Raises:
            RecipeError: The file is no recipe, or one of a newer secateur; or it, or a file that was written
                with it, was changed afterwards.
        """
        recipe, data = read_record(path, Recipe, "recipe", SCHEMA, RecipeError, versions="1 to 3")
        if recipe.seal != seal_of(from_json(data)):
            raise RecipeError(
                f"{path} was changed after it was written; a recipe is evidence. Prune the model again"
            )
        _check_files(path, recipe.files)
        return recipe.model_copy(
            update={"seal": "", "tensors": _read_solved(refitted_path(path), recipe.solved)}
        )


def seal_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of a recipe's content, as plain data, whatever the order and the layout of its JSON."""
    plain = json.dumps({name: value for name, value in content.items() if name != "seal"}, sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()


def refitted_path(path: str | os.PathLike[str]) -> Path:
    """The path of the refitted weights of the recipe at `path`."""
    return Path(path).with_suffix(".solved.safetensors")


def _check_files(path: str | os.PathLike[str], files: Mapping[str, str]) -> None:
    """Compare files that were written with the recipe, if they still exist, with their digests."""
    for name, digest in files.items():
        other = Path(path).parent / name
        if other.is_file():
            with open(other, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != digest:
                raise RecipeError(
                    f"{other} is not the file that was written with the recipe {path}: they come from "
                    "two runs, or one was changed. Take both from one run, or move the file away to replay "
                    "the recipe alone"
                )


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
    ops = hashlib.sha256("\n".join(map(str, _signatures(graph))).encode())
    count = sum(graph.tensors[name].numel() for name in graph.parameters)
    return Fingerprint(
        tensors=digest_of(graph.as_stored(graph.tensors)), ops=ops.hexdigest(), parameters=count
    )


def _signatures(graph: Graph) -> Iterator[tuple[Any, ...]]:
    """Each op with its constants; other nodes by number, since their names depend on the model's code."""
    number = {node: i for i, node in enumerate(graph.nodes)}

    def plain(leaf: Any) -> Any:
        if isinstance(leaf, fx.Node):
            return f"#{number[leaf]}"
        return "" if isinstance(leaf, torch.device) else leaf

    for node in graph.nodes:
        if node.op == "call_function":
            yield kind(node), *tree_map(plain, (node.args, dict(node.kwargs)))
    yield "output", *(number[node] for node in graph.outputs)


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and values of all tensors."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        total.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode() + content_of(value))
    return total.hexdigest()


def content_of(value: Tensor) -> bytes:
    """The numbers of a tensor of any type, in order."""
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def input_specs(example: Sequence[Tensor]) -> tuple[InputSpec, ...]:
    return tuple(InputSpec(shape=tuple(x.shape), dtype=str(x.dtype).removeprefix("torch.")) for x in example)


def versions() -> dict[str, str]:
    """Versions of the software; `arithmetic` is the processor, its kernels and the libraries for products.

    Equal bits depend on all of these.
    """
    told = [line.strip(" -") for line in torch.__config__.show().splitlines()]
    libraries = [line.partition(" for ")[0] for line in told if "Math Kernel" in line or "MKL-DNN" in line]
    kernels = torch.backends.cpu.get_cpu_capability()
    return {
        "secateur": version("secateur"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "arithmetic": "; ".join([platform.machine(), kernels, *libraries]),
    }
