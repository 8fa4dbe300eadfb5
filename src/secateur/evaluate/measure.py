"""`evaluate`: with labels, attacks look for errors; without, for inputs on which two models part."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur import arguments as may
from secateur.arguments import checked
from secateur.data.plain import tensor_of
from secateur.decisions import HEADS, Head
from secateur.errors import InputError
from secateur.evaluate.accuracy import accuracies, placed
from secateur.evaluate.agreement import check_comparable, compared
from secateur.evaluate.attacks import Attack
from secateur.evaluate.attacks.run import check_names
from secateur.evaluate.box import Bounds, Box, input_box, pixels_in, range_warning
from secateur.evaluate.checks import check_data, check_gradients, check_labels, check_pair, check_unlabelled
from secateur.evaluate.classes import per_class, worst
from secateur.evaluate.corruptions import Corruption, resolve
from secateur.evaluate.cost import latency_ms, macs, parameters, state_bytes
from secateur.evaluate.files import computed_in, onnx_file
from secateur.evaluate.language import decode, language, scores_tokens
from secateur.evaluate.moved import moved
from secateur.evaluate.predictions import (
    Model,
    Predictions,
    Streaming,
    accepts,
    module_of,
    predictions_of,
)
from secateur.evaluate.report import Cost, Decode, Evaluation
from secateur.evaluate.robustness import agreement_attacked, attacked, corrupted
from secateur.evaluate.runtime import fixed_batch, forward_pass, runtime_of
from secateur.formats.format import RUNTIMES, Runtime
from secateur.formats.kinds import kind_of
from secateur.formats.onnx.as_is import load_as_is, stored_bytes, stored_numbers
from secateur.inputs import Normalisation
from secateur.presets import PRESETS
from secateur.progress import phase
from secateur.torch_state import ALONE

Array = Any  # a tensor, an array, or nested lists of numbers


def evaluate(
    model: Model | str | os.PathLike[str],
    images: Array,
    labels: Array | None = None,
    *,
    original: Model | str | os.PathLike[str] | None = None,
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
    """Measure a classifier on images: against labels, against the model before pruning, or against both. A
    language model is measured on sequences of tokens.

    With labels, attacks make `model` err. Without them, they look for inputs near each image that the
    original decides as it decides the image and `model` does not. They search the ball round an image, and do
    not prove that it holds no such input; `certify` proves.

    Args:
        model: an `nn.Module` in eval mode, an `ExportedProgram`, or the path of an `.onnx` file, quantised or
            not, which is measured in onnxruntime as it is and cannot be attacked. Of an output with several
            parts, `logits` (an attribute or a key) is taken. It is not changed.
        images: shape (n, …): a tensor, an array, or nested lists; `secateur.data.load_data` reads them from
            files. uint8 images of a model that does not take these are pixels, and are spread over
            `input_bounds`. Of a language model, ids (n, tokens); `secateur.data.load_text` makes them of a
            text. The report then holds `language`: perplexity, how often the next token is among the `top_k`
            likeliest and, with `original`, agreement and divergence. Labels, attacks, corruptions and a head
            do not apply.
        labels: class numbers (n,); of several labels for each input, 0 or 1 (n, outputs), and a decision is
            right where all of them are. Without labels, `original` is needed.
        original: the model before it was pruned. The report then tells on which share of the inputs both
            decide the same, with an exact 95 % confidence interval, how far the outputs are apart, how often
            each model gives each class, and the cost before. A class that only the original gives has
            vanished.
        attacks: such as `[FGSM(0.1), PGD(8 / 255)]`, radii in units of the images. `warnings` in the report
            tell where the gradients look masked.
        corruptions: names, each for three severities, or `Corruption` objects.
        top_k: k of the top-k accuracies.
        input_bounds: the legal range of the images, which attacks stay in: (lower, upper), numbers, one value
            per channel, or what broadcasts to one image.
        mean, std, normalize: as for `prune`; all else is then in units of the images.
        batch_size: images that are run at a time.
        device: a torch device to run on. Default: the model's own.
        head: what the outputs are, see `secateur.decisions`; the report names it.
        latency: whether to time batches of `batch_size` images; of a language model, one sequence, and one
        more
            token where the model keeps a cache (`past_key_values`).
        runtime: `torch` or `onnxruntime`. Default: onnxruntime for models that came as ONNX.
        progress: whether to show progress on stderr.

    Returns:
        The figures, which print as a table and can be written as JSON.

    Raises:
        InputError: arguments, data or models that cannot be measured.

    Examples:
        >>> import torch, secateur
        >>> net = torch.nn.Linear(3, 3, bias=False).eval()
        >>> _ = torch.nn.init.eye_(net.weight)  # decides for the largest number
        >>> images = torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.4, 0.1], [0.2, 0.3, 0.8], [0.5, 0.1, 0.1]])
        >>> labels = torch.tensor([0, 1, 2, 0])
        >>> report = secateur.evaluate(net, images, labels, attacks=[secateur.FGSM(0.1)])
        >>> report.accuracy[1], report.attacks[0].robust_accuracy
        (1.0, 0.75)
    """
    given = checked(_RULES, locals())  # the arguments, and nothing else yet
    if _is_text(given):
        return _of_text(given)
    task = _task(given)
    measured = _predictions(task)
    timed_in = (task.runtime or runtime_of(measured[0].module)) if task.latency else None
    with phase("measuring the cost", progress):
        costs, latency_batch = _costs(measured, task.images, task.streaming, timed_in)
    fields, doubts = _figures(task, measured)
    return Evaluation(
        samples=len(task.images),
        head=measured[0].head,
        corruptions=tuple(
            corrupted(measured, task.images, task.labels, c, task.box, task.streaming)
            for c in task.corruptions
            if task.box is not None
        ),
        warnings=(*_range_warnings(task), *doubts),
        cost=costs[0],
        cost_before=costs[1] if len(costs) > 1 else None,
        latency_batch=latency_batch,
        latency_runtime=timed_in,
        computed_in=computed_in(measured[0].module),
        original_computed_in=computed_in(measured[1].module) if len(measured) > 1 else None,
        **fields,
    )


def _is_text(given: Mapping[str, Any]) -> bool:
    """Whether a language model is to be measured, on ids of tokens."""
    ids = given["images"]
    if ids.dtype == torch.uint8 or ids.is_floating_point():
        return False
    return scores_tokens(module_of(given["model"], "model"), ids, given["device"])


def _of_text(given: Mapping[str, Any]) -> Evaluation:
    ids, device, original = given["images"], given["device"], given["original"]
    for name in ("labels", "attacks", "corruptions", "mean", "std", "normalize"):
        if given[name] is not None and len(given[name]):
            raise InputError(f"{name}: it does not apply to a language model on text; leave it out")
    models = [module_of(given["model"], "model")]
    if original is not None:
        models.append(module_of(original, "original"))
    found, doubts = language(
        models[0],
        models[1] if original is not None else None,
        ids,
        given["top_k"],
        given["batch_size"],
        device,
        given["progress"],
    )
    pairs = [placed(m, device) for m in models]
    timed: Sequence[Decode | None] = [None] * len(models)
    with phase("measuring the cost", given["progress"]):
        if given["latency"]:
            timed = decode([m for m, _ in pairs], ids, pairs[0][1])
        with ALONE:
            costs = [
                _cost(m, ids[:1].to(place)).model_copy(update={"decode": times})
                for (m, place), times in zip(pairs, timed, strict=True)
            ]
    return Evaluation(
        samples=len(ids),
        head="next_token",
        language=found,
        warnings=doubts,
        cost=costs[0],
        cost_before=costs[1] if len(costs) > 1 else None,
        latency_runtime="torch" if given["latency"] else None,
        computed_in=computed_in(models[0]),
        original_computed_in=computed_in(models[1]) if len(models) > 1 else None,
    )


@dataclass(frozen=True, eq=False)
class _Task:
    """What is to be measured: checked arguments, models as functions of images, pixels as numbers."""

    model: Model
    original: Model | None
    images: Tensor
    labels: Tensor | None
    attacks: Sequence[Attack]
    corruptions: Sequence[Corruption]
    top_k: Sequence[int]
    head: Head
    bounds: Bounds
    box: Box | None  # where nothing needs it, images may lie outside
    streaming: Streaming
    latency: bool
    runtime: Runtime | None


def _task(given: Mapping[str, Any]) -> _Task:
    images, labels, bounds, attacks = (
        given[name] for name in ("images", "labels", "input_bounds", "attacks")
    )
    check_data(images, labels)
    if labels is None:
        check_unlabelled(given["original"] is not None, given["top_k"], attacks)
    check_names(attacks)
    worse = resolve(given["corruptions"])
    mean, std = given["mean"] or (), given["std"] or ()
    normalisation = Normalisation.named(given["normalize"], bounds, mean, std)
    model, original, spatial = given["model"], given["original"], images.ndim - 2
    if images.dtype == torch.uint8 and (normalisation or not accepts(model, images[:2], given["device"])):
        images = pixels_in(images, bounds)
    return _Task(
        model=normalisation.wrapped(model, spatial),
        original=None if original is None else normalisation.wrapped(original, spatial),
        images=images,
        labels=labels,
        attacks=attacks,
        corruptions=worse,
        top_k=given["top_k"],
        head=given["head"],
        bounds=bounds,
        # Normalised images are of these bounds, and no others.
        box=input_box(images, bounds) if attacks or worse or normalisation else None,
        streaming=Streaming(
            batch_size=given["batch_size"], device=given["device"], progress=given["progress"]
        ),
        latency=given["latency"],
        runtime=given["runtime"],
    )


def _predictions(task: _Task) -> list[Predictions]:
    """Predictions of the model, and of the original where there is one; they fit labels and attacks."""
    one_of_k = None if task.labels is None else task.labels.ndim == 1
    subject = predictions_of(task.model, "model", task.images, task.head, one_of_k, task.streaming)
    if task.labels is not None:
        check_labels(task.labels, subject, task.attacks)
    check_gradients(subject, task.attacks)
    if task.original is None:
        return [subject]
    reference = predictions_of(task.original, "original", task.images, task.head, one_of_k, task.streaming)
    check_comparable(subject, reference)
    if task.labels is None:
        check_pair(subject.head, task.attacks)
        check_gradients(reference, task.attacks)
    return [subject, reference]


def _as_labels(value: Any) -> Tensor:
    """Class numbers; truth values are those of two classes."""
    found = tensor_of(value)
    return found.long() if found.dtype == torch.bool else found


def _as_model(value: Any) -> Model:
    """A model, or the one in the file of that name, as it is."""
    if not isinstance(value, str | os.PathLike):
        found: Model = may.MODEL.parse(value)
        return found
    if kind_of(os.fspath(value)) not in ("onnx", None):
        raise InputError(
            f"{value}: evaluate takes paths of .onnx files alone; give it load_model({str(value)!r})"
        )
    return load_as_is(value)


_MODEL = may.Rule(
    "a torch.nn.Module in eval mode, an ExportedProgram, or the path of an .onnx file; of a Result, its "
    "`model`",
    _as_model,
)
_ARRAY = "a tensor, an array, or nested lists of numbers"
_RULES = {
    "model": _MODEL,
    "images": may.Rule(_ARRAY, tensor_of),
    "labels": may.optional(may.Rule(_ARRAY, _as_labels)),
    "original": may.optional(_MODEL),
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


def _figures(task: _Task, measured: Sequence[Predictions]) -> Found:
    """Accuracy, agreement, and what attacks leave of these."""
    subject, reference = measured[0], measured[1] if len(measured) > 1 else None
    parts = list[Found]()
    if task.labels is not None:
        parts.append((_correct(subject, reference, task.labels, task.top_k), ()))
    if reference is not None:
        parts.append(compared(subject, reference))
        parts.append((moved(subject, reference, task.labels), ()))
    if task.attacks and task.box is not None:
        parts.append(_attacked(subject, reference, task, task.box))
    fields = {name: value for part, _ in parts for name, value in part.items()}
    return fields, tuple(doubt for _, doubts in parts for doubt in doubts)


def _correct(
    subject: Predictions, reference: Predictions | None, labels: Tensor, top_k: Sequence[int]
) -> dict[str, Any]:
    """How often the models are right, in all and by class."""
    before = None if reference is None else reference.right(labels)
    classes = per_class(subject.right(labels), before, labels) if labels.ndim == 1 else ()
    of_original = None
    if reference is not None:
        of_original = accuracies(reference.outputs, labels, top_k, reference.head)
    return {
        "accuracy": accuracies(subject.outputs, labels, top_k, subject.head),
        "original_accuracy": of_original,
        "classes": classes,
        "worst_class_accuracy": worst(row.accuracy for row in classes),
        "original_worst_class_accuracy": worst(row.original_accuracy for row in classes),
    }


def _attacked(subject: Predictions, reference: Predictions | None, task: _Task, box: Box) -> Found:
    """What attacks leave of the accuracy, or without labels of the agreement."""
    if task.labels is not None:
        rows, doubts = attacked(subject, task.images, task.labels, task.attacks, box, task.streaming)
        return {"attacks": rows}, doubts
    assert reference is not None
    standing, doubts = agreement_attacked(subject, reference, task.images, task.attacks, box, task.streaming)
    return {"agreement_attacks": standing}, doubts


def _range_warnings(task: _Task) -> tuple[str, ...]:
    """That images lie outside of the bounds, where nothing needs a box: they are likely in other units."""
    numbers = task.images.is_floating_point()  # others, such as those of words, have no bounds
    said = "" if task.box or not numbers else range_warning(task.images, task.bounds)
    return (said,) if said else ()


def _cost(module: nn.Module, image: Tensor) -> Cost:
    """What the model holds and computes; of a file that is measured as it is, what the file holds."""
    file = onnx_file(module)
    if file is None:
        return Cost(parameters=parameters(module), macs=macs(module, image), bytes=state_bytes(module))
    floating = file.float_form
    return Cost(
        parameters=stored_numbers(file.proto),
        macs=None if floating is None else macs(floating, image),
        bytes=stored_bytes(file.proto),
    )


def _costs(
    measured: Sequence[Predictions], images: Tensor, streaming: Streaming, runtime: Runtime | None
) -> tuple[list[Cost], int | None]:
    """The cost of each model, timed in turns on one batch where a runtime is named, and that batch's size."""
    pairs = [placed(predictions.module, streaming["device"]) for predictions in measured]
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
            _cost(m, batch[:1]).model_copy(update={"latency_ms": elapsed})
            for m, elapsed in zip(modules, milliseconds, strict=True)
        ]
    return costs, len(timed) if runtime is not None else None
