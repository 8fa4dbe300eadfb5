"""From a request (a share of units, parameters or MACs) to the number of units that each group loses, step by
step.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Final, Literal

import torch
from torch import Tensor

from secateur.channels import aligned_units, block_units
from secateur.cost import macs_after, parameters_after
from secateur.errors import InputError, NothingToPruneError, TargetMissedError, few
from secateur.graph.capture import Graph
from secateur.graph.coupling import Coupling
from secateur.rounded import rounded_removal
from secateur.types import Group, Slot

Rounding = int | Literal["auto"]
Allocation = Literal["uniform", "global"]
AUTO: Final = "auto"  # whole blocks of channels (see `rounded`)
_EPSILON = 1e-9  # 0.3 of 10 units is 3 units, whatever floating point makes of it


_QUANTITIES = {"units": "units", "params": "params", "size": "params", "macs": "macs"}


@dataclass(frozen=True)
class Target:
    """What to remove: `share` (between 0 and 1) of `quantity` (units, params or macs)."""

    quantity: str
    share: float

    @staticmethod
    def parse(remove: float | str) -> Target:
        """0.5, "50%", "units=50%", "params=50%", "macs=0.5"; always the share that goes. "size", that of the
        weights in a file, is the parameters.
        """
        quantity, _, amount = remove.rpartition("=") if isinstance(remove, str) else ("", "", remove)
        quantity = _QUANTITIES.get(quantity.strip() or "units", "")
        try:
            text = str(amount).strip()
            share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            share = math.nan
        if not quantity or not 0 < share < 1:
            raise InputError(
                f"remove={remove!r}: give the share that goes, between 0 and 1: 0.5, '50%', 'params=50%' or "
                "'macs=50%'"
            )
        return Target(quantity, share)


@dataclass(frozen=True)
class Plan:
    """Units to remove from each group, and what that makes of the whole."""

    removed: dict[str, int]
    requested: Target
    achieved: float  # the share of the requested quantity that goes
    shortfall: str  # why it is less than asked, or empty
    multiples: Mapping[str, int] = field(
        default_factory=dict
    )  # of which each group keeps one on the way, too

    def cut_short(
        self, graph: Graph, coupling: Coupling, groups: Sequence[Group], alive: Mapping[str, Tensor], why: str
    ) -> Plan:
        """The plan as far as it was carried out, and why no further."""
        removed = {group.name: int((~alive[group.name]).sum()) for group in groups}
        achieved = _achieved(graph, coupling, groups, self.requested, removed)
        return replace(self, removed=removed, achieved=achieved, shortfall=why)


def selected(coupling: Coupling, ignore: Sequence[str]) -> list[Group]:
    """Prunable groups that no layer matching a pattern of `ignore` (globs over layer and tensor names) makes.

    Raises `NothingToPruneError` where there are none, `InputError` for a pattern that matches nothing.
    """
    kept, hits = [], dict.fromkeys(ignore, False)
    for group in coupling.groups:
        made_by = _layer_names(group, lambda slot: slot.role != "consumer")
        ignored = [p for p in ignore if any(fnmatchcase(name, p) for name in made_by)]
        hits |= dict.fromkeys(
            [p for p in ignore if any(fnmatchcase(n, p) for n in _layer_names(group))], True
        )
        if not group.pinned and not ignored:
            kept.append(group)
    for pattern, hit in hits.items():
        if not hit:
            raise InputError(f"ignore: {pattern!r} matches no layer; `secateur inspect` lists the names")
    return kept


def _layer_names(group: Group, wanted: Callable[[Slot], bool] = lambda slot: True) -> set[str]:
    tensors = {slot.tensor for slot in group.slots if wanted(slot)}
    return {group.name} | tensors | {tensor.rpartition(".")[0] for tensor in tensors}


def make_plan(
    graph: Graph,
    coupling: Coupling,
    groups: Sequence[Group],
    target: Target,
    round_to: Rounding,
    costs: Mapping[str, Tensor] | None = None,
    gone: Mapping[str, int] | None = None,
    most: Mapping[str, int] | None = None,
) -> Plan:
    """The least uniform ratio that meets `target`; with `costs`, the least price that each group pays alike.

    `costs[group]` is what each next unit costs, shape: (units − 1,); the price is this per parameter, MAC or
    unit that goes with it. Groups without costs stay whole. With a number as `round_to`, kept units are
    rounded up to a multiple of it, so that no group loses more than its share. With `AUTO`, they are rounded
    to whole blocks of channels in such a way that the whole reaches the request (see `rounded_removal`);
    networks without blocks are not rounded. Every group keeps at least one unit and, with `AUTO`, loses no
    more than `most` where the request can be met so. Units that are `gone` already count. Raises
    `NothingToPruneError` and `TargetMissedError`.
    """
    gone = gone or {}
    if costs is not None:
        ladder = _prices(graph, coupling, groups, target, costs)
    else:
        ladder = {g.name: torch.arange(1, g.units, dtype=torch.float64) / g.units for g in groups}
    blocks = block_units(graph, coupling) if round_to == AUTO else {}
    whole = 1 if round_to == AUTO else int(round_to)
    multiples = {g.name: aligned_units(blocks[g.name]) if blocks else whole for g in groups}
    if any(blocks.get(g.name, 1) > 1 for g in groups):
        removed = _in_blocks(graph, coupling, groups, target, blocks, ladder, gone, most)
    elif costs is None and target.quantity == "units":
        removed = _rounded(groups, {g.name: _share_of(g, target.share) for g in groups}, multiples, gone)
    else:
        removed = _least_that_reaches(graph, coupling, groups, target, multiples, ladder, gone)
    if not any(removed.values()):
        raise NothingToPruneError(
            f"removing {target.share:.4g} of {target.quantity} with round_to={round_to} leaves no whole unit "
            "to remove "
            f"in any group ({', '.join(f'{g.name}: {g.units} units' for g in groups[:5])}); ask for more"
        )
    achieved = _achieved(graph, coupling, groups, target, removed)
    shortfall = ""
    if achieved < target.share - _EPSILON:
        shortfall = (
            f"{achieved:.2%} of {target.quantity} removed where {target.share:.2%} was asked: each group "
            "keeps whole "
            f"units{f', a multiple of {whole}' if whole > 1 else ''}, at least one"
        )
    return Plan(removed, target, achieved, shortfall, multiples)


def require_groups(coupling: Coupling, groups: Sequence[Group]) -> None:
    """`NothingToPruneError` where no group is left that can lose a unit, with the reasons."""
    if not groups:
        raise NothingToPruneError(f"no group can lose a unit: {_why_not(coupling)}")


def capped(
    graph: Graph,
    coupling: Coupling,
    groups: Sequence[Group],
    target: Target | None,
    round_to: Rounding,
    found: Mapping[str, int],
) -> dict[str, int]:
    """Of the units `found` to be free of each group, no more than `target` asks, so that multiples of
    `round_to` stay.

    What comes out is not cut again. A target in parameters or MACs takes the least uniform ratio that meets
    it. `AUTO` does not round: no other units could go in place of the free ones that would stay.
    """
    wanted = dict(found)
    if target is not None and target.quantity == "units":
        wanted = {g.name: min(found[g.name], _share_of(g, target.share)) for g in groups}
    elif target is not None and _achieved(graph, coupling, groups, target, found) > target.share:
        ladder = {g.name: torch.arange(1, found[g.name] + 1, dtype=torch.float64) / g.units for g in groups}
        wanted = _least_that_reaches(graph, coupling, groups, target, {}, ladder, {})
    return _rounded(groups, wanted, {} if round_to == AUTO else {g.name: int(round_to) for g in groups}, {})


def as_done(
    graph: Graph,
    coupling: Coupling,
    groups: Sequence[Group],
    target: Target | None,
    removed: Mapping[str, int],
) -> Plan:
    """The plan that the removal of free units has turned out to be; `target` may have asked for more."""
    requested = target or Target("units", 1.0)
    achieved, shortfall = _achieved(graph, coupling, groups, requested, removed), ""
    if target is not None and achieved < target.share - _EPSILON:
        asked = f"{achieved:.2%} of {target.quantity} removed where {target.share:.2%} was asked"
        shortfall = f"{asked}: no more can go exactly"
    return Plan(dict(removed), requested, achieved, shortfall)


def schedule(
    groups: Sequence[Group], removed: dict[str, int], step: float, multiples: Mapping[str, int] | None = None
) -> list[dict[str, int]]:
    """For each step in which some unit goes, the number of units of each group that are gone after it.

    At most `step` of a group goes at a time, or where that is less, the one of `multiples` that it keeps.
    """
    step = max(step, 1 / (1 + max(g.units for g in groups)))  # a smaller one removes nothing in most steps
    steps = max(math.ceil(removed[g.name] / g.units / step - _EPSILON) for g in groups)
    rows = []
    for number in range(1, steps + 1):
        part = number * step
        row = {g.name: min(removed[g.name], math.floor(part * g.units + _EPSILON)) for g in groups}
        rows.append(_rounded(groups, row, multiples or {}, {}))
    rows[-1] = dict(removed)
    return [
        row for row, before in zip(rows, [{}, *rows], strict=False) if any(row.values()) and row != before
    ]


def _share_of(group: Group, ratio: float) -> int:
    return min(math.floor(ratio * group.units + _EPSILON), group.units - 1)


def _rounded(
    groups: Sequence[Group], removed: Mapping[str, int], multiples: Mapping[str, int], gone: Mapping[str, int]
) -> dict[str, int]:
    """No more than `removed`, so that every group keeps one of its `multiples`; never less than is `gone`."""
    kept = {}
    for g in groups:
        multiple = multiples.get(g.name, 1)
        kept[g.name] = -(-(g.units - removed[g.name]) // multiple) * multiple
    return {g.name: max(gone.get(g.name, 0), g.units - kept[g.name]) for g in groups}


def _in_blocks(
    graph: Graph,
    coupling: Coupling,
    groups: Sequence[Group],
    target: Target,
    blocks: Mapping[str, int],
    ladder: Mapping[str, Tensor],
    gone: Mapping[str, int],
    most: Mapping[str, int] | None,
) -> dict[str, int]:
    """Removal in blocks of channels, of no more than `most` of each group where the request can be met so."""
    share = partial(_achieved, graph, coupling, groups, target)
    removed = rounded_removal(groups, blocks, ladder, share, target.share, gone, most or {})
    if most and share(removed) < target.share - _EPSILON:
        removed = rounded_removal(groups, blocks, ladder, share, target.share, gone, {})
    reached = share(removed)
    more = target.quantity != "units" or any(removed[g.name] < g.units - 1 for g in groups)
    if reached < target.share - _EPSILON and more:
        raise _missed(coupling, target, 1, reached)
    return removed


def _prices(
    graph: Graph, coupling: Coupling, groups: Sequence[Group], target: Target, costs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The price of each next unit, never falling, since units leave in order; shape: (units − 1,) each."""
    whole = _sizes(graph, coupling, groups, target, {})
    prices = {}
    for g in groups:
        if g.name not in costs:
            prices[g.name] = torch.full((g.units - 1,), torch.inf, dtype=torch.float64)
            continue
        saved = max(1, whole - _sizes(graph, coupling, groups, target, {g.name: 1}))
        prices[g.name] = (costs[g.name] / saved).cummax(0).values
    return prices


