"""Which op takes part in which analysis: a table made of the code's own tables."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from secateur.bounds import difference, interval, linear, maxima, relaxed
from secateur.graph import rules
from secateur.graph.ops import OPS
from secateur.reconstruct.layers import VIEWS

Coupled = Literal["yes", "whole", ""]  # whole: the units that meet it are pinned, by a rule that says why
Linear = Literal["exact", "lines", ""]  # lines: straight lines below and above the function


@dataclass(frozen=True)
class Support:
    """What secateur can do with one ATen op.

    Attributes:
        op: The op's name in ATen, without overload.
        family: The kind of op that it is (`secateur.graph.ops.Family`).
        coupled: Whether units pass through it; "whole" where they are pinned, empty where no rule is known.
        refit: Whether `reconstruct` can refit its weight.
        interval: Whether its value can be bounded over a box of inputs.
        difference: Whether its change can be bounded, as certificates and the method `impact` need it.
        linear: How linear bounds pass it: exactly, by lines, or not at all (they end in intervals there).
        onnx: The ONNX ops that are read as it.
    """

    op: str
    family: str
    coupled: Coupled
    refit: bool
    interval: bool
    difference: bool
    linear: Linear
    onnx: tuple[str, ...]


COLUMNS = tuple(field.name for field in fields(Support))
_WHOLE = (rules.recurrent, rules.whole)


def support() -> tuple[Support, ...]:
    """A row for every op that secateur knows, in the order of the alphabet."""
    return tuple(
        Support(
            op=name,
            family=facts.family,
            coupled=_coupled(name),
            refit=name in VIEWS,
            interval=name in interval.RULES,
            difference=name in difference.RULES or name in difference.UNCHANGED,
            linear=_linear(name),
            onnx=tuple(facts.onnx.split()),
        )
        for name, facts in sorted(OPS.items())
    )


def cells(row: Support) -> tuple[str, ...]:
    """A row as text: "yes" or nothing for a truth value."""
    values = (getattr(row, name) for name in COLUMNS)
    return tuple(", ".join(v) if isinstance(v, tuple) else {True: "yes", False: ""}.get(v, v) for v in values)


def _coupled(op: str) -> Coupled:
    rule = rules.RULES[op]
    if rule in _WHOLE:
        return "whole"
    return "" if rule is rules.unknown else "yes"


def _linear(op: str) -> Linear:
    if op in linear.LINEAR:
        return "exact"
    return "lines" if op in relaxed.RELAXED or op == maxima.POOL else ""
