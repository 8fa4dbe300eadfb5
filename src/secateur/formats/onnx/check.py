"""The imported graph against the model in onnxruntime, value by value, before anything is pruned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.errors import InputError, VerificationError
from secateur.formats.onnx.model import OnnxGraph, Proto
from secateur.formats.onnx.read import LIMIT, require_packages
from secateur.formats.onnx.recurrent import KINDS as RECURRENT
from secateur.formats.onnx.tensors import to_proto, to_torch

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 6e-2}  # of a value's range


def check_import(model: OnnxGraph, inputs: Sequence[Tensor]) -> None:
    """`VerificationError` naming the first node whose value in torch is not that in onnxruntime, on random inputs.

    `inputs` say the shapes; a batch that the model fixes is run a piece at a time. Cost: two runs of the model.
    """
    require_packages("onnx", "onnxruntime")
    drawn = random_like(inputs)
    with torch.no_grad():
        found = model.values(drawn)
    outputs = [name for name in model.outputs if isinstance(found[name], Tensor)]
    expected = run_onnx(model, drawn, outputs)
    bad = [name for name in outputs if not close(found[name], expected[name])]
    if bad:
        raise VerificationError(_first_difference(model, drawn, bad[0]))


def check_written(before: Proto, after: Proto) -> None:
    """By ONNX's own full check, where the model that was read passes it, too."""
    import onnx

    try:
        onnx.checker.check_model(serialized(before), full_check=True)
    except Exception:
        return  # there is nothing to hold it against: shapes of some types (bfloat16) are not inferred, for one
    try:
        onnx.checker.check_model(serialized(after), full_check=True)
    except Exception as error:
        raise VerificationError(
            f"the smaller ONNX model is not valid: {_short(error)}. This is a fault in secateur; please report it"
        ) from error


def random_like(inputs: Sequence[Tensor], seed: int = 0) -> list[Tensor]:
    """Random numbers, in [0, 1] for the first sample and in [−1, 1] for the others, and small ids."""
    generator = torch.Generator().manual_seed(seed)

    def like(x: Tensor) -> Tensor:
        if x.is_floating_point():
            drawn = torch.rand(x.shape, generator=generator, dtype=torch.float64)
            return torch.cat([drawn[:1], 2 * drawn[1:] - 1]).to(x.dtype)
        return torch.randint(0, 2, x.shape, generator=generator).to(x.dtype)

    return [like(x) for x in inputs]


def run_onnx(model: OnnxGraph, inputs: Sequence[Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
    """Values of the named outputs, from onnxruntime, or where that lacks kernels (bfloat16) from ONNX's reference."""
    step = model.batch or len(inputs[0])
    run = session(model.proto)
    parts = []
    for start in range(0, len(inputs[0]), step):
        pieces = zip(model.inputs, inputs, strict=True)
        parts.append(run(list(outputs), {v.name: to_proto(x[start : start + step], v.name) for v, x in pieces}))
    return {
        name: torch.cat(values) if len(parts) > 1 else values[0] for name, *values in zip(outputs, *parts, strict=True)
    }


def inference_session(proto: Proto, optimised: bool = True) -> Any:
    """The model in onnxruntime; `InputError` where that refuses it."""
    require_packages("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = serialized(proto)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InputError(f"onnxruntime refuses the model: {_short(error)}") from error


def session(proto: Proto) -> Any:
    """A function (names of outputs, inputs as ONNX tensors) → tensors."""
    try:
        made = inference_session(proto, optimised=False)
    except InputError:
        if not _lacks_kernels(proto):
            raise
        return _reference(proto)

    def run(outputs: list[str], inputs: dict[str, Proto]) -> list[Tensor]:
        import onnx.numpy_helper

        try:
            found = made.run(outputs, {name: onnx.numpy_helper.to_array(t) for name, t in inputs.items()})
        except Exception as error:
            raise InputError(f"onnxruntime cannot run the model: {_short(error)}") from error
        return [torch.from_numpy(np.array(value)) for value in found]

    return run


def serialized(proto: Proto) -> bytes:
    size = proto.ByteSize()
    if size > LIMIT:
        raise InputError(f"the model has {size:,} bytes with its weights; models of more than {LIMIT:,} cannot be run")
    return bytes(proto.SerializeToString())


def _lacks_kernels(proto: Proto) -> bool:
    """onnxruntime has next to no bfloat16 on CPUs, and no recurrent layers whose batch comes first."""
    batch_first = any(
        n.op_type in RECURRENT and any(a.name == "layout" and a.i for a in n.attribute) for n in proto.graph.node
    )
    return (
        batch_first
        or any(t.data_type == 16 for t in proto.graph.initializer)
        or any(v.type.tensor_type.elem_type == 16 for v in proto.graph.input)
    )


def _reference(proto: Proto) -> Any:
    import onnx.numpy_helper
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(proto)

    def run(outputs: list[str], inputs: dict[str, Proto]) -> list[Tensor]:
        found = evaluator.run(outputs, {name: onnx.numpy_helper.to_array(t) for name, t in inputs.items()})
        return [to_torch(onnx.numpy_helper.from_array(np.asarray(value))) for value in found]

    return run


def close(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    if not ours.is_floating_point():
        return torch.equal(ours.long(), theirs.long())
    return distance(ours, theirs) <= _TOLERANCE[ours.dtype]


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, in shares of the largest value; NaN and infinity are at their like only."""
    a, b = ours.detach().double(), theirs.double()
    finite = b.isfinite()
    if not torch.equal(finite, a.isfinite()):
        return float("inf")
    a, b = torch.where(finite, a, 0.0), torch.where(finite, b, 0.0)
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-3)) if a.numel() else 0.0


def _first_difference(model: OnnxGraph, inputs: Sequence[Tensor], output: str) -> str:
    """In words: the first node in the order of the graph whose value differs."""
    import onnx

    with torch.no_grad():
        ours = model.values(inputs, everything=True)
    wanted = [o for n in model.nodes for o in n.outputs if isinstance(ours.get(o), Tensor)]
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    there = {o.name for o in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in there)
    probe = OnnxGraph(proto)
    theirs = run_onnx(probe, inputs, wanted)
    for node in model.nodes:
        for name in node.outputs:
            if name in theirs and not close(ours[name], theirs[name]):
                return (
                    f"{node} gives another value in torch (shape {tuple(ours[name].shape)}) than in onnxruntime (shape "
                    f"{tuple(theirs[name].shape)}): {distance_told(ours[name], theirs[name])}. The model was not "
                    "pruned; please report the op and its attributes"
                )
    return f"the output {output!r} differs from onnxruntime's, though every value before it is the same"


def distance_told(ours: Tensor, theirs: Tensor) -> str:
    if ours.shape != theirs.shape:
        return "the shapes differ"
    return f"they are {distance(ours, theirs):.3g} of the largest value apart"


def _short(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300]
