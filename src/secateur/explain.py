"""Groups as a table for people: which can shrink, which are pinned, and why."""

from __future__ import annotations

from collections.abc import Mapping

from secateur.report.summary import html_table
from secateur.types import Group, Groups

COLUMNS = ("group", "units", "slots (made by | read by)", "state")


class Inspection(Groups):
    """Groups that notebooks show as a table."""

    def _repr_html_(self) -> str:
        return html_table("Groups", COLUMNS, rows(self))


def rows(found: Groups, kept: Mapping[str, int] | None = None) -> list[tuple[str, str, str, str]]:
    """(group, units, slots, state) for each group, and for each tensor that no group holds."""
    table = [(g.name, _units(g, kept), _slots(g), _state(g, kept)) for g in found.groups]
    return table + [(name, "", "", f"pinned: {reason}") for name, reason in found.blocked.items()]


def table(found: Groups, kept: Mapping[str, int] | None = None) -> str:
    """The rows as plain text in aligned columns."""
    lines = [COLUMNS, *rows(found, kept)]
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _units(group: Group, kept: Mapping[str, int] | None) -> str:
    return f"{group.units} → {kept[group.name]}" if kept and group.name in kept else str(group.units)


def _slots(group: Group) -> str:
    def names(role: str) -> str:
        found = [
            f"{s.tensor}[{s.axis}]" + (f"×{s.positions.shape[1]}" if s.positions.shape[1] > 1 else "")
            for s in group.having(role)
            if not s.tensor.endswith("bias")
        ]
        return ", ".join(found[:3]) + (f" +{len(found) - 3}" if len(found) > 3 else "")

    return f"{names('producer')} | {names('consumer')}"


def _state(group: Group, kept: Mapping[str, int] | None) -> str:
    if group.pinned:
        return f"pinned: {group.pinned}"
    return "left whole" if kept is not None and group.name not in kept else "prunable"
