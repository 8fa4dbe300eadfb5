"""Results as tables for people: one function for each kind of result returns (columns, rows)."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Context, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.errors import few

if TYPE_CHECKING:
    import secateur
    from secateur.report.quantization import Quantization

Rows = list[tuple[str, ...]]


def pruning_table(
    result: secateur.Result, timed: secateur.Latency | None = None, sizes: tuple[int, int] | None = None
) -> tuple[tuple[str, ...], Rows]:
    """`sizes`: bytes of the files, before and after."""
    before, after = result.before, result.history[-1]
    rows: Rows = [
        (name, f"{old:,}", f"{new:,}", f"{1 - new / old:.1%}")
        for name, old, new in (
            ("units", before.units, before.units - after.units_removed),
            ("parameters", before.parameters, after.parameters),
            ("MACs", before.macs, after.macs),
        )
    ]
    if sizes is not None:
        rows.append(
            ("file, kB", *(f"{size / 1000:,.0f}" for size in sizes), f"{1 - sizes[1] / sizes[0]:.1%}")
        )
    if timed is not None:
        label, less = f"ms for one sample ({timed.runtime})", f"{1 - timed.after / timed.before:.1%}"
        rows.append((label, f"{timed.before:.3g}", f"{timed.after:.3g}", less))
    return ("", "before", "after", "removed"), rows


def stages_table(found: Quantization) -> tuple[tuple[str, ...], Rows]:
    """What was measured of the original, the pruned and the quantised model; columns without figures are
    left out.
    """
    first, *_ = found.stages
    columns = {
        "": [stage.name for stage in found.stages],
        "file, kB": [f"{stage.bytes / 1000:,.0f}" for stage in found.stages],
        "ms for one sample (onnxruntime)": ["" if s.ms is None else f"{s.ms:.3g}" for s in found.stages],
        f"agreement with {first.name}": [_percent(stage.agreement) for stage in found.stages],
        "accuracy": [_percent(stage.accuracy) for stage in found.stages],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    return tuple(shown), list(zip(*shown.values(), strict=True))


_FIRST = {  # advice of a verdict → what to do
    "say the normalisation": "say how inputs are normalised (--normalize, --input-bounds), and prune again",
    "give inputs": "prune again with inputs of your own (--calibration DATA)",
    "give more inputs": "prune again with more inputs of your own",
    "remove less": "remove less (--remove)",
}


def next_steps(
    verdict: secateur.Verdict, model: str, output: Path, inputs: str, several: bool = False
) -> list[str]:
    """What to run after `prune`, by its verdict; `inputs` are options that describe the model's inputs.

    Models of `several` inputs are compared on those of `--calibration` alone.
    """
    compare = "" if several else f"secateur evaluate {output} --original {model}{inputs} --data DATA"
    steps = [step for step in (_FIRST[verdict.advice] if verdict.advice else "", compare) if step]
    return [f"next: {'; then '.join(steps)}"] if steps else []


def evaluation_table(report: secateur.Evaluation) -> tuple[tuple[str, ...], Rows]:
    return (f"{report.samples:,} samples, {report.head}", "value", "original"), [
        *_computed_in(report),
        *_quality(report),
        *_cost(report),
    ]


def _computed_in(report: secateur.Evaluation) -> Rows:
    """Where it is not torch that computed all outputs."""
    if "onnxruntime" not in (report.computed_in, report.original_computed_in):
        return []
    told = {"onnxruntime": "the file, in onnxruntime", "torch": "torch", None: ""}
    return [("what is measured", told[report.computed_in], told[report.original_computed_in])]


def _quality(report: secateur.Evaluation) -> Rows:
    if report.language is not None:
        return _language(report)
    old = report.original_accuracy
    rows: Rows = [
        (f"top-{k} accuracy", f"{v:.2%}", f"{old[k]:.2%}" if old else "") for k, v in report.accuracy.items()
    ]
    if report.agreement is not None:
        rows += _agreement(report)
    if report.worst_class_accuracy is not None:
        before = _percent(report.original_worst_class_accuracy)
        rows.append(("accuracy of the worst class", f"{report.worst_class_accuracy:.2%}", before))
    for row in report.attacks:
        rows.append((f"{row.name}: robust accuracy", f"{row.robust_accuracy:.2%}", ""))
        rows.append((f"{row.name}: robust instances per 1,000", f"{row.robust_instances_per_1000:.1f}", ""))
    for worse in report.corruptions:
        label = f"{worse.kind}:{worse.strength:g}"
        if worse.accuracy is not None:
            rows.append((f"{label}: accuracy", f"{worse.accuracy:.2%}", _percent(worse.original_accuracy)))
        if worse.agreement is not None:
            rows.append((f"{label}: agreement", f"{worse.agreement:.2%}", ""))
    return rows


def _estimate(estimate: Any, form: str) -> str:
    """A value with the ends of its interval, where it has one."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return "" if estimate is None else form.format(estimate.value)
    ends = (form.format(end) for end in (estimate.value, estimate.low, estimate.high))
    return "{} (95 %: {} to {})".format(*ends)


