"""The guard: budgets on agreement and drift, beyond which a step is undone and the run ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from secateur.bounds.attention import with_attention_in_steps
from secateur.bounds.certified import Certified, ball, blocks
from secateur.bounds.joint import Networks
from secateur.bounds.maxima import without_max_pools
from secateur.decisions import Decision, Head, NoDecision, before_head, check_head, decide_on, decision_of
from secateur.errors import InputError
from secateur.fidelity import Fidelity, fidelity
from secateur.graph.graph import Graph
from secateur.types import Interval, Samples

# Name of a budget → its largest legal value; the smallest is 0.
_BUDGETS = {"agreement": 1.0, "drift": inf, "certified_agreement": 1.0, "certified_drift": inf, "eps": inf}
_BALLS = 128  # samples whose balls are certified after every step


@dataclass(frozen=True)
class Guard:
    """Budgets that the pruned network must keep, measured on validation samples after every step.

    Attributes:
        agreement: The least share of equal decisions, from 0 to 1.
        drift: The largest absolute change of any output, in the units of the outputs.
        certified_agreement: As `agreement`, proved for every input within `eps` of a sample.
        certified_drift: As `drift`, proved for every input within `eps` of a sample; without `eps`, for every
            input in the input box. The proof is about real arithmetic: a certificate of float32 inference
            adds the rounding of both models.
        eps: The radius of the balls round the samples (L∞), in the units of the inputs.
        head: What the outputs are, see `secateur.decisions`.
    """

    agreement: float | None = None
    drift: float | None = None
    certified_agreement: float | None = None
    certified_drift: float | None = None
    eps: float | None = None
    head: Head = "auto"

    @staticmethod
    def parse(budgets: Mapping[str, float | str] | None, calibrated: bool = False) -> Guard | None:
        """A guard from its budgets by name, such as {"agreement": 0.98, "drift": 2.0}; None without any.

        Args:
            budgets: Any of the fields of `Guard`.
            calibrated: Whether the user gives inputs, which `certified_agreement` needs.

        Raises:
            InputError: A budget is unknown, out of range, or needs another one that is missing.
        """
        if not budgets:
            return None
        for name, value in budgets.items():
            _check_budget(name, value)
        guard = Guard(**budgets)  # type: ignore[arg-type]  # just checked
        guard._check_together(calibrated)
        return guard

    def _check_together(self, calibrated: bool) -> None:
        if all(getattr(self, name) is None for name in _BUDGETS):
            raise InputError(
                f"guard: head says what the outputs are; give a budget, too: {', '.join(_BUDGETS)}"
            )
        if self.certified_agreement is not None and (self.eps is None or not calibrated):
            raise InputError("guard: certified_agreement needs eps, and inputs of your own (calibration=)")
        if self.eps is not None and not self._certifies:
            raise InputError(
                "guard: eps is the radius of certified_agreement and certified_drift; give one of them"
            )

    def check(self, graph: Graph) -> None:
        """Raise `InputError` where a budget on the agreement does not fit a model that decides nothing."""
        self._decision(graph)

    def breach(
        self, graph: Graph, weights: Mapping[str, Tensor], samples: Samples, box: Sequence[Interval]
    ) -> str:
        """Compare the network with `weights` with the original on `samples`.

        Returns:
            Which budget is exceeded and by how much; empty where all are kept.
        """
        found = ""
        if self.agreement is not None or self.drift is not None:
            found = self._breach_on_samples(fidelity(graph, weights, samples, self._decision(graph)))
        if found or not self._certifies:
            return found
        return self._breach_of_bounds(*self._certified(graph, weights, samples, box))

    @property
    def _certifies(self) -> bool:
        return self.certified_agreement is not None or self.certified_drift is not None

    def _decision(self, graph: Graph) -> Decision | None:
        """How decisions are read from the outputs; None where no budget needs them."""
        if self.agreement is None and self.certified_agreement is None:
            return None
        found = decision_of(graph, self.head)
        if isinstance(found, NoDecision):
            raise InputError(
                f"guard: no agreement can be measured, since the model decides nothing ({found.why}); give a "
                'budget on the drift instead, or say what the outputs are: head="binary_logit" (--head)'
            )
        return found

    def _breach_on_samples(self, found: Fidelity) -> str:
        if not found.drift < inf:
            return "the outputs are not finite"
        if self.agreement is not None and found.agreement is not None and found.agreement < self.agreement:
            return f"agreement on samples fell to {found.agreement:.2%}, below {self.agreement:.2%}"
        if self.drift is not None and found.drift > self.drift:
            return f"drift on samples rose to {found.drift:.4g}, above {self.drift:.4g}"
        return ""

    def _breach_of_bounds(self, drift: float, agreement: float) -> str:
        # `not ≤`, since a bound that is NaN keeps no budget
        if self.certified_drift is not None and not drift <= self.certified_drift:
            return f"certified drift rose to {drift:.4g}, above {self.certified_drift:.4g}"
        if self.certified_agreement is not None and agreement < self.certified_agreement:
            return f"certified agreement fell to {agreement:.2%}, below {self.certified_agreement:.2%}"
        return ""

    def _certified(
        self, graph: Graph, weights: Mapping[str, Tensor], samples: Samples, box: Sequence[Interval]
    ) -> tuple[float, float]:
        """The certified drift over all balls, and the share of balls with certified agreement."""
        stored = {name: w.to(graph.tensors[name].dtype) for name, w in weights.items()}
        steps = with_attention_in_steps(without_max_pools(graph))
        networks = Networks.of(steps, graph.tensors, stored, torch.empty(0, dtype=torch.float64))
        read = self._decision(networks.graph) if self.certified_agreement is not None else None
        decision = None if read is None else before_head(networks.graph, read)
        centres = [x[:_BALLS].cpu() for x in samples.inputs]
        balls = [_ball(x, whole, self.eps) for x, whole in zip(centres, box, strict=True)]
        moved, agreed = list[Tensor](), list[Tensor]()
        for start, block in blocks(networks, balls):
            here = Certified.of(networks, block)
            found = here.drift()
            moved.append(torch.maximum(-found.lower, found.upper).max())
            if decision is not None:
                middle = [
                    c[start : start + here.boxes].to(x.lower.dtype)
                    for c, x in zip(centres, balls, strict=True)
                ]
                classes = decide_on(networks.graph, decision, middle, dtype=torch.float64)
                agreed.append(here.stands(decision, classes, False) & here.stands(decision, classes, True))
        share = float(torch.cat(agreed).double().mean()) if agreed else 1.0
        return float(torch.stack(moved).max()), share


def _check_budget(name: str, value: float | str) -> None:
    if name == "head":
        check_head(str(value))
        return
    if name not in _BUDGETS:
        raise InputError(f"guard: no budget {name!r}; there are {', '.join(_BUDGETS)}")
    most = _BUDGETS[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise InputError(f"guard: {name}={value!r}; give a number from 0" + (" to 1" if most == 1.0 else ""))


def _ball(centre: Tensor, whole: Interval, eps: float | None) -> Interval:
    """The ball round each sample, cut by the box; the box itself where there is no radius."""
    low, high = whole.lower.cpu(), whole.upper.cpu()
    whole = Interval(low.double(), high.double()) if centre.is_floating_point() else Interval(low, high)
    return whole if eps is None else ball(centre, eps, whole)
