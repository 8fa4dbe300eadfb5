"""Inputs for a captured model, in any form that they come in, as one tensor for each of its inputs."""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.bounds.box import input_box
from secateur.data.load import read_data
from secateur.data.npz import read_arrays
from secateur.data.pixels import laid_out, spread
from secateur.data.plain import is_array, tensor_of
from secateur.errors import InputError, SecateurWarning, few
from secateur.graph.graph import Graph
from secateur.types import Interval

_LABELS = ("label", "labels")
_USUAL = ("pixel_values", "input_ids")  # what processors of Hugging Face call the one input

Batch = tuple[Tensor, ...]


def as_tensors(value: Any, graph: Graph, bounds: Any, *, name: str, limit: int | None = None) -> Batch:
    """`value` as one tensor (n, …) for each input of `graph`, on the CPU; at most `limit` samples.

    Args:
        value: one of
            - a path, as `load_data` reads it, for a model of one input; of several, that of an `.npz` file
              with an array for each, by the names of the inputs.
            - a tensor, a numpy array (or what gives one by `__array__`), or nested lists of numbers.
            - a tuple of these, one for each input; of a model of one input also (inputs, labels): whole
              numbers of one axis in the second place are labels, and left out.
            - a mapping or a dataclass by the names of the inputs; for one input also `pixel_values`,
              `input_ids`, or the only entry. `label` and `labels` are left out, other entries that are no
              input with a warning.
            - an iterable of such batches, such as a list or a DataLoader, of which no more is read than
              `limit` asks.
        graph: the captured model, of whose inputs names, shapes and types are taken.
        bounds: the legal range of the inputs, as `prune` takes it. uint8 values for a floating-point input
            are pixels, and spread over it as in `load_data`.
        name: of the argument, for messages.

    Axes are put in the model's order where one of the layouts of images fits. Other shapes and types are left
    to the caller. Raises `InputError` for values of another kind, and where batches do not fit the inputs or
    each other.
    """
    found = _read(value, graph, name, limit)
    if len(found) != len(graph.inputs):
        raise InputError(
            f"{name} gives {len(found)} tensors, but the model has {len(graph.inputs)} inputs "
            f"({_names(graph)})"
        )
    box = input_box(graph, bounds, dtype=torch.float32)
    return tuple(
        _as_taken(x.detach().cpu()[:limit], example, side)
        for x, example, side in zip(found, graph.example, box, strict=True)
    )


def _as_taken(x: Tensor, example: Tensor, side: Interval) -> Tensor:
    x = laid_out(x, tuple(example.shape[1:]))
    if x.dtype == torch.uint8 and example.is_floating_point() and x.shape[1:] == example.shape[1:]:
        return spread(x, side.lower.cpu(), side.upper.cpu())
    return x


def _read(value: Any, graph: Graph, name: str, limit: int | None) -> Batch:
    if isinstance(value, str | os.PathLike):
        if len(graph.inputs) > 1 and str(os.fspath(value)).lower().endswith(".npz"):
            return _batch(read_arrays(value), graph, name)
        example = graph.example[0] if len(graph.inputs) == 1 else None
        shape = None if example is None else tuple(example.shape[1:])
        whole = example is not None and not example.is_floating_point()
        return (read_data(value, shape, limit, whole)["images"],)
    if _is_one_batch(graph, value):
        return _batch(value, graph, name)
    if not isinstance(value, Iterable):
        raise InputError(
            f"{name} is a {type(value).__name__}; give a tensor, an array, batches of them (a DataLoader), "
            "or a path"
        )
    batches, total = list[Batch](), 0
    for item in value:
        batches.append(_batch(item, graph, name))
        total += len(batches[-1][0])
        if limit is not None and total >= limit:
            break
    return _joined(batches, name)


