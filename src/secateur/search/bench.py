"""Measures settings on one model: prune, quantise, compare, weigh."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from secateur.cost import Costs
from secateur.errors import InputError, NothingToPruneError, SecateurError, SecateurWarning
from secateur.evaluate.latency import latency
from secateur.evaluate.measure import evaluate
from secateur.formats.format import Runtime
from secateur.formats.models import load_model
from secateur.formats.onnx.files import proto_of
from secateur.graph.example import ExampleInputs
from secateur.prune import pruned
from secateur.quantize import quantize
from secateur.quantize.result import Quantized
from secateur.report.recipe import Recipe
from secateur.request import Request
from secateur.result import Result
from secateur.search.space import FLOAT, Setting
from secateur.search.trial import Sizes, Trial
from secateur.shared import Shared
from secateur.torch_state import reproducible

Model = nn.Module | ExportedProgram

# Arguments of `prune` that `quantize` takes, too.
BOTH = "input_bounds mean std normalize surrogate calibration memory head device".split()
_RANGES_FROM = 512  # samples; more hardly change ranges of values


@dataclass(frozen=True, eq=False)
class Job:
    """What a process needs to measure settings. It can be sent to others if the model can, or is a file.

    Attributes:
        source: A model, or the path of one.
        example_inputs: As for `prune`.
        arguments: The other arguments of `prune`, those of a `Setting` left out.
        timed: Whether to time one sample.
        in_onnx: Whether bytes are those of an ONNX file, since some networks are quantised.
        images, labels: Labelled data, or None.
    """

    source: Model | str | os.PathLike[str]
    example_inputs: ExampleInputs | None
    arguments: Mapping[str, Any]
    timed: bool = False
    in_onnx: bool = False
    images: Tensor | None = None
    labels: Tensor | None = None

    def model(self) -> Model:
        """The model, read from its file if it is one."""
        return load_model(self.source) if isinstance(self.source, str | os.PathLike) else self.source

    def request(self, setting: Setting) -> Request:
        """The arguments of `prune` for a setting."""
        return Request.parse(**{**self.arguments, **setting.arguments()})


@dataclass(frozen=True, eq=False)
class Outcome:
    """A trial, and the recipe of its network if there is one."""

    trial: Trial
    recipe: Recipe | None


class Bench:
    """Runs settings of one job after another; what they have in common is computed once."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._shared = Shared()

    @cached_property
    def model(self) -> Model:
        return self.job.model()

    def outcome(self, number: int, setting: Setting) -> Outcome:
        """Measure one setting.

        A setting that gives no network is an outcome, too, with the error. Raises `InputError` for arguments
        and data that no setting can use.
        """
        begin = time.perf_counter()

        def seconds() -> float:
            return round(time.perf_counter() - begin, 3)

        try:
            result = self._pruned(setting)
            made = None if setting.quantize == FLOAT else self._quantized(result, setting)
            trial = self._trial(number, setting, result, made)
        except InputError:
            raise
        except SecateurError as error:
            failed = Trial(
                number=number,
                setting=setting,
                error=str(error),
                unchanged=isinstance(error, NothingToPruneError),
                seconds=seconds(),
            )
            return Outcome(failed, None)
        recipe = result.recipe if made is None else result.recipe.with_quantization(made.record)
        return Outcome(trial.model_copy(update={"seconds": seconds()}), recipe)

    def _pruned(self, setting: Setting) -> Result:
        threads = torch.get_num_threads()
        with reproducible(self.model):
            return pruned(
                self.model, self.job.example_inputs, self.job.request(setting), threads, self._shared
            )

    def _quantized(self, result: Result, setting: Setting) -> Quantized:
        shared = {name: self.job.arguments[name] for name in BOTH}
        with warnings.catch_warnings():  # of one that is no smaller or faster: the front tells that
            warnings.simplefilter("ignore", SecateurWarning)
            return quantize(
                result.model,
                self.job.example_inputs,
                scheme=setting.quantize,
                original=self.model,
                samples=min(self.job.arguments["samples"], _RANGES_FROM),
                images=self.job.images,
                labels=self.job.labels,
                latency=self.job.timed,
                seed=setting.seed,
                **shared,
            )

    def _trial(self, number: int, setting: Setting, result: Result, made: Quantized | None) -> Trial:
        verdict = result.verdict
        if verdict is None:
            raise SecateurError("there is no verdict on this network, so that it cannot be judged")
        sizes = self._sizes(result.model, timed=made is None)
        accuracy, worst_class = self._accuracies(result.model) if made is None else (None, None)
        trial = Trial(
            number=number,
            setting=setting,
            sizes=sizes,
            agreement=verdict.agreement,
            drift=verdict.drift,
            relative_drift=verdict.relative_drift,
            verdict=verdict.word,
            accuracy=accuracy,
            worst_class=worst_class,
            result=result.recipe.result,
        )
        if made is None:
            return trial
        last = made.record.stages[-1]
        of_quantised = {
            "sizes": sizes.model_copy(update={"bytes": last.bytes, "latency": last.ms}),
            "agreement": last.agreement,
            "accuracy": last.accuracy,
            "drift": None,
            "relative_drift": None,
            "result": made.record.digest,
        }
        return trial.model_copy(update=of_quantised)

    def _sizes(self, model: nn.Module, timed: bool) -> Sizes:
        assert self._shared.task is not None, "a setting was run"
        run = self._shared.task.run
        job = self.job if timed else replace(self.job, timed=False)
        return sizes_of(job, self.model, model, Costs(run.graph, run.coupling), run.alive)

    def _accuracies(self, model: nn.Module) -> tuple[float | None, float | None]:
        """Share of the labelled data on which a float network is right: of all, and of the worst class."""
        if self.job.images is None:
            return None, None
        given = {name: self.job.arguments[name] for name in "input_bounds mean std normalize head".split()}
        found = evaluate(model, self.job.images, self.job.labels, top_k=(1,), **given)
        return found.accuracy.get(1), found.worst_class_accuracy


def sizes_of(job: Job, original: Model, model: Model, costs: Costs, alive: Mapping[str, Tensor]) -> Sizes:
    """What `model` costs, the float network that `alive` leaves of `original`; `costs` are of that."""
    ms = None
    if job.timed:
        runtime: Runtime | None = "onnxruntime" if job.in_onnx else None
        ms = latency(original, model, job.example_inputs, runtime=runtime).after
    stored = proto_of(model, job.example_inputs).ByteSize() if job.in_onnx else costs.bytes(alive)
    return Sizes(params=costs.parameters(alive), macs=costs.macs(alive), bytes=stored, latency=ms)
