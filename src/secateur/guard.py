"""The guard: how far the outputs may move on samples before a run stops and goes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from secateur.bounds.certified import Certified, ball, blocks
from secateur.bounds.joint import Networks
from secateur.bounds.maxima import without_max_pools
from secateur.decisions import Decision, Head, NoDecision, before_head, check_head, decide_on, decision_of
from secateur.errors import InputError
from secateur.fidelity import Fidelity, fidelity
from secateur.graph.graph import Graph
from secateur.types import Interval, Samples

_BUDGETS = {
    "agreement": 1.0,
    "drift": inf,
    "certified_agreement": 1.0,
    "certified_drift": inf,
    "eps": inf,
}  # largest
_BALLS = 128  # that are certified after every step


@dataclass(frozen=True)
class Guard:
    """Budgets on samples: the least share of equal decisions, and the largest move of any output.

    `certified_…` are the same for every input within `eps` of a sample (L∞), proved and not only seen;
    without `eps`, the certified drift is that over the whole input box. `head` says what the outputs are, see
    `secateur.decisions`.
    """

    agreement: float | None = None
    drift: float | None = None
    certified_agreement: float | None = None
    certified_drift: float | None = None
    eps: float | None = None
    head: Head = "auto"

    @staticmethod
    def parse(budgets: Mapping[str, float | str] | None, calibrated: bool = False) -> Guard | None:
        """{"agreement": 0.98, "drift": 2.0}, any of the budgets; `InputError` for others, and for what is
        missing.
        """
        if not budgets:
            return None
        for name, value in budgets.items():
            if name == "head":
                check_head(str(value))
                continue
            if name not in _BUDGETS:
                raise InputError(f"guard: no budget {name!r}; there are {', '.join(_BUDGETS)}")
            most = _BUDGETS[name]
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
                raise InputError(
                    f"guard: {name}={value!r}; give a number from 0" + (" to 1" if most == 1.0 else "")
                )
        guard = Guard(**budgets)  # type: ignore[arg-type]  # just checked
        if all(getattr(guard, name) is None for name in _BUDGETS):
            raise InputError(
                f"guard: head says what the outputs are; give a budget, too: {', '.join(_BUDGETS)}"
            )
        if guard.certified_agreement is not None and (guard.eps is None or not calibrated):
            raise InputError("guard: certified_agreement needs eps, and inputs of your own (calibration=)")
        if guard.eps is not None and guard.certified_agreement is None and guard.certified_drift is None:
            raise InputError(
                "guard: eps is the radius of certified_agreement and certified_drift; give one of them"
            )
        return guard

    def check(self, graph: Graph) -> None:
        """Raise `InputError` where a budget does not fit what the model gives."""
        self._decision(graph)

    def breach(
        self, graph: Graph, weights: Mapping[str, Tensor], samples: Samples, box: Sequence[Interval]
    ) -> str:
        """Which budget the network with `weights` exceeds and by what, or empty."""
        found = (
            self._breach_seen(fidelity(graph, weights, samples, self._decision(graph))) if self.looks else ""
        )
        certain = self.certified_agreement is not None or self.certified_drift is not None
        return found or (self._breach_certain(graph, weights, samples, box) if certain else "")

    @property
    def looks(self) -> bool:
        return self.agreement is not None or self.drift is not None

    def _decision(self, graph: Graph) -> Decision | None:
        """What the graph decides, where a budget asks for it."""
        if self.agreement is None and self.certified_agreement is None:
            return None
        found = decision_of(graph, self.head)
        if isinstance(found, NoDecision):
            raise InputError(
                f"guard: no agreement can be measured, since the model decides nothing ({found.why}); give a "
                "budget on "
                'the drift instead, or say what the outputs are: head="binary_logit" (--head)'
            )
        return found

    def _breach_seen(self, found: Fidelity) -> str:
        if not found.drift < inf:
            return "the outputs are not finite"
        if self.agreement is not None and found.agreement is not None and found.agreement < self.agreement:
            return f"agreement on samples fell to {found.agreement:.2%}, below {self.agreement:.2%}"
        if self.drift is not None and found.drift > self.drift:
            return f"drift on samples rose to {found.drift:.4g}, above {self.drift:.4g}"
        return ""

    def _breach_certain(
        self, graph: Graph, weights: Mapping[str, Tensor], samples: Samples, box: Sequence[Interval]
    ) -> str:
        stored = {name: w.to(graph.tensors[name].dtype) for name, w in weights.items()}
        networks = Networks.of(
            without_max_pools(graph), graph.tensors, stored, torch.empty(0, dtype=torch.float64)
        )
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
        drift = float(torch.stack(moved).max())  # NaN where one is, and no budget holds that
        if self.certified_drift is not None and not drift <= self.certified_drift:
            return f"certified drift rose to {drift:.4g}, above {self.certified_drift:.4g}"
        share = float(torch.cat(agreed).double().mean()) if agreed else 1.0
        if self.certified_agreement is not None and share < self.certified_agreement:
            return f"certified agreement fell to {share:.2%}, below {self.certified_agreement:.2%}"
        return ""


def _ball(centre: Tensor, whole: Interval, eps: float | None) -> Interval:
    """The ball round each sample; the box itself where there is no radius."""
    low, high = whole.lower.cpu(), whole.upper.cpu()
    whole = Interval(low.double(), high.double()) if centre.is_floating_point() else Interval(low, high)
    return whole if eps is None else ball(centre, eps, whole)
