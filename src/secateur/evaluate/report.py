"""The result of an evaluation, ready for JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AttackRow(_Record):
    """What one attack leaves. Inputs that were wrong before the attack count as not robust."""

    name: str
    norm: str
    eps: float  # in input units
    steps: int
    robust_accuracy: float  # share of `samples` that are right before and after the attack
    robust_instances_per_1000: float  # the same, per 1,000 evaluated inputs
    samples: int


class CorruptionRow(_Record):
    """Accuracy on inputs made worse without an adversary."""

    kind: str
    strength: float  # larger is worse; its unit is the kind's
    accuracy: float
    original_accuracy: float | None = None


class ClassRow(_Record):
    """Accuracy on the inputs of one class."""

    label: int
    samples: int
    accuracy: float
    original_accuracy: float | None = None
    change: float | None = None  # from the original's accuracy; below zero where the class got worse


class Cost(_Record):
    parameters: int
    macs: int  # for one input
    bytes: int  # of the weights as saved
    latency_ms: float | None = None  # median of one forward pass of `Evaluation.latency_batch` inputs


class Evaluation(_Record):
    """Shares lie in [0, 1]. `original_…`, `agreement`, `change` and `cost_before` need the original model."""

    samples: int
    head: str  # what the outputs were taken for, a name in secateur.decisions
    accuracy: dict[int, float]  # k → top-k accuracy; of many labels, the share of inputs with all of them right
    original_accuracy: dict[int, float] | None = None
    agreement: float | None = None  # share of inputs on which the original decides the same
    classes: tuple[ClassRow, ...] = ()  # of those among the labels
    worst_class_accuracy: float | None = None
    original_worst_class_accuracy: float | None = None  # not always of the same class
    attacks: tuple[AttackRow, ...] = ()
    corruptions: tuple[CorruptionRow, ...] = ()
    warnings: tuple[str, ...] = ()  # reasons to doubt the rows of `attacks`
    cost: Cost
    cost_before: Cost | None = None
    latency_batch: int | None = None
    latency_runtime: str | None = None  # torch or onnxruntime
