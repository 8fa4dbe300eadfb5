"""The base class of everything that is written as JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A frozen model; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