def _joined(batches: Sequence[Batch], name: str) -> Batch:
    if not batches or len({len(batch) for batch in batches}) > 1:
        raise InputError(f"{name} gives no batches, or batches of different numbers of tensors")
    try:
        return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
    except RuntimeError as error:
        shapes = sorted({str(tuple(x.shape)) for batch in batches for x in batch})
        raise InputError(f"{name} gives batches that do not fit together, of shapes {few(shapes)}") from error


def _is_one_batch(graph: Graph, value: Any) -> bool:
    """Whether the value is one batch: a tuple with one array for each input, or with labels.

    A list, and any other tuple, holds several.
    """
    if not isinstance(value, tuple) or is_array(value):
        return is_array(value) or _is_named(value)
    arrays = [tensor_of(x) for x in value] if all(map(is_array, value)) else []
    return len(arrays) == len(graph.inputs) > 0 or len(_without_labels(arrays, graph)) < len(arrays)


def _is_named(value: Any) -> bool:
    known = isinstance(value, Mapping) or (hasattr(value, "keys") and hasattr(value, "__getitem__"))
    return known or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def _batch(value: Any, graph: Graph, name: str) -> Batch:
    """One batch, without its labels."""
    if _is_named(value) and not is_array(value):
        parts = _by_name(value, graph, name)
    elif is_array(value) or not isinstance(value, Sequence) or isinstance(value, str):
        parts = [value]
    else:
        parts = list(value)
    try:
        found = _without_labels([tensor_of(part) for part in parts], graph)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{name} holds a {type(value).__name__} that is no batch ({error}); give tensors, arrays, tuples "
            "with one for each input, or dicts of them"
        ) from error
    if not found or any(x.ndim == 0 for x in found):
        raise InputError(f"{name} holds batches of no samples or no axes; axis 0 must be the batch")
    return tuple(found)


def _without_labels(parts: list[Tensor], graph: Graph) -> list[Tensor]:
    if len(graph.inputs) != 1 or len(parts) != 2 or parts[0].ndim == 0:
        return parts
    inputs, other = parts
    whole = not other.is_floating_point() and not other.is_complex()
    are_labels = whole and other.ndim == 1 and len(other) == len(inputs) and graph.example[0].ndim > 1
    return parts[:1] if are_labels else parts


def _by_name(value: Any, graph: Graph, name: str) -> list[Any]:
    """The entries for the inputs, in their order."""
    entries = _entries(value)
    wanted = [_plain(name) for name in graph.input_names]
    if not entries.keys() >= set(wanted):
        entries = {key: part for key, part in entries.items() if key not in _LABELS}
        wanted = _only_entry(entries) or wanted if len(wanted) == 1 else wanted
    missing = [key for key in wanted if key not in entries]
    if missing:
        has = few(list(entries)) or "(none)"
        raise InputError(
            f"{name} has the entries {has}, and none for {few(missing)}; the model's inputs are "
            f"{_names(graph)}"
        )
    _warn_of_extra([key for key in entries if key not in (*wanted, *_LABELS)], name)
    return [entries[key] for key in wanted]


def _warn_of_extra(keys: list[str], name: str) -> None:
    if keys:
        said = f"{name}: {few(keys)}: no inputs of the model, and left out"
        warnings.warn(said, SecateurWarning, stacklevel=3)


def _entries(value: Any) -> dict[str, Any]:
    """All that is not None, by names as capture writes them."""
    if dataclasses.is_dataclass(value):
        found = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    else:
        found = {key: value[key] for key in value.keys()}  # noqa: SIM118 (others may iterate otherwise)
    return {_plain(key): part for key, part in found.items() if part is not None}


def _only_entry(entries: Mapping[str, Any]) -> list[str]:
    """The name of the entry that must be the only input, as usual names or the lack of others tell."""
    usual = [key for key in _USUAL if key in entries] or list(entries)
    return usual if len(usual) == 1 else []


def _plain(key: Any) -> str:
    """A name as capture writes it."""
    return re.sub(r"\W", "_", str(key))


def _names(graph: Graph) -> str:
    return few(list(graph.input_names))
