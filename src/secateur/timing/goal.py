"""A plan that meets a latency: predicted, built for its time alone, measured, and planned again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import NamedTuple

from torch import nn

from secateur.errors import TargetMissedError
from secateur.plan import Plan, Target
from secateur.progress import logger
from secateur.quantities import After
from secateur.report.times import LatencyRecord
from secateur.timing.clock import Clock, Turns
from secateur.timing.predict import Predictor

_ROUNDS = 4  # of planning and measuring
_NEAR = 0.02  # of the latency of the whole network: so little below the goal, a plan is taken at once
_NOISE = 0.01  # of the same: what measurements of one network differ by, beside the noise of single turns


class _Tried(NamedTuple):
    """A plan, and the share of the latency that stays with it, as predicted and as measured."""

    plan: Plan
    predicted: float
    stays: float


@dataclass
class TowardsLatency:
    """A run towards a latency: plans are measured before they are carried out, and the result in the end."""

    clock: Clock
    build: Callable[[Mapping[str, int]], nn.Module]  # a network of the size after a removal
    target: Target
    predictor: Predictor  # every network that is measured corrects it
    record: LatencyRecord | None = None
    _predicted: float = 1.0  # share of the latency that stays, before the planned network was measured

    def plan(self, make: Callable[[After], Plan]) -> Plan:
        """Of the plans that are tried, the one whose network is the slowest to meet the target.

        `make` gives a plan for a prediction of the latency. Where no network meets the target, the fastest.
        """
        whole = self.predictor({})
        goal, tried = 1 - self.target.share, list[_Tried]()
        for _ in range(_ROUNDS):
            try:
                plan = make(self.predictor)
            except TargetMissedError:
                if not tried:
                    raise
                break
            if any(plan.removed == other.plan.removed for other in tried):
                break
            predicted = self.predictor(plan.removed) / whole
            stays = self.clock.compare(self.build(plan.removed)).ratio
            logger.info(
                "planned for %.1f%% of the latency: predicted %.1f%%, measured %.1f%%",
                100 * goal,
                100 * predicted,
                100 * stays,
            )
            tried.append(_Tried(plan, predicted, stays))
            self.predictor = self.predictor.corrected_by(plan.removed, whole * stays)
            if goal - _NEAR <= stays <= goal:
                break
        met = [row for row in tried if row.stays <= goal]
        best = max(met, key=attrgetter("stays")) if met else min(tried, key=attrgetter("stays"))
        self._predicted = best.predicted
        return best.plan

    def measured(self, plan: Plan, small: nn.Module, stopped: bool) -> Plan:
        """The plan with the share of latency that went in the end; `record` is filled in.

        `stopped`: the plan was not carried out to its end, and says why.
        """
        turns = self.clock.compare(small)
        achieved = 1 - turns.after / turns.before
        low, high = (1 - ratio for ratio in reversed(turns.ratio_interval))
        stays = self.predictor(plan.removed) / self.predictor({}) if stopped else self._predicted
        self.record = LatencyRecord(
            before=turns.before,
            predicted=turns.before * stays,
            after=turns.after,
            share=(min(low, achieved), max(high, achieved)),
            table=self.predictor.table,
        )
        shortfall = plan.shortfall if stopped else _shortfall(self.target, turns, self.record, plan.shortfall)
        return replace(plan, achieved=achieved, shortfall=shortfall)


def _shortfall(target: Target, turns: Turns, record: LatencyRecord, predicted: str) -> str:
    """What was missed as measured, and whether by no more than measurements differ by; empty where nothing
    was.

    `predicted`: the shortfall of the plan, which tells why.
    """
    noise = _NOISE * turns.before
    if target.ms is not None:
        missed, noisy = turns.after > target.ms, turns.after_interval[0] <= target.ms + noise
        low, high = (f"{ms:.3g}" for ms in turns.after_interval)
        found, asked = f"one sample takes {turns.after:.3g} ms", f"{target.ms:.3g} ms"
    else:
        gone = 1 - turns.after / turns.before
        missed, noisy = gone < target.share, record.share[1] >= target.share - _NOISE
        low, high = (f"{share:.2%}" for share in record.share)
        found, asked = f"{gone:.2%} of latency removed", f"{target.share:.2%}"
    if not missed:
        return ""
    within = ", a difference within the noise" if noisy else ""
    why = f"; predicted: {predicted}" if predicted else ""
    return f"{found} ({low} to {high}; {record.table.where}) where {asked} was asked{within}{why}"
