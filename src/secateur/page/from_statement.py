"""An equivalence statement as the facts of a report: proofs as proofs, statistics as statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.page.facts import Facts
from secateur.page.words import plain_percent

if TYPE_CHECKING:
    from secateur.certify.statement import Statement


def statement_facts(found: Statement, name: str) -> Facts:
    """What is claimed, for which inputs and in which arithmetic, and what is not."""
    proof = found.method == "proof"
    told = (_about(found), *(claim.text for claim in found.claims), *_margin(found))
    return Facts(
        name,
        asked=f"State how far the pruned model is equivalent to its original: {found.domain.text}.",
        came=_came(found),
        proofs=told if proof else (),
        assumptions=found.assumptions if proof else (),
        sampled=() if proof else told,
        sampled_assumptions=() if proof else found.assumptions,
        not_covered=found.not_covered,
        settings={
            "claims hold for": found.arithmetic.text,
            **({"certified by": found.command} if found.command else {}),
            **({} if found.seed is None else {"seed of the draws": str(found.seed)}),
        },
        versions=found.versions,
        digests={
            "original model": found.original.fingerprint.tensors,
            "pruned model": found.pruned.fingerprint.tensors,
            **_files(found),
        },
        model=found.original.fingerprint.tensors,
        result_parameters=found.pruned.fingerprint.parameters,
    )


def _about(found: Statement) -> str:
    """For which inputs, how surely, and by which method."""
    if found.confidence is None:
        return f"Proved of {found.domain.text}, by {found.method_text}:"
    return (
        f"Of {found.domain.text}, all claims together with a confidence of "
        f"{plain_percent(found.confidence)}, and none of them proved, by {found.method_text}:"
    )


def _came(found: Statement) -> str:
    how = "proved" if found.confidence is None else "from random draws, without proof"
    return f"{len(found.claims)} claims, {how}."


def _margin(found: Statement) -> list[str]:
    if found.margin is None:
        return []
    return [
        f"Declared margin, the most that an output may change: {found.margin.drift:g}. {found.margin.text}"
    ]


def _files(found: Statement) -> dict[str, str]:
    models = (("original", found.original), ("pruned", found.pruned))
    return {f"{name} file, {model.file}": model.sha256 for name, model in models if model.file}
