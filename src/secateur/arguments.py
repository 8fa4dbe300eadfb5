"""Validation of arguments: one `Rule` for each, applied by `checked` before any work.

An error names the argument, the value given, and the values allowed.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from secateur.errors import InputError

_LONGEST = 80  # characters of a value in a message, at most
_MOST = 2**63 - 1


@dataclass(frozen=True)
class Rule:
    """What an argument may be."""

    may_be: str  # completes "give …" in the error
    parse: Callable[[Any], Any]  # returns the value as the code uses it, or raises ValueError or TypeError


def checked(rules: Mapping[str, Rule], given: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Parse every argument in `given`.

    Args:
        rules: Name → rule, for at least the names in `given`.
        given: Name → value.
        where: A prefix of names in errors.

    Raises:
        InputError: An argument breaks its rule; the first one is reported.
    """
    return {name: parsed(f"{where}{name}", value, rules[name]) for name, value in given.items()}


def parsed(name: str, value: Any, rule: Rule) -> Any:
    """The value as the code uses it. Raises `InputError` if it breaks the rule."""
    try:
        return rule.parse(value)
    except InputError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{name}={shown(value)}: give {rule.may_be}") from error


def shown(value: Any) -> str:
    """A value in one short line: a tensor by its shape, an object without a useful `repr` by its class."""
    if isinstance(value, Tensor | np.ndarray) and value.ndim:
        return f"<{type(value).__name__} of shape {tuple(value.shape)}, {value.dtype}>"
    text = " ".join(repr(value).split())
    if isinstance(value, torch.nn.Module) or " object at 0x" in text:
        return f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError


def _as_whole(value: Any) -> int:
    _require(isinstance(value, Integral) and not isinstance(value, bool | np.bool_))
    return int(value)


def _as_number(value: Any) -> float:
    _require(isinstance(value, Real) and not isinstance(value, bool | np.bool_))
    _require(math.isfinite(value))
    return int(value) if isinstance(value, Integral) else float(value)


def whole(low: int, may_be: str, high: int = _MOST) -> Rule:
    """A whole number from `low` to `high`."""

    def parse(value: Any) -> int:
        found = _as_whole(value)
        _require(low <= found <= high)
        return found

    return Rule(may_be, parse)


def number(may_be: str, *, above: float = -math.inf, low: float = -math.inf, high: float = math.inf) -> Rule:
    """A finite number with `above` < number, `low` ≤ number ≤ `high`."""

    def parse(value: Any) -> float:
        found = _as_number(value)
        _require(found > above and low <= found <= high)
        return found

    return Rule(may_be, parse)


def one_of(*values: Any) -> Rule:
    """One of a few values; 1.0 counts as 1, but True does not."""

    def parse(value: Any) -> Any:
        _require(isinstance(value, str | Integral | Real) and not isinstance(value, bool))
        return values[values.index(value)]

    last = f"{values[-1]}"
    return Rule(f"{', '.join(map(str, values[:-1]))} or {last}" if len(values) > 1 else last, parse)


def flag() -> Rule:
    def parse(value: Any) -> bool:
        _require(isinstance(value, bool | np.bool_))
        return bool(value)

    return Rule("True or False", parse)


def instance(kinds: type | tuple[type, ...], may_be: str) -> Rule:
    """An object of one of these classes, unchanged."""

    def parse(value: Any) -> Any:
        _require(isinstance(value, kinds))
        return value

    return Rule(may_be, parse)


def optional(rule: Rule) -> Rule:
    """The same rule, but None is allowed, too."""
    return Rule(f"{rule.may_be}, or None", lambda value: None if value is None else rule.parse(value))


def list_of(rule: Rule, may_be: str) -> Rule:
    """A list or tuple whose items satisfy `rule`; not a string, a tensor or a single item."""

    def parse(value: Any) -> tuple[Any, ...]:
        _require(isinstance(value, Sequence) and not isinstance(value, str | bytes))
        return tuple(rule.parse(item) for item in value)

    return Rule(may_be, parse)


def _as_device(value: Any) -> torch.device:
    try:
        device = torch.device(value)
        torch.zeros(1, device=device).cpu()  # a name alone does not tell whether the device is there
    except Exception as error:  # each backend fails in its own way
        raise ValueError from error
    return device


DEVICE = optional(Rule("a device that torch can use here, such as cpu", _as_device))


def _as_end(value: Any) -> float | Tensor:
    """One end of the bounds: a number, which may be infinite, or a tensor of them."""
    if isinstance(value, Real):
        return float(value) if math.isinf(value) else _as_number(value)
    _require(isinstance(value, Tensor | np.ndarray | list | tuple))
    found = torch.as_tensor(value)
    _require(found.dtype != torch.bool and not found.is_complex() and not found.is_quantized)
    _require(found.layout == torch.strided and not found.is_meta)
    return found


def _as_pair(value: Any) -> tuple[Any, ...]:
    if isinstance(value, Tensor | np.ndarray):
        value = list(value)
    _require(isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2)
    return tuple(_as_end(end) for end in value)


def _as_bounds(value: Any) -> Any:
    """A pair of ends; or, for several inputs, a list of such pairs."""
    several = isinstance(value, Sequence) and len(value) > 0
    if several and all(isinstance(item, list | tuple) and len(item) == 2 for item in value):
        return [_as_pair(item) for item in value]
    return _as_pair(value)


BOUNDS = Rule(
    "the legal range of the inputs as (lower, upper), numbers or tensors that broadcast to one input; for "
    "several inputs a list of such pairs",
    _as_bounds,
)
ONE_PAIR = Rule(
    "the legal range of the inputs as (lower, upper): numbers, tensors, or one value for each channel",
    _as_pair,
)


def _as_channels(value: Any) -> tuple[float, ...]:
    if isinstance(value, Tensor):
        value = _as_end(value)
    if isinstance(value, Tensor | np.ndarray):
        value = value.reshape(-1).tolist()
    items = [value] if isinstance(value, Real) else value
    _require(isinstance(items, Iterable) and not isinstance(items, str))
    return tuple(float(_as_number(item)) for item in items)


def _as_deviations(value: Any) -> tuple[float, ...]:
    found = _as_channels(value)
    _require(all(std > 0 for std in found))
    return found


MEAN = optional(Rule("the mean subtracted from the inputs: a number, or one for each channel", _as_channels))
STD = optional(
    Rule("the std by which inputs are divided, above 0: a number, or one for each channel", _as_deviations)
)

MODEL = instance(
    (torch.nn.Module, ExportedProgram),
    "a torch.nn.Module in eval mode or an ExportedProgram; of a Result, its `model`",
)
TENSOR = instance(Tensor, "a torch.Tensor (torch.as_tensor makes one of an array or a list)")
SEED = whole(-(2**63), "a whole number of at most 64 bits")


def _as_path(value: Any) -> str | os.PathLike[str]:
    text = os.fspath(value)
    _require(isinstance(text, str) and Path(text).name not in ("", "..") and "\0" not in text)
    text.encode(sys.getfilesystemencoding(), "surrogateescape")
    found: str | os.PathLike[str] = value
    return found


PATH = Rule("the path of a file", _as_path)


def plain_bounds(bounds: Any) -> Any:
    """Bounds as numbers and lists, for JSON."""
    if isinstance(bounds, Tensor):
        return bounds.tolist()
    return [plain_bounds(end) for end in bounds] if isinstance(bounds, list | tuple) else bounds
