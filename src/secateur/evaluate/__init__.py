"""Measure a model: accuracy, agreement with the original, robustness under attack and corruption, and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from secateur.errors import InputError, few
from secateur.evaluate.accuracy import Head, accuracies, agreement, classes_of, decide, placed, predict, resolve_head
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
from secateur.evaluate.box import Bounds, Box, input_box
from secateur.evaluate.classes import per_class, worst
from secateur.evaluate.corruptions import Corruption, resolve
from secateur.evaluate.cost import latency_ms, macs, parameters, state_bytes
from secateur.evaluate.masking import signs_of_masking
from secateur.evaluate.report import AttackRow, ClassRow, CorruptionRow, Cost, Evaluation
from secateur.evaluate.runtime import Runtime, fixed_batch, forward_pass, runtime_of
from secateur.graph.export import unlifted
from secateur.graph.fitness import check_values
from secateur.progress import phase, track

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


def evaluate(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    original: Model | None = None,
    attacks: Sequence[Attack] = (),
    corruptions: Sequence[str | Corruption] = (),
    top_k: Sequence[int] = (1,),
    input_bounds: Bounds = (0.0, 1.0),
    batch_size: int = 256,
    device: torch.device | str | None = None,
    head: Head = "auto",
    latency: bool = False,
    runtime: Runtime | None = None,
    progress: bool = False,
) -> Evaluation:
    """Measure the classifier `model` on `images` (n, …) with class numbers `labels` (n,).

    `attacks` run against `model`, inside `input_bounds` (numbers, one value per channel, or what broadcasts to one
    image); `warnings` in the report tell where their gradients look masked. `corruptions` are names, each for three
    severities, or `Corruption` objects. `original` is measured beside the model for accuracy, agreement, classes,
    corruptions and cost. `latency` times batches of `batch_size` inputs in `runtime`, torch or onnxruntime (default:
    onnxruntime for models that came as ONNX). Neither model is changed. Raises `InputError` for data or models that
    cannot be measured.
    """
    _check_data(images, labels, batch_size)
    check_names(attacks)
    worse = resolve(corruptions)
    box = input_box(images, input_bounds) if attacks or worse else None
    streaming: _Streaming = {"batch_size": batch_size, "device": device, "progress": progress}
    subject = _answers(model, "model", images, head, streaming)
    _check_labels(labels, classes_of(subject.head, subject.outputs))
    reference = None if original is None else _answers(original, "original", images, head, streaming)
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
    classes = per_class(subject.right(labels), None if reference is None else reference.right(labels), labels)
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
        warnings=_warnings(subject, images, labels, outcomes, box, streaming) if box else (),
        cost=costs[0],
        cost_before=costs[1] if reference is not None else None,
        latency_batch=latency_batch,
        latency_runtime=timed_in,
    )


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
        return classes_of(self.head, self.outputs)

    def right(self, labels: Tensor) -> Tensor:
        return decide(self.outputs, self.head) == labels


def _answers(model: Model, role: str, images: Tensor, head: Head, streaming: _Streaming) -> _Answers:
    module = _module(model, role)
    outputs = predict(module, images, **streaming)
    return _Answers(module, outputs, resolve_head(module, head, outputs, images[:2]))


def _module(model: Model, role: str) -> nn.Module:
    """The model as a module; an exported graph has its mode baked in, any other must be in eval mode."""
    if isinstance(model, ExportedProgram):
        return unlifted(model)
    if not isinstance(model, nn.Module):
        raise InputError(f"{role} is a {type(model).__name__}; give a torch.nn.Module or an ExportedProgram")
    check_values({**dict(model.named_parameters()), **dict(model.named_buffers())})
    training = [name or "(the model)" for name, m in model.named_modules() if m.training]
    if training and not isinstance(model, fx.GraphModule):
        raise InputError(f"{role} is in training mode ({few(training)}); call eval() on it first")
    return model


def _check_data(images: Tensor, labels: Tensor, batch_size: int) -> None:
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: give at least 1")
    if images.ndim < 2 or not len(images):
        raise InputError(f"images of shape {tuple(images.shape)}: axis 0 must be the samples, at least one of them")
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        raise InputError(f"labels of shape {tuple(labels.shape)} and type {labels.dtype}: give one class number each")
    if len(labels) != len(images):
        raise InputError(f"{len(images)} images but {len(labels)} labels")
    if images.is_floating_point() and not bool(torch.isfinite(images).all()):
        bad = int((~torch.isfinite(images)).flatten(1).any(dim=1).sum())
        raise InputError(f"{bad} of {len(images)} images hold NaN or infinite values")


def _check_labels(labels: Tensor, classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
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
            hits[place] += int((decide(outputs, answers.head) == labels[rows]).sum())
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
    costs = [
        Cost(parameters=parameters(m), macs=macs(m, batch[:1]), bytes=state_bytes(m), latency_ms=elapsed)
        for m, elapsed in zip(modules, milliseconds, strict=True)
    ]
    return costs, len(timed) if runtime is not None else None
