"""Files of a later schema than this secateur reads."""

from __future__ import annotations

from importlib.metadata import version

from pydantic_core import from_json

_LONGEST = 40  # characters of a version that a file states
_PLAUSIBLE = 10**6  # a larger number is no version


def why_newer(data: bytes, newest: int) -> str:
    """What to say of JSON whose `schema_version` is above `newest`; empty for anything else."""
    try:
        content = from_json(data)
    except ValueError:
        return ""
    found = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(found, int) or found <= newest:
        return ""
    versions = content.get("versions")
    writer = versions.get("secateur") if isinstance(versions, dict) else None
    needed = "the version that wrote it"
    if isinstance(writer, str) and writer:
        needed = f"{writer[:_LONGEST]}, which wrote it, or later"
    return (
        f"is of version {found if found < _PLAUSIBLE else 'unknown'}, which is newer than this secateur "
        f"{version('secateur')} reads (up to {newest}); upgrade secateur to {needed}"
    )
