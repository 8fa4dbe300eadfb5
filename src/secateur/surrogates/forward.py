"""A forward pass that gradients go through, and what a classifier's outputs say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.graph.footprint import batch_size
from secateur.graph.interpret import Observe, batches, run
from secateur.graph.workers import in_order
from secateur.surrogates.source import Inputs, Source

_LARGEST = 128  # samples of a batch with gradients


def forward(source: Source, inputs: Sequence[Tensor], observe: Observe | None = None) -> tuple[Tensor, ...]:
    """The model's outputs for `inputs`, with gradients where these are enabled."""
    return run(source.graph, inputs, observe=observe, gradients=True)


def gradient_batch(source: Source, inputs: Sequence[Tensor]) -> int:
    """How many samples a pass with gradients holds at once."""
    return min(_LARGEST, batch_size(source.sizes.total, inputs))


def join(parts: Iterable[Inputs], count: int) -> Inputs:
    """`count` samples one after the other; of parts that are made one at a time, one is there beside all."""
    whole: Inputs = ()
    start = 0
    for part in parts:
        whole = whole or tuple(x.new_empty(count, *x.shape[1:]) for x in part)
        stop = start + len(part[0])
        for place, x in zip(whole, part, strict=True):
            place[start:stop] = x
        start = stop
    assert start == count, f"{start} samples of {count}"
    return whole


def take(inputs: Inputs, index: Tensor) -> Inputs:
    """The samples at `index`."""
    return tuple(x[index] for x in inputs)


def classes(source: Source) -> int:
    """The number of classes (or labels): the width of the only output (batch, k), k ≥ 2; else 0."""
    found = source.decision
    rows = found is not None and len(source.graph.outputs) == 1 and len(found.sample_shape) == 1
    return found.columns if rows and found is not None and found.columns > 1 else 0


def require_classes(source: Source, name: str) -> int:
    """The number of classes, or an `InputError` that says what else there is."""
    found = classes(source)
    if not found:
        raise InputError(
            f"{name} needs a model with one output of class scores, shape (batch, classes); "
            "use another surrogate, such as auto, shapes, spectrum or pink"
        )
    return found


def log_probabilities(source: Source, inputs: Inputs) -> Tensor:
    """log p(class) with gradients; shape: (samples, classes)."""
    return as_log_probabilities(source, forward(source, inputs)[0])


def as_log_probabilities(source: Source, out: Tensor) -> Tensor:
    """log p(class) from the output, whether the model ends in logits or in probabilities."""
    if source.meaning in ("distribution", "probability"):
        return out.clamp(min=torch.finfo(out.dtype).tiny).log()
    return out.log_softmax(1)


def all_log_probabilities(source: Source, inputs: Inputs) -> Tensor:
    """The same without gradients, in batches; values that are not finite count as no confidence."""

    def one(part: Inputs) -> Tensor:
        with torch.no_grad():
            return log_probabilities(source, part)

    size = batch_size(source.sizes.peak, inputs)
    return torch.cat(list(in_order(one, batches(inputs, size)))).nan_to_num(nan=-1e9, neginf=-1e9)
