"""A model card: the facts of a run as Markdown, with front matter in YAML, for a model hub."""

from __future__ import annotations

import os
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import yaml

from secateur.files import write_atomically
from secateur.page import words
from secateur.page.facts import Facts
from secateur.page.render import environment
from secateur.page.sections import pinned
from secateur.printable import printable

if TYPE_CHECKING:
    import jinja2

# What Markdown obeys anywhere, at the start of a line, and what becomes a link by itself.
_ANYWHERE, _FIRST = re.compile(r"([\\`*_{}\[\]|~$])"), re.compile(r"^(\d*)([-#+.)=])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "://": "&#58;//", "www.": "www&#46;", "@": "&#64;"}
_NAMES = {  # figures of the front matter
    "parameters": "parameters",
    "MACs for one input": "macs",
    "bytes of the weights": "bytes",
    "top-1 accuracy": "accuracy",
    "agreement with the original": "agreement",
    "agreement in the verdict": "agreement_in_verdict",
}


def card(facts: Facts) -> str:
    """The model card of one run; it says nothing that the run does not hold.

    Licence, base model and task are not facts of a run: add them to the front matter.
    """
    return (
        _markdown()
        .get_template("card.md.j2")
        .render(
            front=yaml.safe_dump(front_matter(facts), sort_keys=False, allow_unicode=False).strip(),
            facts=facts,
            words=words,
            pinned=pinned(facts),
            raw=_Raw,
            code=_code,
        )
        + "\n"
    )


def write_card(path: str | os.PathLike[str], facts: Facts) -> None:
    """Write `card(facts)` to a file, whole or not at all."""
    text = card(facts)
    write_atomically(path, lambda file: file.write(text.encode()))


def front_matter(facts: Facts) -> dict[str, Any]:
    """What a hub reads: tags, and the figures under `secateur`."""
    numbers: dict[str, Any] = {}
    for figure in facts.figures:
        if figure.name in _NAMES and figure.after is not None:
            key = _NAMES[figure.name]
            numbers[key] = figure.after
            if figure.before is not None:
                numbers[f"{key}_before"] = figure.before
    method = {"method": printable(facts.settings["method"])} if "method" in facts.settings else {}
    verdict = {"verdict": facts.verdict.word} if facts.verdict else {}
    tags = [
        "secateur",
        *(["pruning"] if facts.groups else []),
        *(["quantization"] if facts.quantisation else []),
    ]
    return {"tags": tags, "secateur": {**method, **verdict, **numbers}}


class _Raw(str):
    """Text that is Markdown already."""


@cache
def _markdown() -> jinja2.Environment:
    return environment(_shown, autoescape=False)


def _shown(value: Any) -> Any:
    """Text from files as text: on one line, without what Markdown or HTML obeys."""
    if isinstance(value, _Raw) or value is None:
        return value or ""
    line = _FIRST.sub(r"\1\\\2", _ANYWHERE.sub(r"\\\1", " ".join(printable(str(value)).split())))
    for text, entity in _ENTITIES.items():
        line = line.replace(text, entity)
    return line


def _code(text: str) -> _Raw:
    """A line of an indented block of code, in which Markdown obeys nothing."""
    return _Raw("    " + printable(text.replace("\n", "\\n")))
