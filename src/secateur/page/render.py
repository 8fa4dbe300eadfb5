"""The text of a report, by the templates beside this file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from secateur.errors import InputError
from secateur.files import write_atomically
from secateur.page import words
from secateur.page.facts import Facts, Figure, figure_of
from secateur.page.picture import WIDTH, bar_height, scatter
from secateur.page.sections import SECTIONS
from secateur.printable import printable

if TYPE_CHECKING:
    import jinja2


def page(runs: Sequence[Facts], *, title: str = "", lead: Sequence[str] = (), picked: str = "") -> str:
    """One HTML page about one run, or one that compares several.

    The page is complete: no script, no font and no picture from elsewhere. The same facts give the same text.

    Args:
        runs: The facts of each run, at least one.
        title: The heading of the page. Default: that it is about the run of that name, or compares several.
        lead: Paragraphs below the heading, before the first section.
        picked: The name of the run that is recommended among several.

    Raises:
        InputError: There are no facts, or the package jinja2 is not installed.

    Examples:
        >>> from secateur.page.facts import Facts, Figure
        >>> from secateur.page.render import page
        >>> text = page([Facts("small", figures=(Figure("parameters", 114, 58),))])
        >>> text.startswith("<!doctype html>"), "<th scope=\\"row\\">parameters</th>" in text
        (True, True)
    """
    if not runs:
        raise InputError("a report needs the facts of at least one run")
    several = len(runs) > 1
    default = f"{len(runs)} runs compared" if several else f"Report on {runs[0].name}"
    return (
        _html()
        .get_template("page.html.j2")
        .render(
            runs=runs,
            title=title or default,
            lead=lead,
            picked=picked,
            compared=_compared(runs),
            scatter=scatter(runs, picked) if several else None,
            sections=SECTIONS,
            words=words,
            width=WIDTH,
            bar=bar_height(),
        )
        + "\n"
    )


def write_page(path: str | os.PathLike[str], runs: Sequence[Facts], **more: Any) -> None:
    """Write `page(runs, **more)` to a file, whole or not at all."""
    text = page(runs, **more)
    write_atomically(path, lambda file: file.write(text.encode()))


def check_jinja() -> None:
    """Raise `InputError` where jinja2 is not installed."""
    _jinja()


def _compared(runs: Sequence[Facts]) -> list[tuple[str, list[Figure | None]]]:
    """The figures of all runs by name, in the order in which runs have them first; None where one has not."""
    names = dict.fromkeys(figure.name for run in runs for figure in run.figures)
    return [(name, [figure_of(run, name) for run in runs]) for name in names]


def _jinja() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise InputError(
            "reports need the package jinja2; install it with pip install 'secateur[report]'"
        ) from error
    return jinja2


def environment(finalize: Callable[[Any], Any], autoescape: bool) -> jinja2.Environment:
    """Templates of this package; `finalize` is applied to every value that is put into the text."""
    jinja = _jinja()
    made: jinja2.Environment = jinja.Environment(
        loader=jinja.PackageLoader("secateur.page", "templates"),
        autoescape=autoescape,
        undefined=jinja.StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    return made


@cache
def _html() -> jinja2.Environment:
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        """Names from files without control characters; they are escaped after this."""
        return value if isinstance(value, Markup) else "" if value is None else printable(str(value))

    return environment(shown, autoescape=True)
