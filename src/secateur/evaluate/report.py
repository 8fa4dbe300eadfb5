"""The result of an evaluation, ready for JSON."""

from __future__ import annotations

from pydantic import Field

from secateur.report.record import Record
from secateur.report.summary import html_table
from secateur.report.tables import evaluation_table


class AttackRow(Record):
    """What one attack leaves. Inputs that were wrong before the attack count as not robust."""

    name: str
    norm: str
    eps: float  # in input units
    steps: int
    robust_accuracy: float  # share of `samples` that are right before and after the attack
    robust_instances_per_1000: float  # the same, per 1,000 evaluated inputs
    samples: int


class AgreementAttackRow(Record):
    """What an attack on agreement leaves.

    Inputs on which the models differ before the attack count as not robust.
    """

    name: str
    norm: str
    eps: float  # in input units
    steps: int
    robust_agreement: float  # share of `samples` for which the attack finds no input on which the models part
    robust_instances_per_1000: float  # the same, per 1,000 evaluated inputs
    samples: int


class CorruptionRow(Record):
    """Accuracy and agreement on inputs made worse without an adversary."""

    kind: str
    strength: float  # larger is worse; its unit is the kind's
    accuracy: float | None = None  # None without labels
    original_accuracy: float | None = None
    agreement: float | None = None  # share of the worse inputs on which the original decides the same


class ClassRow(Record):
    """Accuracy on the inputs of one class."""

    label: int
    samples: int
    accuracy: float
    original_accuracy: float | None = None
    change: float | None = None  # from the original's accuracy; below zero where the class got worse


class ClassShareRow(Record):
    """How often a class is given, whatever the labels say; of many labels, how often a label is."""

    label: int
    share: float  # of the inputs, by the model
    original_share: float
    # share of the inputs of this class by the original that stay; None: there are none
    agreement: float | None = None


class Drift(Record):
    """Over the inputs, of the largest absolute difference of an output from the original's."""

    largest: float
    median: float


class Estimate(Record):
    """A mean over sequences, and a normal interval of 95 % that takes these as independent; None of one."""

    value: float
    low: float | None = None
    high: float | None = None


class Language(Record):
    """A language model on text. Every token but the first of a sequence is predicted from those before it.

    What depends on the next token is None, or empty, for a model whose scores depend on later tokens.
    `original_…`, `perplexity_ratio`, `agreement` and `kl` need the original.
    """

    tokens: int  # of a sequence
    perplexity: Estimate | None = None  # exp of the mean negative log-likelihood of a token
    original_perplexity: Estimate | None = None
    perplexity_ratio: Estimate | None = None  # to the original's, its interval from the same sequences
    # k → the share of tokens that are among the k likeliest
    accuracy: dict[int, Estimate] = Field(default_factory=dict)
    original_accuracy: dict[int, Estimate] = Field(default_factory=dict)
    agreement: Estimate | None = None  # share of positions at which both find the same token likeliest
    kl: Estimate | None = None  # mean of KL(original ‖ model) over positions, in nats


class Decode(Record):
    """Median milliseconds of a language model for one sequence."""

    prefill_ms: float  # for all its tokens at once
    decode_ms: float | None = None  # for one more token with the cache; None for a model that keeps none


class OutputDriftRow(Record):
    """Of one output, its absolute difference from the original's over the inputs."""

    output: int
    largest: float
    median: float


class MovedRow(Record):
    """An input whose outputs moved far, and what each model decides for it."""

    number: int  # its place among the inputs, from 0
    moved: float  # the largest absolute difference of an output
    before: str  # the original's decision: a class, or a set of labels
    after: str
    label: str = ""  # what the labels say; empty without labels


class Cost(Record):
    parameters: int
    macs: int | None  # for one input; None of a quantised file whose ops do not tell it
    bytes: int  # of the weights as saved
    latency_ms: float | None = None  # median of one forward pass of `Evaluation.latency_batch` inputs
    decode: Decode | None = None  # of a language model, where latency was asked


class Evaluation(Record):
    """The result of `evaluate`. It prints as a table and can be written as JSON.

    All shares lie in [0, 1]. `accuracy`, `classes` and `attacks` need labels and are empty without them;
    `agreement_attacks` are attacks on the agreement, which run without labels. `original_…`, `change`,
    `cost_before`, agreement, drift and class shares need the original model.

    Examples:
        >>> import torch, secateur
        >>> net = torch.nn.Linear(3, 2).eval()
        >>> report = secateur.evaluate(net, torch.rand(50, 3), original=net)
        >>> report.agreement, report.drift.largest, report.cost.parameters
        (1.0, 0.0, 8)
    """

    samples: int
    head: str  # what the outputs were taken for, a name in secateur.decisions
    # k → top-k accuracy; of many labels, the share of inputs with all of them right
    accuracy: dict[int, float] = Field(default_factory=dict)
    original_accuracy: dict[int, float] | None = None
    agreement: float | None = None  # share of inputs on which the original decides the same
    agreement_interval: tuple[float, float] | None = None  # Clopper–Pearson, 95 %
    drift: Drift | None = None
    output_drifts: tuple[OutputDriftRow, ...] = ()  # of the 100 outputs that move furthest, in their order
    moved_most: tuple[MovedRow, ...] = ()  # the 12 inputs whose outputs move furthest, that one first
    classes: tuple[ClassRow, ...] = ()  # of those among the labels
    worst_class_accuracy: float | None = None
    original_worst_class_accuracy: float | None = None  # not always of the same class
    class_shares: tuple[ClassShareRow, ...] = ()  # of those that a model gives
    vanished_classes: tuple[int, ...] = ()  # that the original gives and the model never does
    worst_class: int | None = None  # that agrees least, of those which the original gives
    worst_class_agreement: float | None = None
    language: Language | None = None  # of a language model; then all other measures are empty
    attacks: tuple[AttackRow, ...] = ()
    agreement_attacks: tuple[AgreementAttackRow, ...] = ()
    corruptions: tuple[CorruptionRow, ...] = ()
    warnings: tuple[str, ...] = ()  # reasons to doubt a figure, mostly the rows of attacks
    cost: Cost
    cost_before: Cost | None = None
    latency_batch: int | None = None
    latency_runtime: str | None = None  # torch or onnxruntime
    # onnxruntime where a file was measured as it is; accuracy, agreement and the rest are of what it computed
    computed_in: str = "torch"
    original_computed_in: str | None = None

    def __repr__(self) -> str:
        _, rows = evaluation_table(self)
        return "\n".join(
            [f"Evaluation on {self.samples:,} samples", *(f"  {row[0]}: {row[1]}" for row in rows)]
        )

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """For notebooks."""
        return html_table("Evaluation", *evaluation_table(self), self.warnings)
