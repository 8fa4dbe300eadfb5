"""The base class of everything that is written as JSON."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from secateur.strict_json import read, written

# Numbers in lists, of which pydantic knows no type: by itself it writes infinite ones as null.
Plain = Annotated[Any, BeforeValidator(read), PlainSerializer(written, when_used="json")]


class Record(BaseModel):
    """A frozen model; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
