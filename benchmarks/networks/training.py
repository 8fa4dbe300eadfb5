"""Train one network, and measure it on test samples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import DATA, Samples, Task
from .families import build
from .recipes import Augmentation, Recipe

Metrics = dict[str, float]
Outputs = Tensor | tuple[Tensor, Tensor]
SHIFT = 8  # samples move by at most a part of 1 / SHIFT of their size


def statistics(recipe: Recipe, images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of what the network takes, (images − mean) / std: one number, or one for
    each channel. Empty where it takes images as they are.
    """
    if recipe.inputs == "unit":
        return (), ()
    if recipe.inputs == "signed":
        return (0.5,), (0.5,)
    over = [axis for axis in range(images.ndim) if axis != 1]
    means, stds = images.mean(over), images.std(over).clamp(min=0.02)
    return tuple(round(float(v), 4) for v in means), tuple(round(float(v), 4) for v in stds)


def taken(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Images in [0, 1] as the network takes them."""
    if not mean:
        return images
    shape = (-1, *[1] * (images.ndim - 2))
    first, second = (torch.tensor(v, device=images.device).reshape(shape) for v in (mean, std))
    return (images - first) / second


def train(recipe: Recipe, samples: Samples) -> tuple[nn.Module, float]:
    """The trained network in eval mode, and the seconds of processor time that it took."""
    began = time.process_time()
    torch.manual_seed(recipe.seed)
    task = DATA[recipe.data].task
    model = build(recipe, tuple(samples.images.shape[1:]), DATA[recipe.data].outputs).train()
    x = _laid_out(model, taken(samples.images, *statistics(recipe, samples.images)))
    steps = recipe.epochs * math.ceil(len(x) / recipe.batch)
    optimizer = _optimizer(recipe, model)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, total_steps=steps, pct_start=0.2, cycle_momentum=False
    )
    for chosen in _batches(len(x), recipe):
        boxes = None if samples.boxes is None else samples.boxes[chosen]
        loss = LOSSES[task](model(augmented(x[chosen], recipe.augment)), samples.labels[chosen], boxes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval().to(memory_format=torch.contiguous_format), time.process_time() - began


def _batches(count: int, recipe: Recipe) -> Iterator[Tensor]:
    for _ in range(recipe.epochs):
        for chosen in torch.randperm(count).split(recipe.batch):
            if len(chosen) > 1:  # a batch norm needs two
                yield chosen


def _laid_out(model: nn.Module, x: Tensor) -> Tensor:
    """Model and pictures with channels last, which is faster on a processor."""
    if x.ndim < 4:
        return x
    model.to(memory_format=torch.channels_last)
    return x.contiguous(memory_format=torch.channels_last)


def _optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    parameters, rate, decay = model.parameters(), recipe.rate, recipe.decay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=decay, nesterov=True)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, rate, weight_decay=decay)
    return torch.optim.AdamW(parameters, rate, weight_decay=decay)


def augmented(x: Tensor, how: Augmentation) -> Tensor:
    """Each sample moved along its last axes, its border repeated, and for `flip` half of them mirrored."""
    if how == "none":
        return x
    count = len(x)
    for axis in range(2, x.ndim):
        size = x.shape[axis]
        most = max(1, size // SHIFT)
        moved = torch.arange(size) + torch.randint(-most, most + 1, (count, 1))
        index = moved.clamp(0, size - 1)
        if how == "flip" and axis == x.ndim - 1:
            index = torch.where(torch.rand(count, 1) < 0.5, index.flip(1), index)
        shape = [count, *[1] * (x.ndim - 1)]
        shape[axis] = size
        x = x.gather(axis, index.reshape(shape).expand(x.shape))
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _loss_of_classes(outputs: Tensor, labels: Tensor, boxes: None) -> Tensor:
    return F.cross_entropy(outputs, labels)


def _loss_of_values(outputs: Tensor, labels: Tensor, boxes: None) -> Tensor:
    return F.mse_loss(outputs, labels)


def _loss_of_objects(outputs: tuple[Tensor, Tensor], labels: Tensor, boxes: Tensor) -> Tensor:
    scores, found = outputs
    there = labels != scores.shape[1] - 1
    weights = 0.1 + 0.9 * there
    classes = (F.cross_entropy(scores, labels, reduction="none") * weights).sum() / weights.sum()
    return classes + 10 * F.smooth_l1_loss(_at(found, there), _at(boxes, there), beta=0.1)


def _at(boxes: Tensor, there: Tensor) -> Tensor:
    return boxes.permute(0, 2, 3, 1)[there]


LOSSES: dict[Task, Callable[..., Tensor]] = {
    "classes": _loss_of_classes,
    "values": _loss_of_values,
    "objects": _loss_of_objects,
}


@torch.no_grad()
def outputs_of(model: nn.Module, x: Tensor, batch: int = 500) -> Outputs:
    parts = [model(part) for part in x.split(batch)]
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))
    return torch.cat(parts)


def measure(task: Task, outputs: Outputs, samples: Samples) -> Metrics:
    """Classes: `accuracy`. Values: `r2` (mean over the outputs) and `mae`. Objects: `f1` of detections (cell
    and class right, boxes of an IoU of 0.5 or more) and `iou`, the mean over all cells with an object.
    """
    return MEASURES[task](outputs, samples)


def _accuracy(outputs: Tensor, samples: Samples) -> Metrics:
    return {"accuracy": float((outputs.argmax(1) == samples.labels).double().mean())}


def _errors(outputs: Tensor, samples: Samples) -> Metrics:
    wrong = (outputs - samples.labels).double()
    r2 = 1 - (wrong**2).mean(0) / samples.labels.double().var(0, correction=0)
    return {"r2": float(r2.mean()), "mae": float(wrong.abs().mean())}


def _detections(outputs: tuple[Tensor, Tensor], samples: Samples) -> Metrics:
    scores, found = outputs
    assert samples.boxes is not None
    empty = scores.shape[1] - 1
    classes, there = scores.argmax(1), samples.labels != empty
    overlap = iou(found, samples.boxes)
    right = there & (classes == samples.labels) & (overlap >= 0.5)
    f1 = 2 * right.sum() / (there.sum() + (classes != empty).sum())
    return {"f1": float(f1), "iou": float(overlap[there].double().mean())}


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union in each cell of boxes (n, 4, cells, cells): centre in cells from the cell's
    own corner, width and height as a share of the picture.
    """
    cells = a.shape[-1]
    shared = torch.ones(len(a), cells, cells)
    for axis in (0, 1):
        (centre_a, size_a), (centre_b, size_b) = ((v[:, axis] / cells, v[:, axis + 2]) for v in (a, b))
        high = torch.minimum(centre_a + size_a / 2, centre_b + size_b / 2)
        low = torch.maximum(centre_a - size_a / 2, centre_b - size_b / 2)
        shared = shared * (high - low).clamp(min=0)
    union = a[:, 2] * a[:, 3] + b[:, 2] * b[:, 3] - shared
    return shared / union.clamp(min=1e-9)


MEASURES: dict[Task, Callable[..., Metrics]] = {
    "classes": _accuracy,
    "values": _errors,
    "objects": _detections,
}
