"""The base of all that is written as JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Fields do not change, and no others are read."""

    model_config = ConfigDict(frozen=True, extra="forbid")
