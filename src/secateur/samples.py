"""Samples for a run: drawn from a surrogate, or the user's own inputs; checked, and as many as memory allows."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from secateur.bounds.interval import input_box
from secateur.errors import InputError, SecateurWarning
from secateur.formats.arrays import load_arrays
from secateur.graph.capture import Graph, sizes_of_values
from secateur.graph.finite import finite_samples, first_not_finite
from secateur.surrogates import SURROGATES, Source
from secateur.types import Interval, Samples

Surrogate = str | Callable[[Source, int], Any]

_LIVE_VALUES = 6  # of the largest size, in the two networks of a sweep
_BYTES = 2**30  # that these may take
_ROUNDING = 1e-6
_DRAWS = 3  # of samples, where the model is not finite on some


def look_at(
    graph: Graph,
    input_bounds: Any,
    surrogate: Surrogate,
    calibration: Any,
    count: int,
    device: torch.device | str | None,
    seed: int,
    normalise: Callable[[Tensor], Tensor] = lambda images: images,
) -> Samples:
    """Surrogates or the user's own inputs, at most `count`, on the device; `normalise` is for the latter."""
    asked, count = count, affordable(graph, count)
    box = input_box(graph, input_bounds, dtype=torch.float32)
    if calibration is not None:
        found = own(graph, calibration, count, normalise)
        _refuse_bad(graph, found)
        _warn_of_range(graph, found, box)
    else:
        if count < asked:
            warnings.warn(
                f"samples: {count} of {asked} are drawn; the values of more do not fit into {_BYTES / 2**30:g} GiB",
                SecateurWarning,
                stacklevel=2,
            )
        found = _drawn(Source(graph, box, torch.Generator().manual_seed(seed)), surrogate, count)
    return replace(found, inputs=tuple(x.to(device or "cpu") for x in found.inputs))


def _refuse_bad(graph: Graph, samples: Samples) -> None:
    bad = (~finite_samples(graph, samples.inputs)).nonzero().flatten().tolist()
    if bad:
        culprit = first_not_finite(graph, [x[bad[:1]] for x in samples.inputs])
        named = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        raise InputError(
            f"calibration: the model's outputs are not finite for {len(bad)} of {len(samples.inputs[0])} inputs "
            f"(number {named}); it goes wrong at {culprit}. Leave these inputs out"
        )


def _warn_of_range(graph: Graph, samples: Samples, bounds: Sequence[Interval]) -> None:
    for node, x, box in zip(graph.inputs, samples.inputs, bounds, strict=True):
        outside = _outside(x, box) if x.is_floating_point() else None
        if outside is not None and bool(outside.any()):
            warnings.warn(
                f"calibration: {float(outside.float().mean()):.1%} of the values for the input {node.name} are outside "
                f"of input_bounds. As the model takes them, they range from {float(x.min()):g} to {float(x.max()):g}, "
                f"the bounds from {float(box.lower.min()):g} to {float(box.upper.max()):g}. Are they in the units that "
                "the model takes? (input_bounds, mean, std)",
                SecateurWarning,
                stacklevel=2,
            )


def _outside(x: Tensor, box: Interval) -> Tensor:
    """Which values are outside of the box by more than rounding."""
    slack = _ROUNDING * (1.0 + torch.maximum(box.lower.abs(), box.upper.abs()).nan_to_num(posinf=0.0))
    return (x < box.lower - slack) | (x > box.upper + slack)


def _drawn(source: Source, surrogate: Surrogate, count: int) -> Samples:
    """Samples on which the model itself is finite. Others are drawn again, a few times; `InputError` where none is
    left, a warning where fewer are left than were asked."""
    graph, kept = source.graph, list[Samples]()
    for _ in range(_DRAWS):
        found = draw(source, surrogate, count)
        good = finite_samples(graph, found.inputs, found.tensors)
        if bool(good.all()):
            return found
        bad = replace(found, inputs=tuple(x[~good][:1] for x in found.inputs))
        kept.append(replace(found, inputs=tuple(x[good] for x in found.inputs)))
    best = max(kept, key=lambda samples: len(samples.inputs[0]))
    if not best.tensors:  # else each draw has statistics of its own
        parts = zip(*(samples.inputs for samples in kept), strict=True)
        best = Samples(tuple(torch.cat(part)[:count] for part in parts))
    left = len(best.inputs[0])
    if left < count:
        said = (
            f"{name_of(surrogate)}: the model's outputs are finite on {left} of {count} samples; on the others it goes "
            f"wrong at {first_not_finite(graph, bad.inputs, bad.tensors)}"
        )
        if not left:
            raise InputError(
                f"{said}. Give narrower input_bounds, another surrogate, or inputs of your own (calibration=)"
            )
        warnings.warn(f"{said}. These {left} are used", SecateurWarning, stacklevel=2)
    return best


