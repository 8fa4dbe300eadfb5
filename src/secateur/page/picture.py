"""The geometry of the pictures; `templates/picture.html.j2` draws them as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from secateur.page.facts import Facts, Figure, GroupFact, OutputFact, figure_of
from secateur.page.words import number, share

WIDTH = 720
_LABELS, _VALUES, _ROW, _BAR = 190, 150, 22, 14
_MOST_ROWS = 150  # of one picture; the table beside it holds all
_LONGEST = 26  # characters of a name
_SIDE = 60  # margin of the scatter


@dataclass(frozen=True)
class Part:
    """A part of a bar: where it begins, how wide it is, and the class of its style."""

    x: float
    width: float
    style: str


@dataclass(frozen=True)
class Row:
    """A bar with a name before it and a text after it."""

    y: float
    name: str
    parts: tuple[Part, ...]
    text: str
    text_x: float


@dataclass(frozen=True)
class Bars:
    """A picture of bars, one below the other."""

    title: str
    description: str
    rows: tuple[Row, ...]
    height: float
    left_out: int = 0


@dataclass(frozen=True)
class Point:
    """A run in the scatter, and its interval as a line from `top` to `bottom`."""

    x: float
    y: float
    top: float
    bottom: float
    text: str
    picked: bool


@dataclass(frozen=True)
class Scatter:
    """Size against fidelity, a point for each run."""

    title: str
    description: str
    points: tuple[Point, ...]
    ticks_x: tuple[tuple[float, str], ...]
    ticks_y: tuple[tuple[float, str], ...]
    label_x: str
    label_y: str
    height: float = 320


def group_bars(groups: Sequence[GroupFact]) -> Bars:
    """One bar for each group, in order: what is kept, and what left."""
    room = WIDTH - _LABELS - _VALUES
    scale = room / max((group.units for group in groups), default=1)
    rows = []
    for i, group in enumerate(groups[:_MOST_ROWS]):
        kept, left = scale * group.kept, scale * (group.units - group.kept)
        style = "pinned" if group.pinned else "kept"
        parts = [Part(_LABELS, round(kept, 2), style)]
        parts += [Part(round(_LABELS + kept, 2), round(left, 2), "left")] if left else []
        text = f"{group.units:,} pinned" if group.pinned else f"{group.units:,} → {group.kept:,}"
        rows.append(_row(i, group.name, parts, text))
    units, kept_units = sum(g.units for g in groups), sum(g.kept for g in groups)
    pinned = sum(1 for g in groups if g.pinned)
    return Bars(
        "Units of each group, kept and removed",
        f"{len(groups):,} groups in the order of the network: {kept_units:,} of {units:,} units are kept; "
        f"{pinned:,} groups are pinned. The table below holds the same numbers.",
        tuple(rows),
        _ROW * len(rows) + 8,
        max(0, len(groups) - _MOST_ROWS),
    )


def output_bars(outputs: Sequence[OutputFact]) -> Bars:
    """One bar for each output: how far it moved at most, and in the median."""
    room = WIDTH - _LABELS - _VALUES
    finite = [o.largest for o in outputs if math.isfinite(o.largest)]
    most = max(finite, default=0.0) or 1.0
    rows = []
    for i, output in enumerate(outputs[:_MOST_ROWS]):
        largest, median = (
            room * min((value or 0.0) / most, 1.0) for value in (output.largest, output.median)
        )
        parts = [Part(_LABELS, round(median, 2), "kept")] if output.median is not None else []
        parts.append(Part(round(_LABELS + median, 2), round(max(0.0, largest - median), 2), "left"))
        rows.append(_row(i, f"output {output.output}", parts, number(output.largest)))
    proved = any(output.proved for output in outputs)
    what = (
        "the most that it can move, as proved"
        if proved
        else "the most that it moved; the full part is the median"
    )
    return Bars(
        "Drift of each output",
        f"One bar for each output: {what}. The table below holds the same numbers.",
        tuple(rows),
        _ROW * len(rows) + 8,
        max(0, len(outputs) - _MOST_ROWS),
    )


def _row(i: int, name: str, parts: Sequence[Part], text: str) -> Row:
    end = max((part.x + part.width for part in parts), default=_LABELS)
    short = name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"
    return Row(_ROW * i + 4, short, tuple(parts), text, round(end + 8, 2))


def bar_height() -> int:
    return _BAR


# --- several runs -------------------------------------------------------------------------------------------

_FIDELITY = ("top-1 accuracy", "agreement with the original", "agreement in the verdict")


def scatter(runs: Sequence[Facts], picked: str = "") -> Scatter | None:
    """Parameters against the first measure of fidelity that all runs have; None where there is none."""
    for name in _FIDELITY:
        pairs = [(figure_of(run, "parameters"), figure_of(run, name)) for run in runs]
        known = [(x, y) for x, y in pairs if x is not None and y is not None]
        if len(known) == len(runs) > 1:
            return _drawn(runs, known, name, picked)
    return None


def _drawn(runs: Sequence[Facts], pairs: Sequence[tuple[Figure, Figure]], name: str, picked: str) -> Scatter:
    height = 320.0
    xs = [float(x.after or 0) for x, _ in pairs]
    lows = [y.interval[0] if y.interval else y.after or 0.0 for _, y in pairs]
    highs = [y.interval[1] if y.interval else y.after or 0.0 for _, y in pairs]
    right, bottom, top = 1.05 * max(xs) or 1.0, min(lows), max(highs)
    bottom, top = (bottom - 0.01, top + 0.01) if top - bottom < 0.02 else (bottom, top)

    def at_x(value: float) -> float:
        return round(_SIDE + (WIDTH - _SIDE - 20) * value / right, 2)

    def at_y(value: float) -> float:
        return round(height - 45 - (height - 65) * (value - bottom) / (top - bottom), 2)

    points = tuple(
        Point(at_x(x), at_y(y.after or 0.0), at_y(high), at_y(low), str(i), run.name == picked)
        for i, (run, x, (_, y), low, high) in enumerate(zip(runs, xs, pairs, lows, highs, strict=True), 1)
    )
    return Scatter(
        f"Parameters and {name} of {len(runs):,} runs",
        "One point for each run, with the number that it has in the table; lines are intervals.",
        points,
        tuple((at_x(right * i / 4), f"{right * i / 4:,.0f}") for i in range(5)),
        tuple(
            (at_y(bottom + (top - bottom) * i / 4), share(bottom + (top - bottom) * i / 4)) for i in range(5)
        ),
        "parameters",
        name,
        height,
    )
