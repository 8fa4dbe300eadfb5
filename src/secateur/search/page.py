"""The report on a search: one web page that compares the networks of its front."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from secateur.page.facts import Facts, Figure
from secateur.page.from_evaluation import counted_interval
from secateur.page.from_recipe import recipe_facts
from secateur.page.render import write_page
from secateur.search.result import Summary, lines
from secateur.search.store import FRONT, Store


def write_report(path: Path, store: Store, summary: Summary) -> None:
    """Write the page, where there are networks and jinja2 (the extra `report`) is installed."""
    if not summary.front or find_spec("jinja2") is None:
        return
    runs = [_facts(store, summary, number) for number in summary.front]
    picked = "" if summary.pick is None else _name(summary.pick)
    write_page(path, runs, title="Search", lead=lines(summary), picked=picked)


def _name(number: int) -> str:
    return f"trial {number}"


def _facts(store: Store, summary: Summary, number: int) -> Facts:
    found = recipe_facts(store.recipe(number), _name(number), f"{FRONT}/{number:04d}.recipe.json")
    return replace(found, figures=(*found.figures, *_figures(summary, number)))


def _figures(summary: Summary, number: int) -> Iterator[Figure]:
    """What was measured on labelled data, and what is proved."""
    trial, checks = summary.trial(number), summary.checks.get(number)
    if trial.accuracy is not None:
        yield _counted("top-1 accuracy", trial.accuracy, summary.images)
    if trial.worst_class is not None:
        yield Figure("accuracy of the worst class", None, trial.worst_class, "share")
    if checks is None:
        return
    for name, share in checks.robust_accuracy.items():
        yield _counted(f"robust accuracy, {name}", share, summary.images)
    for name, share in checks.robust_agreement.items():
        yield _counted(f"robust agreement, {name}", share, summary.images)
    if checks.certified is not None:
        yield Figure("certified agreement", None, checks.certified, "share at least")
    if checks.certified_drift is not None:
        yield Figure("certified drift of an output", None, checks.certified_drift, "at most")


def _counted(name: str, share: float, of: int) -> Figure:
    basis = f"{of:,} inputs; 95 % Clopper–Pearson interval"
    return Figure(name, None, share, "share", counted_interval(share, of), None, basis)
