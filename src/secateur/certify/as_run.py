"""Both models as they are run, in torch in their own dtype or in onnxruntime as a file is; and in float64."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from secateur.certify.certificate import MeasuredRounding
from secateur.decisions import Decision, same
from secateur.evaluate.files import onnx_file
from secateur.fidelity import as_rows
from secateur.formats.format import Runtime
from secateur.formats.onnx.as_is import OnnxFile, stored_numbers
from secateur.graph.footprint import footprint
from secateur.graph.graph import Graph
from secateur.graph.interpret import run
from secateur.report.recipe import Fingerprint, fingerprint

_MOST = 256  # inputs on which rounding is measured


@dataclass(frozen=True, eq=False)
class InTorch:
    """A captured model."""

    graph: Graph
    runtime: ClassVar[Runtime] = "torch"

    @property
    def peak(self) -> int:
        """Numbers in the values of one sample that are there at a time."""
        return footprint(self.graph).peak

    @property
    def fingerprint(self) -> Fingerprint:
        return fingerprint(self.graph)

    def outputs(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return run(self.graph, inputs)

    def exact(self, inputs: Sequence[Tensor]) -> Sequence[Tensor] | None:
        return run(self.graph, inputs, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class InOnnxruntime:
    """A file that onnxruntime runs as it is: quantised, or in half precision."""

    model: nn.Module  # the file, with the normalisation before it
    file: OnnxFile
    runtime: ClassVar[Runtime] = "onnxruntime"
    peak: ClassVar[int] = 1  # onnxruntime is given small batches

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the content of the file; it has no graph of ours."""
        content = hashlib.sha256(self.file.proto.SerializeToString(deterministic=True)).hexdigest()
        ops = "\n".join(node.op_type for node in self.file.proto.graph.node)
        return Fingerprint(
            tensors=content,
            ops=hashlib.sha256(ops.encode()).hexdigest(),
            parameters=stored_numbers(self.file.proto),
        )

    def outputs(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return [y for y in pytree.tree_leaves(self.model(*inputs)) if isinstance(y, Tensor)]

    def exact(self, inputs: Sequence[Tensor]) -> Sequence[Tensor] | None:
        """Rounding is what such a model consists of."""
        return None


Running = InTorch | InOnnxruntime


def file_as_run(model: nn.Module | ExportedProgram) -> InOnnxruntime | None:
    """A model that is a file of onnxruntime; None for any other."""
    if isinstance(model, ExportedProgram) or (file := onnx_file(model)) is None:
        return None
    return InOnnxruntime(model, file)


def as_taken(graph: Graph, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """In the types, and on the devices, of the example."""
    return tuple(
        x.to(example.device, example.dtype) for x, example in zip(inputs, graph.example, strict=True)
    )


def largest_change(f: Sequence[Tensor], g: Sequence[Tensor], count: int) -> Tensor:
    """The largest |g − f| of an output, (count,), in float64; infinite where one is not finite."""
    pairs = zip(f, g, strict=True)
    flat = [(as_rows(a, count), as_rows(b, count)) for a, b in pairs if a.is_floating_point()]
    change = torch.cat([b - a for a, b in flat], 1).abs().amax(1).cpu()
    return change.masked_fill(~torch.isfinite(change), torch.inf)


def measured_rounding(
    original: Running, pruned: Running, decision: Decision | None, inputs: Sequence[Tensor]
) -> MeasuredRounding:
    """On at most 256 of the inputs, as the models take them. Cost: two forward passes of each model."""
    count = min(_MOST, len(inputs[0]))
    first = [x[:count] for x in inputs]
    found = list[float | None]()
    changed, dtype = None, torch.float32
    for model in (original, pruned):
        ours, exact = model.outputs(first), model.exact(first)
        dtype = next((y.dtype for y in ours if y.is_floating_point()), torch.float32)
        found.append(None if exact is None else float(largest_change(ours, exact, count).max()))
        if decision is not None and exact is not None:
            classes = [decision.classes(y[decision.output]) for y in (ours, exact)]
            changed = int((~same(*classes)).any(1).sum())
        else:
            changed = None
    return MeasuredRounding(
        dtype=str(dtype).removeprefix("torch."),
        device=str(inputs[0].device),
        runtime=pruned.runtime,
        draws=count,
        original=found[0],
        pruned=found[1],
        decisions_changed=changed,
    )
