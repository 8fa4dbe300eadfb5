"""A certificate in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.page.facts import Facts, Figure, OutputFact
from secateur.page.words import number, share

if TYPE_CHECKING:
    from secateur.certify.certificate import Certificate, InputSet, Share

_SHARES = {
    "agreement": "certified agreement",
    "stable_original": "certified stability of the original",
    "stable_pruned": "certified stability of the pruned model",
}
_MEANS = {
    "agreement": "both networks decide, all over the ball, as the original decides at its centre",
    "stable_original": "the original keeps one decision all over the ball",
    "stable_pruned": "the pruned network keeps one decision all over the ball",
}


def certificate_facts(found: Certificate, name: str) -> Facts:
    """What is proved, for which inputs, and what is taken for granted."""
    where, about = _where(found.input_set), _about(found.input_set)
    shares = {key: part for key in _SHARES if (part := getattr(found, key)) is not None}
    figures = [
        Figure("certified drift of an output", None, max(found.drift), "at most", basis=f"at most, {about}")
    ]
    figures += [
        Figure(_SHARES[key], None, part.certified, "share at least", basis=f"at least, {about}")
        for key, part in shares.items()
    ]
    return Facts(
        name,
        asked=f"Prove how far the outputs of the pruned model can be from the original's, {about}.",
        came=_drift(found, where),
        figures=tuple(figures),
        outputs=_outputs(found),
        outputs_on=f"proved {about}",
        proofs=(_drift(found, where), *_told(found, shares), _how(found)),
        assumptions=found.assumptions,
        warnings=(f"nothing is proved about decisions: {found.undecided}",) if found.undecided else (),
        versions=found.versions,
        digests={"original model": found.original.tensors, "pruned model": found.pruned.tensors},
        model=found.original.tensors,
        result_parameters=found.pruned.parameters,
    )


def _about(where: InputSet) -> str:
    if where.eps is None:
        return "for every input in the input bounds"
    return f"within {where.eps:g} (L∞) of {where.inputs:,} given inputs"


def _where(where: InputSet) -> str:
    if where.eps is None:
        return "For every input in the input bounds"
    return f"For every input within {where.eps:g} (L∞) of each of {where.inputs:,} given inputs"


def _drift(found: Certificate, where: str) -> str:
    text = (
        f"{where}, no output of the pruned network differs from the original's by more than "
        f"{number(max(found.drift), 'at most')}."
    )
    if found.found is not None:
        text += f" The largest difference that a search found is {number(max(found.found))}."
    return text


def _told(found: Certificate, shares: dict[str, Share]) -> list[str]:
    of = "decisions" if (found.input_set.inputs or 0) else "inputs"
    told = []
    for key, part in shares.items():
        text = f"For {number(part.certified, 'share at least')} of the {of}, {_MEANS[key]}; this is proved."
        if part.empirical is not None:
            text += f" A search found no counterexample for {share(part.empirical)}."
        told.append(text)
    return told


def _how(found: Certificate) -> str:
    head = f"; the outputs were taken for {found.head}" if found.head else ""
    bounds = f"Bounds: {found.method}, {found.dtype}, rounded {found.rounding}{head}"
    where = "real arithmetic" if found.arithmetic == "real" else f"{found.arithmetic}, rounding included"
    return f"{bounds}. The claims hold in {where}. Nothing is claimed of other inputs."


def _outputs(found: Certificate) -> tuple[OutputFact, ...]:
    """Of each output, over all rows, the most that it can move."""
    pairs = zip(zip(*found.lower, strict=True), zip(*found.upper, strict=True), strict=True)
    return tuple(
        OutputFact(i, max(-min(lows), max(highs)), proved=True) for i, (lows, highs) in enumerate(pairs)
    )
