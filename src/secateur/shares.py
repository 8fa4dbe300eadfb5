"""Where nobody says how much to remove: a few shares, and the largest that stays close to the original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from secateur.checkpoint import discard
from secateur.errors import NothingToPruneError, SecateurError, TargetMissedError
from secateur.plan import Target
from secateur.progress import notice
from secateur.report.verdict import Verdict
from secateur.request import Request
from secateur.result import Result
from secateur.verdict import expected_agreement

SHARES = ("50%", "25%", "10%")  # of the units of every group, largest first
LEAST_AGREEMENT, MOST_DRIFT = 0.98, 0.1  # the latter in units of the outputs' spread, without decisions


def largest_share(request: Request, run: Callable[[Request], Result]) -> Result:
    """The result at the largest of `SHARES` that is close enough, with what each would lose (`tried`).

    Close enough is an agreement of 98 % that is to be expected on real inputs; where the network decides
    nothing, a relative drift of 0.1. `run` carries a request out. Each share has a third of a time budget,
    and a checkpoint of its own.

    Raises:
        TargetMissedError: None is close enough; the message says what each would lose.
        NothingToPruneError: At none of the shares, a unit would go.
        SecateurError: Nothing can be compared.
    """
    notice(f"how much to remove is not said: {', '.join(SHARES)} of the units are tried", request.progress)
    told, best = list[str](), None
    for share in SHARES:
        try:
            result = run(_at(request, share))
        except (TargetMissedError, NothingToPruneError) as error:
            if isinstance(error, NothingToPruneError) and not told:
                raise  # less would go at the other shares
            told.append(f"{share} of the units: {error}")
            continue
        told.append(f"{share} of the units: {_lost(_compared(result))}")
        if best is None and _close(_compared(result)):
            best = share, result
    lines = tuple(reversed(told))
    if best is None:
        if request.resume is not None:
            discard(request.resume)
        raise TargetMissedError(
            f"no share stays close enough to the original ({'; '.join(lines)}). Say how much to remove "
            f"(remove=, --remove {SHARES[-1]}), or give inputs of your own, to which surrogates are the "
            "harder test (calibration=, --calibration)"
        )
    share, result = best
    for line in (*lines, f"taken: {share}; `secateur search` finds the largest share within a budget"):
        notice(line, request.progress)
    return replace(result, tried=lines)


def _compared(result: Result) -> Verdict:
    if result.verdict is None:
        raise SecateurError(
            "nothing can be compared here, so that no share can be chosen; say how much to remove (remove=, "
            "--remove)"
        )
    return result.verdict


def _at(request: Request, share: str) -> Request:
    return replace(
        request,
        remove=share,
        target=Target.parse(share),
        budget=None if request.budget is None else request.budget / len(SHARES),
        resume=None if request.resume is None else request.resume / share,
    )


def _close(verdict: Verdict) -> bool:
    expected = expected_agreement(verdict)
    if expected is not None:
        return expected >= LEAST_AGREEMENT
    return verdict.relative_drift is not None and verdict.relative_drift <= MOST_DRIFT


def _lost(verdict: Verdict) -> str:
    expected = expected_agreement(verdict)
    if verdict.agreement is not None and expected is not None:
        likely = "" if expected == verdict.agreement else f", about {1 - expected:.1%} on real inputs"
        differ = f"{1 - verdict.agreement:.1%} of the decisions differ"
        return f"{differ} on {verdict.inputs:,} validation inputs{likely}"
    share = verdict.relative_drift
    moved = "by an unknown share" if share is None else f"by {share:.1%}"
    return f"outputs move {moved} of their spread on {verdict.inputs:,} validation inputs"
