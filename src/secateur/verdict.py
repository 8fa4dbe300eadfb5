"""Whether to trust a pruned model, from its outputs on inputs that were not used for refitting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from secateur.evaluate.intervals import clopper_pearson
from secateur.fidelity import Fidelity
from secateur.report.verdict import Advice, Basis, ClassAgreement, Verdict

# Thresholds of the words; docs/results/verdict.md shows how often they are right.
FINE, POOR = 0.95, 0.85  # agreement, as it is estimated
SURELY, LIKELY = 0.90, 0.85  # lower end of the interval, on a user's own inputs and on surrogates
FINE_DRIFT, POOR_DRIFT = 0.1, 0.5  # relative drift, where the network decides nothing
# Surrogates are harder than real inputs: on real ones, the odds that a decision changes are about a third of
# those on surrogates; on most networks from a twentieth of them to one and a half times, and up to four times
# on one that was trained little and pruned with allocation="global".
MOST_ODDS, ODDS, LEAST_ODDS = 4.0, 1 / 3, 1 / 20
_ENOUGH = 120  # inputs to advise to a user who gave few; a third of them, 40, can make a verdict fine
_FEWEST = 20  # inputs of a class; one with fewer counts neither as the worst nor as vanished
CONFIDENCE = 0.95


@dataclass
class _Reasons:
    """Why a result is not fine: `bad` ones forbid its use, `doubtful` ones ask for a check."""

    bad: list[str] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)
    too_few: bool = False  # whether the number of inputs is among them


def judge(found: Fidelity, basis: Basis, surrogate: str = "", doubts: Sequence[str] = ()) -> Verdict:
    """The verdict on what was measured on validation samples.

    On inputs of a user's own, the estimate of the agreement is the share that was measured; on surrogates,
    the odds of a changed decision on real inputs are taken to be a third of those measured.

    - *fine*: estimates of at least 95 %, 85 % for every class; lower end of the interval at least 90 % (85 %
      on surrogates).
    - *do not use*: an estimate below 85 %, a class that is never predicted any more, or an output that is not
      finite.
    - *check*: all else. Networks without decisions are fine up to a relative drift of 0.1, and not to be used
      above 0.5.

    Args:
        found: What was measured.
        basis: Whether the samples are a user's own inputs or surrogates.
        surrogate: The name of the surrogate, for the record.
        doubts: Reasons from elsewhere to doubt the result, such as the normalisation of the inputs; with one,
            no verdict is better than *check*.
    """
    own = basis != "surrogates"
    interval = _interval(found, own)
    worst, vanished = _classes(found)
    why = _Reasons(doubtful=list(doubts))
    if not math.isfinite(found.drift):
        why.bad.append("the outputs are not finite on some inputs")
    if vanished:
        why.bad.append(f"classes that the pruned model never predicts: {', '.join(map(str, vanished[:10]))}")
    if found.agreement is not None and interval is not None:
        _judge_agreement(why, found, found.agreement, interval[0], worst, own)
    else:
        _judge_drift(why, found.relative)
    why.doubtful += _of_no_use(found, worst)
    return Verdict(
        word="do not use" if why.bad else "check" if why.doubtful else "fine",
        reasons=(*why.bad, *why.doubtful),
        advice=_advice(bool(why.bad or why.doubtful), bool(doubts), own, why.too_few),
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


def _judge_agreement(
    why: _Reasons, found: Fidelity, agreement: float, least: float, worst: ClassAgreement | None, own: bool
) -> None:
    """`least`: the lower end of the interval of the agreement."""
    estimate = _estimate(agreement, own)
    if estimate < FINE:
        changed = f"about {1 - estimate:.0%} of its decisions differ from the original's"
        (why.bad if estimate < POOR else why.doubtful).append(changed)
    elif least < (SURELY if own else LIKELY):
        why.doubtful.append(_too_few(found.samples, least, own))
        why.too_few = True
    if worst is not None and (share := _estimate(worst.agreement, own)) < POOR:
        why.doubtful.append(f"about {1 - share:.0%} of the decisions for class {worst.label} differ")
    if found.relative is not None and found.relative > POOR_DRIFT:
        why.doubtful.append(f"the outputs move by {found.relative:.0%} of their spread")


def _judge_drift(why: _Reasons, relative: float | None) -> None:
    if relative is not None and relative > FINE_DRIFT:
        moved = f"the outputs move by {relative:.1%} of their spread"
        (why.bad if relative > POOR_DRIFT else why.doubtful).append(moved)


def _estimate(agreement: float, own: bool) -> float:
    """The agreement to expect on real inputs."""
    return agreement if own else _on_real_inputs(agreement, ODDS)


def expected_agreement(verdict: Verdict) -> float | None:
    """The agreement to expect on real inputs, see `judge`; None for a network that decides nothing."""
    if verdict.agreement is None:
        return None
    return _estimate(verdict.agreement, verdict.basis != "surrogates")


def _advice(needed: bool, doubted: bool, own: bool, too_few: bool) -> Advice:
    if not needed:
        return ""
    if doubted:
        return "say the normalisation"
    if not own:
        return "give inputs"
    return "give more inputs" if too_few else "remove less"


def _too_few(inputs: int, least: float, own: bool) -> str:
    said = f"{inputs:,} {'inputs' if own else 'surrogates'} do not show that agreement is above {least:.0%}"
    few = own and inputs < _ENOUGH // 3
    return f"{said}; give about {_ENOUGH}, of which a third is held out" if few else said


def _of_no_use(found: Fidelity, worst: ClassAgreement | None) -> list[str]:
    """Why the inputs show little about any network."""
    if found.relative is None and math.isfinite(found.drift):
        return ["the original's outputs do not vary on these inputs, which shows little; give your own"]
    if worst is not None and found.first is not None and worst.inputs == found.first.numel():
        return [f"the original assigns all of these inputs to class {worst.label}, which shows little"]
    return []


def _interval(found: Fidelity, own: bool) -> tuple[float, float] | None:
    """The interval of the agreement, Clopper–Pearson at 95 %; on surrogates, the likely range on real inputs.

    Where an input has many decisions, which depend on each other, it counts by the share of them that agree,
    and the interval is taken at the whole numbers of inputs below and above.
    """
    if found.agreed is None:
        return None
    total = float(found.agreed.sum())
    low, _ = clopper_pearson(math.floor(total + 1e-9), found.samples, CONFIDENCE)
    _, high = clopper_pearson(math.ceil(total - 1e-9), found.samples, CONFIDENCE)
    return (low, high) if own else (_on_real_inputs(low, MOST_ODDS), _on_real_inputs(high, LEAST_ODDS))


def _on_real_inputs(agreement: float, factor: float) -> float:
    """The agreement where the odds of a change are `factor` times those on surrogates."""
    return agreement / (agreement + factor * (1 - agreement))


def _classes(found: Fidelity) -> tuple[ClassAgreement | None, tuple[int, ...]]:
    """The class with the least agreement, and the classes that are never predicted any more.

    For networks that decide on one class, for each input or each position of a dense output.
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