def _language(report: secateur.Evaluation) -> Rows:
    found, shown = report.language, _estimate
    assert found is not None
    rows: Rows = [
        ("perplexity", shown(found.perplexity, "{:.3f}"), shown(found.original_perplexity, "{:.3f}")),
        ("perplexity, times the original's", shown(found.perplexity_ratio, "{:.3f}"), ""),
        *(
            (
                f"next token, top-{k} accuracy",
                shown(v, "{:.2%}"),
                shown(found.original_accuracy.get(k), "{:.2%}"),
            )
            for k, v in found.accuracy.items()
        ),
        ("likeliest token as the original's", shown(found.agreement, "{:.2%}"), ""),
        ("KL divergence from the original, nats", shown(found.kl, "{:.4f}"), ""),
    ]
    return [row for row in rows if row[1]]


def _agreement(report: secateur.Evaluation) -> Rows:
    low, high = report.agreement_interval or (0.0, 1.0)
    rows: Rows = [
        ("agreement with the original", f"{report.agreement:.2%} (95 %: {low:.2%} to {high:.2%})", "")
    ]
    if report.worst_class_agreement is not None:
        rows.append(
            (f"agreement of the worst class, {report.worst_class}", f"{report.worst_class_agreement:.2%}", "")
        )
    if report.vanished_classes:
        rows.append(
            ("classes that the model never predicts", few([str(c) for c in report.vanished_classes]), "")
        )
    if report.drift is not None:
        rows.append(("largest drift of an output", f"{report.drift.largest:.4g}", ""))
        rows.append(("the same, median over inputs", f"{report.drift.median:.4g}", ""))
    for row in report.agreement_attacks:
        rows.append((f"{row.name}: agreement that stands", f"{row.robust_agreement:.2%}", ""))
        rows.append((f"{row.name}: instances per 1,000", f"{row.robust_instances_per_1000:.1f}", ""))
    return rows


def _cost(report: secateur.Evaluation) -> Rows:
    new, old = report.cost, report.cost_before
    rows: Rows = [
        ("parameters", f"{new.parameters:,}", f"{old.parameters:,}" if old else ""),
        ("MACs", _counted(new.macs), _counted(old.macs) if old else ""),
        ("bytes", f"{new.bytes:,}", f"{old.bytes:,}" if old else ""),
    ]
    if new.latency_ms is not None:
        label = f"latency in ms ({report.latency_runtime}), batch of {report.latency_batch}"
        before = old.latency_ms if old else None
        rows.append((label, f"{new.latency_ms:.2f}", "" if before is None else f"{before:.2f}"))
    if new.decode is not None:
        earlier = old.decode if old else None
        pairs: list[tuple[str, float | None, float | None]] = [
            ("prefill", new.decode.prefill_ms, earlier.prefill_ms if earlier else None),
            ("decode", new.decode.decode_ms, earlier.decode_ms if earlier else None),
        ]
        rows += [
            (
                f"{name} in ms ({report.latency_runtime})",
                f"{now:.2f}",
                "" if before is None else f"{before:.2f}",
            )
            for name, now, before in pairs
            if now is not None
        ]
    return rows


def classes_table(report: secateur.Evaluation) -> tuple[tuple[str, ...], Rows]:
    if not report.classes:
        shares: Rows = [
            (str(row.label), f"{row.share:.2%}", f"{row.original_share:.2%}", _percent(row.agreement))
            for row in report.class_shares
        ]
        return ("class", "share of inputs", "original", "agreement"), shares
    rows: Rows = [
        (
            str(row.label),
            f"{row.samples:,}",
            f"{row.accuracy:.2%}",
            _percent(row.original_accuracy),
            "" if row.change is None else f"{100 * row.change:+.2f}",
        )
        for row in report.classes
    ]
    return ("class", "samples", "accuracy", "original", "change"), rows


