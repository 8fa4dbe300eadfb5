"""The facts that a recipe holds, those of a `Result`, and those that `prune --json` printed."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from secateur.page.facts import Facts, Figure, GroupFact, Judgement, joined
from secateur.page.from_quantization import quantization_facts
from secateur.page.words import counted, listed, share

if TYPE_CHECKING:
    from secateur.evaluate.latency import Latency
    from secateur.report.recipe import Recipe, RecordedRequest
    from secateur.report.verdict import Verdict
    from secateur.result import Result

_WHAT = {"params": "parameters", "macs": "multiply-accumulates", "bytes": "bytes of the weights"}
_BUDGETS = {
    "agreement": "agreement of at least {}",
    "drift": "drift of at most {}",
    "certified_agreement": "certified agreement of at least {}",
    "certified_drift": "certified drift of at most {}",
    "eps": "radius {}",
}


def recipe_facts(recipe: Recipe, name: str, path: str = "", model: str = "MODEL") -> Facts:
    """What a recipe tells.

    Args:
        recipe: As `prune` made it, or `Recipe.load` read it.
        name: Of the run, for headings.
        path: Of the recipe's file, for the command that rebuilds the result; without one, there is none.
        model: The original model on that command line.
    """
    last = recipe.steps[-1] if recipe.steps else None
    before = sum(group.units for group in recipe.groups)
    kept = sum(len(group.kept) for group in recipe.groups)
    figures = [Figure("units", before, kept)]
    if last is not None:
        figures.append(Figure("parameters", recipe.model.parameters, last.parameters))
        figures.append(Figure("MACs for one input", None, last.macs))
    if recipe.latency is not None:
        where = f"one sample, {recipe.latency.table.where}"
        figures.append(Figure("latency", recipe.latency.before, recipe.latency.after, "ms", basis=where))
    verdict = recipe.verdict
    if verdict is not None:
        figures += _fidelity(verdict)
    found = Facts(
        name=name,
        asked=_asked(recipe.request),
        came=_came(figures, verdict),
        figures=tuple(figures),
        verdict=None if verdict is None else judgement(verdict),
        groups=tuple(GroupFact(g.group, g.units, len(g.kept)) for g in recipe.groups),
        warnings=(recipe.shortfall,) if recipe.shortfall else (),
        settings=_settings(recipe),
        versions=recipe.versions,
        digests={"original model": recipe.model.tensors, "result": recipe.result, **recipe.files},
        rebuild=_rebuild(recipe, path, model),
        inputs=tuple(f"{' × '.join(map(str, s.shape[1:])) or 'a number'}, {s.dtype}" for s in recipe.inputs),
        model=recipe.model.tensors,
        result_parameters=None if last is None else last.parameters,
    )
    return found if recipe.quantized is None else joined(found, quantization_facts(recipe.quantized, name))


def result_facts(
    result: Result, name: str, path: str = "", model: str = "MODEL", timed: Latency | None = None
) -> Facts:
    """What the result of a run tells: its recipe, all groups with what is pinned, and sizes before.

    `path` and `model` are as for `recipe_facts`; `timed` is what `secateur.latency` measured.
    """
    found = recipe_facts(result.recipe, name, path, model)
    figures = [
        replace(figure, before=result.before.macs) if figure.name == "MACs for one input" else figure
        for figure in found.figures
    ]
    if timed is not None and result.latency is None:
        figures.append(_timed(timed.before, timed.after, timed.runtime))
    kept = {group.group: len(group.kept) for group in result.recipe.groups}
    warnings = [text for text in (result.shortfall, result.stopped) if text]
    return replace(
        found,
        figures=tuple(figures),
        groups=tuple(
            GroupFact(g.name, g.units, kept.get(g.name, g.units), g.pinned or _left_whole(g.name in kept))
            for g in result.groups
        ),
        blocked=dict(result.blocked),
        warnings=tuple(dict.fromkeys([*found.warnings, *warnings])),
    )


def printed_facts(content: Mapping[str, Any], name: str) -> Facts:
    """What `secateur prune --json` printed: sizes before and after, and the latency."""
    figures = [
        Figure(title, *_pair(content[key]))
        for key, title in (
            ("units", "units"),
            ("parameters", "parameters"),
            ("macs", "MACs for one input"),
        )
    ]
    if content.get("latency_ms"):
        figures.append(_timed(*_pair(content["latency_ms"]), str(content.get("latency_runtime") or "")))
    warnings = [str(content[key]) for key in ("shortfall", "stopped") if content.get(key)]
    return Facts(
        name,
        figures=tuple(figures),
        warnings=tuple(warnings),
        result_parameters=int(_pair(content["parameters"])[1]),
    )


def _pair(value: Any) -> tuple[float, float]:
    """Two numbers, before and after. Raises `ValueError` or `TypeError` for anything else."""
    before, after = value
    return float(before), float(after)


def judgement(verdict: Verdict) -> Judgement:
    own = verdict.basis != "surrogates"
    which = "of the user's inputs, held out" if own else f"{verdict.surrogate} surrogates"
    lines = tuple(line.strip() for line in verdict.lines()[1:])
    return Judgement(verdict.word, f"{verdict.inputs:,} {which}", lines)


def _left_whole(pruned: bool) -> str:
    return "" if pruned else "left whole, as was asked (ignore)"


def _timed(before: float, after: float, runtime: str) -> Figure:
    return Figure("latency", before, after, "ms", basis=f"one sample, {runtime}")


def _fidelity(verdict: Verdict) -> list[Figure]:
    own = verdict.basis != "surrogates"
    which = f"{verdict.inputs:,} {'held-out inputs' if own else f'{verdict.surrogate} surrogates'}"
    meaning = "95 % interval" if own else "interval: where it is likely to lie on real inputs"
    found = []
    if verdict.agreement is not None:
        basis = f"{which}; {meaning}"
        found.append(
            Figure(
                "agreement in the verdict", None, verdict.agreement, "share", verdict.interval, None, basis
            )
        )
    found.append(Figure("largest drift in the verdict", None, verdict.drift, "number", basis=which))
    return found


def _asked(request: RecordedRequest) -> str:
    text = f"Remove {_amount(request.remove)} with the method {request.method}"
    budgets = [
        _BUDGETS[key].format(f"{value:g}")
        for key, value in request.guard.items()
        if key in _BUDGETS and not isinstance(value, str)
    ]
    if budgets:
        text += f", within a budget: {listed(budgets)}"
    if request.ignore:
        text += f"; leave {listed(request.ignore)} whole"
    return f"{text}."


def _amount(remove: str) -> str:
    """`macs=50%` and the like in words."""
    if remove == "all":
        return "all units that the method finds"
    quantity, _, amount = remove.rpartition("=")
    if re.fullmatch(r"0?\.\d+", amount):
        amount = f"{float(amount):.3%}".replace(".000%", "%")
    if quantity == "latency":
        return f"{amount} of the latency" if "%" in amount else f"what takes longer than {amount}"
    return f"{amount} of the {_WHAT.get(quantity, 'units of each layer')}"


def _came(figures: list[Figure], verdict: Verdict | None) -> str:
    """One sentence; `figures` begin with the sizes."""
    gone = [
        f"{f.before - f.after:,.0f} of {f.before:,.0f} {f.name} ({f.removed:.1%})"
        for f in figures
        if f.kind == "count" and f.before is not None and f.after is not None and f.removed is not None
    ]
    text = f"{listed(gone)} were removed." if gone else ""
    if verdict is not None:
        text += f" The verdict is “{verdict.word}”"
        if verdict.agreement is not None:
            text += f", with an agreement of {share(verdict.agreement)} on {counted(verdict.inputs, 'input')}"
        text += "."
    return text.strip()


def _settings(recipe: Recipe) -> dict[str, str]:
    request, used = recipe.request, recipe.used
    found = {
        "seed": str(request.seed),
        "method": request.method,
        "options": ", ".join(f"{name}={value:g}" for name, value in request.options.items()),
        "remove": request.remove,
        "allocation": request.allocation,
        "step": f"{request.step:g}",
        "round to": str(request.round_to),
        "input bounds": _plain(request.input_bounds),
        "mean": _plain(request.mean) if request.mean else "",
        "std": _plain(request.std) if request.std else "",
        "head": request.head,
        "refitted on": _refitted_on(recipe),
        "judged on": counted(used.judged_on, "input") if used.judged_on else "",
        "calibration": f"SHA-256 {used.calibration}" if used.calibration else "",
    }
    return {name: text for name, text in found.items() if text}


def _refitted_on(recipe: Recipe) -> str:
    used = recipe.used
    if not used.samples:
        return ""
    if used.own:
        return f"{used.own:,} of the user's inputs, and surrogates ({used.surrogate}) beside them"
    return (
        f"{used.samples:,} {f'surrogates ({used.surrogate})' if used.surrogate else 'of the user’s inputs'}"
    )


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) if len(str(value)) < 400 else "one value for each element"
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _rebuild(recipe: Recipe, path: str, model: str) -> str:
    """The command that makes the same bits again."""
    if not path:
        return ""
    folder = os.path.dirname(path)
    made = next((name for name in recipe.files if not name.endswith((".safetensors", ".data"))), "OUTPUT")
    shapes = [f"{','.join(map(str, s.shape[1:]))}:{s.dtype}" for s in recipe.inputs]
    words = ["secateur", "replay", model, path, *(f"--example-shape={shape}" for shape in shapes)]
    return shlex.join([*words, "-o", os.path.join(folder, f"again-{made}") if made != "OUTPUT" else made])
