"""Measure a model: accuracy, agreement with the original, robustness under attack and corruption, and cost.

With labels, attacks look for errors; without them, for inputs on which the model parts from the original.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from secateur import arguments as may
from secateur.arguments import checked
from secateur.data.plain import tensor_of
from secateur.decisions import HEADS, Head
from secateur.evaluate.accuracy import accuracies, placed
from secateur.evaluate.agreement import check_comparable, compared
from secateur.evaluate.answers import Answers, Model, Streaming, answers_of, takes
from secateur.evaluate.attacks import APGD, FGSM, PGD, Attack, AutoAttack, check_names
from secateur.evaluate.box import Bounds, Box, input_box, pixels_in, range_warning
from secateur.evaluate.checks import check_data, check_labels, check_pair, check_unlabelled
from secateur.evaluate.classes import per_class, worst
from secateur.evaluate.corruptions import Corruption, resolve
from secateur.evaluate.cost import latency_ms, macs, parameters, state_bytes
from secateur.evaluate.report import (
    AgreementAttackRow,
    AttackRow,
    ClassRow,
    ClassShareRow,
    CorruptionRow,
    Cost,
    Drift,
    Evaluation,
)
from secateur.evaluate.robustness import agreement_attacked, attacked, corrupted
from secateur.evaluate.runtime import fixed_batch, forward_pass, runtime_of
from secateur.formats.format import RUNTIMES, Runtime
from secateur.inputs import Normalisation
from secateur.presets import PRESETS
from secateur.progress import phase
from secateur.torch_state import ALONE

Array = Any  # a tensor, an array, or nested lists of numbers

__all__ = [
    "APGD",
    "FGSM",
    "PGD",
    "AgreementAttackRow",
    "Attack",
    "AttackRow",
    "AutoAttack",
    "ClassRow",
    "ClassShareRow",
    "Corruption",
    "CorruptionRow",
    "Cost",
    "Drift",
    "Evaluation",
    "evaluate",
]


def evaluate(
    model: Model,
    images: Array,
    labels: Array | None = None,
    *,
    original: Model | None = None,
    attacks: Sequence[Attack] = (),
    corruptions: Sequence[str | Corruption] = (),
    top_k: Sequence[int] = (1,),
    input_bounds: Bounds = (0.0, 1.0),
    mean: float | Sequence[float] | Tensor | None = None,
    std: float | Sequence[float] | Tensor | None = None,
    normalize: str | None = None,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    head: Head = "auto",
    latency: bool = False,
    runtime: Runtime | None = None,
    progress: bool = False,
) -> Evaluation:
    """Measure the classifier `model` on `images` (n, …): against `labels`, against `original`, or against
    both.

    Both are tensors, arrays, or nested lists; `secateur.data.load_data` reads them from files. uint8 images
    of a model that does not take these are pixels, and spread over `input_bounds`.

    `labels` are class numbers (n,), and the report tells accuracy, also by class. Of several labels for each
    input, they are 0 or 1 (n, outputs), and a decision is right where all of them are. Without labels
    `original` is needed: the model before it was pruned. Given an `original`, the report tells on which share
    of the inputs both decide the same, with an exact 95 % confidence interval, how far the outputs are apart,
    how often each model gives each class, and the cost before. A class that only the original gives has
    vanished.

    `attacks` run inside `input_bounds` (numbers, one value per channel, or what broadcasts to one image);
    `mean`, `std` and `normalize` are as for `prune`, all else then in units of the images. With labels,
    attacks make `model` err. Without them, they look for inputs near each image that the original decides as
    it decides the image and `model` does not: FGSM, PGD and APGD can. The ball round an image is searched,
    not proved free of them; `certify` proves. `warnings` in the report tell where the attacks' gradients look
    masked. `corruptions` are names, each for three severities, or `Corruption` objects.

    `head` says what the outputs are, see `secateur.decisions`; the report names it. Of a model's output with
    several parts, `logits` (an attribute or a key) is taken. `latency` times batches of `batch_size` inputs
    in `runtime`, torch or onnxruntime (default: onnxruntime for models that came as ONNX). Neither model is
    changed. Raises `InputError` for arguments, data or models that cannot be measured.
    """
    given = checked(
        _RULES,
        {
            "model": model,
            "images": images,
            "labels": labels,
            "original": original,
            "attacks": attacks,
            "corruptions": corruptions,
            "top_k": top_k,
            "input_bounds": input_bounds,
            "mean": mean,
            "std": std,
            "normalize": normalize,
            "batch_size": batch_size,
            "device": device,
            "head": head,
            "latency": latency,
            "runtime": runtime,
            "progress": progress,
        },
    )
    images, labels, input_bounds = given["images"], given["labels"], given["input_bounds"]
    check_data(images, labels)
    if labels is None:
        check_unlabelled(original is not None, top_k, attacks)
    check_names(attacks)
    worse = resolve(corruptions)
    normalisation = Normalisation.named(normalize, input_bounds, given["mean"] or (), given["std"] or ())
    if images.dtype == torch.uint8 and (normalisation or not takes(model, images[:2], given["device"])):
        images = pixels_in(images, input_bounds)
    model = normalisation.around(model, images.ndim - 2)
    original = None if original is None else normalisation.around(original, images.ndim - 2)
    # Normalised images are of these bounds, and no others.
    box = input_box(images, input_bounds) if attacks or worse or normalisation else None
    streaming: Streaming = {"batch_size": batch_size, "device": given["device"], "progress": progress}
    one_of_k = None if labels is None else labels.ndim == 1
    subject = answers_of(model, "model", images, head, one_of_k, streaming)
    if labels is not None:
        check_labels(labels, subject, attacks)
    reference = (
        None if original is None else answers_of(original, "original", images, head, one_of_k, streaming)
    )
    if reference is not None:
        check_comparable(subject, reference)
    if labels is None:
        check_pair(subject.head, attacks)
    measured = [subject] if reference is None else [subject, reference]
    timed_in = (runtime or runtime_of(subject.module)) if latency else None
    with phase("measuring the cost", progress):
        costs, latency_batch = _costs(measured, images, streaming, timed_in)
    found = [] if labels is None else [_correct(subject, reference, labels, top_k)]
    found += [] if reference is None else [compared(subject, reference)]
    found += (
        [_attacked(subject, reference, images, labels, attacks, box, streaming)] if attacks and box else []
    )
    return Evaluation(
        samples=len(images),
        head=subject.head,
        corruptions=tuple(corrupted(measured, images, labels, c, box, streaming) for c in worse if box),
        warnings=(*_of_range(images, input_bounds, box), *(doubt for _, doubts in found for doubt in doubts)),
        cost=costs[0],
        cost_before=costs[1] if reference is not None else None,
        latency_batch=latency_batch,
        latency_runtime=timed_in,
        **{name: value for fields, _ in found for name, value in fields.items()},
    )


def _as_labels(value: Any) -> Tensor:
    """Class numbers; truth values are those of two classes."""
    found = tensor_of(value)
    return found.long() if found.dtype == torch.bool else found


_ARRAY = "a tensor, an array, or nested lists of numbers"
_RULES = {
    "model": may.MODEL,
    "images": may.Rule(_ARRAY, tensor_of),
    "labels": may.optional(may.Rule(_ARRAY, _as_labels)),
    "original": may.optional(may.MODEL),
    "attacks": may.list_of(may.instance(Attack, ""), "a list of attacks, such as [secateur.PGD(0.01)]"),
    "corruptions": may.list_of(
        may.instance((str, Corruption), ""),
        "a list of corruptions, such as ['gaussian_noise'] or [Corruption(…)]",
    ),
    "top_k": may.list_of(may.whole(1, ""), "a list of whole numbers from 1, such as (1, 5)"),
    "input_bounds": may.ONE_PAIR,
    "mean": may.MEAN,
    "std": may.STD,
    "normalize": may.optional(may.one_of(*PRESETS)),
    "batch_size": may.whole(1, "a whole number of inputs, at least 1"),
    "device": may.DEVICE,
    "head": may.one_of(*HEADS),
    "latency": may.flag(),
    "runtime": may.optional(may.one_of(*RUNTIMES)),
    "progress": may.flag(),
}


Found = tuple[dict[str, Any], tuple[str, ...]]  # fields of the report, and what to warn of


def _correct(subject: Answers, reference: Answers | None, labels: Tensor, top_k: Sequence[int]) -> Found:
    """How often the models are right, in all and by class."""
    before = None if reference is None else reference.right(labels)
    classes = per_class(subject.right(labels), before, labels) if labels.ndim == 1 else ()
    fields = {
        "accuracy": accuracies(subject.outputs, labels, top_k, subject.head),
        "original_accuracy": accuracies(reference.outputs, labels, top_k, reference.head)
        if reference
        else None,
        "classes": classes,
        "worst_class_accuracy": worst(row.accuracy for row in classes),
        "original_worst_class_accuracy": worst(row.original_accuracy for row in classes),
    }
    return fields, ()


def _attacked(
    subject: Answers,
    reference: Answers | None,
    images: Tensor,
    labels: Tensor | None,
    attacks: Sequence[Attack],
    box: Box,
    streaming: Streaming,
) -> Found:
    """What attacks leave of the accuracy, or without labels of the agreement."""
    if labels is not None:
        rows, doubts = attacked(subject, images, labels, attacks, box, streaming)
        return {"attacks": rows}, doubts
    assert reference is not None
    standing, doubts = agreement_attacked(subject, reference, images, attacks, box, streaming)
    return {"agreement_attacks": standing}, doubts


def _of_range(images: Tensor, bounds: Bounds, box: Box | None) -> tuple[str, ...]:
    """Without attacks the box is not needed, but images outside of it are likely in other units than was
    thought.
    """
    said = "" if box else range_warning(images, bounds)
    return (said,) if said else ()


def _costs(
    measured: Sequence[Answers], images: Tensor, streaming: Streaming, runtime: Runtime | None
) -> tuple[list[Cost], int | None]:
    """The cost of each model, timed in turns on one batch where a runtime is named, and that batch's size."""
    pairs = [placed(answers.module, streaming["device"]) for answers in measured]
    modules = [module for module, _ in pairs]
    milliseconds: Sequence[float | None] = [None] * len(modules)
    batch = images[: streaming["batch_size"]].to(pairs[0][1])
    timed = batch
    if runtime is not None:
        if runtime == "onnxruntime":
            timed = batch[: min(fixed_batch(m) or len(batch) for m in modules)]
        milliseconds = latency_ms([forward_pass(m, timed, runtime) for m in modules], batch.device)
    with ALONE:
        costs = [
            Cost(parameters=parameters(m), macs=macs(m, batch[:1]), bytes=state_bytes(m), latency_ms=elapsed)
            for m, elapsed in zip(modules, milliseconds, strict=True)
        ]
    return costs, len(timed) if runtime is not None else None
