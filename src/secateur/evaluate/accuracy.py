"""What a classifier answers, and how often it is right: streamed, for every kind of head."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, fx, nn

from secateur.errors import InputError, SecateurError
from secateur.graph.capture import capture, kind
from secateur.graph.export import first_line
from secateur.progress import track

Head = Literal["auto", "logits", "probabilities", "binary_logit", "binary_probability"]

_BINARY_THRESHOLD = {"binary_logit": 0.0, "binary_probability": 0.5}
_SQUASHING = {"sigmoid", "softmax", "_softmax"}
_RESHAPING = {"view", "reshape", "squeeze", "unsqueeze", "flatten", "contiguous", "clone", "alias", "dropout", "to"}


def predict(
    model: nn.Module,
    images: Tensor,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Tensor:
    """The model's outputs for all `images` (n, …), shape (n, outputs), float32, on the CPU.

    Raises `InputError` where the model refuses the images, gives something other than one tensor with a row per
    image, or gives NaN.
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
        raise InputError(f"the model's output is NaN for {bad} of {len(images)} images; nothing can be measured on it")
    return outputs


def placed(model: nn.Module, device: torch.device | str | None) -> tuple[nn.Module, torch.device]:
    """The model and the device it is on; a copy of the model where `device` names another one."""
    first = next((t for t in (*model.parameters(), *model.buffers())), torch.empty(0))
    wanted = first.device if device is None else torch.device(device)
    return (model if wanted == first.device else copy.deepcopy(model).to(wanted)), wanted


def outputs_of(model: nn.Module, batch: Tensor) -> Tensor:
    """The model's output for one batch as (batch, outputs); one number per image becomes a column."""
    try:
        output = model(batch)
    except Exception as error:
        raise InputError(
            f"the model refuses images of shape {tuple(batch.shape)} and type {batch.dtype}: {first_line(error)}. "
            "Check the shape (axis 0 is the batch, channels come first), and that the model takes any batch size"
        ) from error
    if isinstance(output, (tuple, list)) and len(output) == 1:
        output = output[0]
    if not isinstance(output, Tensor):
        raise InputError(
            f"the model gives a {type(output).__name__}, not one tensor; wrap it so that it gives the logits"
        )
    rows: Tensor = output[:, None] if output.ndim == 1 else output
    if rows.ndim != 2 or len(rows) != len(batch) or not rows.shape[1]:
        raise InputError(
            f"the model's output for {len(batch)} images has shape {tuple(output.shape)}; a classifier gives "
            "(images, classes), or (images, 1) where there are two classes"
        )
    return rows


def resolve_head(model: nn.Module, head: Head, outputs: Tensor, example: Tensor) -> Head:
    """What the columns of `outputs` (n, outputs) are; `auto` is decided by their number and the model's last op.

    Values outside [0, 1] are logits. Otherwise the graph tells whether the last op is a sigmoid or softmax; where the
    model cannot be captured on `example` (batch, …), rows that sum to one are probabilities, and so is a single column.
    """
    if head not in get_args(Head):
        raise InputError(f"head={head!r}: choose one of {', '.join(get_args(Head))}")
    columns = outputs.shape[1]
    if head != "auto":
        if (columns == 1) != (head in _BINARY_THRESHOLD):
            raise InputError(f"head={head!r} does not fit a model with {columns} outputs")
        return head
    squashed = bool(((outputs >= 0) & (outputs <= 1)).all()) and _ends_squashed(model, outputs, example)
    if columns == 1:
        return "binary_probability" if squashed else "binary_logit"
    return "probabilities" if squashed else "logits"


def _ends_squashed(model: nn.Module, outputs: Tensor, example: Tensor) -> bool:
    try:
        return _last_op(model, example) in _SQUASHING
    except SecateurError:
        return outputs.shape[1] == 1 or bool(((outputs.sum(dim=1) - 1).abs() < 1e-3).all())


def _last_op(model: nn.Module, example: Tensor) -> str:
    """The kind of the op that makes the values of the output, past those that only reshape them."""
    if isinstance(model, fx.GraphModule) and not any(n.op == "call_module" for n in model.graph.nodes):
        nodes = next(iter(reversed(model.graph.nodes))).all_input_nodes
    else:
        nodes = list(capture(model, example).outputs)
    node = nodes[0] if nodes else None
    while node is not None and kind(node) in _RESHAPING and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return "" if node is None else kind(node)


def classes_of(head: Head, outputs: Tensor) -> int:
    """How many classes the model tells apart."""
    return 2 if head in _BINARY_THRESHOLD else outputs.shape[1]


def decide(outputs: Tensor, head: Head) -> Tensor:
    """The predicted class of each row, shape (n,): the first largest, or whether the threshold is passed."""
    if head in _BINARY_THRESHOLD:
        return (outputs[:, 0] > _BINARY_THRESHOLD[head]).long()
    return outputs.argmax(dim=1)


def top_k_correct(outputs: Tensor, labels: Tensor, k: int, head: Head) -> Tensor:
    """Whether each label is among the k first classes, shape (n,); of equal outputs the lower class comes first."""
    if not 1 <= k <= classes_of(head, outputs):
        raise InputError(f"top_k={k} does not fit a model with {classes_of(head, outputs)} classes")
    if head in _BINARY_THRESHOLD:
        return (decide(outputs, head) == labels) | (k == 2)
    own = outputs.gather(1, labels[:, None])
    earlier = torch.arange(outputs.shape[1]) < labels[:, None]
    ahead = (outputs > own) | ((outputs == own) & earlier)
    return ahead.sum(dim=1) < k


def accuracies(outputs: Tensor, labels: Tensor, top_k: Sequence[int], head: Head) -> dict[int, float]:
    """k → the share of labels among the k first classes."""
    return {k: float(top_k_correct(outputs, labels, k, head).double().mean()) for k in top_k}


def agreement(outputs: Tensor, head: Head, original: Tensor, original_head: Head) -> float:
    """The share of inputs on which two models decide for the same class."""
    return float((decide(outputs, head) == decide(original, original_head)).double().mean())
