"""Quantise a float model, pruned or not, and measure what it costs in agreement."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from secateur.arguments import MODEL, number, optional, parsed
from secateur.decisions import Decision, Head, decision_of
from secateur.errors import InputError, RecipeError, SecateurError, SecateurWarning
from secateur.formats.onnx.check import inference_session
from secateur.formats.onnx.files import proto_of
from secateur.formats.onnx.imported import OnnxModel
from secateur.formats.onnx.read import require_packages
from secateur.formats.onnx.run import outputs_of
from secateur.graph.capture import capture
from secateur.graph.coupling import couple
from secateur.graph.example import ExampleInputs
from secateur.graph.graph import Graph
from secateur.progress import phase
from secateur.quantize.integers import ranges_of
from secateur.quantize.kept_float import Choice, by_loss, choose
from secateur.quantize.measure import Judge, Labelled, judge, stages
from secateur.quantize.result import Quantized
from secateur.quantize.schemes import Scheme, scheme_named
from secateur.report.quantization import Quantization
from secateur.report.recipe import UsedInputs
from secateur.request import NO_SURROGATE, Request
from secateur.samples import Calibration, Surrogate, own
from secateur.torch_state import reproducible
from secateur.types import Samples
from secateur.validation import Validation, samples_for, warned_of_pixels

Proto = Any
_SHARE = optional(number("a share of the decisions, from 0 to 1", low=0, high=1))
_RANKED_ON = 128  # inputs on which the loss of single nodes is measured


def quantize(
    model: nn.Module | ExportedProgram,
    example_inputs: ExampleInputs | None = None,
    *,
    scheme: str = "int8",
    original: nn.Module | ExportedProgram | None = None,
    min_agreement: float | None = None,
    images: Any = None,
    labels: Any = None,
    input_bounds: Any = (0.0, 1.0),
    mean: float | Sequence[float] | Tensor | None = None,
    std: float | Sequence[float] | Tensor | None = None,
    normalize: str | None = None,
    surrogate: Surrogate = "auto",
    calibration: Any = None,
    samples: int = 512,
    memory: int | str | None = None,
    head: Head = "auto",
    latency: bool = True,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Quantized:
    """Quantise a float model for onnxruntime, without data and without retraining.

    The model is exported to ONNX if it did not come from there. It is not changed.

    Args:
        model: An `nn.Module` in eval mode, or an exported program, with float32 weights.
        example_inputs: As for `prune`.
        scheme: `int8` (weights and values in 8 bits; the fastest on CPUs), `fp16` (all in float16),
            `fp16-weights` and `bf16-weights` (stored in half precision, computed in float32), `int8-weights`
            and `int4-weights` (matrix products alone).
        original: The model before it was pruned, from which samples are drawn and with which agreement is
            measured. Default: `model` itself.
        min_agreement: The least share of decisions, from 0 to 1, that must be those of `original`. Nodes that
            lose most are kept in float until it holds.
        images, labels: Labelled inputs, in any form that `calibration` may have, and class numbers (n,). They
            are used for the accuracy in the report, and for nothing else.
        input_bounds, mean, std, normalize: As for `prune`.
        surrogate, calibration, samples, memory: The inputs from which the ranges of values are taken, as for
            `prune`. A third of `calibration` is held out, to measure agreement; without it, agreement is
            measured on surrogates of another kind.
        head: What the outputs are, as for `evaluate`.
        latency: Whether to time one sample in onnxruntime before and after.
        seed: Seed of all random numbers.
        device: Where samples are drawn.
        progress: Whether to report progress on stderr.

    Returns:
        The quantised model, and the record of what was measured at each stage. Warnings say if it is not
        smaller or not faster than the float model.

    Raises:
        InputError: An argument cannot be used, the model is not float32, or it has nothing to quantise.
        TargetMissedError: `min_agreement` does not hold.

    Examples:
        >>> import torch, secateur
        >>> _ = torch.manual_seed(1)
        >>> net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4)).eval()
        >>> small = secateur.quantize(net, torch.zeros(1, 64), samples=64, latency=False)
        >>> before, after = small.record.stages
        >>> after.bytes < before.bytes
        True
    """
    chosen = scheme_named(scheme)
    least = parsed("min_agreement", min_agreement, _SHARE)
    request = Request.parse(
        input_bounds=input_bounds, mean=mean, std=std, normalize=normalize, surrogate=surrogate,
        calibration=calibration, samples=samples, memory=memory, head=head, seed=seed, device=device,
        progress=progress, **_UNUSED,
    )  # fmt: skip
    if calibration is not None:  # ranges of values are those of the user's own inputs
        request = replace(request, surrogate=NO_SURROGATE)
    parsed("model", model, MODEL)
    if original is not None:
        parsed("original", original, MODEL)
    if (images is None) != (labels is None):
        raise InputError("images and labels go together; give both, or none")
    require_packages("onnx", "onnxruntime")
    with reproducible(model):
        source = model if original is None else original
        inputs = _inputs(source, example_inputs, request, images, labels, alone=original is None)
    return _quantized(model, original, inputs, chosen, scheme, least, latency, example_inputs, progress)


# Arguments of `prune` that quantising does not have, as their defaults.
_UNUSED: dict[str, Any] = {
    "remove": None, "method": "reconstruct", "options": None, "budget": None, "allocation": "uniform",
    "attention": "auto", "streams": False, "guard": None, "step": None, "recursive": True,
    "exact_first": False, "ignore": (), "round_to": "auto", "uniform_layers": False, "callbacks": (),
    "tokenizer": None,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What models are calibrated and judged on."""

    decision: Decision | None
    samples: Samples
    validation: Validation
    used: UsedInputs
    labelled: Labelled | None