def _least_that_reaches(
    graph: Graph,
    coupling: Coupling,
    groups: Sequence[Group],
    target: Target,
    multiples: Mapping[str, int],
    ladder: Mapping[str, Tensor],
    gone: Mapping[str, int],
) -> dict[str, int]:
    """Bisection over the rungs at which some group loses one unit more; `ladder[group]` is sorted."""
    rungs = torch.cat([torch.zeros(1, dtype=torch.float64), *ladder.values()])
    rungs = rungs[torch.isfinite(rungs)].unique()

    def counts(index: int) -> dict[str, int]:
        reached = {g.name: int(torch.searchsorted(ladder[g.name], rungs[index], right=True)) for g in groups}
        return _rounded(groups, reached, multiples, gone)

    def share(index: int) -> float:
        return _achieved(graph, coupling, groups, target, counts(index))

    index = bisect_left(range(len(rungs)), target.share - _EPSILON, key=share)
    if index == len(rungs):
        raise _missed(coupling, target, max(multiples.values(), default=1), share(len(rungs) - 1))
    return counts(index)


def _missed(coupling: Coupling, target: Target, multiple: int, most: float) -> TargetMissedError:
    return TargetMissedError(
        f"{target.share:.2%} of {target.quantity} cannot go: with one unit (or {multiple}) left in every "
        "group, "
        f"{most:.2%} is gone. Pinned: {_why_not(coupling)}"
    )


