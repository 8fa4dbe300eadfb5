"""What searches and sweeps are asked: their arguments, checked, and the question that a folder keeps."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur import arguments as may
from secateur.data.plain import tensor_of
from secateur.errors import InputError, few
from secateur.graph.coupling import Coupling
from secateur.graph.example import ExampleInputs
from secateur.graph.graph import Graph
from secateur.graph.streams import coupled
from secateur.prune import prune
from secateur.report.recipe import content_of, fingerprint, versions
from secateur.request import Request
from secateur.samples import digest, own
from secateur.search.bench import Job, Model
from secateur.search.clusters import MAY_BE
from secateur.search.space import Setting
from secateur.search.store import Question
from secateur.strict_json import dumps
from secateur.torch_state import reproducible

# Arguments of `prune` that a search sets itself; others are handed on.
_SET = set(Setting.model_fields) | {"guard", "budget", "resume", "callbacks", "progress"}
_OTHERS = {
    p.name: p.default for p in inspect.signature(prune).parameters.values() if p.kind is p.KEYWORD_ONLY
}

SOURCE = may.Rule(
    "a torch.nn.Module in eval mode, an ExportedProgram, or the path of a model file",
    lambda value: value if isinstance(value, str | os.PathLike) else may.MODEL.parse(value),
)
ENGINE = may.optional(may.instance(str, MAY_BE))
WORKERS = may.whole(1, "a whole number of processes, at least 1", high=1024)


@dataclass(frozen=True, eq=False)
class Asked:
    """A model and arguments, checked."""

    model: Model
    graph: Graph
    coupling: Coupling
    job: Job
    request: Request  # for the first setting
    plain: dict[str, Any]  # what of it a question keeps

    def question(self, kind: str, more: Mapping[str, Any]) -> Question:
        """With what else was asked."""
        told = {"kind": kind, "versions": versions(), "asked": {**self.plain, **more}}
        return Question.model_validate_json(dumps(told))


def asked(
    source: Any,
    example_inputs: ExampleInputs | None,
    arguments: Mapping[str, Any],
    first: Setting,
    *,
    images: Any,
    labels: Any,
    timed: bool = False,
    in_onnx: bool = False,
) -> Asked:
    """Check everything and capture the model.

    Raises `InputError` for arguments that cannot be used, before any work where that is possible.
    """
    given = _arguments(arguments)
    job = Job(
        may.parsed("model", source, SOURCE),
        example_inputs,
        {**given, "guard": None, "budget": None, "callbacks": (), "progress": False},
        timed=timed,
        in_onnx=in_onnx,
        **_labelled(images, labels),
    )
    request = job.request(first)
    model = job.model()
    with reproducible(model):
        graph, coupling = coupled(model, example_inputs, request.streams)
        inputs = None
        if request.calibration is not None:  # read once, however often it is used
            most = request.samples + (request.samples + 1) // 2
            inputs = own(graph, request.calibration, most)
        plain = _plain(graph, request, model, None if inputs is None else digest(inputs), job)
    fixed: dict[str, Any] = {"memory": request.memory}
    if inputs is not None:
        fixed["calibration"] = inputs.inputs
    job = Job(job.source, example_inputs, {**job.arguments, **fixed}, timed, in_onnx, job.images, job.labels)
    return Asked(model, graph, coupling, job, job.request(first), plain)


def _arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(given.keys() - (_OTHERS.keys() - _SET))
    if unknown:
        raise InputError(
            f"{few(unknown)}: no argument of a search; there are its own, and those of prune but "
            f"{', '.join(sorted(_SET & _OTHERS.keys()))}"
        )
    return {name: given.get(name, default) for name, default in _OTHERS.items() if name not in _SET}


def _labelled(images: Any, labels: Any) -> dict[str, Tensor]:
    if (images is None) != (labels is None):
        raise InputError("images and labels go together; give both, or none")
    if images is None:
        return {}
    return {"images": tensor_of(images), "labels": tensor_of(labels)}


def _plain(graph: Graph, request: Request, model: Model, calibration: str | None, job: Job) -> dict[str, Any]:
    """The parts of the question that a search and a sweep share."""
    recorded = request.recorded(request.ignored(model), request.bounds_of(graph)).model_dump()
    asked = {name: value for name, value in recorded.items() if name not in _SET}
    data = None
    if job.images is not None and job.labels is not None:
        data = hashlib.sha256(content_of(job.images) + content_of(torch.as_tensor(job.labels))).hexdigest()
    found = fingerprint(graph)
    tokenizer = None if request.tokenizer is None else hashlib.sha256(repr(request.tokenizer).encode())
    more = {
        "tokenizer": tokenizer and tokenizer.hexdigest(),
        "model": found.model_dump(),
        "calibration": calibration,
        "data": data,
        "in_onnx": job.in_onnx,
    }
    return {**asked, **more}
