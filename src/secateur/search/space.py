"""What a search may vary: ways to prune, each a `Setting`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from secateur import arguments as may
from secateur.errors import InputError
from secateur.methods import METHODS, method_named
from secateur.report.record import Record
from secateur.request import RULES

FLOAT = "none"  # in place of a scheme: the network is not quantised


class Setting(Record):
    """One way to make a network smaller: arguments of `prune`, and the scheme by which it is quantised.

    Attributes:
        remove: How much to remove; None for all that the method can.
        method, allocation, round_to, seed: As for `prune`.
        quantize: A scheme of `secateur.quantize`, or "none".
    """

    remove: str | None
    method: str = "reconstruct"
    allocation: str = "uniform"
    round_to: int | Literal["auto"] = "auto"
    quantize: str = FLOAT
    seed: int = 0

    def arguments(self) -> dict[str, Any]:
        """As arguments of `prune`."""
        return self.model_dump(exclude={"quantize"})

    def told(self) -> str:
        """In one line; a uniform allocation and automatic rounding are left out."""
        parts = [self.remove or "all", self.method]
        parts += [] if self.allocation == "uniform" else [self.allocation]
        parts += [] if self.round_to == "auto" else [f"multiples of {self.round_to}"]
        parts += [] if self.quantize == FLOAT else [self.quantize]
        return ", ".join(parts)


@dataclass(frozen=True)
class Space:
    """The values that a search may choose among."""

    methods: tuple[str, ...]
    allocations: tuple[str, ...]
    roundings: tuple[Any, ...]
    schemes: tuple[str, ...]

    @staticmethod
    def parse(method: Any, allocation: Any, round_to: Any, quantize: Any) -> Space:
        """Each a value or several. Raises `InputError` for one that cannot be used."""
        space = Space(
            several("method", method, METHOD),
            several("allocation", allocation, RULES["allocation"]),
            several("round_to", round_to, RULES["round_to"]),
            several("quantize", quantize, _SCHEME),
        )
        for name in space.methods:
            if method_named(name).lossless:
                raise InputError(
                    f"method={name!r} removes what can go without loss, so that there is nothing to search; "
                    "use prune"
                )
        return space

    @property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        """Field of `Setting` → the values it may have."""
        return {
            "method": self.methods,
            "allocation": self.allocations,
            "round_to": self.roundings,
            "quantize": self.schemes,
        }

    @property
    def several(self) -> bool:
        """Whether there is more to choose than how much to remove."""
        return any(len(values) > 1 for values in self.choices.values())

    @property
    def quantises(self) -> bool:
        return any(scheme != FLOAT for scheme in self.schemes)

    def first(self) -> dict[str, Any]:
        """The first value of each."""
        return {name: values[0] for name, values in self.choices.items()}


def several(name: str, value: Any, rule: may.Rule) -> tuple[Any, ...]:
    """One value, or a list of values, each of which keeps `rule`; without repetitions."""
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not values:
        raise InputError(f"{name}: the list is empty; give {rule.may_be}")
    return tuple(dict.fromkeys(may.parsed(name, item, rule) for item in values))


def _as_method_name(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return method_named(value).name


def _as_scheme(value: Any) -> str:
    from secateur.quantize.schemes import scheme_named

    if not isinstance(value, str):
        raise ValueError
    if value != FLOAT:
        scheme_named(value)
    return value


METHOD = may.Rule(f"the name of a method: {', '.join(METHODS)}", _as_method_name)
_SCHEME = may.Rule(f"the name of a scheme of quantising, or {FLOAT!r}", _as_scheme)