def _achieved(
    graph: Graph, coupling: Coupling, groups: Sequence[Group], target: Target, removed: Mapping[str, int]
) -> float:
    whole = _sizes(graph, coupling, groups, target, {})
    return 1.0 - _sizes(graph, coupling, groups, target, removed) / whole


def _sizes(
    graph: Graph, coupling: Coupling, groups: Sequence[Group], target: Target, removed: Mapping[str, int]
) -> int:
    if target.quantity == "units":
        return sum(g.units - removed.get(g.name, 0) for g in groups)
    measure = parameters_after if target.quantity == "params" else macs_after
    return measure(graph, coupling, _any_alive(groups, removed))


def _any_alive(groups: Sequence[Group], removed: Mapping[str, int]) -> dict[str, Tensor]:
    """Masks with the right number of units gone; which ones does not matter to sizes."""
    return {g.name: torch.arange(g.units) >= removed.get(g.name, 0) for g in groups}


def _why_not(coupling: Coupling) -> str:
    """Reasons, and the groups and tensors to which each applies."""
    names = dict[str, list[str]]()
    for name, reason in [
        *((g.name, g.pinned) for g in coupling.groups if g.pinned),
        *coupling.blocked.items(),
    ]:
        names.setdefault(reason, []).append(name)
    return few([f"{few(found)} ({reason})" for reason, found in names.items()], "; ") or "nothing is pinned"
