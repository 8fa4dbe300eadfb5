"""Samples for a run: drawn from a surrogate, or the user's own inputs; checked, and as many as memory
allows.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from secateur.bounds.box import input_box
from secateur.data import as_tensors, check_within
from secateur.data.tokenizer import is_text, load_text
from secateur.data.within import outside
from secateur.errors import InputError, SecateurWarning
from secateur.graph.export import first_line
from secateur.graph.finite import finite_samples, first_not_finite
from secateur.graph.graph import Graph
from secateur.memory import give_back, shown
from secateur.report.recipe import content_of
from secateur.surrogates import SURROGATES, Source
from secateur.surrogates.text import text_of
from secateur.types import Samples, Tokenizer

Surrogate = str | Callable[[Source, int], Any]


@dataclass(frozen=True, eq=False)
class Calibration:
    """A user's unlabelled inputs, and the legal range that they are in: that of images, where a model
    normalises.
    """

    inputs: Any
    bounds: Any
    tokenizer: str | os.PathLike[str] | None = None  # its file, where `inputs` is a file of text


_LEAST_BYTES = 4096  # that a sample is taken to need, however small its input
_CHECKED = 64  # samples at a time
_DRAWS = 3  # of samples, where the model is not finite on some


def draw_samples(
    graph: Graph,
    input_bounds: Any,
    surrogate: Surrogate,
    calibration: Calibration | None,
    count: int,
    device: torch.device | str | None,
    seed: int,
    normalise: Callable[[Tensor], Tensor] = lambda images: images,
    memory: int = 2**30,
    tokenizer: Tokenizer | None = None,
) -> Samples:
    """Surrogates or the user's own inputs, at most `count`, on the device; `normalise` is for the latter.

    `tokenizer`: what is known of the tokens that a model takes.

    With a warning, fewer are drawn where they would take more than half of `memory` bytes.
    """
    asked, count = count, affordable(graph, count, memory)
    box = input_box(graph, input_bounds, dtype=torch.float32)
    if calibration is not None:
        found = own(graph, calibration, count, normalise)
        _refuse_bad(graph, found)
        if count < asked and len(found.inputs[0]) == count:
            _warn_of_memory(f"calibration: {count} inputs are used", memory)
    else:
        if count < asked:
            _warn_of_memory(f"samples: {count} of {asked} are drawn", memory)
        source = Source(graph, box, torch.Generator().manual_seed(seed), memory // 2, tokenizer)
        found = _drawn(source, surrogate, count)
        give_back()  # drawing takes more than what it leaves
    # sums may be rounded differently in other layouts
    return replace(found, inputs=tuple(x.to(device or "cpu").contiguous() for x in found.inputs))


def _warn_of_memory(said: str, memory: int) -> None:
    warnings.warn(
        f"{said}: more take over half of the memory of {shown(memory)}; raise it (memory=, --memory)",
        SecateurWarning,
        stacklevel=3,
    )


def _refuse_bad(graph: Graph, samples: Samples) -> None:
    try:
        good = finite_samples(graph, samples.inputs)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise InputError(
            f"calibration: the model refuses these inputs: {first_line(error)}. Check their types and values "
            "(token "
            "numbers must be in the vocabulary)"
        ) from error
    bad = (~good).nonzero().flatten().tolist()
    if bad:
        culprit = first_not_finite(graph, [x[bad[:1]] for x in samples.inputs])
        named = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        raise InputError(
            f"calibration: the model's outputs are not finite for {len(bad)} of {len(samples.inputs[0])} "
            "inputs "
            f"(number {named}); it goes wrong at {culprit}. Leave these inputs out"
        )


def _drawn(source: Source, surrogate: Surrogate, count: int) -> Samples:
    """Samples on which the model itself is finite. Others are drawn again, a few times; `InputError` where
    none is left, a warning where fewer are left than were asked.
    """
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
        best = replace(best, inputs=tuple(torch.cat(part)[:count] for part in parts))
    left = len(best.inputs[0])
    if left < count:
        said = (
            f"{name_of(surrogate)}: the model's outputs are finite on {left} of {count} samples; on the "
            "others it goes "
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
        total.update(f"{tuple(x.shape)} {x.dtype}\n".encode() + content_of(x))
    return total.hexdigest()


def draw(source: Source, surrogate: Surrogate, count: int) -> Samples:
    """`count` samples of a surrogate, a name in `SURROGATES` or a function of (source, count), checked.

    The function gives a tensor (a tuple of them for several inputs) or `Samples`. Raises `InputError`.
    """
    if isinstance(surrogate, str):
        if surrogate not in SURROGATES:
            raise InputError(
                f"no surrogate {surrogate!r}; there are {', '.join(SURROGATES)}, or give a function"
            )
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
            wrong = sum(int(outside(part, box.lower, box.upper).sum()) for part in x.split(_CHECKED))
            if wrong:
                raise InputError(
                    f"{name}: {wrong} values for the input {node.name} are outside of input_bounds"
                )
    return samples


def own(
    graph: Graph,
    calibration: Calibration,
    count: int,
    normalise: Callable[[Tensor], Tensor] = lambda images: images,
) -> Samples:
    """At most `count` of a user's inputs, in any form that `secateur.data.as_tensors` takes, as the model
    takes them.

    Raises `InputError` for other shapes, types and values, and for values outside of the bounds.
    """
    given = calibration.inputs
    if is_text(given):
        given = _of_text(graph, calibration, count)
    found = as_tensors(given, graph, calibration.bounds, name="calibration", limit=count)
    _check(graph, found, "calibration")
    box = input_box(graph, calibration.bounds, dtype=torch.float32)
    for node, x, side in zip(graph.inputs, found, box, strict=True):
        check_within(
            x, (side.lower.cpu(), side.upper.cpu()), f"calibration: the values for the input {node.name}"
        )
    return Samples(tuple(normalise(x) if x.is_floating_point() else x for x in found))


def _of_text(graph: Graph, calibration: Calibration, count: int) -> tuple[Tensor, ...]:
    """A file of text as sequences of the model's length; every other input as in the example."""
    text = text_of(graph)
    if text is None:
        raise InputError(
            f"calibration: {calibration.inputs} is a text, and the model takes no sequences of tokens"
        )
    ids = load_text(calibration.inputs, calibration.tokenizer, text.length, count)
    return tuple(
        ids.to(x.dtype) if i == text.index else x[:1].expand(len(ids), *x.shape[1:])
        for i, x in enumerate(graph.example)
    )


