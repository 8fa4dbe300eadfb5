"""Random damage: to bytes, to JSON, to protobuf messages, to zip archives. The same seed gives the same
damage.
"""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable
from typing import Any

from helpers import places

NUMBERS = (0, -1, 1, 2, 7, 255, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63), -(2**31))
FRACTIONS = (0.0, -0.0, 1.5, -1e30, 1e308, float("nan"), float("inf"), float("-inf"))
TEXTS = (
    "", "x", "\x1b[2J\x07", "../../../../etc/passwd", "/dev/zero", "a" * 5000, "a\0b", "\u202e", "0" * 400, "%s%n{0}",
    "__import__('os').system('touch marker')", "os.system", "load", "eval", "float64", "torch.load",
    "!!python/object/apply:os.system ['touch marker']", "`touch marker`", "$(touch marker)", "x; touch marker",
    "class", "import os; os.system('touch marker')", "-", "NaN", "1e999",
)  # fmt: skip


def damaged_bytes(rng: random.Random, data: bytes) -> bytes:
    """Bits flipped, a piece cut out, doubled, or overwritten, or the end cut off."""
    content = bytearray(data)
    if not content:
        return bytes(rng.randbytes(9))
    at = rng.randrange(len(content))
    length = min(len(content) - at, rng.choice((1, 2, 8, 64, 1024)))
    match rng.randrange(5):
        case 0:
            for _ in range(rng.choice((1, 3, 20))):
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        case 1:
            del content[at : at + length]
        case 2:
            content[at:at] = content[at : at + length]
        case 3:
            content[at : at + length] = rng.randbytes(length)
        case _:
            del content[at:]
    return bytes(content)


def odd(rng: random.Random, like: Any = None) -> Any:
    """A value that is odd in the place of `like`: often of the same type, at its limits."""
    if isinstance(like, bool) or like is None or rng.random() < 0.3:
        nested: Any = []
        for _ in range(rng.choice((1, 5, 60))):
            nested = [nested]
        return rng.choice(
            (
                None,
                True,
                [],
                {},
                nested,
                {"a": 1},
                *NUMBERS,
                *FRACTIONS[:5],
                *TEXTS,
                10**30,
                [0] * 1000,
                [10**9] * 4,
            )
        )
    if isinstance(like, int):
        return rng.choice((*NUMBERS, like + 1, like - 1, like * 2, -like, 10**30))
    if isinstance(like, float):
        return rng.choice(FRACTIONS)
    return rng.choice(TEXTS)


def damaged_json(rng: random.Random, content: Any) -> Any:
    """One place in plain data changed, left out, doubled or added; the data themselves are changed."""
    found = list(places(content))
    if not found:
        return content
    holder, key = rng.choice(found)
    match rng.randrange(5):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.insert(key, holder[key])
        case 2 if isinstance(holder, dict):
            holder[rng.choice(TEXTS)] = odd(rng)
        case 3 if isinstance(holder, list):
            holder.reverse()
        case _:
            holder[key] = odd(rng, holder[key])
    return content


def damaged_message(rng: random.Random, message: Any) -> None:
    """One field of a protobuf message, or of one within it, changed."""
    holders = list(_messages(message))
    for _ in range(50):
        holder = rng.choice(holders)
        fields = [f for f, _ in holder.ListFields()]
        if not fields:
            continue
        field = rng.choice(fields)
        if field.is_repeated:
            _damage_repeated(rng, getattr(holder, field.name), field)
        elif field.message_type is not None:
            holder.ClearField(field.name)
        else:
            _set(rng, lambda value: setattr(holder, field.name, value), field)  # noqa: B023 (called at once)
        return


def _messages(message: Any) -> Any:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else (value,):
                yield from _messages(part)


def _damage_repeated(rng: random.Random, values: Any, field: Any) -> None:
    at = rng.randrange(len(values))
    if field.message_type is not None:
        match rng.randrange(3):
            case 0:
                del values[at]
            case 1:
                values.add().CopyFrom(values[at])
            case _:
                values.reverse()
        return
    match rng.randrange(3):
        case 0:
            del values[at]
        case 1:
            values.append(values[at])
        case _:
            _set(rng, lambda value: values.__setitem__(at, value), field)


def _set(rng: random.Random, put: Callable[[Any], None], field: Any) -> None:
    kinds = {field.CPPTYPE_STRING: ("", b""), field.CPPTYPE_FLOAT: (0.5,), field.CPPTYPE_DOUBLE: (0.5,)}
    for _ in range(20):
        like = kinds.get(field.cpp_type, (1,))[0]
        value = rng.choice(TEXTS) if like == "" else rng.choice(FRACTIONS if like == 0.5 else NUMBERS)
        for made in (value, str(value).encode()):
            try:
                put(made)
            except (TypeError, ValueError, OverflowError):
                continue
            return


def archive(content: dict[str, bytes], *, compressed: bool = False) -> bytes:
    """A zip archive of these records."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as file:
        for name, data in content.items():
            file.writestr(name, data)
    return stream.getvalue()


def records(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist()}
