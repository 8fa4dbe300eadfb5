"""Fields of attacks and corruptions: meaning and range, said once for checks, errors and the command line.

A field of a dataclass gets an option as metadata:

    steps: int = field(default=20, metadata=whole("number of gradient steps", low=1))

Nothing here imports torch, since the help of the command line is made from these options.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from fractions import Fraction
from numbers import Integral, Real
from typing import Any

from secateur.errors import InputError

_KEY = "option"
_LARGEST = 2**63  # also keeps infinite numbers out


@dataclass(frozen=True)
class Number:
    """A finite number, or a whole one, in a range."""

    meaning: str
    whole: bool = False
    low: float = -math.inf
    above: float = -math.inf  # as `low`, but this number itself is not allowed
    high: float = math.inf
    optional: bool = False  # whether None is allowed, too

    @property
    def may_be(self) -> str:
        """Completes "give …"."""
        ends = [f"at least {self.low:g}"] if self.low > -math.inf else []
        ends += [f"at most {self.high:g}"] if self.high < math.inf else []
        limits = f" of {' and '.join(ends)}" if ends else ""
        limits += f" above {self.above:g}" if self.above > -math.inf else ""
        kind = "a whole number" if self.whole else "a number"
        none = ", or None" if self.optional else ""
        return f"the {self.meaning}: {kind}{limits}{none}"

    def allows(self, value: object) -> bool:
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        number: Any = value  # Real says nothing of comparisons
        low, high = max(self.low, -_LARGEST), min(self.high, _LARGEST)
        return bool(self.above < number and low <= number <= high)

    def parse(self, text: str) -> float | int | None:
        """A number as it is typed, also as a fraction such as 8/255. Raises `ValueError` for other text."""
        if self.optional and text.lower() == "none":
            return None
        if self.whole:
            return int(text)
        return float(Fraction(text)) if "/" in text else float(text)


@dataclass(frozen=True)
class Choice:
    """One of a few names."""

    meaning: str
    names: tuple[str, ...]

    @property
    def may_be(self) -> str:
        *first, last = self.names
        return f"the {self.meaning}: {', '.join(first)} or {last}"

    def allows(self, value: object) -> bool:
        return isinstance(value, str) and value in self.names

    def parse(self, text: str) -> str:
        return text


@dataclass(frozen=True)
class Flag:
    """True or False."""

    meaning: str

    @property
    def may_be(self) -> str:
        return f"the {self.meaning}: True or False"

    def allows(self, value: object) -> bool:
        return isinstance(value, bool)

    def parse(self, text: str) -> bool:
        found = {"true": True, "false": False}.get(text.lower())
        if found is None:
            raise ValueError
        return found


Option = Number | Choice | Flag


def number(meaning: str, **limits: Any) -> Mapping[str, Option]:
    """Metadata of a field that holds a number; for `limits` see `Number`."""
    return {_KEY: Number(meaning, **limits)}


def whole(meaning: str, **limits: Any) -> Mapping[str, Option]:
    return {_KEY: Number(meaning, whole=True, **limits)}


def choice(meaning: str, names: tuple[str, ...]) -> Mapping[str, Option]:
    return {_KEY: Choice(meaning, names)}


def flag(meaning: str) -> Mapping[str, Option]:
    return {_KEY: Flag(meaning)}


def options_of(kind: type) -> dict[str, Option]:
    """The options of a dataclass, by the names of its fields."""
    return {f.name: f.metadata[_KEY] for f in _fields(kind) if _KEY in f.metadata}


def check_options(value: object) -> None:
    """Raise `InputError` for the first field whose value its option does not allow."""
    for name, option in options_of(type(value)).items():
        check_option(name, getattr(value, name), option)


def check_option(name: str, value: object, option: Option) -> None:
    if not option.allows(value):
        raise InputError(f"{name}={value!r}: give {option.may_be}")


def parsed_options(kind: type, text: str) -> dict[str, Any]:
    """Values by field from `eps=8/255,steps=40`; the first field may go without its name, as in `8/255`.

    Raises `InputError` for unknown fields, fields given twice, and text that is no value.
    """
    options = options_of(kind)
    found = dict[str, Any]()
    for place, part in enumerate(filter(None, text.split(","))):
        name, equals, value = part.partition("=")
        if not equals and place == 0:
            name, value = next(iter(options)), part
        name = name.strip().replace("-", "_")
        if name not in options or name in found:
            problem = "is given twice" if name in found else "is no field"
            raise InputError(f"{name!r} {problem}; the fields are {', '.join(options)}")
        try:
            found[name] = options[name].parse(value.strip())
        except (ValueError, ZeroDivisionError):
            raise InputError(f"{name}={value}: give {options[name].may_be}") from None
    return found


def missing_options(kind: type, given: Mapping[str, Any]) -> list[str]:
    """Fields without a default that are not given."""
    return [f.name for f in _fields(kind) if f.default is MISSING and f.name not in given]


def described_options(kind: type) -> Iterator[tuple[str, str]]:
    """Each field, and what it holds with its default, for the help."""
    defaults = {f.name: f.default for f in _fields(kind)}
    for name, option in options_of(kind).items():
        default = defaults[name]
        yield (
            name,
            f"{option.may_be.removeprefix('the ')}."
            + ("" if default is MISSING else f" Default: {default}."),
        )


def _fields(kind: Any) -> tuple[Field[Any], ...]:
    return fields(kind)
