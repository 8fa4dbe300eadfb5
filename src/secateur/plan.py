"""From a requested share of a quantity to the units that each group loses in each step."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Final, Literal

import torch
from torch import Tensor

from secateur.amounts import amount, as_share
from secateur.channels import aligned_units, block_units
from secateur.errors import InputError, NothingToPruneError, TargetMissedError, few
from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.graph.widths import crossed_by_widths, is_width
from secateur.quantities import QUANTITIES, After, Measure, Quantity
from secateur.rounded import rounded_removal
from secateur.types import Group, Slot
from secateur.uniform import Roles, in_blocks, levelled, members_of, spread

Rounding = int | Literal["auto"]
Allocation = Literal["uniform", "global"]
Leaving = Literal["heads", "widths", "both"]  # what leaves from attention
Attention = Literal["auto"] | Leaving
AUTO: Final = "auto"  # of roundings: whole blocks of channels (see `rounded`)

_EPSILON = 1e-9  # 0.3 of 10 units is 3 units, whatever floating point makes of it

# "size" is that of the weights in a file.
_NAMES: dict[str, Quantity] = {**{name: name for name in QUANTITIES}, "size": "params"}
_MILLISECONDS = {"ms": 1.0}
REMOVE = (
    "the share that goes, between 0 and 1: 0.5, '50%', 'params=50%', 'macs=50%', 'bytes=50%' or "
    "'latency=30%'; or the time that stays: 'latency=3ms'"
)


@dataclass(frozen=True)
class Target:
    """What to remove: `share` (between 0 and 1) of `quantity`; or all above `ms` milliseconds of latency.

    With `ms`, `share` is 0 until the latency of the whole network is known (`resolved`).
    """

    quantity: Quantity
    share: float
    ms: float | None = None

    @staticmethod
    def parse(remove: float | str) -> Target:
        """Read 0.5, "50%", "units=50%", "macs=0.5" and the like: the share that goes; or "latency=3ms".

        Raises `InputError` for anything else.
        """
        name, _, stated = remove.rpartition("=") if isinstance(remove, str) else ("", "", remove)
        quantity = _NAMES.get(name.strip() or "units")
        with suppress(ValueError):
            if quantity == "latency" and (ms := amount(stated, _MILLISECONDS)) > 0:
                return Target(quantity, 0.0, ms)
        with suppress(ValueError):
            if quantity is not None and 0 < (goes := as_share(stated)) < 1:
                return Target(quantity, goes)
        raise InputError(f"remove={remove!r}: give {REMOVE}")

    def resolved(self, whole: float) -> Target:
        """With `share` filled in, for a network of `whole` milliseconds.

        Raises `NothingToPruneError` where it takes no more than `ms` already.
        """
        if self.ms is None:
            return self
        if self.ms >= whole:
            raise NothingToPruneError(
                f"one sample takes {whole:.3g} ms already, no more than the {self.ms:.3g} ms asked for; ask "
                "for less time, or leave the model as it is"
            )
        return replace(self, share=1 - self.ms / whole)


@dataclass(frozen=True)
class Plan:
    """Units to remove from each group, and what that makes of the whole."""

    removed: dict[str, int]
    requested: Target
    achieved: float  # the share of the requested quantity that goes
    shortfall: str  # why it is less than asked, or empty
    # of which each group keeps one in every step
    multiples: Mapping[str, int] = field(default_factory=dict)

    def cut_short(
        self,
        graph: Graph,
        coupling: Coupling,
        groups: Sequence[Group],
        alive: Mapping[str, Tensor],
        why: str,
        latency: After | None = None,
    ) -> Plan:
        """The plan as far as it was carried out, and why no further."""
        removed = {group.name: int((~alive[group.name]).sum()) for group in groups}
        achieved = Measure(graph, coupling, groups, self.requested.quantity, latency).share(removed)
        return replace(self, removed=removed, achieved=achieved, shortfall=why)


def selected(coupling: Coupling, ignore: Sequence[str], attention: Leaving = "heads") -> list[Group]:
    """Prunable groups that no layer matching a pattern of `ignore` (globs over layer and tensor names) makes.

    Of attention, whole heads, their widths, or both. Heads leave as a whole where all of their widths stay.

    Raises `NothingToPruneError` where there are none, `InputError` for a pattern that matches nothing.
    """
    kept, unmatched = list[Group](), dict.fromkeys(ignore)
    heads = crossed_by_widths(g for g in coupling.groups if not (is_width(g) and g.pinned))
    for group in coupling.groups:
        for pattern in [p for p in unmatched if _matches(p, _layer_names(group))]:
            del unmatched[pattern]
        if is_width(group) and attention == "heads":
            continue
        if attention == "widths" and group.name in heads:
            continue
        made_by = _layer_names(group, lambda slot: slot.role != "consumer")
        if not group.pinned and not any(_matches(pattern, made_by) for pattern in ignore):
            kept.append(group)
    for pattern in unmatched:
        raise InputError(f"ignore: {pattern!r} matches no layer; `secateur inspect` lists the names")
    return kept


def _matches(pattern: str, names: set[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def _layer_names(group: Group, wanted: Callable[[Slot], bool] = lambda slot: True) -> set[str]:
    """The group's name, its tensors and their layers."""
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
    latency: After | None = None,
    roles: Roles | None = None,
) -> Plan:
    """The least uniform ratio that meets `target`; with `costs`, the least price that each group pays alike.

    `costs[group]` is what each next unit costs, shape: (units − 1,); the price is this per parameter, MAC,
    unit, byte or millisecond that goes with it. Groups without costs stay whole. With a number as `round_to`,
    kept units are rounded up to a multiple of it, so that no group loses more than its share. With `AUTO`,
    they are rounded to whole blocks of channels in such a way that the whole reaches the request (see
    `rounded_removal`);
    networks without blocks are not rounded. Every group keeps at least one unit and, with `AUTO`, loses no
    more than `most` where the request can be met so. Units that are `gone` already count. `latency` gives the
    milliseconds after a removal, for a target in latency. Groups of one of the `roles` lose units alike.
    Raises `NothingToPruneError` and
    `TargetMissedError`.
    """
    gone, measure, roles = (
        gone or {},
        Measure(graph, coupling, groups, target.quantity, latency),
        roles or Roles(),
    )
    ladder = _shares(groups, roles) if costs is None else _prices(measure, costs, roles)
    blocks = block_units(graph, coupling) if round_to == AUTO else {}
    whole = 1 if round_to == AUTO else int(round_to)
    multiples = {g.name: aligned_units(blocks[g.name]) if blocks else whole for g in groups}
    if any(blocks.get(g.name, 1) > 1 for g in groups):
        alike = None if most is None else levelled(groups, most, roles)
        removed = _in_blocks(measure, target, blocks, ladder, gone, alike)
    elif costs is None and target.quantity == "units":
        share = levelled(groups, {g.name: _share_of(g, target.share) for g in groups}, roles)
        removed = _rounded(groups, share, multiples, gone)
    else:
        removed = _least_that_reaches(measure, target, multiples, ladder, gone)
    removed = levelled(groups, removed, roles, max)
    if not any(removed.values()):
        raise NothingToPruneError(_nothing_to_remove(groups, target, round_to))
    achieved = measure.share(removed)
    return Plan(removed, target, achieved, _shortfall(target, achieved, whole), multiples)