def affordable(graph: Graph, count: int, memory: int) -> int:
    """`count`, or as many samples as take half of `memory` bytes; at least 32."""
    each = sum(x[0].numel() * x.element_size() for x in graph.example)
    return min(count, max(32, memory // 2 // max(_LEAST_BYTES, each)))


def _as_tuple(value: Any) -> tuple[Tensor, ...]:
    parts = (value,) if isinstance(value, Tensor) else tuple(value) if isinstance(value, Sequence) else None
    if parts is None or not parts or not all(isinstance(x, Tensor) for x in parts):
        raise InputError(
            f"samples are a {type(value).__name__}; give a tensor, or a tuple of one for each input"
        )
    return parts


def _check(graph: Graph, inputs: Sequence[Tensor], name: str) -> None:
    if len(inputs) != len(graph.inputs):
        raise InputError(f"{name} gives {len(inputs)} tensors, but the model has {len(graph.inputs)} inputs")
    for node, x, example in zip(graph.inputs, inputs, graph.example, strict=True):
        if (
            x.ndim != example.ndim
            or x.shape[1:] != example.shape[1:]
            or not len(x)
            or len(x) != len(inputs[0])
        ):
            raise InputError(
                f"{name}: shape {tuple(x.shape)} for the input {node.name}; expected (samples, "
                f"{', '.join(map(str, example.shape[1:]))}), with at least one sample and as many for every "
                "input"
            )
        if x.is_floating_point() != example.is_floating_point():
            raise InputError(f"{name}: type {x.dtype} for the input {node.name}, which takes {example.dtype}")
        if not all(bool(torch.isfinite(part).all()) for part in x.split(_CHECKED)):
            raise InputError(f"{name}: the input {node.name} holds NaN or infinite values")
