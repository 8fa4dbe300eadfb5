"""The graph of a `.pt2` archive: its JSON, with every string checked by the rule of its place."""

from __future__ import annotations

from typing import Any, NoReturn

from secateur.formats.pt2.archive import MODEL, Archive
from secateur.formats.pt2.expressions import SYMBOL
from secateur.formats.pt2.strings import PLAIN_TEXT, STRING_RULES, plain_text

CPU = {"type": "cpu", "index": None}

# Guards only check inputs, and metadata tells where a node came from: torch needs neither.
_REPLACED: dict[str, Any] = {"guards_code": [], "metadata": {}, "device": CPU, "as_device": CPU}


def clean_model(archive: Archive, model: Any) -> Any:
    """The graph's JSON on the CPU, without metadata and guards, which become source code.

    Raises `InputError` for the first string that breaks the rule of its place.
    """

    def refuse(place: str, value: str, why: str) -> NoReturn:
        shown = value if len(value) <= 80 else value[:77] + "…"
        archive.refuse(f"{MODEL}: {place} {shown!r}", why)

    def check(value: Any, key: str) -> Any:
        if isinstance(value, dict):
            for name in value:
                if not PLAIN_TEXT.fullmatch(name):
                    refuse("the key", name, "is not a plain name")
            return {k: _REPLACED[k] if k in _REPLACED else check(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [check(item, key) for item in value]
        if isinstance(value, str):
            why = STRING_RULES.get(key, plain_text)(value)
            if why:
                refuse(key, value, why)
        return value

    if not isinstance(model, dict):
        archive.refuse(MODEL, "is not a JSON object")
    for name in model.get("range_constraints") or {}:
        if not SYMBOL.fullmatch(name):
            refuse("range_constraints", name, "is not the name of a size")
    try:
        return check(model, "")
    except RecursionError:
        archive.refuse(MODEL, "is nested too deeply")
