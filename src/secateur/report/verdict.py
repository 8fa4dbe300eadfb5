"""The verdict of `prune` on its result: whether to use it, and the figures behind that."""

from __future__ import annotations

from typing import Literal

from secateur.report.record import Record
from secateur.report.summary import html_table

Word = Literal["fine", "check", "do not use"]
Basis = Literal["inputs kept apart", "surrogates"]
Advice = Literal["", "say the normalisation", "give inputs", "give more inputs", "remove less"]


class ClassAgreement(Record):
    """Agreement on the inputs that the original assigns to one class; of dense outputs, on positions."""

    label: int  # the class
    inputs: int  # how many inputs the original assigns to it
    agreement: float  # share of these that the pruned network assigns to it, too


class Verdict(Record):
    """Whether to use a pruned network, from its outputs on inputs that were not used for refitting.

    Attributes:
        word: *fine*, *check* or *do not use*; the thresholds are in `secateur.verdict.judge`.
        reasons: Why it is not *fine*.
        advice: What to do first, if it is not *fine*.
        basis: Whether the inputs are a user's own, held out, or surrogates.
        surrogate: The name of the surrogate, if the basis is surrogates.
        inputs: The number of these inputs.
        agreement: The share of decisions that equal the original's; None for a network that decides nothing.
        interval: On a user's own inputs, the 95 % Clopper–Pearson interval of the agreement. On surrogates,
            which are harder than real inputs, the range where agreement on real inputs is likely to lie.
            None for a network that decides nothing.
        drift: The largest absolute change of any output.
        typical_drift: The median over the inputs of the largest absolute change of an output.
        relative_drift: The root mean square change of the outputs, in units of their spread (standard
            deviation) over the inputs; None if they do not vary.
        worst_class: The class with the least agreement.
        vanished: Classes that the original assigns to at least 20 of the inputs and the pruned network to
            none.

    Examples:
        >>> import torch, secateur
        >>> _ = torch.manual_seed(1)
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)).eval()
        >>> own = torch.rand(300, 4)  # unlabelled inputs; a third of them is held out
        >>> verdict = secateur.prune(net, own[:1], remove=0.25, calibration=own).verdict
        >>> verdict.word, verdict.basis, verdict.inputs
        ('fine', 'inputs kept apart', 100)
    """

    word: Word
    reasons: tuple[str, ...]
    advice: Advice
    basis: Basis
    surrogate: str = ""
    inputs: int
    agreement: float | None
    interval: tuple[float, float] | None
    drift: float
    typical_drift: float
    relative_drift: float | None
    worst_class: ClassAgreement | None
    vanished: tuple[int, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        """For notebooks."""
        return html_table("Verdict", (), (), self.lines())

    def lines(self) -> list[str]:
        """The verdict in a few lines: the word, the inputs behind it, and the figures."""
        own = self.basis != "surrogates"
        on = (
            "of your inputs, kept apart"
            if own
            else f"{self.surrogate} surrogates; inputs of your own would show more"
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
