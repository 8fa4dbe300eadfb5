"""The facts that an evaluation holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from secateur.evaluate.intervals import clopper_pearson
from secateur.page.facts import ClassFact, Facts, Figure, InputFact, Interval, Kind, OutputFact
from secateur.page.words import interval, share

if TYPE_CHECKING:
    from secateur.evaluate.report import Estimate, Evaluation

_INTERVAL = "95 % Clopper–Pearson interval"


def evaluation_facts(report: Evaluation, name: str, thumbnails: Sequence[str] = ()) -> Facts:
    """What an evaluation tells; `thumbnails` are data URIs for `report.moved_most`, in order."""
    on = f"{report.samples:,} inputs"
    return Facts(
        name,
        asked=f"Measure the model on {on}{'' if report.cost_before is None else ', beside its original'}.",
        came=_came(report),
        figures=(*_costs(report), *_quality(report, on), *_language(report)),
        outputs=tuple(OutputFact(row.output, row.largest, row.median) for row in report.output_drifts),
        outputs_on=on if report.output_drifts else "",
        classes=_classes(report),
        moved=_moved(report, thumbnails),
        moved_on=on if report.moved_most else "",
        warnings=(*report.warnings, *_vanished(report)),
        settings={"outputs computed in": report.computed_in},
        # a file that is measured as it is holds scales and the like beside the parameters
        result_parameters=report.cost.parameters if report.computed_in == "torch" else None,
    )


def counted_interval(part: float, of: int) -> tuple[float, float]:
    """The interval of a share that was counted among `of` inputs."""
    return clopper_pearson(min(of, max(0, round(part * of))), of)


def _came(report: Evaluation) -> str:
    parts = []
    if report.accuracy:
        k = min(report.accuracy)
        was = f" ({share(report.original_accuracy[k])} before)" if report.original_accuracy else ""
        parts.append(f"The top-{k} accuracy is {share(report.accuracy[k])}{was}.")
    if report.agreement is not None:
        parts.append(
            f"The model decides as the original does on {share(report.agreement)} of the inputs (95 %: "
            f"{interval(report.agreement_interval, 'share')})."
        )
    return " ".join(parts)


_COSTS: tuple[tuple[str, str, Kind], ...] = (
    ("parameters", "parameters", "count"),
    ("macs", "MACs for one input", "count"),
    ("bytes", "bytes of the weights", "bytes"),
    ("latency_ms", "latency, batch of {}", "ms"),
)


def _costs(report: Evaluation) -> list[Figure]:
    return [
        Figure(
            name.format(report.latency_batch),
            getattr(report.cost_before, key, None),
            after,
            kind,
            basis=report.latency_runtime or "" if kind == "ms" else "",
        )
        for key, name, kind in _COSTS
        if (after := getattr(report.cost, key)) is not None
    ]


def _quality(report: Evaluation, on: str) -> list[Figure]:
    n, old = report.samples, report.original_accuracy or {}
    found = [_share(f"top-{k} accuracy", old.get(k), value, n) for k, value in report.accuracy.items()]
    if report.agreement is not None:
        found.append(
            Figure(
                "agreement with the original",
                None,
                report.agreement,
                "share",
                report.agreement_interval,
                basis=f"{on}; {_INTERVAL}",
            )
        )
    if report.worst_class_accuracy is not None:
        before = report.original_worst_class_accuracy
        found.append(Figure("accuracy of the worst class", before, report.worst_class_accuracy, "share"))
    if report.drift is not None:
        found.append(Figure("largest drift of an output", None, report.drift.largest, "number", basis=on))
        found.append(Figure("the same, median over inputs", None, report.drift.median, "number", basis=on))
    for attack in report.attacks:
        found.append(_share(f"robust accuracy, {attack.name}", None, attack.robust_accuracy, attack.samples))
    for row in report.agreement_attacks:
        found.append(_share(f"robust agreement, {row.name}", None, row.robust_agreement, row.samples))
    for worse in report.corruptions:
        label = f"{worse.kind} of strength {worse.strength:g}"
        if worse.accuracy is not None:
            found.append(_share(f"accuracy, {label}", worse.original_accuracy, worse.accuracy, n))
        if worse.agreement is not None:
            found.append(_share(f"agreement, {label}", None, worse.agreement, n))
    return found


def _language(report: Evaluation) -> list[Figure]:
    """Of a language model on text; intervals are normal ones over sequences."""
    found = report.language
    if found is None:
        return []
    rows: list[tuple[str, Estimate | None, Estimate | None, Kind]] = [
        ("perplexity", found.original_perplexity, found.perplexity, "number"),
        ("perplexity, times the original's", None, found.perplexity_ratio, "number"),
        *(
            (f"next token, top-{k} accuracy", found.original_accuracy.get(k), estimate, "share")
            for k, estimate in found.accuracy.items()
        ),
        ("likeliest token as the original's", None, found.agreement, "share"),
        ("KL divergence from the original, nats", None, found.kl, "number"),
    ]
    on = f"{report.samples:,} sequences of {found.tokens:,} tokens; 95 % interval over sequences"
    return [
        Figure(name, None if old is None else old.value, new.value, kind, _ends(new), _ends(old), on)
        for name, old, new, kind in rows
        if new is not None
    ]


def _ends(estimate: Estimate | None) -> Interval | None:
    if estimate is None or estimate.low is None or estimate.high is None:
        return None
    return estimate.low, estimate.high


def _share(name: str, before: float | None, after: float, of: int) -> Figure:
    was = None if before is None else counted_interval(before, of)
    basis = f"{of:,} inputs; {_INTERVAL}"
    return Figure(name, before, after, "share", counted_interval(after, of), was, basis)


def _classes(report: Evaluation) -> tuple[ClassFact, ...]:
    by_label = {row.label: row for row in report.classes}
    given = {row.label: row for row in report.class_shares}
    return tuple(
        ClassFact(
            label,
            getattr(by_label.get(label), "samples", None),
            getattr(by_label.get(label), "original_accuracy", None),
            getattr(by_label.get(label), "accuracy", None),
            getattr(given.get(label), "original_share", None),
            getattr(given.get(label), "share", None),
            getattr(given.get(label), "agreement", None),
        )
        for label in sorted({*by_label, *given})
    )


def _moved(report: Evaluation, thumbnails: Sequence[str]) -> tuple[InputFact, ...]:
    pictures = [*thumbnails, *[""] * (len(report.moved_most) - len(thumbnails))]
    return tuple(
        InputFact(row.number, row.moved, row.before, row.after, row.label, picture)
        for row, picture in zip(report.moved_most, pictures, strict=True)
    )


def _vanished(report: Evaluation) -> list[str]:
    if not report.vanished_classes:
        return []
    classes = ", ".join(map(str, report.vanished_classes))
    return [f"classes that the original predicts and the model never does: {classes}"]
