"""Outputs of a classifier, streamed, and its accuracy, for every head of `secateur.decisions`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from secateur.decisions import BINARY, MULTI_LABEL, Head, check_head, classes_of, decide, fitting_head
from secateur.errors import InputError, SecateurError
from secateur.evaluate.files import onnx_file
from secateur.graph.capture import capture
from secateur.graph.export import first_line
from secateur.graph.meaning import Meaning, meanings
from secateur.progress import track
from secateur.torch_state import ALONE, EXPORTING


def predict(
    model: nn.Module,
    images: Tensor,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Tensor:
    """The model's outputs for all `images` (n, …), shape (n, outputs), float32, on the CPU.

    Raises `InputError` where the model refuses the images, gives something other than one tensor with a row
    per image, or gives NaN.
    """
    model, device = placed(model, device)
    starts = range(0, len(images), batch_size)
    with torch.no_grad():
        rows = [
            outputs_of(model, images[i : i + batch_size].to(device)).float().cpu()
            for i in track(starts, "predicting", progress)
        ]
    outputs = torch.cat(rows)
    bad = int(outputs.isnan().any(dim=1).sum())
    if bad:
        raise InputError(
            f"the model's output is NaN for {bad} of {len(images)} images; nothing can be measured on it"
        )
    return outputs


def placed(model: nn.Module, device: torch.device | str | None) -> tuple[nn.Module, torch.device]:
    """The model and the device it is on; a copy of the model where `device` names another one."""
    with ALONE:
        first = next((t for t in (*model.parameters(), *model.buffers())), torch.empty(0))
        wanted = first.device if device is None else torch.device(device)
        return (model if wanted == first.device else copy.deepcopy(model).to(wanted)), wanted


def outputs_of(model: nn.Module, batch: Tensor) -> Tensor:
    """The model's output for one batch as (batch, outputs); one number per image becomes a column.

    Raises `InputError` where the model refuses the batch, and for other outputs.
    """
    found = logits_of(model, batch)
    rows: Tensor = found[:, None] if found.ndim == 1 else found
    if rows.ndim != 2 or len(rows) != len(batch) or not rows.shape[1]:
        raise InputError(
            f"the model's output for {len(batch)} images has shape {tuple(found.shape)}; a classifier gives "
            "(images, classes), or (images, 1) where there are two classes"
        )
    return rows


def logits_of(model: nn.Module, batch: Tensor) -> Tensor:
    """The model's output for one batch; of an object or a dict with `logits`, as the models of transformers
    give it, these. Raises `InputError` where the model refuses the batch, and for outputs that are no tensor.
    """
    try:
        with EXPORTING:
            output = model(batch)
    except Exception as error:
        raise InputError(
            f"the model refuses images of shape {tuple(batch.shape)} and type {batch.dtype}: "
            f"{first_line(error)}. Check the shape (axis 0 is the batch, channels come first), and that the "
            "model takes any batch size"
        ) from error
    found = _logits(output)
    if not isinstance(found, Tensor):
        raise InputError(
            f"the model gives a {type(output).__name__}, neither one tensor nor an object or a dict with "
            "logits; wrap it so that it gives the logits"
        )
    return found


def _logits(output: Any) -> Any:
    """The one value of an output that decides; the output itself where there is none of that name."""
    if isinstance(output, Mapping):
        return output.get("logits", output)
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple | list) and len(output) == 1:
        return output[0]
    return getattr(output, "logits", output)


class _Logits(nn.Module):
    """A model without what else it gives."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = False

    def forward(self, x: Tensor) -> Any:
        return _logits(self.model(x))


def resolve_head(
    model: nn.Module, head: Head, outputs: Tensor, example: Tensor, *, one_of_k: bool | None = True
) -> Head:
    """What the columns of `outputs` (n, outputs) are.

    `auto` is decided by their number and the model's last ops.

    `one_of_k`: whether the labels are class numbers; None where there are no labels. Where the model cannot
    be captured on `example` (batch, …), the values tell: a column between 0 and 1 holds probabilities, and so
    do rows that sum to one. Raises `InputError` where `auto` cannot tell, and for models that decide nothing.
    """
    check_head(head)
    meaning = _meaning(model, example)
    if meaning is None:
        meaning = _by_values(outputs, head, one_of_k)
    found = fitting_head(head, meaning, outputs.shape[1], one_of_k=bool(one_of_k))
    if found == "none":
        said = "the head was given as none" if head == "none" else "the last ops do not tell the threshold"
        raise InputError(
            f"the model decides nothing that could be measured ({said}); give the head (--head), such as "
            "logits or binary_probability. Of a regression, certify bounds how far its outputs move"
        )
    return found


def _meaning(model: nn.Module, example: Tensor) -> Meaning | None:
    """What the model's output is, by its ops; None where there is no graph of these."""
    file = onnx_file(model)
    if file is not None:
        return None if file.float_form is None else _meaning(file.float_form, example)
    try:
        if isinstance(model, fx.GraphModule) and not any(n.op == "call_module" for n in model.graph.nodes):
            nodes = tuple(model.graph.nodes)
            made = list(nodes[-1].all_input_nodes)
            if len(made) == 1:
                return meanings(nodes)[made[0]]
        with ALONE:
            graph = capture(model, example)
            if len(graph.outputs) > 1:
                graph = capture(_Logits(model), example)
    except SecateurError:
        return None
    return meanings(graph.nodes)[graph.outputs[0]] if graph.outputs else "constant"


def _by_values(outputs: Tensor, head: Head, one_of_k: bool | None) -> Meaning:
    if head not in ("auto", "multi_label"):
        return "other"
    if not bool(((outputs >= 0) & (outputs <= 1)).all()):
        return "scores"
    if outputs.shape[1] == 1 or one_of_k is False:
        return "probability"
    if bool(((outputs.sum(dim=1) - 1).abs() < 1e-3).all()):
        return "distribution"
    return "scores" if one_of_k else "probability"


def right(outputs: Tensor, labels: Tensor, head: Head) -> Tensor:
    """Whether each decision is that of `labels`, shape (n,); of many labels, whether all of them are."""
    return equal(decide(outputs, head), labels)


def equal(first: Tensor, second: Tensor) -> Tensor:
    """Whether two decisions (n,), or all labels (n, labels) of them, are the same, shape (n,)."""
    return (first == second).reshape(len(first), -1).all(dim=1)


def top_k_correct(outputs: Tensor, labels: Tensor, k: int, head: Head) -> Tensor:
    """Whether each label is among the k first classes, (n,); of equal outputs the lower class is first."""
    classes = 1 if head in MULTI_LABEL else classes_of(head, outputs.shape[1])
    if not 1 <= k <= classes:
        raise InputError(f"top_k={k} does not fit a model with {classes} classes and the head {head}")
    if head in MULTI_LABEL:
        return right(outputs, labels, head)
    if head in BINARY:
        return (decide(outputs, head) == labels) | (k == 2)
    own = outputs.gather(1, labels[:, None])
    earlier = torch.arange(outputs.shape[1]) < labels[:, None]
    ahead = (outputs > own) | ((outputs == own) & earlier)
    return ahead.sum(dim=1) < k


def accuracies(outputs: Tensor, labels: Tensor, top_k: Sequence[int], head: Head) -> dict[int, float]:
    """k → the share of labels among the k first classes."""
    return {k: float(top_k_correct(outputs, labels, k, head).double().mean()) for k in top_k}
