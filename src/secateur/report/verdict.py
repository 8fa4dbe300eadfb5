"""What `prune` says of its result: whether to use it, and the figures behind that."""

from __future__ import annotations

from typing import Literal

from secateur.report.record import Record
from secateur.report.summary import html_table

Word = Literal["fine", "check", "do not use"]
Basis = Literal["inputs kept apart", "surrogates"]
Advice = Literal["", "say the normalisation", "give inputs", "give more inputs", "remove less"]


class ClassAgreement(Record):
    """Of the inputs (positions, of dense outputs) that the original puts into class `label`, the share that
    the pruned network puts there, too.
    """

    label: int
    inputs: int
    agreement: float


class Verdict(Record):
    """What the pruned network does on `inputs` inputs that it was not solved on, and in a word whether to use
    it.

    `agreement` is the share of equal decisions. On inputs of a user's own, `interval` is its 95 %
    Clopper–Pearson interval. On surrogates, which are harder than real inputs, it is where agreement on real
    inputs is likely to lie. Both are None for a network that decides nothing.

    An output moves by at most `drift`, and in the median over the inputs by `typical_drift`; `relative_drift`
    is the root of the mean square of all moves in units of the outputs' spread, None where they do not vary.
    """

    word: Word
    reasons: tuple[str, ...]  # why it is not fine
    advice: Advice  # what to do first, where it is not
    basis: Basis
    surrogate: str = ""  # which, where the basis is surrogates
    inputs: int
    agreement: float | None
    interval: tuple[float, float] | None
    drift: float
    typical_drift: float
    relative_drift: float | None
    worst_class: ClassAgreement | None
    vanished: tuple[
        int, ...
    ]  # classes that the original gives to at least 20 of the inputs and the pruned to none

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        """For notebooks."""
        return html_table("Verdict", (), (), self.lines())

    def lines(self) -> list[str]:
        """The verdict in a few lines: the word, what it rests on, and the figures."""
        own = self.basis != "surrogates"
        on = (
            "of your inputs, kept apart"
            if own
            else f"{self.surrogate} surrogates; inputs of your own would tell more"
        )
        found = [
            f"verdict: {self.word} (on {self.inputs:,} {on})",
            *(f"  {reason}" for reason in self.reasons),
        ]
        if self.agreement is not None and self.interval is not None:
            what = "95 % interval" if own else "on real inputs likely"
            low, high = self.interval
            doubted = (
                " if the inputs are normalised as was said" if self.advice == "say the normalisation" else ""
            )
            found.append(
                f"  agreement with the original {self.agreement:.1%}, {what} {low:.1%} to {high:.1%}{doubted}"
            )
        share = "" if self.relative_drift is None else f", {self.relative_drift:.1%} of their spread"
        found.append(
            f"  outputs move by {self.typical_drift:.3g} typically and {self.drift:.3g} at most{share}"
        )
        if self.worst_class is not None:
            worst = self.worst_class
            found.append(
                f"  worst class {worst.label}: agreement {worst.agreement:.1%} on {worst.inputs:,} inputs"
            )
        return found
