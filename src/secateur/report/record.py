"""The base class of everything that is written as JSON."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError

from secateur.errors import SecateurError
from secateur.report.newer import why_newer
from secateur.strict_json import read, written

# Numbers in lists, of which pydantic knows no type: by itself it writes infinite ones as null.
Plain = Annotated[Any, BeforeValidator(read), PlainSerializer(written, when_used="json")]


class Record(BaseModel):
    """A frozen model; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


_Kind = TypeVar("_Kind", bound=Record)


def read_record(
    path: str | os.PathLike[str],
    kind: type[_Kind],
    name: str,
    newest: int,
    error: type[SecateurError],
    versions: str = "1",
) -> tuple[_Kind, bytes]:
    """A record from a JSON file, and the content of the file.

    Raises `error` where the file cannot be read, is no `name`, or is one of a later schema than `newest`.
    """
    try:
        data = Path(path).read_bytes()
        return kind.model_validate_json(data), data
    except OSError as cause:
        raise error(f"cannot read {path}: {cause.strerror}") from cause
    except ValidationError as cause:
        if newer := why_newer(data, newest):
            raise error(f"{path}: this {name.split()[-1]} {newer}") from cause
        raise error(f"{path} is not a {name} of version {versions}: {first_problem(cause)}") from cause


def first_problem(error: ValidationError) -> str:
    """Where a record is wrong first, and how."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "the file"
    return f"{where}: {first['msg']}"
