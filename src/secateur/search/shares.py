"""A few shares of the units, and the largest that keeps close to the original: `prune --remove auto`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from secateur.errors import SecateurError, TargetMissedError
from secateur.graph.example import ExampleInputs
from secateur.prune import pruned
from secateur.report.verdict import Verdict
from secateur.request import Request
from secateur.result import Result
from secateur.shared import Shared
from secateur.torch_state import reproducible

SHARES = ("50%", "25%", "10%")  # of the units of every group, largest first
LEAST_AGREEMENT, MOST_DRIFT = 0.98, 0.1  # the latter in units of the outputs' spread, without decisions


@dataclass(frozen=True, eq=False)
class Tried:
    """The shares that were tried, and the result at the largest that was close enough."""

    told: tuple[str, ...]  # a line for each share, smallest first
    share: str
    result: Result


def largest_share(
    model: nn.Module | ExportedProgram, example_inputs: ExampleInputs | None, arguments: Mapping[str, Any]
) -> Tried:
    """Prune at each of `SHARES`; `arguments` are those of `prune` but for `remove`.

    Close enough is an agreement of 98 % on validation samples; where the network decides nothing, a relative
    drift of 0.1. Raises `TargetMissedError`, with what each share would lose, where none is.
    """
    shared, threads = Shared(), torch.get_num_threads()
    told, best = list[str](), None
    for share in SHARES:
        try:
            with reproducible(model):
                request = Request.parse(**{**arguments, "remove": share})
                if request.resume is not None:
                    request = replace(request, resume=request.resume / share)
                result = pruned(model, example_inputs, request, threads, shared)
        except TargetMissedError as error:
            told.append(f"{share} of the units: {error}")
            continue
        if result.verdict is None:
            raise SecateurError("--remove auto: nothing can be compared here; say how much to remove")
        told.append(f"{share} of the units: {_lost(result.verdict)}")
        if best is None and _close(result.verdict):
            best = share, result
    lines = tuple(reversed(told))
    if best is None:
        raise TargetMissedError(
            f"no share keeps {LEAST_AGREEMENT:.0%} of the decisions ({'; '.join(lines)}); say how much to "
            "remove (--remove), or give inputs of your own (--calibration)"
        )
    return Tried(lines, *best)


def _close(verdict: Verdict) -> bool:
    if verdict.agreement is not None:
        return verdict.agreement >= LEAST_AGREEMENT
    return verdict.relative_drift is not None and verdict.relative_drift <= MOST_DRIFT


def _lost(verdict: Verdict) -> str:
    if verdict.agreement is not None:
        return f"{1 - verdict.agreement:.1%} of the decisions differ on {verdict.inputs:,} validation inputs"
    share = verdict.relative_drift
    moved = "by an unknown share" if share is None else f"by {share:.1%}"
    return f"outputs move {moved} of their spread on {verdict.inputs:,} validation inputs"
