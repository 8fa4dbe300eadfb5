"""The folder of a search: its question, and a file for each trial, from which it goes on when interrupted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from secateur.errors import InputError, few
from secateur.files import is_temporary, refusals_named, write_atomically, written_together
from secateur.report.recipe import Recipe, refitted_path
from secateur.report.record import Plain, Record, first_problem
from secateur.search.trial import Checks, Trial
from secateur.strict_json import dumps

_Kind = TypeVar("_Kind", bound=BaseModel)
QUESTION = "question.json"
TRIALS = "trials"
FRONT = "front"
PICK = "pick"


class Question(Record):
    """All on which the result of a search depends. A folder goes on with the same question alone.

    Attributes:
        kind: `search` or `sweep`.
        versions: Of secateur, torch, Python and the processor's arithmetic.
        asked: Name → value, as plain data.
    """

    kind: str
    versions: dict[str, str]
    asked: dict[str, Plain]


class Store:
    """Trials by number. Each is written whole, with its recipe, before anything depends on it.

    What is not there when the process is killed is measured again. One process writes at a time.
    """

    def __init__(self, folder: str | os.PathLike[str], question: Question, overwrite: bool = False) -> None:
        """Open a folder, or make it.

        Raises `InputError` where it holds another search, unless `overwrite` allows to begin anew.
        """
        self.folder = Path(folder)
        with refusals_named(f"cannot write {folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
        found = _read(self.folder / QUESTION, Question)
        if found is not None and found != question:
            if not overwrite and any((self.folder / TRIALS).glob("*")):
                raise InputError(
                    f"{folder} holds another {found.kind}, with other {_differing(found, question)}; give "
                    "another folder, or overwrite=True (--overwrite) to lose that one"
                )
            self._clear()
            found, overwrite = None, True  # nothing is left to lose
        others = [path.name for path in self.folder.iterdir() if not is_temporary(path)]
        if found is None and others and not overwrite:
            raise InputError(
                f"{folder} holds {few(sorted(others))} and no search; give another folder, or overwrite=True "
                "(--overwrite)"
            )
        if found is None:
            write_record(self.folder / QUESTION, question)
        with refusals_named(f"cannot write {folder}"):
            (self.folder / TRIALS).mkdir(exist_ok=True)

    def _clear(self) -> None:
        """Remove what another search has written here."""
        for name in (TRIALS, FRONT):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.drop_pick()
        for path in [p for name in ("summary", "report") for p in self.folder.glob(f"{name}.*")]:
            path.unlink()

    def drop_pick(self) -> None:
        """Remove the network that was picked."""
        shutil.rmtree(self.folder / PICK, ignore_errors=True)  # it is a folder where the model is one
        for path in self.folder.glob(f"{PICK}.*"):
            path.unlink()

    def trial(self, number: int) -> Trial | None:
        """The trial of this number; None if it was not measured, or not written to its end."""
        return _read(self._path(number, ".json"), Trial)

    def recipe(self, number: int) -> Recipe:
        return Recipe.load(self._path(number, ".recipe.json"))

    def put(self, trial: Trial, recipe: Recipe | None) -> None:
        """Write a trial, and its recipe before it."""
        with written_together():
            if recipe is not None:
                recipe.save(self._path(trial.number, ".recipe.json"))
            write_record(self._path(trial.number, ".json"), trial)

    def checks(self, number: int) -> Checks | None:
        """What was measured beyond the trial; None if that was not."""
        return _read(self._path(number, ".checks.json"), Checks)

    def put_checks(self, number: int, checks: Checks) -> None:
        write_record(self._path(number, ".checks.json"), checks)

    def drop_recipe(self, number: int) -> None:
        """Remove the recipe, with its weights, of a network that nobody will ask for again."""
        path = self._path(number, ".recipe.json")
        for each in (path, refitted_path(path)):
            each.unlink(missing_ok=True)

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / TRIALS / f"{number:04d}{suffix}"


def write_record(path: Path, record: BaseModel) -> None:
    content = dumps(record.model_dump(mode="python")) + "\n"
    write_atomically(path, lambda file: file.write(content.encode()))


def _read(path: Path, kind: type[_Kind]) -> _Kind | None:
    """A record from a file; None where there is no file. Raises `InputError` for another content."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise InputError(
            f"{path} was changed, or comes from another version: {first_problem(error)}; remove it, and it "
            "is made again"
        ) from error


def _differing(found: Question, question: Question) -> str:
    """The names of what differs."""
    if found.kind != question.kind:
        return "aims"
    names = [
        n for n in sorted({*found.asked, *question.asked}) if found.asked.get(n) != question.asked.get(n)
    ]
    names += [n for n in question.versions if found.versions.get(n) != question.versions[n]]
    return ", ".join(names)
