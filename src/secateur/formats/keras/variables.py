"""Where the weights of every layer stand in the file: by groups in `.keras`, by lists of names in `.h5`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from secateur.errors import InputError, few
from secateur.formats.keras.layer import Layer, Variable
from secateur.formats.keras.network import Network
from secateur.formats.keras.source import MODEL_WEIGHTS, Source

_OLD_LAYERS = "_layer_checkpoint_dependencies"  # what Keras 2.13 calls the group of the layers


@dataclass(frozen=True, eq=False)
class Stored:
    """A weight of a layer, and the path of its numbers in the file."""

    layer: Layer
    variable: Variable
    path: str


def stored_variables(network: Network, source: Source) -> list[Stored]:
    """Every weight of the model. Raises `InputError` where the file lacks one."""
    found = list(_in_groups(network, source) if source.kind == "keras" else _in_lists(network, source))
    paths = [one.path for one in found]
    missing = [one for one, path in zip(found, paths, strict=True) if path not in source.datasets]
    if missing:
        one = missing[0]
        raise InputError(f"{one.layer.spec} has no {one.variable.keras} in the file ({one.path})")
    if len(set(paths)) < len(paths):
        twice = next(one for one in found if paths.count(one.path) > 1)
        raise InputError(f"{twice.layer.spec} shares its weights ({twice.path}) with another")
    return found


# --- .keras: layers/conv2d_1/vars/0 -------------------------------------------------------------------------


def _in_groups(network: Network, source: Source, prefix: str = "") -> Iterator[Stored]:
    root = f"{prefix}{_OLD_LAYERS if f'{prefix}{_OLD_LAYERS}' in source.groups else 'layers'}"
    used = dict[str, int]()
    for spec in network.specs:
        name = snake_case(str(spec.raw.get("class_name", spec.kind)))
        if spec.kind.startswith("ops."):
            continue
        used[name] = used.get(name, -1) + 1
        group = f"{root}/{name}_{used[name]}" if used[name] else f"{root}/{name}"
        module = network.layers.get(spec.name)
        if isinstance(module, Network):
            yield from _in_groups(module, source, f"{group}/")
        elif isinstance(module, Layer):
            counts = dict[str, int]()
            for variable in module.variables():
                at = f"{group}/{variable.part}" if variable.part else group
                counts[at] = counts.get(at, -1) + 1
                yield Stored(module, variable, f"{at}/vars/{counts[at]}")


def snake_case(name: str) -> str:
    """`Conv2DTranspose` → `conv2d_transpose`, as Keras names groups."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


# --- .h5: model_weights/conv2d, with the names of its weights in an attribute -------------------------------


def _in_lists(network: Network, source: Source) -> Iterator[Stored]:
    for spec in network.specs:
        module = network.layers.get(spec.name)
        wanted = list(_of_layer(module, "")) if module is not None else []
        if not wanted:
            continue
        group = f"{MODEL_WEIGHTS}/{spec.name}"
        if group not in source.groups:
            raise InputError(f"{spec} has no weights in the file ({group})")
        names = _names(source.groups[group])
        if len(names) != len(wanted):
            raise InputError(f"{spec} has {len(names)} weights in the file; {len(wanted)} are needed")
        for (owner, variable, _), name in zip(wanted, _matched(spec, wanted, names), strict=True):
            yield Stored(owner, variable, f"{group}/{name}")


def _of_layer(module: Any, within: str) -> Iterator[tuple[Layer, Variable, str]]:
    """(layer, weight, its name in the file without what stands before)"""
    if isinstance(module, Network):
        for spec in module.specs:
            if spec.name in module.layers:
                yield from _of_layer(module.layers[spec.name], f"{within}{spec.name}/")
    elif isinstance(module, Layer):
        for variable in module.variables():
            called = f"{variable.called}/" if variable.called else ""
            yield module, variable, f"{within}{called}{variable.keras}"


def _names(attributes: Any) -> list[str]:
    """The list of names, which Keras cuts in pieces where it is long."""
    pieces = [attributes["weight_names"]] if "weight_names" in attributes else list[Any]()
    while "weight_names" not in attributes and f"weight_names{len(pieces)}" in attributes:
        pieces.append(attributes[f"weight_names{len(pieces)}"])
    found = [name for piece in pieces for name in np.atleast_1d(piece).tolist()]
    return [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in found]


def _matched(spec: Any, wanted: Sequence[tuple[Layer, Variable, str]], names: list[str]) -> list[str]:
    """The name of each weight: the one that ends like it, or else the next of the list."""
    plain = {name: re.sub(r":\d+$", "", name) for name in names}
    found = list[str]()
    for _, _, ending in wanted:
        fits = [name for name in names if f"/{plain[name]}".endswith(f"/{ending}")]
        found += fits[:1] if len(fits) == 1 else []
    if len(set(found)) == len(wanted):
        return found
    ordered = [*wanted] if len(wanted) < 2 else sorted(wanted, key=lambda one: not one[1].trainable)
    by_order = dict(zip((id(one[1]) for one in ordered), names, strict=True))
    result = [by_order[id(one[1])] for one in wanted]
    for (_, variable, _), name in zip(wanted, result, strict=True):
        if plain[name].rpartition("/")[2] not in (variable.keras, variable.name):
            raise InputError(f"{spec}: the names of its weights in the file tell no order: {few(names)}")
    return result
