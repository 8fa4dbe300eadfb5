"""Measure a model: accuracy, agreement with the original, robustness under attack, and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from secateur.errors import InputError
from secateur.evaluate.accuracy import Head, accuracies, agreement, classes_of, decide, placed, predict, resolve_head
from secateur.evaluate.attacks import FGSM, PGD, Attack, Bounds, check_names, input_box, run_attack
from secateur.evaluate.cost import latency_ms, macs, parameters, state_bytes
from secateur.evaluate.report import AttackRow, Cost, Evaluation
from secateur.graph.capture import unlifted

__all__ = ["FGSM", "PGD", "Attack", "AttackRow", "Cost", "Evaluation", "evaluate"]

Model = nn.Module | ExportedProgram


def evaluate(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    original: Model | None = None,
    attacks: Sequence[Attack] = (),
    top_k: Sequence[int] = (1,),
    input_bounds: Bounds = (0.0, 1.0),
    batch_size: int = 256,
    device: torch.device | str | None = None,
    head: Head = "auto",
    latency: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Measure the classifier `model` on `images` (n, …) with class numbers `labels` (n,).

    `attacks` run against `model`, inside `input_bounds` (numbers, or one value per channel); `original` is measured
    beside it for accuracy, agreement and cost. `latency` times batches of `batch_size` inputs. Neither model is
    changed. Raises `InputError` for data or models that cannot be measured.
    """
    _check_data(images, labels, batch_size)
    check_names(attacks)
    if attacks:
        input_box(images, input_bounds)
    streaming: _Streaming = {"batch_size": batch_size, "device": device, "progress": progress}
    subject = _answers(model, "model", images, head, streaming)
    _check_labels(labels, classes_of(subject.head, subject.outputs))
    reference = None if original is None else _answers(original, "original", images, head, streaming)
    if reference is not None and reference.classes != subject.classes:
        raise InputError(f"the model tells {subject.classes} classes apart, the original {reference.classes}")
    measured = [subject] if reference is None else [subject, reference]
    costs, latency_batch = _costs(measured, images, streaming, latency)
    original_accuracy, agreed = None, None
    if reference is not None:
        original_accuracy = accuracies(reference.outputs, labels, top_k, reference.head)
        agreed = agreement(subject.outputs, subject.head, reference.outputs, reference.head)
    return Evaluation(
        samples=len(images),
        head=subject.head,
        accuracy=accuracies(subject.outputs, labels, top_k, subject.head),
        original_accuracy=original_accuracy,
        agreement=agreed,
        attacks=tuple(_attack_row(subject, images, labels, attack, input_bounds, streaming) for attack in attacks),
        cost=costs[0],
        cost_before=costs[1] if reference is not None else None,
        latency_batch=latency_batch,
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
    training = [name or "(the model)" for name, m in model.named_modules() if m.training]
    if training and not isinstance(model, fx.GraphModule):
        raise InputError(f"{role} is in training mode ({', '.join(training[:3])}); call eval() on it first")
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


def _attack_row(
    subject: _Answers, images: Tensor, labels: Tensor, attack: Attack, bounds: Bounds, streaming: _Streaming
) -> AttackRow:
    correct = decide(subject.outputs, subject.head) == labels
    outcome = run_attack(
        subject.module, images, labels, attack, head=subject.head, correct=correct, input_bounds=bounds, **streaming
    )
    return AttackRow(
        name=attack.name,
        norm="linf",
        eps=attack.eps,
        steps=attack.steps,
        robust_accuracy=outcome.robust_accuracy,
        robust_instances_per_1000=outcome.robust_instances_per_1000,
        samples=len(images),
    )


def _costs(
    measured: Sequence[_Answers], images: Tensor, streaming: _Streaming, latency: bool
) -> tuple[list[Cost], int | None]:
    """The cost of each model, timed in turns on one batch where `latency` asks for it, and that batch's size."""
    pairs = [placed(answers.module, streaming["device"]) for answers in measured]
    modules = [module for module, _ in pairs]
    milliseconds: Sequence[float | None] = [None] * len(modules)
    batch = images[: streaming["batch_size"]].to(pairs[0][1])
    if latency:
        milliseconds = latency_ms(modules, batch)
    costs = [
        Cost(parameters=parameters(m), macs=macs(m, batch[:1]), bytes=state_bytes(m), latency_ms=elapsed)
        for m, elapsed in zip(modules, milliseconds, strict=True)
    ]
    return costs, len(batch) if latency else None