def _nothing_to_remove(groups: Sequence[Group], target: Target, round_to: Rounding) -> str:
    return (
        f"removing {target.share:.4g} of {target.quantity} with round_to={round_to} leaves no whole unit to "
        f"remove in any group ({', '.join(f'{g.name}: {g.units} units' for g in groups[:5])}); ask for more"
    )


def _shortfall(target: Target, achieved: float, multiple: int) -> str:
    """Why less than the target goes; empty where it is met."""
    if achieved >= target.share - _EPSILON:
        return ""
    rounded = f", a multiple of {multiple}" if multiple > 1 else ""
    return (
        f"{achieved:.2%} of {target.quantity} removed where {target.share:.2%} was asked: each group keeps "
        f"whole units{rounded}, at least one"
    )


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
    latency: After | None = None,
    roles: Roles | None = None,
) -> dict[str, int]:
    """Units of each group to remove, of those that an exact method has `found` to be removable.

    No more than `target` asks for, in a way that multiples of `round_to` stay. A result that is given again
    is not reduced further. A target in another quantity than units takes the least uniform ratio that meets
    it. `AUTO` does not round: no other units could be removed in place of those that would stay.
    """
    found = levelled(groups, found, roles or Roles())
    wanted = dict(found)
    if target is not None and target.quantity == "units":
        wanted = {g.name: min(found[g.name], _share_of(g, target.share)) for g in groups}
    elif target is not None:
        measure = Measure(graph, coupling, groups, target.quantity, latency)
        if measure.share(found) > target.share:
            ladder = {
                g.name: torch.arange(1, found[g.name] + 1, dtype=torch.float64) / g.units for g in groups
            }
            wanted = _least_that_reaches(measure, target, {}, ladder, {})
    wanted = _rounded(groups, wanted, {} if round_to == AUTO else {g.name: int(round_to) for g in groups}, {})
    return levelled(groups, wanted, roles or Roles())


