"""A second look at a network that was picked: on surrogates that no choice depended on."""

from __future__ import annotations

from functools import cached_property

from secateur.decisions import Decision, decision_of
from secateur.formats.onnx.files import proto_of
from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.quantize import quantize_again
from secateur.quantize.measure import judge
from secateur.replay import replay, replay_on
from secateur.report.recipe import Recipe
from secateur.report.record import Record
from secateur.request import Request
from secateur.run import Run
from secateur.search.bench import Job, Model
from secateur.search.trial import Trial, Wanted
from secateur.torch_state import reproducible
from secateur.validation import Validation, fresh_surrogates, verdict_of

_LATER = 2  # its seed is later than those of samples and of validation samples


class Look(Record):
    """What a second look at the picked network has shown.

    Attributes:
        inputs: The number of surrogates.
        surrogate: Their kind.
        agreement: Share of decisions that equal the original's; None for a network that decides nothing.
        drift: The largest change of any output; None for a quantised network.
    """

    inputs: int
    surrogate: str
    agreement: float | None
    drift: float | None = None

    def keeps(self, wanted: Wanted, trial: Trial) -> bool:
        """Whether the budgets hold on these surrogates, too."""
        seen = {"agreement": self.agreement, "drift": self.drift}
        return wanted.kept_by(trial.model_copy(update=seen))

    def told(self) -> str:
        parts = [] if self.agreement is None else [f"agreement {self.agreement:.2%}"]
        parts += [] if self.drift is None else [f"drift {self.drift:.3g}"]
        return f"{', '.join(parts)} on {self.inputs:,} fresh {self.surrogate} surrogates"


class SecondLook:
    """Looks at networks by their recipes."""

    def __init__(self, model: Model, job: Job, request: Request, graph: Graph, coupling: Coupling) -> None:
        self._model, self._job, self._request = model, job, request
        self._graph, self._coupling = graph, coupling

    @cached_property
    def _fresh(self) -> Validation:
        graph, request = self._graph, self._request
        bounds = request.bounds_of(graph)
        return fresh_surrogates(request, graph, self._coupling, bounds, request.seed + _LATER)

    def at(self, recipe: Recipe) -> Look:
        with reproducible(self._model):
            fresh = self._fresh
            drift = None
            if recipe.quantized is not None:
                agreement = self._agreement_of_quantised(recipe)
            else:
                run = Run(self._graph, self._coupling)
                replay_on(run, recipe)
                verdict = verdict_of(self._graph, run.weights, fresh, self._request.head)
                assert verdict is not None, "the same model had one"
                agreement, drift = verdict.agreement, verdict.drift
        inputs = len(fresh.samples.inputs[0])
        return Look(inputs=inputs, surrogate=fresh.surrogate, agreement=agreement, drift=drift)

    def _agreement_of_quantised(self, recipe: Recipe) -> float | None:
        assert recipe.quantized is not None
        example = self._job.example_inputs
        small = replay(self._model, recipe, example)
        made = quantize_again(small, recipe.quantized, example)
        found = decision_of(self._graph, self._request.head)
        decision = found if isinstance(found, Decision) else None
        judged_by = judge(proto_of(self._model, example), decision, self._fresh.samples.inputs, None)
        return judged_by.agreement(made.proto)
