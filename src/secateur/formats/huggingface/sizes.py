"""The configuration of a smaller model, and what its keys say of groups of units."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch

from secateur.formats.huggingface.families import FAMILIES, Family, Key
from secateur.formats.huggingface.folder import Folder
from secateur.types import Group, Slot

Shapes = Mapping[str, tuple[int, ...]]


def smaller_config(
    folder: Folder, before: Shapes, after: Shapes, untied: bool = False
) -> dict[str, Any] | None:
    """`config.json` for tensors of the shapes `after`, by their names in the module; None if it cannot say.

    Only the keys of `FAMILIES` change; the caller builds the class from the result, which shows whether that
    was all. `untied`: whether embeddings and head, tied before, are two tables now.
    """
    family = FAMILIES.get(folder.family)
    config = copy.deepcopy(dict(folder.config))
    if family is None:
        return config if before == after else None
    for key in family.keys:
        shown = [name for name, shape in before.items() if len(shape) == 2 and key.shows(name, key.axis)]
        if all(before[name] == after[name] for name in shown):
            continue
        value = _value(key, config, [before[name] for name in shown], [after[name] for name in shown])
        if value is None:
            return None
        if key is family.stream and family.norm_eps:
            config[family.norm_eps] *= before[shown[0]][key.axis] / after[shown[0]][key.axis]
        if key.kind == "heads" and family.head_width and not config.get(family.head_width):
            config[family.head_width] = before[shown[0]][0] // _heads(key, folder.config)
        _put(config, key.key, value)
    if untied:
        config["tie_word_embeddings"] = False
    return config


def _value(
    key: Key, config: Mapping[str, Any], before: list[tuple[int, ...]], after: list[tuple[int, ...]]
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
    heads, rest = divmod(size * _heads(key, config), before[0][axis])
    return None if rest else heads


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
    return {key for key in family.keys for slot in group.having("producer") if _fills(key, slot)}


def _fills(key: Key, slot: Slot) -> bool:
    """Whether the units are consecutive parts of the whole axis: whole heads, not parts of each."""
    places = slot.positions.reshape(-1)
    return key.shows(slot.tensor, slot.axis) and torch.equal(places, torch.arange(len(places)))