def _inputs(
    model: nn.Module | ExportedProgram,
    example_inputs: ExampleInputs | None,
    request: Request,
    images: Any,
    labels: Any,
    alone: bool,
) -> _Inputs:
    with phase("capturing the model", request.progress):
        graph = capture(model, example_inputs)
    if alone:  # else pruning has warned
        warned_of_pixels(request, graph)
    bounds = request.bounds_of(graph)
    with phase("drawing samples", request.progress):
        samples, validation, used = samples_for(request, graph, couple(graph), bounds, request.samples)
    if samples is None or validation is None:
        raise SecateurError("quantize: no inputs could be drawn; give inputs of your own (calibration=)")
    found = decision_of(graph, request.head)
    decision = found if isinstance(found, Decision) else None
    return _Inputs(decision, samples, validation, used, _labelled(graph, request, decision, images, labels))


def _labelled(
    graph: Graph, request: Request, decision: Decision | None, images: Any, labels: Any
) -> Labelled | None:
    if images is None:
        return None
    if decision is None:
        raise InputError("labels: the model decides nothing that could be right or wrong; say what with head")
    given = Calibration(images, request.input_bounds)
    found = own(graph, given, 2**31, request.normalisation.normalised).inputs
    numbers = torch.as_tensor(labels)
    if len(numbers) != len(found[0]):
        raise InputError(f"labels: {len(numbers)} for {len(found[0])} images; give one for each")
    return Labelled(found, decision.labelled(numbers))


def _quantized(
    model: nn.Module | ExportedProgram,
    original: nn.Module | ExportedProgram | None,
    inputs: _Inputs,
    scheme: Scheme,
    name: str,
    least: float | None,
    latency: bool,
    example_inputs: ExampleInputs | None,
    progress: bool,
) -> Quantized:
    with phase("writing the model as ONNX", progress):
        plain = proto_of(model, example_inputs)
        models = {"float": plain}
        if original is not None:
            models = {"original": _own_proto(original, example_inputs), "pruned": plain}
        prepared = scheme.prepare(plain)
    judged_by = judge(
        next(iter(models.values())), inputs.decision, inputs.validation.samples.inputs, inputs.labelled
    )
    if least is not None and inputs.decision is None:
        raise InputError("min_agreement: the model decides nothing that could agree; say what with head")
    ranges = {}
    if scheme.calibrated:
        with phase("taking the ranges of values", progress):
            ranges = ranges_of(prepared, inputs.samples.inputs)
    with phase("quantising", progress):
        choice = _chosen(scheme, name, prepared, ranges, judged_by, inputs.samples, least, progress)
    models["quantised"] = choice.proto
    with phase("measuring", progress):
        found = stages(models, judged_by, [x[:1] for x in inputs.samples.inputs], latency)
    record = Quantization(
        scheme=name,
        runtime=runtime(),
        calibrated_on=len(inputs.samples.inputs[0]) if scheme.calibrated else 0,
        surrogate=inputs.used.surrogate if scheme.calibrated else "",
        judged_on=len(inputs.validation.samples.inputs[0]),
        min_agreement=least,
        nodes=len(scheme.nodes(prepared)),
        kept_float=choice.kept,
        ranges=ranges,
        stages=found,
        digest=digest(choice.proto),
    )
    for doubt in record.doubts():
        warnings.warn(doubt, SecateurWarning, stacklevel=3)
    return Quantized(choice.proto, record)


def _own_proto(model: nn.Module | ExportedProgram, example_inputs: ExampleInputs | None) -> Proto:
    """The model as ONNX; of a quantised file, whose float form it is, that file."""
    quantised = model.quantized if isinstance(model, OnnxModel) else None
    return proto_of(model, example_inputs) if quantised is None else quantised


def _chosen(
    scheme: Scheme,
    name: str,
    prepared: Proto,
    ranges: Mapping[str, tuple[float, float]],
    judged_by: Judge,
    samples: Samples,
    least: float | None,
    progress: bool,
) -> Choice:
    nodes = scheme.nodes(prepared)
    if not nodes:
        ops = ", ".join(sorted({node.op_type for node in prepared.graph.node}))
        raise InputError(f"{name}: the model has no node that this scheme quantises (its ops: {ops})")
    few = [x[:_RANKED_ON] for x in samples.inputs]

    def build(kept: Any) -> Proto:
        return scheme.apply(prepared, kept, ranges)

    def run(proto: Proto) -> Tensor:
        return torch.cat([y.double().flatten(1) for y in outputs_of(proto, few)], 1)

    return choose(nodes, build, judged_by.agreement, least, lambda: by_loss(nodes, build, run, progress))


def quantize_again(
    model: nn.Module | ExportedProgram, record: Quantization, example_inputs: ExampleInputs | None = None
) -> Quantized:
    """Quantise a replayed model as a recipe says: the same scheme, nodes in float and ranges of values.

    Nothing is drawn or measured. Returns the model with the record of what was measured then; compare its
    `digest` with that of the record to see whether the bytes are the same.

    Raises:
        RecipeError: The record is not of this model.
    """
    scheme = scheme_named(record.scheme)
    prepared = scheme.prepare(proto_of(model, example_inputs))
    unknown = set(record.kept_float) - set(scheme.nodes(prepared))
    if unknown or len(scheme.nodes(prepared)) != record.nodes:
        raise RecipeError(
            f"the recipe quantises {record.nodes} nodes of another graph than the replayed model's; quantise "
            "the model again (`secateur quantize`)"
        )
    made = scheme.apply(prepared, record.kept_float, record.ranges)
    inference_session(made)
    return Quantized(made, record.model_copy(update={"digest": digest(made)}))


def digest(proto: Proto) -> str:
    """SHA-256 of a model's content."""
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def runtime() -> str:
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"
