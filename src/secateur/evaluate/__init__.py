"""Measure a model: accuracy, agreement with the original, robustness under attack and corruption, and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from secateur import arguments as may
from secateur.arguments import checked
from secateur.data.plain import tensor_of
from secateur.decisions import HEADS, MULTI_LABEL, Head, classes_of
from secateur.errors import InputError, few
from secateur.evaluate.accuracy import accuracies, agreement, outputs_of, placed, predict, resolve_head, right
from secateur.evaluate.attacks import (
    APGD,
    FGSM,
    PGD,
    Attack,
    AutoAttack,
    Outcome,
    check_names,
    run_attack,
    target_of,
)
from secateur.evaluate.box import Bounds, Box, input_box, pixels_in, range_warning
from secateur.evaluate.classes import per_class, worst
from secateur.evaluate.corruptions import Corruption, resolve
from secateur.evaluate.cost import latency_ms, macs, parameters, state_bytes
from secateur.evaluate.masking import signs_of_masking
from secateur.evaluate.report import AttackRow, ClassRow, CorruptionRow, Cost, Evaluation
from secateur.evaluate.runtime import RUNTIMES, Runtime, fixed_batch, forward_pass, runtime_of
from secateur.graph.export import unlifted
from secateur.graph.fitness import check_values
from secateur.inputs import Normalisation
from secateur.progress import phase, track
from secateur.torch_state import ALONE

__all__ = [
    "APGD",
    "FGSM",
    "PGD",
    "Attack",
    "AttackRow",
    "AutoAttack",
    "ClassRow",
    "Corruption",
    "CorruptionRow",
    "Cost",
    "Evaluation",
    "evaluate",
]

Model = nn.Module | ExportedProgram
Array = Any  # a tensor, an array, or nested lists of numbers


def evaluate(
    model: Model,
    images: Array,
    labels: Array,
    *,
    original: Model | None = None,
    attacks: Sequence[Attack] = (),
    corruptions: Sequence[str | Corruption] = (),
    top_k: Sequence[int] = (1,),
    input_bounds: Bounds = (0.0, 1.0),
    mean: float | Sequence[float] | Tensor | None = None,
    std: float | Sequence[float] | Tensor | None = None,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    head: Head = "auto",
    latency: bool = False,
    runtime: Runtime | None = None,
    progress: bool = False,
) -> Evaluation:
    """Measure the classifier `model` on `images` (n, …) with class numbers `labels` (n,).

    Both are tensors, arrays, or nested lists; `secateur.data.load_data` reads them from files. uint8 images of a model
    that does not take these are pixels, and spread over `input_bounds`.

    `attacks` run against `model`, inside `input_bounds` (numbers, one value per channel, or what broadcasts to one
    image); `mean` and `std` are as for `prune`, all else then in units of the images. `warnings` in the report tell
    where the attacks' gradients look masked. `corruptions` are names, each for three severities, or `Corruption`
    objects. `original` is measured beside the model for accuracy, agreement, classes, corruptions and cost. `head` says
    what the outputs are, see `secateur.decisions`; the report names it. Of several labels for each input, `labels` are
    0 or 1 (n, outputs), and a decision is right where all of them are. `latency` times batches of `batch_size` inputs
    in `runtime`, torch or onnxruntime (default: onnxruntime for models that came as ONNX). Neither model is changed.
    Raises `InputError` for arguments, data or models that cannot be measured.
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
            "batch_size": batch_size,
            "device": device,
            "head": head,
            "latency": latency,
            "runtime": runtime,
            "progress": progress,
        },
    )
    images, labels = given["images"], given["labels"]
    input_bounds, device = given["input_bounds"], given["device"]
    _check_data(images, labels)
    normalisation = Normalisation(given["mean"] or (), given["std"] or ())
    if images.dtype == torch.uint8 and (normalisation or not _takes(model, images[:2], device)):
        images = pixels_in(images, input_bounds)
    model = normalisation.around(model, images.ndim - 2)
    original = None if original is None else normalisation.around(original, images.ndim - 2)
    check_names(attacks)
    worse = resolve(corruptions)
    box = input_box(images, input_bounds) if attacks or worse else None
    streaming: _Streaming = {"batch_size": batch_size, "device": device, "progress": progress}
    one_of_k = labels.ndim == 1
    subject = _answers(model, "model", images, head, one_of_k, streaming)
    _check_labels(labels, subject, attacks)
    reference = None if original is None else _answers(original, "original", images, head, one_of_k, streaming)
    if reference is not None and reference.classes != subject.classes:
        raise InputError(f"the model tells {subject.classes} classes apart, the original {reference.classes}")
    measured = [subject] if reference is None else [subject, reference]
    timed_in = (runtime or runtime_of(subject.module)) if latency else None
    with phase("measuring the cost", progress):
        costs, latency_batch = _costs(measured, images, streaming, timed_in)
    original_accuracy, agreed = None, None
    if reference is not None:
        original_accuracy = accuracies(reference.outputs, labels, top_k, reference.head)
        agreed = agreement(subject.outputs, subject.head, reference.outputs, reference.head)
    classes = (
        per_class(subject.right(labels), None if reference is None else reference.right(labels), labels)
        if one_of_k
        else ()
    )
    outcomes = [(a, _attacked(subject, images, labels, a, input_bounds, streaming)) for a in attacks]
    return Evaluation(
        samples=len(images),
        head=subject.head,
        accuracy=accuracies(subject.outputs, labels, top_k, subject.head),
        original_accuracy=original_accuracy,
        agreement=agreed,
        classes=classes,
        worst_class_accuracy=worst(row.accuracy for row in classes),
        original_worst_class_accuracy=worst(row.original_accuracy for row in classes),
        attacks=tuple(_attack_row(attack, outcome) for attack, outcome in outcomes),
        corruptions=tuple(_corruption_row(measured, images, labels, c, box, streaming) for c in worse if box),
        warnings=_warnings(subject, images, labels, outcomes, box, streaming)
        if box
        else _of_range(images, input_bounds),
        cost=costs[0],
        cost_before=costs[1] if reference is not None else None,
        latency_batch=latency_batch,
        latency_runtime=timed_in,
    )


