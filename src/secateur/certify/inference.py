"""Claims about models as they are run: rounding of inference inside of what is certified.

Let f̂ and ĝ be what a runtime computes for f and g. |ĝ − f̂| ≤ |g − f| + e_f + e_g, and f̂ decides as f does
where the margin of f is above what rounding may take off it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, fx

from secateur.bounds.attention import attentions
from secateur.bounds.certified import Certified
from secateur.bounds.inference import Format, NoRuleError, format_of
from secateur.bounds.inference_rows import Inference
from secateur.certify.decided import Decided
from secateur.decisions import Decision
from secateur.errors import InputError
from secateur.graph.graph import Graph
from secateur.graph.node import kind
from secateur.graph.ops import MOVEMENT, of
from secateur.report.tables import upward
from secateur.types import Interval

Arithmetic = Literal["auto", "real", "float"]
SHARE = 0.1  # of the largest drift: rounding up to this is included where the caller leaves it open
_APART = (
    32  # units between scores that a softmax keeps apart: more than its exponentials and quotients err by
)
_BESIDE = 64  # units beside 0 at which a sigmoid is certain to be on its side of ½


@dataclass(frozen=True, eq=False)
class InferenceRounding:
    """What rounding may come to in each of N boxes."""

    drift: Tensor  # of each output, in f and g together; (N, outputs)
    first: Tensor | None  # what it takes off the margin of f, (N, positions); None where nothing is decided
    second: Tensor | None
    head: float  # what the ops between the compared values and the output need margins to be above

    @staticmethod
    def of(here: Certified, decision: Decision | None, format: Format) -> InferenceRounding:
        """Raises `NoRuleError` where an op has no bound."""
        f, g = (Inference.of(here.engine, second, format) for second in (False, True))
        graph = here.engine.networks.graph
        outputs = [n for n in graph.outputs if here.is_floating(n)]
        drift = torch.cat([f.errors_at(n, here.boxes) + g.errors_at(n, here.boxes) for n in outputs], 1)
        if decision is None:
            return InferenceRounding(drift, None, None, 0.0)
        errors = [x.errors_at(decision.node, here.boxes) for x in (f, g)]
        size = max(float(e.max()) + here.size_at(decision.node, second) for second, e in enumerate(errors))
        head = _of_head(graph.outputs[decision.output], decision, size, format)
        first, second = (_off_margins(e, decision) for e in errors)
        return InferenceRounding(drift, first, second, head)

    def moved(self, drift: Interval) -> Interval:
        """Bounds on ĝ − f̂."""
        wide = self.drift * (1 + 2.0**-40)
        low, high = (
            torch.nextafter(end, way) for end, way in _outward(drift.lower - wide, drift.upper + wide)
        )
        return Interval(low, high)

    def decided(self, decided: Decided) -> Decided:
        """Margins, with what rounding may take off them."""
        assert self.first is not None and self.second is not None
        return replace(
            decided,
            first_least=decided.first_least - self.first - self.head,
            second_least=decided.second_least - self.second - self.head,
            margin=decided.margin - self.first,
        )

    def apart(self, apart: Tensor) -> Tensor:
        """The margin of f̂ above which ĝ decides alike."""
        assert self.first is not None and self.second is not None
        return (apart + self.first + self.second + self.head) * (1 + 2.0**-40)

    @property
    def largest(self) -> Tensor:
        """(N,)"""
        return self.drift.amax(1)


def _outward(low: Tensor, high: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(low, torch.full_like(low, -torch.inf)), (high, torch.full_like(high, torch.inf))]


def _off_margins(errors: Tensor, decision: Decision) -> Tensor:
    """From errors (N, elements): of a class, two scores may come closer; of yes or no, one number moves."""
    most = errors[:, decision.index].amax(-1) * (1 + 2.0**-40)
    return most if decision.cut is not None else 2 * most


def _of_head(output: fx.Node, decision: Decision, size: float, format: Format) -> float:
    """The least margin that softmax or a sigmoid does not lose, on the way from the compared values.

    These are at most `size`. A logarithm of softmax subtracts one number from all scores, in two steps.
    """
    least, node = 0.0, output
    while node is not decision.node:
        name = kind(node)
        if name in of("softmax"):
            least += _APART * format.unit
        elif name in of("log_softmax"):
            least += _APART * format.unit * (1 + 2 * size + math.log(decision.columns))
        elif name == "sigmoid" and decision.cut == 0:
            least += _BESIDE * format.unit
        elif name not in (*MOVEMENT, *of("dropout", "item")):
            raise NoRuleError(f"it is not known how {node.name} ({name}), after the decision, rounds it")
        node = next(n for n in node.all_input_nodes if n.op != "get_attr")
    return least


@dataclass(eq=False)
class Roundings:
    """Rounding of all blocks of boxes, and whether it goes inside of the claims."""

    arithmetic: Arithmetic
    graph: Graph
    blocks: list[InferenceRounding] = field(default_factory=list)
    why_real: str = ""  # why the claims are about real arithmetic, where that was left open

    @property
    def wanted(self) -> bool:
        """Whether rounding of the next block would be included."""
        return self.arithmetic != "real" and not self.why_real

    def note(self, here: Certified, decision: Decision | None) -> None:
        """Of the next block."""
        if not self.wanted:
            return
        if attentions(here.engine.networks.graph) < attentions(self.graph):
            self.why_real = (
                "attention was bounded step by step, and a runtime may take it in blocks, in another order"
            )
            return
        try:
            self.blocks.append(InferenceRounding.of(here, decision, format_of(self.graph)))
        except NoRuleError as error:
            self.why_real = str(error)

    def settle(self, drift: Sequence[Interval]) -> None:
        """Keep the blocks where rounding is to be included.

        Raises `InputError` where it has to be and cannot.
        """
        if self.blocks and not self.why_real:
            rounding = max(float(block.largest.max()) for block in self.blocks)
            largest = max(float(torch.maximum(-x.lower, x.upper).max()) for x in drift)
            if not math.isfinite(rounding):
                self.why_real = "rounding has no finite bound on these inputs"
            elif self.arithmetic == "auto" and rounding > SHARE * largest:
                self.why_real = (
                    f"rounding is bounded by {upward(rounding)}, which is more than {SHARE:.0%} of the drift"
                )
        if self.why_real:
            self.blocks.clear()
        if self.arithmetic == "float" and self.why_real:
            raise InputError(
                f"arithmetic='float': {self.why_real}; choose 'real' for a claim about real arithmetic"
            )

    @property
    def named(self) -> Literal["real", "float32", "float64"]:
        """What the claims are about: the models' own format, where rounding is included."""
        if not self.blocks:
            return "real"
        return "float64" if format_of(self.graph) == Format.of(torch.float64) else "float32"
