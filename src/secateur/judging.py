"""Which samples solve and which only judge: a third of a user's own inputs, or surrogates of another kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.cost import macs_after
from secateur.decisions import Decision, Head, decision_of
from secateur.fidelity import fidelity
from secateur.graph.capture import Graph
from secateur.graph.coupling import Coupling
from secateur.graph.interpret import run
from secateur.report.verdict import Basis, Verdict
from secateur.types import Samples
from secateur.verdict import judge

OWN: Basis = "inputs kept apart"
SURROGATES: Basis = "surrogates"
MOST, FEWEST = 512, 64  # surrogates that judge
_MACS = 10**12  # of all of them in one network
_JUDGES = ("shapes", "mixture")  # the second where the first has solved


@dataclass(frozen=True, eq=False)
class Judges:
    """Samples that only judge, and where they are from."""

    samples: Samples
    basis: Basis
    surrogate: str = ""
    calibration: str = ""  # digest of all of a user's inputs, solved on or not


def kept_apart(own: Samples, seed: int) -> tuple[Samples, Samples]:
    """A user's inputs in two parts drawn at random: two thirds to solve on, and a third, at least one, to
    judge.
    """
    count = len(own.inputs[0])
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    apart = max(1, count // 3)
    return _taken(own, order[apart:].sort().values), _taken(own, order[:apart].sort().values)


def _taken(samples: Samples, rows: Tensor) -> Samples:
    return replace(samples, inputs=tuple(x[rows.to(x.device)] for x in samples.inputs))


def judging_surrogate(solved_on: str) -> str:
    """A surrogate of another kind than the one that solved. Drawings that nothing was asked of are harder
    than those a model is sure of, and agreement on them is nearer to that on real inputs.
    """
    return next(name for name in _JUDGES if name != solved_on)


def judging_count(graph: Graph, coupling: Coupling) -> int:
    """How many surrogates judge: 512, or what 10¹² multiply-accumulates allow, at least 64."""
    return max(FEWEST, min(MOST, _MACS // max(1, macs_after(graph, coupling, {}))))


def verdict_of(
    graph: Graph, weights: Mapping[str, Tensor], judges: Judges, head: Head, doubts: Sequence[str] = ()
) -> Verdict | None:
    """The verdict on the network with these weights; None where no output of the model is a floating-point
    number.
    """
    if not any(y.is_floating_point() for y in run(graph, graph.example)):
        return None
    decision = decision_of(graph, head)
    read = decision if isinstance(decision, Decision) else None
    return judge(fidelity(graph, weights, judges.samples, read), judges.basis, judges.surrogate, doubts)