def _as_labels(value: Any) -> Tensor:
    """Class numbers; truth values are those of two classes."""
    found = tensor_of(value)
    return found.long() if found.dtype == torch.bool else found


_ARRAY = "a tensor, an array, or nested lists of numbers"
_RULES = {
    "model": may.MODEL,
    "images": may.Rule(_ARRAY, tensor_of),
    "labels": may.Rule(_ARRAY, _as_labels),
    "original": may.optional(may.MODEL),
    "attacks": may.list_of(may.instance(Attack, ""), "a list of attacks, such as [secateur.PGD(0.01)]"),
    "corruptions": may.list_of(
        may.instance((str, Corruption), ""), "a list of corruptions, such as ['gaussian_noise'] or [Corruption(…)]"
    ),
    "top_k": may.list_of(may.whole(1, ""), "a list of whole numbers from 1, such as (1, 5)"),
    "input_bounds": may.ONE_PAIR,
    "mean": may.MEAN,
    "std": may.STD,
    "batch_size": may.whole(1, "a whole number of inputs, at least 1"),
    "device": may.DEVICE,
    "head": may.one_of(*HEADS),
    "latency": may.flag(),
    "runtime": may.optional(may.one_of(*RUNTIMES)),
    "progress": may.flag(),
}


class _Streaming(TypedDict):
    """How data goes through a model."""

    batch_size: int
    device: torch.device | str | None
    progress: bool


@dataclass(frozen=True, eq=False)
class _Answers:
    """A model, its outputs on all images (n, outputs), and what their columns are."""

    module: nn.Module
    outputs: Tensor
    head: Head

    @property
    def classes(self) -> int:
        return classes_of(self.head, self.outputs.shape[1])

    def right(self, labels: Tensor) -> Tensor:
        return right(self.outputs, labels, self.head)


def _answers(model: Model, role: str, images: Tensor, head: Head, one_of_k: bool, streaming: _Streaming) -> _Answers:
    module = _module(model, role)
    outputs = predict(module, images, **streaming)
    return _Answers(module, outputs, resolve_head(module, head, outputs, images[:2], one_of_k=one_of_k))


def _module(model: Model, role: str) -> nn.Module:
    """The model as a module; an exported graph has its mode baked in, any other must be in eval mode."""
    if isinstance(model, ExportedProgram):
        return unlifted(model)
    if not isinstance(model, nn.Module):
        raise InputError(f"{role} is a {type(model).__name__}; give a torch.nn.Module or an ExportedProgram")
    with ALONE:
        check_values({**dict(model.named_parameters()), **dict(model.named_buffers())})
    training = [name or "(the model)" for name, m in model.named_modules() if m.training]
    if training and not isinstance(model, fx.GraphModule):
        raise InputError(f"{role} is in training mode ({few(training)}); call eval() on it first")
    return model


