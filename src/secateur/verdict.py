"""Whether to trust a pruned model, from what it does on inputs that it was not solved on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from secateur.evaluate.intervals import clopper_pearson
from secateur.fidelity import Fidelity
from secateur.report.verdict import Advice, Basis, ClassAgreement, Verdict

# Thresholds of the words; docs/results/verdict.md tells how often they are right.
FINE, POOR = 0.95, 0.85  # agreement, as it is estimated
SURELY, LIKELY = 0.90, 0.85  # lower end of the interval, on a user's own inputs and on surrogates
FINE_DRIFT, POOR_DRIFT = 0.1, 0.5  # relative drift, where the network decides nothing
# Surrogates are harder than real inputs: the odds that a decision changes on these are about a third of the
# odds on surrogates. They lay between a twentieth and one and a half of them on most networks, and up to four
# times as high on one that was trained little and pruned with allocation="global".
MOST_ODDS, ODDS, LEAST_ODDS = 4.0, 1 / 3, 1 / 20
_ENOUGH = 120  # inputs of one's own, from which a verdict may be fine
_FEWEST = 20  # inputs of a class, from which its absence among the pruned network's decisions counts
CONFIDENCE = 0.95


def judge(found: Fidelity, basis: Basis, surrogate: str = "", doubts: Sequence[str] = ()) -> Verdict:
    """The verdict on what was measured. `doubts` are reasons from elsewhere not to trust it, on how inputs
    are normalised; with one, no verdict is better than `check`.

    The estimate of the agreement is what was measured on inputs of a user's own; on surrogates, the odds of a
    change are taken to be a third. Fine: at least 95 %, 85 % for every class, and the lower end of the
    interval 90 % (85 % on surrogates). Do not use: below 85 %, a class has vanished, or an output is not
    finite. Without decisions the relative drift decides: fine up to 0.1, not to be used above 0.5.
    """
    own = basis != "surrogates"
    interval = _interval(found, own)
    worst, vanished = _classes(found)
    bad, doubtful, too_few = list[str](), list(doubts), False
    if not math.isfinite(found.drift):
        bad.append("the outputs are not finite on some inputs")
    if vanished:
        bad.append(f"classes that the pruned model never gives: {', '.join(map(str, vanished[:10]))}")
    if found.agreement is not None and interval is not None:
        estimate = found.agreement if own else _on_real_inputs(found.agreement, ODDS)
        if estimate < FINE:
            changed = f"about {1 - estimate:.0%} of its decisions are other than the original's"
            (bad if estimate < POOR else doubtful).append(changed)
        elif interval[0] < (SURELY if own else LIKELY):
            doubtful.append(_too_few(found.samples, interval[0], own))
            too_few = True
        if (
            worst is not None
            and (share := worst.agreement if own else _on_real_inputs(worst.agreement, ODDS)) < POOR
        ):
            doubtful.append(f"about {1 - share:.0%} of the decisions for class {worst.label} are other ones")
        if found.relative is not None and found.relative > POOR_DRIFT:
            doubtful.append(f"the outputs move by {found.relative:.0%} of their spread")
    elif found.relative is not None and found.relative > FINE_DRIFT:
        moved = f"the outputs move by {found.relative:.1%} of their spread"
        (bad if found.relative > POOR_DRIFT else doubtful).append(moved)
    doubtful += _of_no_use(found, worst)
    return Verdict(
        word="do not use" if bad else "check" if doubtful else "fine",
        reasons=(*bad, *doubtful),
        advice=_advice(bool(bad or doubtful), bool(doubts), own, too_few),
        basis=basis,
        surrogate=surrogate,
        inputs=found.samples,
        agreement=found.agreement,
        interval=interval,
        drift=found.drift,
        typical_drift=float(found.moved.median()),
        relative_drift=found.relative,
        worst_class=worst,
        vanished=vanished,
    )


def _advice(needed: bool, doubted: bool, own: bool, too_few: bool) -> Advice:
    if not needed:
        return ""
    if doubted:
        return "say the normalisation"
    if not own:
        return "give inputs"
    return "give more inputs" if too_few else "remove less"


def _too_few(inputs: int, least: float, own: bool) -> str:
    said = (
        f"{inputs:,} {'inputs' if own else 'surrogates'} do not tell whether agreement is above {least:.0%}"
    )
    few = own and inputs < _ENOUGH // 3
    return f"{said}; give about {_ENOUGH}, of which a third is kept apart" if few else said


def _of_no_use(found: Fidelity, worst: ClassAgreement | None) -> list[str]:
    """Why the inputs tell little about any network."""
    if found.relative is None and math.isfinite(found.drift):
        return ["the original's outputs do not vary on these inputs, which tells little; give your own"]
    if worst is not None and found.first is not None and worst.inputs == found.first.numel():
        return [f"the original puts all of these inputs into class {worst.label}, which tells little"]
    return []


def _interval(found: Fidelity, own: bool) -> tuple[float, float] | None:
    """Where an input has many decisions, which depend on each other, it counts by the share of them that
    agree, and the interval is taken at the whole numbers of inputs below and above.
    """
    if found.agreed is None:
        return None
    total = float(found.agreed.sum())
    low, _ = clopper_pearson(math.floor(total + 1e-9), found.samples, CONFIDENCE)
    _, high = clopper_pearson(math.ceil(total - 1e-9), found.samples, CONFIDENCE)
    return (low, high) if own else (_on_real_inputs(low, MOST_ODDS), _on_real_inputs(high, LEAST_ODDS))


def _on_real_inputs(agreement: float, factor: float) -> float:
    """Where the odds of a change are `factor` times those on surrogates."""
    return agreement / (agreement + factor * (1 - agreement))


def _classes(found: Fidelity) -> tuple[ClassAgreement | None, tuple[int, ...]]:
    """The class with the least agreement, and those that have vanished; of networks whose decisions are one
    class each, for an input or for each position of a dense output.
    """
    if found.first is None or found.second is None or found.first.shape[2] != 1:
        return None, ()
    before, after = found.first.flatten(), found.second.flatten()
    labels, counts = before.unique(return_counts=True)
    rows = [
        (int(label), int(n)) for label, n in zip(labels, counts, strict=True) if label >= 0 and n >= _FEWEST
    ]
    shares = [ClassAgreement(label=c, inputs=n, agreement=_share(after[before == c] == c)) for c, n in rows]
    gone = tuple(c for c, _ in rows if not bool((after == c).any()))
    return min(shares, key=lambda row: row.agreement, default=None), gone


def _share(mask: Tensor) -> float:
    return float(mask.double().mean()) if len(mask) else math.nan
