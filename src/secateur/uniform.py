"""Layers that stay alike: the same number of units leaves every group of one role.

A role is the name of a layer with the numbers of layers left out, or what the model's own format says. Where
groups of one role have different sizes (stages, each twice as wide as the one before), each loses the same
share.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.graph.imported import Imported
from secateur.graph.widths import QK, V
from secateur.types import Group


@dataclass(frozen=True)
class Roles:
    """Group → its role, and for groups that cannot keep any number of units, the numbers that they can."""

    of: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, Collection[int]] = field(default_factory=dict)


def roles_of(model: object, groups: Sequence[Group], others: Sequence[Group]) -> tuple[Roles, list[Group]]:
    """The roles of `groups`, and those of them that must stay whole.

    Of a model whose format says the roles, these are groups whose size it cannot say, and groups of a role
    that one of the `others`, which stay whole, has too. Only groups of which one has a multiple of the units
    of another have one role.
    """
    said = getattr(model, "role_of", None) if isinstance(model, Imported) else None
    role_of: Callable[[Group], str | None] = said or _by_name
    bound = {None, *map(role_of, others)} if said else {None}
    found, whole, least = dict[str, str](), list[Group](), dict[str, int]()
    for group in sorted(groups, key=lambda g: g.units):
        role = role_of(group)
        if role is None or role in bound:
            whole.append(group)
            continue
        if group.units % least.setdefault(role, group.units):
            role = f"{role} of {group.units}"
        found[group.name] = role
    numbers = getattr(model, "kept_numbers", None) if said else None
    kept = {} if numbers is None else {g.name: numbers(g) for g in groups if g.name in found}
    return Roles(found, {name: some for name, some in kept.items() if some is not None}), whole


def has_roles(model: object, groups: Iterable[Group]) -> bool:
    """Whether each of these widths of heads has a role, so that `uniform_layers` need not leave it whole.

    A head width of a configuration is that of queries, keys and values alike.
    """
    said = getattr(model, "role_of", None) if isinstance(model, Imported) else None
    widths = list(groups)
    of_keys, of_values = (sum(group.name.endswith(end) for group in widths) for end in (QK, V))
    return said is None or (of_keys == of_values and all(said(group) is not None for group in widths))


def _by_name(group: Group) -> str:
    """Layers with the same names but for numbers, and as many units."""
    return f"{re.sub(r'(?<![^.])[0-9]+(?![^.])', '#', group.name)} of {group.units}"


def levelled(
    groups: Sequence[Group],
    removed: Mapping[str, int],
    roles: Roles,
    choose: Callable[[Sequence[int]], int] = min,
) -> dict[str, int]:
    """Counts that are alike within each role: the smallest asked of any of its groups, or the largest.

    Lower ones where the groups cannot keep as many units as that leaves.
    """
    found = dict(removed)
    for members in members_of(groups, roles):
        smallest = members[0].units
        count = choose([_of_smallest(g, removed[g.name], smallest, up=choose is max) for g in members])
        count = min(count, smallest - 1)
        while count and not all(_may_keep(g, smallest - count, smallest, roles) for g in members):
            count -= 1
        for group in members:
            found[group.name] = count * (group.units // smallest)
    return found


def in_blocks(group: Group, smallest: int, values: Tensor) -> Tensor:
    """What a group pays in all while the smallest of its role loses one more unit; shape: (smallest − 1,).

    `values`: what it pays for each next unit of its own, shape (units − 1,).
    """
    times = group.units // smallest
    return values[: (smallest - 1) * times].reshape(-1, times).sum(1)


def spread(group: Group, smallest: int, steps: Tensor) -> Tensor:
    """A number for each next unit of the smallest of a role, shape (smallest − 1,), for each of the group's.

    Shape: (units − 1,); infinite for the last ones, which cannot leave all at once.
    """
    times = group.units // smallest
    return torch.cat([steps.repeat_interleave(times), steps.new_full((times - 1,), torch.inf)])


def members_of(groups: Sequence[Group], roles: Roles) -> list[list[Group]]:
    """The groups of each role, those with fewest units first."""
    found = dict[str, list[Group]]()
    for group in sorted(groups, key=lambda g: g.units):
        if group.name in roles.of:
            found.setdefault(roles.of[group.name], []).append(group)
    return list(found.values())


def _may_keep(group: Group, kept: int, smallest: int, roles: Roles) -> bool:
    return group.name not in roles.kept or kept * (group.units // smallest) in roles.kept[group.name]


def _of_smallest(group: Group, count: int, smallest: int, up: bool) -> int:
    times = group.units // smallest
    return -(-count // times) if up else count // times