def _takes(model: Model, images: Tensor, device: torch.device | str | None) -> bool:
    """Whether the model takes images of this type as they are."""
    module, place = placed(_module(model, "model"), device)
    try:
        with torch.no_grad():
            outputs_of(module, images.to(place))
    except InputError:
        return False
    return True


def _check_data(images: Tensor, labels: Tensor) -> None:
    if images.ndim < 2 or not len(images):
        raise InputError(f"images of shape {tuple(images.shape)}: axis 0 must be the samples, at least one of them")
    if labels.ndim not in (1, 2) or labels.is_floating_point() or labels.is_complex():
        raise InputError(f"labels of shape {tuple(labels.shape)} and type {labels.dtype}: give one class number each")
    if len(labels) != len(images):
        raise InputError(f"{len(images)} images but {len(labels)} labels")
    if images.is_floating_point() and not bool(torch.isfinite(images).all()):
        bad = int((~torch.isfinite(images)).flatten(1).any(dim=1).sum())
        raise InputError(f"{bad} of {len(images)} images hold NaN or infinite values")


def _check_labels(labels: Tensor, subject: _Answers, attacks: Sequence[Attack]) -> None:
    low, high, classes = int(labels.min()), int(labels.max()), subject.classes
    if (labels.ndim == 2) != (subject.head in MULTI_LABEL):
        raise InputError(
            f"labels of shape {tuple(labels.shape)} do not fit the head {subject.head}: give one class number each, or "
            "for multi_label a 0 or 1 for each output"
        )
    if labels.ndim == 2:
        if labels.shape != subject.outputs.shape or low < 0 or high > 1:
            raise InputError(f"labels of shape {tuple(labels.shape)}: give a 0 or 1 for each of {classes} outputs")
        if attacks:
            raise InputError("attacks: they need one class number for each input, the model gives several labels")
        return
    if low < 0 or high >= classes:
        raise InputError(
            f"labels range from {low} to {high}, but the model tells {classes} classes apart (0 to {classes - 1})"
        )


def _attacked(
    subject: _Answers, images: Tensor, labels: Tensor, attack: Attack, bounds: Bounds, streaming: _Streaming
) -> Outcome:
    right = subject.right(labels)
    return run_attack(
        subject.module, images, labels, attack, head=subject.head, correct=right, input_bounds=bounds, **streaming
    )


def _attack_row(attack: Attack, outcome: Outcome) -> AttackRow:
    return AttackRow(
        name=attack.name,
        norm=attack.norm,
        eps=attack.eps,
        steps=attack.steps,
        robust_accuracy=outcome.robust_accuracy,
        robust_instances_per_1000=outcome.robust_instances_per_1000,
        samples=len(outcome.robust),
    )


def _of_range(images: Tensor, bounds: Bounds) -> tuple[str, ...]:
    """Without attacks the box is not needed, but images outside of it are likely in other units than was thought."""
    said = range_warning(images, bounds)
    return (said,) if said else ()


def _warnings(
    subject: _Answers,
    images: Tensor,
    labels: Tensor,
    outcomes: Sequence[tuple[Attack, Outcome]],
    box: Box,
    streaming: _Streaming,
) -> tuple[str, ...]:
    """What makes the outcomes doubtful: signs of masked gradients, and what the attacks themselves noted."""
    target = target_of(subject.module, subject.head, box, streaming["device"])
    signs = signs_of_masking(target, images, labels, outcomes, streaming["batch_size"])
    return (*signs, *(note for _, outcome in outcomes for note in outcome.notes))


def _corruption_row(
    measured: Sequence[_Answers],
    images: Tensor,
    labels: Tensor,
    corruption: Corruption,
    box: Box,
    streaming: _Streaming,
) -> CorruptionRow:
    """Accuracy of every model on the same corrupted images, batch by batch."""
    placements = [placed(answers.module, streaming["device"])[0] for answers in measured]
    hits = [0] * len(measured)
    parts = torch.arange(len(images)).split(streaming["batch_size"])
    for rows in track(parts, corruption.name, streaming["progress"]):
        worse = corruption.apply(images[rows], box, rows)
        for place, (answers, module) in enumerate(zip(measured, placements, strict=True)):
            outputs = predict(module, worse, batch_size=len(rows))
            hits[place] += int(right(outputs, labels[rows], answers.head).sum())
    shares = [hit / len(images) for hit in hits]
    return CorruptionRow(
        kind=corruption.kind,
        strength=corruption.strength,
        accuracy=shares[0],
        original_accuracy=shares[1] if len(shares) > 1 else None,
    )


def _costs(
    measured: Sequence[_Answers], images: Tensor, streaming: _Streaming, runtime: Runtime | None
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
