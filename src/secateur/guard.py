"""The guard: how far the outputs may move on samples before a run stops and goes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.graph.capture import Graph, run
from secateur.types import Samples


@dataclass(frozen=True)
class Guard:
    """Budgets on samples: the least share of equal top classes, and the largest move of any output."""

    agreement: float | None = None
    drift: float | None = None

    @staticmethod
    def parse(budgets: Mapping[str, float] | None) -> Guard | None:
        """{"agreement": 0.98, "drift": 2.0}, either or both; `InputError` for others."""
        if not budgets:
            return None
        for name, value in budgets.items():
            if name not in ("agreement", "drift"):
                raise InputError(f"guard: no budget {name!r}; there are agreement and drift")
            most = 1.0 if name == "agreement" else float("inf")
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
                raise InputError(f"guard: {name}={value!r}; give a number from 0" + (" to 1" if most == 1.0 else ""))
        return Guard(**budgets)


@dataclass(frozen=True)
class Fidelity:
    """How close a network is to the original on samples."""

    agreement: float  # share of samples with the same greatest output
    drift: float  # largest difference of any output

    def breach(self, guard: Guard) -> str:
        """Which budget is exceeded and by what, or empty."""
        if not self.drift < float("inf"):
            return "the outputs are not finite"
        if guard.agreement is not None and self.agreement < guard.agreement:
            return f"agreement on samples fell to {self.agreement:.2%}, below {guard.agreement:.2%}"
        if guard.drift is not None and self.drift > guard.drift:
            return f"drift on samples rose to {self.drift:.4g}, above {guard.drift:.4g}"
        return ""


def fidelity(graph: Graph, weights: Mapping[str, Tensor], samples: Samples) -> Fidelity:
    """Compare the outputs under `weights` with the original's; the top class is that of the first output."""
    pairs = list(zip(run(graph, samples.inputs), run(graph, samples.inputs, weights), strict=True))
    floating = [(f, g) for f, g in pairs if f.is_floating_point()]
    drift = max((float((f - g).abs().max()) for f, g in floating), default=0.0)
    if not all(bool(torch.isfinite(g).all()) for _, g in floating):
        drift = float("inf")
    first, second = floating[0]
    several = first.ndim > 1 and first.shape[-1] > 1
    same = first.argmax(-1) == second.argmax(-1) if several else (first > 0) == (second > 0)
    return Fidelity(float(same.double().mean()), drift)
