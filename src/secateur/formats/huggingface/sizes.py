"""The configuration of a smaller model, and what its keys say of groups of units."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from secateur.formats.huggingface.families import FAMILIES, Family, Key
from secateur.formats.huggingface.folder import Folder
from secateur.graph.coupling import Coupling
from secateur.graph.widths import is_width
from secateur.types import Group, Slot

Shapes = Mapping[str, tuple[int, ...]]


def smaller_config(
    folder: Folder, before: Shapes, after: Shapes, widths: Fraction, untied: bool = False
) -> dict[str, Any] | None:
    """`config.json` for tensors of the shapes `after`, by their names in the module; None if it cannot say.

    `widths` is the share of the width of every head that is left, `untied` whether embeddings and head, tied
    before, are two tables now. Only the keys of `FAMILIES` change; the caller builds the class from the
    result, which shows whether that was all.
    """
    family = FAMILIES.get(folder.family)
    config = copy.deepcopy(dict(folder.config))
    if family is None:
        return config if before == after else None
    for key in family.keys:
        if key.kind == "head_width":
            continue
        shown = [name for name, shape in before.items() if len(shape) == 2 and key.shows(name, key.axis)]
        if all(before[name] == after[name] for name in shown):
            continue
        old, new = ([shapes[name] for name in shown] for shapes in (before, after))
        value = _value(key, config, old, new, widths)
        if value is None:
            return None
        if key is family.stream:
            config |= _beside_stream(family, folder.config, new[0][key.axis] / old[0][key.axis])
        if key.kind == "heads" and family.head_width:
            config[family.head_width] = int(old[0][0] // _heads(key, folder.config) * widths)
        _put(config, key.key, value)
    if untied:
        config["tie_word_embeddings"] = False
    return config


def _beside_stream(family: Family, config: Mapping[str, Any], left: float) -> dict[str, Any]:
    """What else changes with a hidden size of which a share is left."""
    found = dict[str, Any]()
    if family.norm_eps:
        found[family.norm_eps] = config[family.norm_eps] / left
    if family.head_width and not config.get(family.head_width):  # the class would derive it
        found[family.head_width] = config["hidden_size"] // config["num_attention_heads"]
    return found


def _value(
    key: Key,
    config: Mapping[str, Any],
    before: list[tuple[int, ...]],
    after: list[tuple[int, ...]],
    widths: Fraction,
) -> float | None:
    """What the key must say for these shapes; None where no value fits all."""
    axis = key.axis
    if key.kind == "ratio":
        width = after[0][1 - axis]
        ratio = after[0][axis] / width
        if int(ratio * width) != after[0][axis]:
            ratio = math.nextafter(ratio, math.inf)
        return ratio if all(int(ratio * shape[1 - axis]) == shape[axis] for shape in after) else None
    sizes = {shape[axis] for shape in after}
    if len(sizes) > 1:
        return None
    (size,) = sizes
    if key.kind == "width":
        return size
    heads = size * _heads(key, config) / (before[0][axis] * widths)
    return int(heads) if heads.denominator == 1 else None


def _heads(key: Key, config: Mapping[str, Any]) -> int:
    """The number of heads; key/value heads that are not said are as many as the others."""
    found = _get(config, key.key)
    return int(found if found is not None else config["num_attention_heads"])


def _get(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _put(config: dict[str, Any], key: str, value: Any) -> None:
    *parts, last = key.split(".")
    for part in parts:
        config = config[part]
    config[last] = value


def widths_left(folder: Folder, coupling: Coupling, alive: Mapping[str, Tensor]) -> Fraction | None:
    """The share of the width of every head that is left; None where no key can say it for all layers."""
    groups = [group for group in coupling.prunable if is_width(group)]
    left = {Fraction(int(alive[group.name].sum()), group.units) for group in groups} or {Fraction(1)}
    if len(left) > 1 or (left != {Fraction(1)} and not all(_keys(folder, group) for group in groups)):
        return None
    return left.pop()


def in_class(folder: Folder, state: Mapping[str, Tensor], widths: Fraction) -> dict[str, Tensor]:
    """The tensors for a class that divides logits by the root of the width of a head, which is smaller now.

    Queries are divided by as much more; the scale of the full width stays.
    """
    family = FAMILIES[folder.family] if widths != 1 else Family(())
    queries = [key for key in family.keys if key.kind == "heads" and family.scaled]

    def is_query(name: str) -> bool:
        return any(key.shows(f"{name.rpartition('.')[0]}.weight", key.axis) for key in queries)

    factor = float(widths) ** 0.5
    return {name: value * factor if is_query(name) else value for name, value in state.items()}


def role(folder: Folder, group: Group) -> str | None:
    """The keys that say how many units a group has; None where none does.

    Groups of one role have the same number of units in every model that the configuration describes.
    """
    return " ".join(sorted(key.key for key in _keys(folder, group))) or None


def kept_numbers(folder: Folder, group: Group) -> list[int] | None:
    """The numbers of units that its keys can say, where they must divide another size; None for any."""
    keys = _keys(folder, group)
    multiples = [int(folder.config[key.multiple_of]) for key in keys if key.multiple_of]
    bound = [key for key in keys if key.divides]
    if not bound and not multiples:
        return None

    def can_say(kept: int) -> bool:
        if any(kept % number for number in multiples):
            return False
        numbers = (divmod(_heads(key, folder.config) * kept, group.units) for key in bound)
        sizes = (int(folder.config[key.divides]) for key in bound)
        return all(
            not rest and size % number == 0 for (number, rest), size in zip(numbers, sizes, strict=True)
        )

    return [kept for kept in range(1, group.units + 1) if can_say(kept)]


def _keys(folder: Folder, group: Group) -> set[Key]:
    family = FAMILIES.get(folder.family, Family(()))
    speaks = _shows if is_width(group) else _fills
    return {key for key in family.keys for slot in group.having("producer") if speaks(key, slot)}


def _shows(key: Key, slot: Slot) -> bool:
    """Whether the units are dimensions of heads whose width the key says."""
    return key.kind == "head_width" and key.shows(slot.tensor, slot.axis)


def _fills(key: Key, slot: Slot) -> bool:
    """Whether the units are consecutive parts of the whole axis: whole heads, not parts of each."""
    places = slot.positions.reshape(-1)
    is_whole = torch.equal(places, torch.arange(len(places)))
    return key.kind != "head_width" and key.shows(slot.tensor, slot.axis) and is_whole
