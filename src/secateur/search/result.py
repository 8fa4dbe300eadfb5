"""What a search has found, as an object, as a table, and as files."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pydantic import Field
from torch import nn

from secateur.page import words
from secateur.report.recipe import Recipe
from secateur.report.record import Record
from secateur.report.summary import html_table
from secateur.search.second import Look
from secateur.search.trial import Checks, Objective, Sizes, Trial

Columns = tuple[str, ...]
Rows = list[Columns]


class Summary(Record):
    """What a search has found, as it is written to `summary.json`.

    Attributes:
        asked: What was wanted, in words.
        objective: What was made small.
        original: The sizes of the model as it is.
        trials: All trials, in order.
        front: Numbers of those that no other beats in size and in closeness, smallest network first.
        pick: The number of the smallest that keeps the budgets; None if none does.
        checks: Trial → what attacks and proofs say of its network; of the front within the budgets.
        images: How many labelled data there were.
        look: The second look at the pick; None where inputs of the user's own, held out, had judged it.
        notes: What one must know.
    """

    asked: str
    objective: Objective
    original: Sizes
    trials: tuple[Trial, ...]
    front: tuple[int, ...]
    pick: int | None
    look: Look | None = None
    checks: dict[int, Checks] = Field(default_factory=dict)
    images: int = 0
    notes: tuple[str, ...] = ()

    def trial(self, number: int) -> Trial:
        return self.trials[number - 1]


@dataclass(frozen=True, eq=False, repr=False)
class SearchResult:
    """The result of `search`.

    Attributes:
        summary: What was asked and found, all trials with their figures.
        folder: Where the networks of the front are (`front/`), and the pick (`pick.*`).
        model: The pick; None if no network keeps the budgets. Of a quantised pick, its float form.
        recipe: Its recipe, from which `replay` rebuilds it.

    Examples:
        >>> import tempfile, torch, secateur
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)).eval()
        >>> found = secateur.search(
        ...     net, torch.zeros(1, 4), output=tempfile.mkdtemp(), method="scale", max_drift=100.0
        ... )
        >>> found.pick in found.front, (found.folder / "summary.md").is_file()
        (True, True)
    """

    summary: Summary
    folder: Path
    model: nn.Module | None
    recipe: Recipe | None

    @property
    def pick(self) -> Trial | None:
        """The trial of the smallest network that keeps the budgets."""
        return None if self.summary.pick is None else self.summary.trial(self.summary.pick)

    @property
    def front(self) -> tuple[Trial, ...]:
        """The trials that no other beats in size and in closeness, smallest network first."""
        return tuple(map(self.summary.trial, self.summary.front))

    def __repr__(self) -> str:
        return "\n".join(lines(self.summary))

    def _repr_html_(self) -> str:
        """For notebooks."""
        return html_table("Search", *front_table(self.summary), lines(self.summary))


@dataclass(frozen=True, eq=False, repr=False)
class SweepResult:
    """The result of `sweep`.

    Attributes:
        trials: All trials; see `secateur.search.trial.Trial`.
        original: The sizes of the model as it is.
        folder: Where the recipes are (`trials/`), with the tables as `summary.json` and `summary.md`.

    Examples:
        >>> import tempfile, torch, secateur
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)).eval()
        >>> found = secateur.sweep(
        ...     net, torch.zeros(1, 4), output=tempfile.mkdtemp(), method="scale", remove=[0.25, 0.5]
        ... )
        >>> found.original.params, [trial.sizes.params for trial in found.trials]
        (114, [86, 58])
    """

    trials: tuple[Trial, ...]
    original: Sizes
    folder: Path

    def __repr__(self) -> str:
        return markdown_table(*sweep_table(self.trials, self.original))

    def _repr_html_(self) -> str:
        """For notebooks."""
        return html_table("Sweep", *sweep_table(self.trials, self.original), [])


def lines(summary: Summary) -> list[str]:
    """What was asked and what came out, in a few lines."""
    found = [f"asked: the smallest network in {summary.objective} with {summary.asked}"]
    if summary.pick is None:
        found.append("pick: none")
    else:
        trial = summary.trial(summary.pick)
        assert trial.sizes is not None
        before, after = (sizes.of(summary.objective) for sizes in (summary.original, trial.sizes))
        found.append(f"pick: trial {trial.number}, {trial.setting.told()}: {trial.told()}")
        found.append(f"{summary.objective}: {before:,.6g} → {after:,.6g} ({1 - after / before:.1%} less)")
    if summary.look is not None:
        found.append(f"second look: {summary.look.told()}")
    if summary.pick in summary.checks:
        found.append(f"the pick: {summary.checks[summary.pick].told()}")
    doubts = dict.fromkeys(doubt for checks in summary.checks.values() for doubt in checks.doubts)
    return [*found, *doubts, *summary.notes]


def front_table(summary: Summary) -> tuple[Columns, Rows]:
    """The networks of the front, smallest first, and the original."""
    trials = [summary.trial(number) for number in summary.front]
    rows = [_row(t, f"{t.number}{' (pick)' if t.number == summary.pick else ''}") for t in trials]
    whole = Trial(number=1, setting=trials[0].setting, sizes=summary.original) if trials else None
    if whole is not None:
        rows.append(("original", "", *_row(whole, "")[2:]))
    checked = _checked(summary)
    cells = [[checks.get(number, "") for number in (*summary.front, 0)] for checks in checked.values()]
    more = zip(*cells, strict=True) if cells else [()] * len(rows)
    return _shortened(((*_COLUMNS, *checked), [(*row, *also) for row, also in zip(rows, more, strict=True)]))


def _checked(summary: Summary) -> dict[str, dict[int, str]]:
    """Column → trial → what attacks and proofs say of it."""
    found: dict[str, dict[int, str]] = {}
    for trial, checks in summary.checks.items():
        cells = {f"robust accuracy, {n}": f"{share:.2%}" for n, share in checks.robust_accuracy.items()}
        cells |= {f"robust agreement, {n}": f"{share:.2%}" for n, share in checks.robust_agreement.items()}
        if checks.certified is not None:
            cells["certified agreement"] = words.number(checks.certified, "share at least")
        for column, cell in cells.items():
            found.setdefault(column, {})[trial] = cell
    return found


def trials_table(trials: Sequence[Trial]) -> tuple[Columns, Rows]:
    """All trials in order."""
    return _shortened((_COLUMNS, [_row(trial, str(trial.number)) for trial in trials]))


def sweep_table(trials: Sequence[Trial], original: Sizes) -> tuple[Columns, Rows]:
    """One row for each setting but for its seed; several seeds as median, and least to most."""
    rows: Rows = []
    for told, same in groupby(sorted(trials, key=_place), key=lambda trial: trial.setting.told()):
        found = list(same)
        made = [trial for trial in found if trial.sizes is not None]
        if not made:
            rows.append((told, str(len(found)), *[""] * 5, found[0].error))
            continue
        sizes = [trial.sizes for trial in made if trial.sizes is not None]
        rows.append(
            (
                told,
                str(len(found)),
                f"{statistics.median(s.params for s in sizes):,.0f}",
                f"{statistics.median(s.params for s in sizes) / original.params:.1%}",
                f"{statistics.median(s.macs for s in sizes):,.0f}",
                _spread([t.agreement for t in made], "{:.2%}"),
                _spread([t.accuracy for t in made], "{:.2%}"),
                _spread([t.relative_drift for t in made], "{:.3g}"),
            )
        )
    return _shortened((_SWEPT, rows))


def markdown(summary: Summary) -> str:
    """The summary as a page."""
    parts = ["# Search", "", *(f"- {line}" for line in lines(summary)), "", "## Front", ""]
    parts += [markdown_table(*front_table(summary)), "", "## Trials", ""]
    return "\n".join([*parts, markdown_table(*trials_table(summary.trials)), ""])


def markdown_table(columns: Columns, rows: Rows) -> str:
    table = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '∣') for cell in row)} |" for row in table)


_COLUMNS = (
    *("trial", "setting", "parameters", "MACs", "bytes", "ms", "agreement", "drift", "accuracy"),
    *("worst class", ""),
)
_SWEPT = (
    "setting",
    "seeds",
    "parameters",
    "of the original",
    "MACs",
    "agreement",
    "accuracy",
    "drift / spread",
)


def _row(trial: Trial, number: str) -> Columns:
    if trial.sizes is None:
        return (number, trial.setting.told(), *[""] * 8, trial.error)
    sizes = trial.sizes
    return (
        number,
        trial.setting.told(),
        f"{sizes.params:,}",
        f"{sizes.macs:,}",
        f"{sizes.bytes:,}",
        _number(sizes.latency, "{:.3g}"),
        _number(trial.agreement, "{:.2%}"),
        _number(trial.drift, "{:.3g}"),
        _number(trial.accuracy, "{:.2%}"),
        _number(trial.worst_class, "{:.2%}"),
        trial.verdict or "",
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _place(trial: Trial) -> tuple[str, str, str]:
    setting = trial.setting
    return setting.method, setting.remove or "", setting.told()


def _spread(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    middle = form.format(statistics.median(known))
    if len(known) == 1:
        return middle
    return f"{middle} ({form.format(min(known))} to {form.format(max(known))})"


def _shortened(table: tuple[Columns, Rows]) -> tuple[Columns, Rows]:
    """Without columns that are empty in every row."""
    columns, rows = table
    used = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    return tuple(columns[i] for i in used), [tuple(row[i] for i in used) for row in rows]
