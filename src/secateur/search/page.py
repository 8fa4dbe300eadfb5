"""The report on a search: one web page that compares the networks of its front."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from secateur.page.from_recipe import recipe_facts
from secateur.page.render import write_page
from secateur.search.result import Summary, lines
from secateur.search.store import FRONT, Store


def write_report(path: Path, store: Store, summary: Summary) -> None:
    """Write the page, where there are networks and jinja2 (the extra `report`) is installed."""
    if not summary.front or find_spec("jinja2") is None:
        return
    runs = [
        recipe_facts(store.recipe(number), f"trial {number}", f"{FRONT}/{number:04d}.recipe.json")
        for number in summary.front
    ]
    picked = "" if summary.pick is None else f"trial {summary.pick}"
    write_page(path, runs, title="Search", lead=lines(summary), picked=picked)
