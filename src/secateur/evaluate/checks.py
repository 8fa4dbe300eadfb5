"""Checks of data and labels, and of what needs labels where there are none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.decisions import MULTI_LABEL, Head
from secateur.errors import InputError
from secateur.evaluate.attacks import ATTACKS
from secateur.evaluate.attacks.base import Attack
from secateur.evaluate.files import onnx_file
from secateur.evaluate.predictions import Predictions


def check_data(images: Tensor, labels: Tensor | None) -> None:
    if images.ndim < 2 or not len(images):
        raise InputError(
            f"images of shape {tuple(images.shape)}: axis 0 must be the samples, at least one of them"
        )
    if labels is not None:
        if labels.ndim not in (1, 2) or labels.is_floating_point() or labels.is_complex():
            raise InputError(
                f"labels of shape {tuple(labels.shape)} and type {labels.dtype}: give one class number each"
            )
        if len(labels) != len(images):
            raise InputError(f"{len(images)} images but {len(labels)} labels")
    if images.is_floating_point() and not bool(torch.isfinite(images).all()):
        bad = int((~torch.isfinite(images)).flatten(1).any(dim=1).sum())
        raise InputError(f"{bad} of {len(images)} images hold NaN or infinite values")


def check_unlabelled(has_original: bool, top_k: Sequence[int], attacks: Sequence[Attack]) -> None:
    """What can be measured without labels."""
    if not has_original:
        raise InputError(
            "labels=None: without labels the original is needed; give original=, the model before it was "
            "pruned (--original), and the report tells how far both decide the same, or give labels"
        )
    if tuple(top_k) != (1,):
        raise InputError(
            f"top_k={tuple(top_k)}: top-k accuracy needs labels; give labels, or leave top_k out"
        )
    able = [kind.__name__ for kind in ATTACKS.values() if not kind.needs_labels]
    for attack in attacks:
        if attack.needs_labels:
            raise InputError(
                f"{attack.name} needs labels; without them, agreement with the original is attacked by "
                f"{', '.join(able[:-1])} or {able[-1]}: use one of these, or give labels"
            )


def check_pair(head: Head, attacks: Sequence[Attack]) -> None:
    """What heads agreement can be attacked for."""
    if attacks and head in MULTI_LABEL:
        raise InputError(
            f"attacks: they need one decision for each input, and the head {head} gives several labels; "
            "leave the attacks out"
        )


def check_gradients(predictions: Predictions, attacks: Sequence[Attack]) -> None:
    """Attacks follow gradients, which onnxruntime does not have."""
    file = onnx_file(predictions.module)
    if attacks and file is not None:
        raise InputError(
            f"attacks: they follow gradients, and {file.path} is measured in onnxruntime, which has none; "
            "attack the floating-point model that it was made of, or leave the attacks out"
        )


def check_labels(labels: Tensor, subject: Predictions, attacks: Sequence[Attack]) -> None:
    """What labels fit the model's head and its number of classes."""
    low, high, classes = int(labels.min()), int(labels.max()), subject.classes
    if (labels.ndim == 2) != (subject.head in MULTI_LABEL):
        raise InputError(
            f"labels of shape {tuple(labels.shape)} do not fit the head {subject.head}: give one class "
            "number each, or for multi_label a 0 or 1 for each output"
        )
    if labels.ndim == 2:
        if labels.shape != subject.outputs.shape or low < 0 or high > 1:
            raise InputError(
                f"labels of shape {tuple(labels.shape)}: give a 0 or 1 for each of {classes} outputs"
            )
        if attacks:
            raise InputError(
                "attacks: they need one class number for each input, the model gives several labels"
            )
        return
    if low < 0 or high >= classes:
        raise InputError(
            f"labels range from {low} to {high}, but the model tells {classes} classes apart (0 to "
            f"{classes - 1})"
        )
