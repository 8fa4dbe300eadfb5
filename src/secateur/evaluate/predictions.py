"""A model and its outputs for all images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypedDict

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from secateur.decisions import Head, classes_of, decide
from secateur.errors import InputError, few
from secateur.evaluate.accuracy import equal, outputs_of, placed, predict, resolve_head
from secateur.graph.export import as_module
from secateur.graph.fitness import check_values
from secateur.torch_state import ALONE

Model = nn.Module | ExportedProgram


class Streaming(TypedDict):
    """How data goes through a model."""

    batch_size: int
    device: torch.device | str | None
    progress: bool


@dataclass(frozen=True, eq=False)
class Predictions:
    """A model, its outputs on all images (n, outputs), and what their columns are."""

    module: nn.Module
    outputs: Tensor
    head: Head

    @property
    def classes(self) -> int:
        return classes_of(self.head, self.outputs.shape[1])

    @cached_property
    def decisions(self) -> Tensor:
        """A class number for each image, shape (n,); of many labels 0 or 1 for each, shape (n, outputs)."""
        return decide(self.outputs, self.head)

    def right(self, labels: Tensor) -> Tensor:
        """Whether each decision is that of `labels`, shape (n,)."""
        return equal(self.decisions, labels)


def predictions_of(
    model: Model, role: str, images: Tensor, head: Head, one_of_k: bool | None, streaming: Streaming
) -> Predictions:
    """Run the model, which is the `role` in errors.

    Raises `InputError` where it cannot be run or decides nothing.

    `one_of_k`: whether the labels are class numbers; None where there are none.
    """
    module = module_of(model, role)
    outputs = predict(module, images, **streaming)
    return Predictions(module, outputs, resolve_head(module, head, outputs, images[:2], one_of_k=one_of_k))


def accepts(model: Model, images: Tensor, device: torch.device | str | None) -> bool:
    """Whether the model takes images of this type as they are."""
    module, place = placed(module_of(model, "model"), device)
    try:
        with torch.no_grad():
            outputs_of(module, images.to(place))
    except InputError:
        return False
    return True


def module_of(model: Model, role: str) -> nn.Module:
    """The model as a module; an exported graph has its mode baked in, any other must be in eval mode."""
    if isinstance(model, ExportedProgram):
        return as_module(model)
    if not isinstance(model, nn.Module):
        raise InputError(f"{role} is a {type(model).__name__}; give a torch.nn.Module or an ExportedProgram")
    with ALONE:
        check_values({**dict(model.named_parameters()), **dict(model.named_buffers())})
    training = [name or "(the model)" for name, m in model.named_modules() if m.training]
    if training and not isinstance(model, fx.GraphModule):
        raise InputError(f"{role} is in training mode ({few(training)}); call eval() on it first")
    return model
