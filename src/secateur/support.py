"""Which analysis supports which op: a table made from the tables of the code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, Protocol

from secateur.bounds import attention, difference, interval, linear, maxima, relaxed, tangent_rules
from secateur.errors import InputError
from secateur.graph import rules
from secateur.graph.ops import OPS, Family
from secateur.graph.values import unknown
from secateur.reconstruct.layers import VIEWS

Coupled = Literal["yes", "whole", "no"]
Linear = Literal["exact", "lines", "no"]

COLUMNS = "op coupled refit interval difference linear ONNX".split()
_WHOLE = (rules.recurrent, rules.whole)


@dataclass(frozen=True)
class Support:
    """What secateur can do with one ATen op.

    Attributes:
        op: The op's name in ATen, without overload.
        family: The kind of op.
        coupled: Whether units pass through it; `whole` where a rule pins them, `no` where they are pinned
            because there is no rule.
        refit: Whether `reconstruct` can refit its weight.
        interval: Whether its value can be bounded over a box of inputs.
        difference: Whether the change of its value can be bounded, for certificates and the method `impact`.
        linear: How linear bounds pass through it: exactly, by lines, or not at all (interval bounds are used
            there).
        onnx: The ONNX ops that are imported as this op.
    """

    op: str
    family: Family
    coupled: Coupled
    refit: bool
    interval: bool
    difference: bool
    linear: Linear
    onnx: tuple[str, ...]

    def cells(self) -> tuple[str, ...]:
        """The row as text, one cell for each of `COLUMNS`; empty where not supported."""
        values = (self.coupled, self.refit, self.interval, self.difference, self.linear)
        known = {"no": "", False: "", True: "yes"}
        return (self.op, *(str(known.get(value, value)) for value in values), ", ".join(self.onnx))


def support() -> tuple[Support, ...]:
    """A row for every op that secateur knows, in alphabetical order."""
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


def _coupled(op: str) -> Coupled:
    rule = rules.RULES[op]
    if rule in _WHOLE:
        return "whole"
    return "no" if rule is unknown else "yes"


def _linear(op: str) -> Linear:
    if op in linear.LINEAR:
        return "exact"
    by_lines = op in relaxed.RELAXED or op in tangent_rules.RULES or op in (maxima.POOL, attention.ATTENTION)
    return "lines" if by_lines else "no"


def named(names: Sequence[str]) -> tuple[Support, ...]:
    """The rows of the ops of these names, in ATen or in ONNX, in any case; all of them without names.

    Raises `InputError` for a name that no row has.
    """
    rows, wanted = support(), {name.lower() for name in names}
    known = {name.lower(): name for row in rows for name in (*row.onnx, row.op)}
    for name in names:
        if name.lower() not in known:
            close = [known[other] for other in get_close_matches(name.lower(), known, n=5)]
            meant = f"there are similar ones: {', '.join(close)}; all are" if close else "all ops are"
            raise InputError(f"{name!r} is no op that secateur knows; {meant} in the table of `secateur ops`")
    return tuple(row for row in rows if not names or wanted & {n.lower() for n in (row.op, *row.onnx)})


class Row(Protocol):
    """A row of a table."""

    def cells(self) -> tuple[str, ...]: ...


def as_text(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """A table in aligned columns, one line for each row."""
    lines = [tuple(columns), *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def as_markdown(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """The table for the documentation; the names in the first column are code."""
    lines = [tuple(columns), ("---",) * len(columns)]
    lines += [(f"`{name}`", *cells) for name, *cells in (row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
