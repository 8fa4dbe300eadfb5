"""A settings file: plain YAML, a mapping of names to numbers, text, and lists of these.

Read from the parser's events, so that nothing is built that the file could make large or slow: aliases, merge
keys, tags and deep nesting are refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml import events

from secateur.errors import InputError

_LARGEST = 2**16  # bytes
_DEEPEST = 4


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings in the file. Raises `InputError` for a file that holds anything else."""
    try:
        if not Path(path).is_file():
            raise InputError(
                f"{path} is no regular file; settings of a model's inputs are a few lines of YAML"
            )
        with open(path, "rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise InputError(
                f"{path} has more than {_LARGEST:,} bytes; settings of a model's inputs are a few lines"
            )
        found = _parsed(content.decode())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path} is no plain YAML file: {_first_line(error)}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} must hold settings, such as  input_bounds: [0, 1]")
    return found


def _parsed(text: str) -> Any:
    stream = (e for e in yaml.parse(text, Loader=yaml.SafeLoader) if not isinstance(e, _FRAMES))
    first = next(stream, None)
    return None if first is None else _value(first, stream, 0)


_FRAMES = (events.StreamStartEvent, events.StreamEndEvent, events.DocumentStartEvent, events.DocumentEndEvent)


def _value(event: events.Event, stream: Iterator[events.Event], depth: int) -> Any:
    line = _line(event)
    if isinstance(event, events.AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
        raise ValueError(f"line {line}: anchors, aliases and tags are not read")
    if depth > _DEEPEST:
        raise ValueError(f"line {line}: nested too deeply")
    if isinstance(event, events.ScalarEvent):
        return _plain(event.value) if event.implicit[0] else event.value
    if isinstance(event, events.SequenceStartEvent):
        return [_value(e, stream, depth + 1) for e in _until(stream, events.SequenceEndEvent)]
    found = dict[str, Any]()
    for key in _until(stream, events.MappingEndEvent):
        if not isinstance(key, events.ScalarEvent):
            raise ValueError(f"line {_line(key)}: a name of a setting must be one word")
        if key.value in found:
            raise ValueError(f"line {_line(key)}: {key.value!r} is there twice")
        found[key.value] = _value(next(stream), stream, depth + 1)
    return found


def _line(event: events.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark is not None else 0


def _until(stream: Iterator[events.Event], end: type[events.Event]) -> Iterator[events.Event]:
    for event in stream:
        if isinstance(event, end):
            return
        yield event


def _plain(text: str) -> Any:
    """A number in any of Python's or YAML's ways to write it, a truth value, nothing, or text."""
    if text in _WORDS:
        return _WORDS[text]
    for kind in (int, float):
        try:
            return kind(text.replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            continue
    return text


_WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "~": None, "": None}


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
