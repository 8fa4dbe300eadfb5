"""The sections of a report, in order: a new one is a row here and a template."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from secateur.page.facts import Facts
from secateur.page.picture import group_bars, output_bars


@dataclass(frozen=True)
class Section:
    """One section.

    Attributes:
        name: Of its template, `templates/<name>.html.j2`, and of its anchor.
        heading: What stands above it.
        of: From facts to what the template shows as `found`; a value that is false leaves the section out.
    """

    name: str
    heading: str
    of: Callable[[Facts], Any]


SECTIONS = (
    Section("verdict", "Verdict", lambda facts: facts.verdict),
    Section("warnings", "Warnings", lambda facts: facts.warnings),
    Section("figures", "Before and after", lambda facts: facts.figures),
    Section("groups", "The network, group by group", lambda facts: facts.groups and group_bars(facts.groups)),
    Section("pinned", "What is pinned, and why", lambda facts: pinned(facts)),
    Section(
        "outputs", "How far each output moves", lambda facts: facts.outputs and output_bars(facts.outputs)
    ),
    Section("classes", "Class by class", lambda facts: facts.classes),
    Section("moved", "The inputs that moved most", lambda facts: facts.moved),
    Section("certificate", "What is proved", lambda facts: facts.proofs),
    Section("sampled", "What random draws show, without proof", lambda facts: facts.sampled),
    Section("covered", "What is not claimed", lambda facts: facts.not_covered),
    Section("quantisation", "Quantisation", lambda facts: facts.quantisation),
    Section(
        "rebuild", "How it was made, and how to make it again", lambda facts: facts.settings or facts.versions
    ),
)


def pinned(facts: Facts) -> list[tuple[str, str]]:
    """What cannot shrink, by name, and why: groups, and tensors that no group holds."""
    return [(group.name, group.pinned) for group in facts.groups if group.pinned] + list(
        facts.blocked.items()
    )
