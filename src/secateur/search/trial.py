"""What was measured of one setting, and what a search wants of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import Field

from secateur.page import words
from secateur.report.record import Record
from secateur.report.verdict import Word
from secateur.search.space import Setting

Objective = Literal["params", "macs", "bytes", "latency"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


class Sizes(Record):
    """What a network costs.

    Attributes:
        params: Numbers in its parameters.
        macs: Multiply-accumulates for one sample.
        bytes: Stored weights; of searches that quantise, the size of the ONNX file.
        latency: Milliseconds for one sample on this machine; None if not measured.
    """

    params: int
    macs: int
    bytes: int
    latency: float | None = None

    def of(self, objective: Objective) -> float:
        """The one that the search makes small."""
        return float(getattr(self, objective))


class Trial(Record):
    """One setting and what it gave.

    Attributes:
        number: From 1, in the order in which settings were asked for.
        setting: What was tried.
        error: Why there is no network; empty if there is one.
        unchanged: Whether that is because nothing would be removed.
        sizes: Of the network; None where there is none.
        agreement: Share of decisions that equal the original's, on validation samples; None for a network
            that decides nothing.
        drift: The largest change of any output on these samples; None for quantised networks.
        relative_drift: As in the verdict.
        verdict: The word of the verdict on the float network.
        accuracy: On labelled data; None if none were given.
        worst_class: The least accuracy of a class on these; None for quantised networks as well.
        result: SHA-256 of the network's tensors.
        seconds: How long it took.
    """

    number: int
    setting: Setting
    error: str = ""
    unchanged: bool = False
    sizes: Sizes | None = None
    agreement: float | None = None
    drift: float | None = None
    relative_drift: float | None = None
    verdict: Word | None = None
    accuracy: float | None = None
    worst_class: float | None = None
    result: str = ""
    seconds: float = 0.0

    def told(self) -> str:
        """What it gave, in one line."""
        if self.sizes is None:
            return self.error
        parts = [f"{self.sizes.params:,} parameters"]
        parts += [] if self.agreement is None else [f"agreement {self.agreement:.2%}"]
        parts += [] if self.drift is None else [f"drift {self.drift:.3g}"]
        parts += [] if self.accuracy is None else [f"accuracy {self.accuracy:.2%}"]
        parts += [] if self.worst_class is None else [f"worst class {self.worst_class:.2%}"]
        return ", ".join(parts)


class Checks(Record):
    """What attacks leave of one network of the front, and what is proved of it.

    Attributes:
        asked: What was measured, so that other checks of the same network are told apart.
        result: SHA-256 of the network's tensors.
        robust_accuracy: Attack → share of the labelled data that stays right under it.
        robust_agreement: Attack → share on which the decision stays the original's under it.
        certified: Share of decisions that are proved to stay the original's all over a ball round an input.
        certified_drift: The largest proved bound on the change of an output in these balls.
        doubts: What makes these figures doubtful, such as masked gradients.
    """

    asked: str
    result: str
    robust_accuracy: dict[str, float] = Field(default_factory=dict)
    robust_agreement: dict[str, float] = Field(default_factory=dict)
    certified: float | None = None
    certified_drift: float | None = None
    doubts: tuple[str, ...] = ()

    def told(self) -> str:
        """In one line."""
        parts = [f"robust accuracy {share:.2%} ({name})" for name, share in self.robust_accuracy.items()]
        parts += [f"robust agreement {share:.2%} ({name})" for name, share in self.robust_agreement.items()]
        if self.certified is not None:
            parts.append(f"certified agreement {words.number(self.certified, 'share at least')}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Wanted:
    """What a network must keep to be picked; see `search` for each."""

    agreement: float | None = None
    drift: float | None = None
    accuracy: float | None = None
    worst_class: float | None = None

    def lacks(self, trial: Trial) -> float:
        """By how much a trial misses its budgets: at most 0 where it keeps all, infinite without network."""
        if trial.sizes is None:
            return math.inf
        short = []
        if self.agreement is not None:
            short.append(self.agreement - _known(trial.agreement, -math.inf))
        if self.drift is not None:
            short.append(_known(trial.drift, math.inf) - self.drift)
        if self.accuracy is not None:
            short.append(self.accuracy - _known(trial.accuracy, -math.inf))
        if self.worst_class is not None:
            short.append(self.worst_class - _known(trial.worst_class, -math.inf))
        return max(short)

    def kept_by(self, trial: Trial) -> bool:
        return self.lacks(trial) <= 0

    def loss(self, trial: Trial) -> float:
        """What a network loses, to be small, in terms of the first budget: decisions, accuracy, or drift."""
        if self.accuracy is not None:
            return 1 - _known(trial.accuracy, -math.inf)
        if self.worst_class is not None:
            return 1 - _known(trial.worst_class, -math.inf)
        if self.agreement is not None:
            return 1 - _known(trial.agreement, -math.inf)
        return _known(trial.drift, math.inf)

    def told(self) -> str:
        """In words."""
        parts = [] if self.agreement is None else [f"agreement of at least {self.agreement:.2%}"]
        parts += [] if self.drift is None else [f"drift of at most {self.drift:g}"]
        parts += [] if self.accuracy is None else [f"accuracy of at least {self.accuracy:.2%} on your data"]
        if self.worst_class is not None:
            parts.append(f"accuracy of at least {self.worst_class:.2%} in every class of your data")
        return ", ".join(parts)


def _known(value: float | None, otherwise: float) -> float:
    return otherwise if value is None or math.isnan(value) else value
