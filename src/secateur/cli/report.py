"""`secateur report`, and `--report` and `--model-card` of other commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from secateur.cli.options import COMMON, OUTPUT, Debug, Overwrite
from secateur.cli.printing import print_result
from secateur.errors import InputError

if TYPE_CHECKING:
    from secateur.outputs import Output
    from secateur.page.facts import Facts

Runs = Annotated[
    list[Path],
    Argument(
        metavar="RUN…",
        help="Files that secateur has written: a recipe, a certificate of either kind, an equivalence "
        "statement (.json), or what evaluate, certify, quantize or prune printed with --json. Files after a "
        "recipe belong to its run; another recipe, or a second file of a kind, begins the next run, and the "
        "page compares them.",
    ),
]
PageFile = Annotated[
    Path | None,
    Option(
        "--output",
        "-o",
        metavar="PATH",
        rich_help_panel=COMMON,
        help="File for the report, an .html file that needs no other. Give this, --card, or both.",
    ),
]
CardFile = Annotated[
    Path | None,
    Option(
        "--card",
        metavar="PATH",
        rich_help_panel=COMMON,
        help="File for a model card, an .md file with the same facts, for a model hub. Of one run only.",
    ),
]
Title = Annotated[
    str | None,
    Option(
        metavar="TEXT",
        rich_help_panel=COMMON,
        help="Heading of the report. Default: the name of the run.",
    ),
]

# Of other commands.
ReportFile = Annotated[
    Path | None,
    Option(
        "--report",
        metavar="PATH",
        rich_help_panel=OUTPUT,
        help="Write a report on the result as well: one .html file that needs no other. Needs the package "
        "jinja2.",
    ),
]
ModelCard = Annotated[
    Path | None,
    Option(
        "--model-card",
        metavar="PATH",
        rich_help_panel=OUTPUT,
        help="Write a model card as well: an .md file for a model hub, e.g. MODEL_CARD.md. Needs the package "
        "jinja2.",
    ),
]


def report_command(
    runs: Runs,
    output: PageFile = None,
    card: CardFile = None,
    title: Title = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Write a report on one run, or on several to compare: one web page that needs nothing else.

    It shows what the files hold, and measures nothing. `--report` of prune, evaluate and certify adds what
    only they know, such as the inputs that moved most.
    """
    from secateur import outputs
    from secateur.files import written_together
    from secateur.page.files import facts_of_files

    if output is None and card is None:
        raise InputError("give a file to write: -o report.html, or --card MODEL_CARD.md")
    outputs.check_outputs(
        runs, report_outputs(output, card, option="--output", card_option="--card"), overwrite
    )
    facts = facts_of_files(runs)
    if card is not None and len(facts) > 1:
        raise InputError(f"--card: the files are about {len(facts)} runs; a model card is about one")
    with written_together():
        write_reports(facts, output, card, title or "")
    say_written(output, card)


def report_outputs(
    page: Path | None, card: Path | None = None, option: str = "--report", card_option: str = "--model-card"
) -> list[Output]:
    """What is written, for `check_outputs`. Raises `InputError` where jinja2 is missing."""
    from secateur import outputs

    if page is None and card is None:
        return []
    from secateur.page.render import check_jinja

    check_jinja()
    found = [] if page is None else [outputs.Output(option, page, outputs.PAGE)]
    return found if card is None else [*found, outputs.Output(card_option, card, outputs.CARD)]


def write_reports(
    facts: Sequence[Facts], page: Path | None, card: Path | None = None, title: str = ""
) -> None:
    """Write the page and the card that are asked for, and say so."""
    from secateur.page.card import write_card
    from secateur.page.render import write_page

    if page is not None:
        write_page(page, facts, title=title)
    if card is not None:
        write_card(card, facts[0])


def say_written(*paths: Path | None) -> None:
    for path in paths:
        if path is not None:
            print_result(f"wrote {path}")
