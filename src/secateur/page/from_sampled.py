"""A statistical certificate in words: what draws show, which is never a proof."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.page.facts import Facts, Figure
from secateur.page.words import number, plain_percent

if TYPE_CHECKING:
    from secateur.certify.sampled import Counted, StatisticalCertificate

_SEED = {"system": "drawn by the system after both models were fixed", "caller": "given by the caller"}


def sampled_facts(found: StatisticalCertificate, name: str) -> Facts:
    """What holds of a declared distribution of inputs, how surely, and what is taken for granted."""
    row = found.overall
    figures = []
    if row.changed_at_most is not None:
        basis = (
            f"at most, with a confidence of {plain_percent(found.confidence)}; {row.draws:,} draws, no proof"
        )
        figures.append(
            Figure("decisions that change", None, row.changed_at_most, "share at most", basis=basis)
        )
    return Facts(
        name,
        asked=f"Bound how often decisions change and how far outputs move, of {_inputs(found)}.",
        came=_came(found),
        figures=tuple(figures),
        sampled=(
            f"Of {_inputs(found)}, the following {found.claims:,} claims hold together with a confidence of "
            f"{plain_percent(found.confidence)}. They come from {row.draws:,} independent draws; nothing is "
            "proved.",
            *_claims(found),
            f"The largest drift in the draws is {number(row.largest)}; larger ones may exist.",
        ),
        sampled_assumptions=found.assumptions,
        warnings=(f"nothing is said about decisions: {found.undecided}",) if found.undecided else (),
        settings={"seed of the draws": f"{found.seed}, {_SEED[found.seed_from]}"},
        versions=found.versions,
        digests={"original model": found.original.tensors, "pruned model": found.pruned.tensors},
        model=found.original.tensors,
        result_parameters=found.pruned.parameters,
    )


def _inputs(found: StatisticalCertificate) -> str:
    return f"inputs from this distribution: {found.distribution.described}"


def _came(found: StatisticalCertificate) -> str:
    """The first claim that the draws are enough for, with its confidence."""
    claims = _of(found.overall, found.margin)
    return (
        f"By {found.overall.draws:,} draws, with a confidence of {plain_percent(found.confidence)} and "
        f"without proof: {claims[0]}"
    )


def _claims(found: StatisticalCertificate) -> list[str]:
    """Those on all draws; where there are claims on each ball, those on the worst by the first claim."""
    told = _of(found.overall, found.margin)
    if found.each:
        worst = max(found.each, key=lambda row: (row.changed_at_most or 0.0, row.quantiles[-1].at_most))
        most = "outputs move" if worst.changed is None else "decisions change"
        told += [f"Of the ball whose {most} most: {text}" for text in _of(worst, found.margin)]
    return told


def _of(row: Counted, margin: float | None) -> list[str]:
    shares = (
        ("of decisions change", row.changed, row.changed_at_most),
        (f"of inputs have an output that moves by more than {margin}", row.exceeded, row.exceeded_at_most),
    )
    told = [
        f"At most {number(bound, 'share at most')} {what} ({count:,} of {row.draws:,} draws)."
        for what, count, bound in shares
        if count is not None and bound is not None
    ]
    return told + [
        f"For {plain_percent(q.share)} of inputs, no output moves by more than "
        f"{number(q.at_most, 'at most')}."
        if q.rank
        else f"The draws are too few to bound the drift of {plain_percent(q.share)} of inputs."
        for q in row.quantiles
    ]