def as_done(
    graph: Graph,
    coupling: Coupling,
    groups: Sequence[Group],
    target: Target | None,
    removed: Mapping[str, int],
    latency: After | None = None,
) -> Plan:
    """The plan of a removal that has already been done; `target` may have asked for more."""
    requested = target or Target("units", 1.0)
    achieved = Measure(graph, coupling, groups, requested.quantity, latency).share(removed)
    shortfall = ""
    if target is not None and achieved < target.share - _EPSILON:
        asked = f"{achieved:.2%} of {target.quantity} removed where {target.share:.2%} was asked"
        shortfall = f"{asked}: no more can go exactly"
    return Plan(dict(removed), requested, achieved, shortfall)


def schedule(
    groups: Sequence[Group],
    removed: dict[str, int],
    step: float,
    multiples: Mapping[str, int] | None = None,
    roles: Roles | None = None,
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
        rows.append(levelled(groups, _rounded(groups, row, multiples or {}, {}), roles or Roles()))
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
    measure: Measure,
    target: Target,
    blocks: Mapping[str, int],
    ladder: Mapping[str, Tensor],
    gone: Mapping[str, int],
    most: Mapping[str, int] | None,
) -> dict[str, int]:
    """Removal in blocks of channels, of no more than `most` of each group where the request can be met so."""
    groups = measure.groups
    removed = rounded_removal(groups, blocks, ladder, measure.share, target.share, gone, most or {})
    if most and measure.share(removed) < target.share - _EPSILON:
        removed = rounded_removal(groups, blocks, ladder, measure.share, target.share, gone, {})
    reached = measure.share(removed)
    more = target.quantity != "units" or any(removed[g.name] < g.units - 1 for g in groups)
    if reached < target.share - _EPSILON and more:
        raise _missed(measure.coupling, target, 1, reached)
    return removed


def _shares(groups: Sequence[Group], roles: Roles) -> dict[str, Tensor]:
    """The share of a group that is gone with each next unit; shape: (units − 1,) each."""
    shares = {g.name: torch.arange(1, g.units, dtype=torch.float64) / g.units for g in groups}
    for members in members_of(groups, roles):
        least = members[0]
        shares |= {g.name: spread(g, least.units, shares[least.name]) for g in members}
    return shares


def _prices(measure: Measure, costs: Mapping[str, Tensor], roles: Roles) -> dict[str, Tensor]:
    """The price of each next unit, never falling, since units leave in order; shape: (units − 1,) each.

    Groups of one role have one price, that of the next unit of all of them.
    """
    never = {g.name: torch.full((g.units - 1,), torch.inf, dtype=torch.float64) for g in measure.groups}
    costs = never | dict(costs)
    prices = {g.name: (costs[g.name] / measure.saved_by_one(g)).cummax(0).values for g in measure.groups}
    for members in members_of(measure.groups, roles):
        least = members[0].units
        paid = torch.stack([in_blocks(g, least, costs[g.name]) for g in members]).sum(0)
        saved = sum(measure.saved_by_one(g) * (g.units // least) for g in members)
        prices |= {g.name: spread(g, least, (paid / saved).cummax(0).values) for g in members}
    return prices


def _least_that_reaches(
    measure: Measure,
    target: Target,
    multiples: Mapping[str, int],
    ladder: Mapping[str, Tensor],
    gone: Mapping[str, int],
) -> dict[str, int]:
    """Bisection over the rungs at which some group loses one more unit; `ladder[group]` is sorted."""
    groups = measure.groups
    rungs = torch.cat([torch.zeros(1, dtype=torch.float64), *ladder.values()])
    rungs = rungs[torch.isfinite(rungs)].unique()

    def counts(index: int) -> dict[str, int]:
        reached = {g.name: int(torch.searchsorted(ladder[g.name], rungs[index], right=True)) for g in groups}
        return _rounded(groups, reached, multiples, gone)

    def share(index: int) -> float:
        return measure.share(counts(index))

    index = bisect_left(range(len(rungs)), target.share - _EPSILON, key=share)
    if index == len(rungs):
        raise _missed(measure.coupling, target, max(multiples.values(), default=1), share(len(rungs) - 1))
    return counts(index)


def _missed(coupling: Coupling, target: Target, multiple: int, most: float) -> TargetMissedError:
    return TargetMissedError(
        f"{target.share:.2%} of {target.quantity} cannot go: with one unit (or {multiple}) left in every "
        f"group, {most:.2%} is gone. Pinned: {_why_not(coupling)}"
    )


def _why_not(coupling: Coupling) -> str:
    """Reasons, and the groups and tensors to which each applies."""
    names = dict[str, list[str]]()
    for name, reason in [
        *((g.name, g.pinned) for g in coupling.groups if g.pinned),
        *coupling.blocked.items(),
    ]:
        names.setdefault(reason, []).append(name)
    return few([f"{few(found)} ({reason})" for reason, found in names.items()], "; ") or "nothing is pinned"
