"""From trials to a result: the front is measured further, a network picked, all written."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from secateur.cost import Costs
from secateur.errors import SecateurWarning
from secateur.files import write_atomically
from secateur.progress import phase
from secateur.report.recipe import Recipe
from secateur.search.ask import Asked
from secateur.search.bench import sizes_of
from secateur.search.checks import Checker, Checking
from secateur.search.front import front, within
from secateur.search.networks import suffix_for, write_network
from secateur.search.page import write_report
from secateur.search.result import SearchResult, Summary, markdown
from secateur.search.second import Look, SecondLook
from secateur.search.store import FRONT, PICK, Store, write_record
from secateur.search.trial import Checks, Objective, Trial, Wanted


@dataclass(frozen=True)
class Aim:
    """What is made small, and what is kept: by every trial, and by the networks of the front."""

    objective: Objective
    wanted: Wanted
    checking: Checking

    def told(self) -> str:
        """What must be kept, in words."""
        return ", ".join([part for part in (self.wanted.told(), *self.checking.told()) if part])


@dataclass(frozen=True)
class Choice:
    """The network that was picked, what has been measured to pick it, and what one must know."""

    pick: Trial | None
    look: Look | None = None
    checks: Mapping[int, Checks] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def concluded(found: Asked, store: Store, trials: Sequence[Trial], aim: Aim, progress: bool) -> SearchResult:
    """Measure candidates further, pick one, and write the networks and the summary."""
    best = front(trials, aim.objective, aim.wanted)
    chosen = _chosen(found, store, within(trials, aim.objective, aim.wanted), aim, progress)
    notes = [*chosen.notes, *([] if chosen.pick is None else _on_labels(aim))]
    if chosen.pick is None and not best:
        notes.append(f"no setting gave a network: {trials[-1].error}")
    model, job = found.model, found.job
    with phase("writing the networks", progress):
        summary = Summary(
            asked=aim.told(),
            objective=aim.objective,
            original=sizes_of(job, model, model, Costs(found.graph, found.coupling), {}),
            trials=tuple(trials),
            front=tuple(trial.number for trial in best),
            pick=None if chosen.pick is None else chosen.pick.number,
            look=chosen.look,
            checks=dict(chosen.checks),
            images=0 if job.images is None else len(job.images),
            notes=tuple(notes),
        )
        small, recipe = _written(found, store, summary)
    for note in notes:
        warnings.warn(note, SecateurWarning, stacklevel=3)
    return SearchResult(summary, Path(store.folder), small, recipe)


def _on_labels(aim: Aim) -> list[str]:
    """What to say where labelled data chose."""
    wanted, checking = aim.wanted, aim.checking
    chosen_by = (wanted.accuracy, wanted.worst_class, checking.robust_accuracy, checking.robust_agreement)
    if all(least is None for least in chosen_by):
        return []
    return [
        "the labelled data chose this network, as you asked: its accuracy on them is optimistic; measure it "
        "on others"
    ]


def _written(found: Asked, store: Store, summary: Summary) -> tuple[nn.Module | None, Recipe | None]:
    """Write the networks of the front and the summary; the pick and its recipe."""
    model, job = found.model, found.job
    suffix = suffix_for(model, job)
    (store.folder / FRONT).mkdir(exist_ok=True)
    for number in summary.front:
        write_network(store.folder / FRONT / f"{number:04d}{suffix}", model, store.recipe(number), job)
    small = recipe = None
    store.drop_pick()  # of other budgets
    if summary.pick is not None:
        recipe = store.recipe(summary.pick)
        small = write_network(store.folder / f"{PICK}{suffix}", model, recipe, job)
    page = markdown(summary)
    write_atomically(store.folder / "summary.md", lambda file: file.write(page.encode()))
    write_report(store.folder / "report.html", store, summary)
    write_record(store.folder / "summary.json", summary)
    return small, recipe


def _chosen(found: Asked, store: Store, candidates: Sequence[Trial], aim: Aim, progress: bool) -> Choice:
    """The smallest candidate that keeps all budgets, those on a second look among them."""
    if not candidates:
        return Choice(None, notes=(f"no network was found with {aim.wanted.told()}",))
    with phase("attacking and certifying the front", progress and bool(aim.checking)):
        checks = Checker(aim.checking, found.model, found.job, store).of(candidates)
    left = [t for t in candidates if not checks or aim.checking.kept_by(checks[t.number])]
    if not left:
        largest = checks[candidates[-1].number].told()
        note = (
            f"of {len(candidates)} networks within the other budgets, none has "
            f"{', '.join(aim.checking.told())} (the largest: {largest}); a stricter min_agreement "
            "(--min-agreement) makes the search try larger networks"
        )
        return Choice(None, checks=checks, notes=(note,))
    if found.request.calibration is not None:
        said = "the inputs that were held out chose this network, so that its figures on them are a little"
        return Choice(left[0], checks=checks, notes=(f"{said} optimistic",))
    with phase("looking at the pick a second time", progress):
        return _on_second_look(found, store, left, checks, aim)


def _on_second_look(
    found: Asked, store: Store, candidates: Sequence[Trial], checks: Mapping[int, Checks], aim: Aim
) -> Choice:
    second = SecondLook(found.model, found.job, found.request, found.graph, found.coupling)
    for trial in candidates:
        look = second.at(store.recipe(trial.number))
        if look.keeps(aim.wanted, trial):
            return Choice(trial, look, checks)
    note = (
        f"{len(candidates)} networks were within the budgets, and none was on a second look ({look.told()}): "
        f"too little can be removed with {aim.told()}"
    )
    return Choice(None, look, checks, (note,))
