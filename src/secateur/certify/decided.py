"""Decisions at the centres of balls, and which of them certainly hold all over a ball."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.bounds.certified import Certified
from secateur.bounds.joint import Networks
from secateur.certify.certificate import AgreementMargin, Share
from secateur.certify.search import Found, Passed
from secateur.decisions import Decision, same


@dataclass(frozen=True, eq=False)
class Decided:
    """For each of N balls: the decisions of f and g at its centre, and whether each is kept all over it.

    A decision is kept where the least margin is above 0.
    """

    first: Tensor  # of f, (N, positions, 1 or k)
    second: Tensor  # of g
    first_least: Tensor  # a lower bound on the margin of f over the ball, (N, positions)
    second_least: Tensor
    margin: Tensor  # of f at the centre, (N, positions)


def decided_at(networks: Networks, here: Certified, centres: Sequence[Tensor], decision: Decision) -> Decided:
    with torch.no_grad():
        values = [Passed.of(networks, t, centres, decision).value for t in (networks.first, networks.second)]
        f, g = map(decision.classes, values)
        margin = decision.margins(values[0], f)
    least, least_too = (
        here.certain_margins(decision, classes, second) for classes, second in ((f, False), (g, True))
    )
    return Decided(f, g, least, least_too, margin)


def shares(
    decided: Sequence[Decided], found: Sequence[Found], labels: Tensor | None
) -> tuple[Share, Share, Share]:
    """Agreement, and the stable shares of f and of g, of all decisions; `labels` in the shape of these."""

    def all_of(parts: Sequence[Any], name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    f, g = all_of(decided, "first"), all_of(decided, "second")
    kept, kept_too = (all_of(decided, name) > 0 for name in ("first_least", "second_least"))
    right, right_too = (
        torch.ones_like(kept) if labels is None else (x == labels.to(x.device)).all(-1) for x in (f, g)
    )
    certain = (kept & kept_too & same(f, g), kept & right, kept_too & right_too)
    standing: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None)
    if found:
        standing = (
            ~all_of(found, "disagree"),
            ~all_of(found, "flips_first") & right,
            ~all_of(found, "flips_second") & right_too,
        )
    agreement, first, second = map(_share, certain, standing)
    return agreement, first, second


def threshold(
    apart: Sequence[Tensor], decided: Sequence[Decided], found: Sequence[Found]
) -> AgreementMargin | None:
    """From bounds (N, positions) on how far g moves what f decides by; None where nothing is decided."""
    if not apart:
        return None
    proved = torch.cat(list(apart))
    searched = [part.apart for part in found if part.apart is not None]
    above = torch.cat([d.margin for d in decided]) > proved if decided else None
    return AgreementMargin(
        proved=tuple(proved.amax(1).tolist()),
        found=tuple(torch.cat(searched).tolist()) if searched else None,
        above=None if above is None else float(above.double().mean()),
    )


def _share(certain: Tensor, standing: Tensor | None) -> Share:
    empirical = None if standing is None else float(standing.double().mean())
    return Share(certified=float(certain.double().mean()), empirical=empirical)
