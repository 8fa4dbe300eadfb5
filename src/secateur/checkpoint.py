"""The checkpoint of a run: a folder with what was done up to the last whole step, from which it goes on.

It holds a record (JSON) and a safetensors file that the record names. Each is written whole, the record last,
so that a process which is killed at any moment leaves the checkpoint before or after a step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from secateur.errors import InputError
from secateur.files import is_temporary, refusals_named, write_atomically
from secateur.graph.graph import Graph
from secateur.history import History
from secateur.memory import shown
from secateur.methods import Method
from secateur.progress import notice
from secateur.report.recipe import RecordedRequest, Step, digest_of, fingerprint, input_specs, versions
from secateur.report.record import Plain, Record, read_record
from secateur.request import Request
from secateur.run import Run, State
from secateur.samples import digest
from secateur.strict_json import dumps
from secateur.types import Samples

_SCHEMA = 1
_RECORD = "run.json"
_TENSORS = "step-*.safetensors"
_LONGEST = 24  # characters of a value in a message
_DENSE = torch.contiguous_format


class Saved(Record):
    """What is stored of a run beside its tensors.

    Attributes:
        asked: All on which the result depends, by name.
        memory: Bytes that the run could take; it decides at most how many inputs are drawn.
        refitted_on: How many inputs it draws for scoring and refitting, which under a time budget was
            measured.
        steps: As in a recipe.
        seconds: Time since the run began, after each step.
        goals: How many goals of the plan are reached.
        solved: As in `Run`.
        prepared: Tensors that are still as the method has prepared them.
        tensors: SHA-256 of the tensors in the file.
    """

    schema_version: Literal[1] = 1
    asked: dict[str, Plain]
    memory: int
    refitted_on: int
    steps: tuple[Step, ...]
    seconds: tuple[float, ...]
    goals: int
    solved: tuple[str, ...]
    prepared: tuple[str, ...]
    tensors: str


class Known(NamedTuple):
    """Tensors that a run need not store, since they are computed again, as the same objects.

    Methods tell by the object whether a tensor has changed, so that equal numbers are not enough.
    """

    original: Mapping[str, Tensor]
    prepared: Mapping[str, Tensor]  # see `Method.tensors_of`


class Checkpoint:
    """The checkpoint of one run, in `folder`; without a folder, nothing is written or read.

    `saved` is what an interrupted run has left there, or None. Raises `InputError` where it cannot be read.
    """

    def __init__(self, folder: Path | None, memory: int) -> None:
        self.folder, self.memory = folder, memory
        self.saved: Saved | None = None
        self.refitted_on = 0
        self._asked = dict[str, Any]()
        if folder is not None and (folder / _RECORD).exists():
            self.saved, _ = read_record(folder / _RECORD, Saved, "checkpoint", _SCHEMA, InputError)
            self.refitted_on = self.saved.refitted_on

    def agree(self, facts: Mapping[str, Any], why: str = "") -> None:
        """Take down on what the run depends.

        Raises `InputError`, with the names of what differs, where an interrupted run had other facts; `why`
        says more of that.
        """
        self._asked |= json.loads(dumps(dict(facts)))
        before = self._asked if self.saved is None else json.loads(dumps(self.saved.asked))
        other = [name for name in facts if before.get(name) != self._asked[name]]
        if other:
            told = ", ".join(_told(name, before.get(name), self._asked[name]) for name in other)
            raise InputError(
                f"{self.folder} holds the steps of another run, with other {told}; give what that one was "
                f"given to go on, or remove the folder to begin anew{why}"
            )

    def agree_on_inputs(self, samples: Sequence[Samples | None]) -> None:
        """The same for inputs that were drawn; how many there are can depend on the memory."""
        there = self.memory if self.saved is None else self.saved.memory
        why = (
            ". Inputs depend on calibration, surrogate and tokenizer, and how many there are on the memory: "
            f"{shown(there)} there, {shown(self.memory)} here (memory=, --memory)"
        )
        self.agree({"inputs": [digest(found) for found in samples if found is not None]}, why)

    def save(self, run: Run, generator: torch.Generator, history: History, goals: int, known: Known) -> None:
        """Write the state of the run after it has reached so many goals."""
        if self.folder is None:
            return
        prepared = {name for name, value in known.prepared.items() if run.weights[name] is value}
        changed = {n: w for n, w in run.weights.items() if n not in prepared and w is not known.original[n]}
        parts = {"weights": changed, "alive": run.alive, "used": run.used}
        tensors = {f"{part} {name}": x for part, named in parts.items() for name, x in named.items()}
        tensors = _written({**tensors, "generator": generator.get_state()})
        saved = Saved(
            asked=self._asked,
            memory=self.memory,
            refitted_on=self.refitted_on,
            steps=tuple(history.steps),
            seconds=tuple(row.seconds for row in history.rows),
            goals=goals,
            solved=tuple(sorted(run.solved)),
            prepared=tuple(sorted(prepared)),
            tensors=digest_of(tensors),
        )
        with refusals_named(f"cannot write {self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
        # through the name of the temporary file, since the library streams to a path alone
        write_atomically(_file(self.folder, saved), lambda file: save_file(tensors, file.name))
        content = dumps(saved.model_dump(mode="python")).encode() + b"\n"
        write_atomically(self.folder / _RECORD, lambda file: file.write(content))
        for path in set(self.folder.glob(_TENSORS)) - {_file(self.folder, saved)}:
            path.unlink()
        self.saved = saved

    def restore(
        self, run: Run, generator: torch.Generator, history: History, known: Known, told: bool
    ) -> int:
        """Bring a run that was prepared to where the interrupted one was; how many goals it had reached."""
        if self.saved is None or self.folder is None:
            return 0
        tensors = _read(_file(self.folder, self.saved), self.saved.tensors)
        weights = {
            **known.original,
            **{name: known.prepared[name] for name in self.saved.prepared if name in known.prepared},
            **_part(tensors, "weights", run.weights),
        }
        alive, used = (_part(tensors, part, run.alive) for part in ("alive", "used"))
        state = State(weights, alive, used, set(self.saved.solved))
        _check_fits(run, state, self.folder)
        run.go_back(state)
        generator.set_state(tensors["generator"])
        history.restore(self.saved.steps, self.saved.seconds)
        notice(f"{self.folder}: going on after step {self.saved.steps[-1].step}", told)
        return self.saved.goals


def begun(folder: Path) -> bool:
    """Whether an interrupted run has left a checkpoint there, or in a folder of one share."""
    return any(path.is_file() for path in (folder / _RECORD, *folder.glob(f"*%/{_RECORD}")))


def discard(folder: Path) -> None:
    """Remove a checkpoint, and those of several shares, each the record first; what else is there stays."""
    with refusals_named(f"cannot remove {folder}"):
        for each in (*folder.glob("*%"), folder):
            for path in (each / _RECORD, *each.glob(_TENSORS), *filter(is_temporary, each.glob(".*"))):
                path.unlink(missing_ok=True)
            with suppress(OSError):  # it holds something else
                each.rmdir()


def facts_of(graph: Graph, request: Request, recorded: RecordedRequest) -> dict[str, Any]:
    """All on which the result depends but the drawn inputs: name → plain value."""
    model = fingerprint(graph)
    return {
        "weights of the model": model.tensors,
        "graph of the model": model.ops,
        "example_inputs": [spec.model_dump() for spec in input_specs(graph.example)],
        **recorded.model_dump(),
        "device": str(request.device or "cpu"),
        **{f"version of {name}": found for name, found in versions().items()},
    }


def check_resumable(method: Method, state: Any) -> None:
    """Raise `InputError` for a method whose steps may change what it has prepared, which is not stored."""
    if state is not None and not method.prepares_for_all:
        raise InputError(
            f"resume: what the method {method.name} prepares is computed again when a run goes on; if its "
            "steps do not change that, and it does not depend on how much is removed, say "
            "`prepares_for_all = True` in its class"
        )


def _told(name: str, there: Any, here: Any) -> str:
    """The name of a fact that differs, with both values where they are short."""
    values = [json.dumps(value, ensure_ascii=False) for value in (there, here)]
    return f"{name} ({values[0]} there, {values[1]} here)" if max(map(len, values)) <= _LONGEST else name


def _file(folder: Path, saved: Saved) -> Path:
    return folder / _TENSORS.replace("*", f"{saved.steps[-1].step:04d}")


def _written(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as the library takes them: dense, each with a storage of its own."""
    found, storages = dict[str, Tensor](), set[int]()
    for name, value in tensors.items():
        storage = value.untyped_storage()
        alone = storage.nbytes() == value.nbytes and storage.data_ptr() not in storages
        storages.add(storage.data_ptr())
        found[name] = value if alone and value.is_contiguous() else value.clone(memory_format=_DENSE)
    return found


def _read(path: Path, digest: str) -> dict[str, Tensor]:
    """The tensors in the file, each in memory of its own. Raises `InputError` for another content."""
    try:
        found = {name: value.clone() for name, value in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read {path}: {error}; remove the folder to begin anew") from error
    if digest_of(found) != digest:
        raise InputError(f"{path} was changed or damaged; remove the folder to begin anew")
    return found


def _part(tensors: Mapping[str, Tensor], part: str, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is stored of one part of the state, in the order of `like`."""
    return {name: tensors[key] for name in like if (key := f"{part} {name}") in tensors}


def _check_fits(run: Run, state: State, folder: Path) -> None:
    pairs = ((state.weights, run.weights), (state.alive, run.alive), (state.used, run.used))
    for found, own in pairs:
        if {n: (x.shape, x.dtype) for n, x in found.items()} != {
            n: (x.shape, x.dtype) for n, x in own.items()
        }:
            raise InputError(
                f"{folder}: the tensors are not those of the model; remove the folder to begin anew"
            )