def certificate_table(found: secateur.Certificate) -> tuple[tuple[str, ...], Rows]:
    drift, searched, where = sorted(found.drift), sorted(found.found or ()), found.input_set
    about = (
        ("the input box" if found.boxes is None else f"the input box, split ({found.boxes:,} boxes)")
        if where.eps is None
        else f"balls of radius {where.eps:g} round {where.inputs:,} inputs"
    )
    places = {"largest drift of an output": -1}
    if len(drift) > 1:
        places["the same, median over inputs"] = len(drift) // 2
    rows: Rows = [
        (label, f"{drift[i]:.4g}", f"{searched[i]:.4g}" if searched else "") for label, i in places.items()
    ]
    rows += [
        (label, f"{share.certified:.2%}", _percent(share.empirical))
        for label, share in (
            ("both models keep the original's class", found.agreement),
            ("the original keeps its class", found.stable_original),
            ("the pruned model keeps its class", found.stable_pruned),
        )
        if share is not None
    ]
    return (about, "certified", "found by search"), [*rows, *_margin_rows(found)]


def arithmetic_lines(found: secateur.Certificate) -> list[str]:
    """In which arithmetic the claims hold, and what rounding was measured to be."""
    lines = []
    if found.inference_rounding is not None:
        most = upward(max(found.inference_rounding))
        lines.append(f"in {found.arithmetic} arithmetic; rounding of at most {most} is included")
    else:
        lines.append(f"in real arithmetic{f': {found.why_real}' if found.why_real else ''}")
    if (measured := found.measured_rounding) is not None and measured.pruned is not None:
        lines.append(
            f"{measured.dtype} moved outputs of the pruned model by {measured.pruned:.2g} at most on "
            f"{measured.draws} inputs (measured, no bound)"
        )
    return lines


def _margin_rows(found: secateur.Certificate) -> Rows:
    """The margin above which decisions agree, rounded up."""
    if (about := found.agreement_margin) is None:
        return []
    proved, searched = sorted(about.proved), sorted(about.found or ())
    places = {"margin above which both models decide alike": -1}
    if len(proved) > 1:
        places["the same, median over inputs"] = len(proved) // 2
    rows: Rows = [
        (label, upward(proved[i]), f"{searched[i]:.4g}" if searched else "") for label, i in places.items()
    ]
    if about.above is not None:
        rows.append(("inputs with a margin above that of their ball", f"{about.above:.2%}", ""))
    return rows


def _counted(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def sampled_table(found: secateur.StatisticalCertificate) -> tuple[tuple[str, ...], Rows]:
    where = found.distribution
    about = {
        "ball": f"draws from balls of radius {where.eps or 0:g} round {where.inputs or 0:,} inputs",
        "surrogates": f"draws of the surrogate {where.surrogate}",
        "data": f"{where.inputs or 0:,} inputs as draws from their source",
    }[where.name]
    rows = _sampled_rows(found)
    if found.each:
        rows += [(f"worst ball: {name}", bound, seen) for name, bound, seen in _worst_rows(found)]
    return (about, f"at most, {found.confidence!r} confidence", "in the draws"), rows


def _worst_rows(found: secateur.StatisticalCertificate) -> Rows:
    """The greatest of each bound over the balls, which may be another ball for each."""
    in_order = [
        [
            *(x for x in (row.changed_at_most, row.exceeded_at_most) if x is not None),
            *(q.at_most for q in row.quantiles),
            row.largest,
        ]
        for row in found.each
    ]
    worst = [max(range(len(in_order)), key=bounds.__getitem__) for bounds in zip(*in_order, strict=True)]
    return [_sampled_rows(found, ball)[i] for i, ball in enumerate(worst)]


def _sampled_rows(of: secateur.StatisticalCertificate, ball: int | None = None) -> Rows:
    """Over all draws, or of one ball; bounds are rounded up."""
    found, margin = of.overall if ball is None else of.each[ball], of.margin
    shares = (
        ("decisions that change", found.changed, found.changed_at_most),
        (f"inputs with a drift above {margin}", found.exceeded, found.exceeded_at_most),
    )
    rows: Rows = [
        (name, f"{upward(100 * bound)}%", f"{count:,} of {found.draws:,}")
        for name, count, bound in shares
        if count is not None and bound is not None
    ]
    rows += [
        (
            f"drift of {100 * q.share:.10g}% of inputs",
            upward(q.at_most),
            ("too few draws", "the largest")[q.rank] if q.rank < 2 else f"largest but {q.rank - 1:,}",
        )
        for q in found.quantiles
    ]
    return [*rows, ("largest drift", "", f"{found.largest:.4g}")]


def upward(x: float, digits: int = 4) -> str:
    """A bound from above with a few digits, which are never below it."""
    if not math.isfinite(x):
        return "infinite"
    return f"{float(Context(prec=digits, rounding=ROUND_CEILING).create_decimal(Decimal(x))):.{digits}g}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"