def name_of(surrogate: Surrogate) -> str:
    return surrogate if isinstance(surrogate, str) else getattr(surrogate, "__name__", "custom")


def digest(samples: Samples) -> str:
    """SHA-256 of all inputs: shapes, types and values."""
    total = hashlib.sha256()
    for x in samples.inputs:
        total.update(f"{tuple(x.shape)} {x.dtype}\n".encode() + x.cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def draw(source: Source, surrogate: Surrogate, count: int) -> Samples:
    """`count` samples of a surrogate, a name in `SURROGATES` or a function of (source, count), checked.

    The function gives a tensor (a tuple of them for several inputs) or `Samples`. Raises `InputError`.
    """
    if isinstance(surrogate, str):
        if surrogate not in SURROGATES:
            raise InputError(f"no surrogate {surrogate!r}; there are {', '.join(SURROGATES)}, or give a function")
        function = SURROGATES[surrogate]
    else:
        function = surrogate
    name = name_of(surrogate)
    with torch.enable_grad():  # wherever the caller stands
        found = function(source, count)
    samples = found if isinstance(found, Samples) else Samples(_as_tuple(found))
    _check(source.graph, samples.inputs, name)
    for node, x, box in zip(source.graph.inputs, samples.inputs, source.box, strict=True):
        if x.is_floating_point():
            outside = _outside(x, box)
            if bool(outside.any()):
                raise InputError(
                    f"{name}: {int(outside.sum())} values for the input {node.name} are outside of input_bounds"
                )
    return samples


def own(
    graph: Graph, calibration: Any, count: int, normalise: Callable[[Tensor], Tensor] = lambda images: images
) -> Samples:
    """The first `count` of a user's unlabelled inputs: a tensor (or a tuple, one for each input of the model), an
    iterable of such batches, or the path of a `.npz` file. Raises `InputError` for other shapes, types and values."""
    if isinstance(calibration, str | os.PathLike):
        found: tuple[Tensor, ...] = (load_arrays(calibration)["images"],)
    elif isinstance(calibration, Tensor) or _is_one_batch(graph, calibration):
        found = _as_tuple(calibration)
    elif isinstance(calibration, Iterable):
        batches, total = [], 0
        for batch in calibration:
            batches.append(_as_tuple(batch))
            total += len(batches[-1][0])
            if total >= count:
                break
        if not batches or len({len(batch) for batch in batches}) > 1:
            raise InputError("calibration gives no batches, or batches of different numbers of tensors")
        found = tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
    else:
        raise InputError(f"calibration is a {type(calibration).__name__}; give a tensor, batches, or a .npz path")
    found = tuple(x.detach().cpu()[:count] for x in found)
    found = tuple(normalise(x) if x.is_floating_point() else x for x in found)
    _check(graph, found, "calibration")
    return Samples(found)


def affordable(graph: Graph, count: int) -> int:
    """`count`, or as many samples as keep a sweep's values within about 1 GiB; at least 32."""
    each = 4 * _LIVE_VALUES * max(1, *sizes_of_values(graph))
    return min(count, max(32, _BYTES // each))


def _as_tuple(value: Any) -> tuple[Tensor, ...]:
    parts = (value,) if isinstance(value, Tensor) else tuple(value) if isinstance(value, Sequence) else None
    if parts is None or not parts or not all(isinstance(x, Tensor) for x in parts):
        raise InputError(f"samples are a {type(value).__name__}; give a tensor, or a tuple of one for each input")
    return parts


def _is_one_batch(graph: Graph, value: Any) -> bool:
    """A tuple with one tensor for each of several inputs; a list is one of batches."""
    return isinstance(value, tuple) and len(value) == len(graph.inputs) and all(isinstance(x, Tensor) for x in value)


def _check(graph: Graph, inputs: Sequence[Tensor], name: str) -> None:
    if len(inputs) != len(graph.inputs):
        raise InputError(f"{name} gives {len(inputs)} tensors, but the model has {len(graph.inputs)} inputs")
    for node, x, example in zip(graph.inputs, inputs, graph.example, strict=True):
        if x.ndim != example.ndim or x.shape[1:] != example.shape[1:] or not len(x) or len(x) != len(inputs[0]):
            raise InputError(
                f"{name}: shape {tuple(x.shape)} for the input {node.name}; expected (samples, "
                f"{', '.join(map(str, example.shape[1:]))}), with at least one sample and as many for every input"
            )
        if x.is_floating_point() != example.is_floating_point():
            raise InputError(f"{name}: type {x.dtype} for the input {node.name}, which takes {example.dtype}")
        if not bool(torch.isfinite(x).all()):
            raise InputError(f"{name}: the input {node.name} holds NaN or infinite values")
